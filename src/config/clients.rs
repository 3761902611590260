//! `clients` and `connections`: who counts as one client, and what one may hold open.

use super::{
    addresses,
    decode::{self, Context, Fields},
    model::{ClientTimeouts, Clients, Connections},
    yaml::{Kind, Node},
};
use std::num::NonZeroU32;
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

pub fn connections(ctx: &mut Context, node: &Node) -> Option<Connections> {
    let mut fields = Fields::of(ctx, node, "`connections`")?;
    let per_client = fields.or(ctx, "per_client", "64", decode::or_off(count));
    let rate = fields.or(ctx, "rate_per_client", "20/s", decode::or_off(decode::rate));
    let total = fields.or(ctx, "total", "20000", count);
    let timeouts = fields.section(ctx, "timeouts", timeouts);
    fields.finish(ctx);
    Some(Connections {
        per_client: per_client?,
        rate_per_client: rate?,
        total: total?,
        timeouts: timeouts?,
    })
}

/// A number that is not 0.
pub fn count(ctx: &mut Context, node: &Node) -> Option<NonZeroU32> {
    NonZeroU32::new(decode::whole(1..=10_000_000)(ctx, node)?)
}

fn timeouts(ctx: &mut Context, node: &Node) -> Option<ClientTimeouts> {
    let mut fields = Fields::of(ctx, node, "`connections.timeouts`")?;
    let handshake = fields.or(ctx, "handshake", "5s", decode::duration);
    let headers = fields.or(ctx, "headers", "10s", decode::duration);
    let idle = fields.or(ctx, "idle", "60s", decode::duration);
    let minimum = fields.or(
        ctx,
        "body_minimum_rate",
        "1KiB/s",
        decode::or_off(decode::throughput),
    );
    let request = fields.or(ctx, "request", "10m", decode::duration);
    fields.finish(ctx);
    Some(ClientTimeouts {
        handshake: handshake?,
        headers: headers?,
        idle: idle?,
        body_minimum_rate: minimum?.unwrap_or(0),
        request: request?,
    })
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
