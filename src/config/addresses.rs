//! Decoders of what names a place in the network: socket addresses, networks, `host:port`, host
//! names.

use super::{
    decode::{Context, quote, text},
    model::HostPort,
    problem::Place,
    yaml::Node,
};
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, SocketAddr};

/// `127.0.0.1:9090` or `[::]:8443`.
pub fn socket(ctx: &mut Context, node: &Node) -> Option<SocketAddr> {
    let text = text(ctx, node)?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let shown = quote(text);
    let message = if let Ok(ip) = text.parse::<IpAddr>() {
        let address = SocketAddr::new(ip, 8443);
        format!("{shown} lacks a port; write for example `{address}`")
    } else if let Some(port) = text.strip_prefix(':').or(text.strip_prefix("*:")) {
        format!("{shown} lacks the IP address; write `[::]:{port}` for all of them")
    } else if text.parse::<u16>().is_ok() {
        format!("{shown} lacks the IP address; write `[::]:{text}` for all of them")
    } else if let Some((host, port)) = text.rsplit_once(':')
        && port.parse::<u16>().is_err()
    {
        format!(
            "{} is not a port of {}; ports go up to 65535",
            quote(port),
            quote(host)
        )
    } else if text.contains(':') {
        format!("{shown}: listen on an IP address, not on a name, like `127.0.0.1:8080`")
    } else {
        format!("{shown} is not an IP address with a port, like `127.0.0.1:8080` or `[::]:8443`")
    };
    ctx.fail(&node.place, message)
}

/// A network in CIDR notation, or one address. Host bits are cleared with a warning.
pub fn network(ctx: &mut Context, node: &Node) -> Option<IpNet> {
    let text = text(ctx, node)?;
    network_at(ctx, &node.place, text)
}

/// As [`network`], for a text of any file.
pub fn network_at(ctx: &mut Context, place: &Place, text: &str) -> Option<IpNet> {
    let net: IpNet = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(ip) => ip.into(),
            Err(_) => return ctx.fail(place, not_a_network(text)),
        },
    };
    let cut = net.trunc();
    if cut != net {
        ctx.warn(
            place,
            format!("{} has host bits; read as `{cut}`", quote(text)),
        );
    }
    Some(canonical(cut))
}

fn not_a_network(text: &str) -> String {
    let shown = quote(text);
    if let Some((ip, length)) = text.split_once('/')
        && let Ok(ip) = ip.parse::<IpAddr>()
    {
        let most = if ip.is_ipv4() { 32 } else { 128 };
        return format!(
            "{shown}: {} is not a prefix length; it is 0 to {most} bits",
            quote(length)
        );
    }
    format!("{shown} is not a network like `10.0.0.0/8` or `2001:db8::/32`, nor an address")
}

/// IPv4-mapped networks as IPv4, as clients' addresses are.
fn canonical(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        return v4.into();
    }
    net
}

/// `name:port`, `127.0.0.1:3000` or `[::1]:3000`.
pub fn host_port(ctx: &mut Context, node: &Node) -> Option<HostPort> {
    let text = text(ctx, node)?;
    let shown = quote(text);
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return ctx.fail(
                &node.place,
                format!("{shown}: port 0 can't be connected to"),
            );
        }
        return Some(HostPort {
            host: address.ip().to_string(),
            port: address.port(),
        });
    }
    if text.contains("://") {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let rest = rest.split('/').next().unwrap_or(rest);
        return ctx.fail(
            &node.place,
            format!(
                "{shown} is a URL; write {} (`tls:` of the upstream says whether it is encrypted)",
                quote(rest)
            ),
        );
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return ctx.fail(
            &node.place,
            format!("{shown} lacks a port; write for example `{text}:80`"),
        );
    };
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
        return ctx.fail(
            &node.place,
            format!(
                "{shown}: {} is not a port; ports are 1 to 65535",
                quote(port)
            ),
        );
    };
    if host.contains(':') {
        return ctx.fail(
            &node.place,
            format!("{shown}: write an IPv6 address in brackets, like `[::1]:{port}`"),
        );
    }
    Some(HostPort {
        host: dns_name(ctx, &node.place, host)?,
        port,
    })
}

/// A DNS name in lower case (underscores allowed, as in SRV names).
pub fn dns_name(ctx: &mut Context, place: &Place, name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let whole = lower.strip_suffix('.').unwrap_or(&lower);
    if whole.len() <= 253 && whole.split('.').all(label) {
        return Some(lower);
    }
    let hint = if name.is_ascii() {
        ""
    } else {
        "; write its ASCII form (`xn--…`)"
    };
    ctx.fail(place, format!("{} is not a host name{hint}", quote(name)))
}
