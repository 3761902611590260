//! `clients`: who counts as one client, and whose word is taken for it.

use super::{
    addresses,
    decode::{self, Context, Fields},
    model::Clients,
    yaml::{Kind, Node},
};
use verdict::prefix::PrefixLengths;

pub fn clients(ctx: &mut Context, node: &Node) -> Option<Clients> {
    let mut fields = Fields::of(ctx, node, "`clients`")?;
    let trusted = fields.optional(ctx, "trusted_proxies", decode::list(proxy));
    let ipv4 = fields.or(ctx, "ipv4_prefix", "32", decode::whole(1..=32));
    let ipv6 = fields.or(ctx, "ipv6_prefix", "64", decode::whole(1..=128));
    fields.finish(ctx);
    Some(Clients {
        trusted_proxies: trusted?.unwrap_or_default(),
        prefix: PrefixLengths {
            ipv4: ipv4?,
            ipv6: ipv6?,
        },
    })
}

fn proxy(ctx: &mut Context, node: &Node) -> Option<ipnet::IpNet> {
    let network = addresses::network(ctx, node)?;
    if network.prefix_len() == 0 {
        ctx.warn(
            &node.place,
            "everyone is a trusted proxy: any client may claim any address",
        );
    }
    Some(network)
}

/// PROXY headers are taken from trusted proxies only: without any, nobody could connect.
pub fn check_proxy_protocol(ctx: &mut Context, listeners: &Node, clients: &Clients) {
    let Kind::List(items) = &listeners.kind else {
        return;
    };
    if !clients.trusted_proxies.is_empty() {
        return;
    }
    for item in items {
        let Kind::Map(entries) = &item.kind else {
            continue;
        };
        let wanted = entries.iter().find(|(key, value)| {
            key.text == "proxy_protocol"
                && matches!(&value.kind, Kind::Scalar { text, .. } if text == "true")
        });
        if let Some((_, value)) = wanted {
            ctx.problems.add(
                &value.place,
                "nobody could connect: `proxy_protocol` takes connections from \
                 `clients.trusted_proxies` only, and there are none",
            );
        }
    }
}
