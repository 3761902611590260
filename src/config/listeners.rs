//! `listeners`, with the certificates they serve.

use super::{
    addresses,
    decode::{self, Context, Fields},
    model::{Certificate, Listener, ListenerKind, Protocols, Tls, TlsVersion},
    pem,
    yaml::{Kind, Node},
};
use std::{collections::HashMap, net::SocketAddr, sync::Arc};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    H2,
    Http1,
}

const PROTOCOLS: &[(&str, Protocol)] = &[("h2", Protocol::H2), ("http/1.1", Protocol::Http1)];
const VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];

pub fn listeners(ctx: &mut Context, node: &Node) -> Option<Vec<Listener>> {
    let listeners = decode::some(listener)(ctx, node)?;
    let Kind::List(items) = &node.kind else {
        return None;
    };
    let mut taken: Vec<(SocketAddr, usize)> = Vec::new();
    for (listener, item) in listeners.iter().zip(items) {
        let address = listener.address;
        // Port 0 is any free port, never the same twice.
        if address.port() == 0 {
            continue;
        }
        if let Some((other, line)) = taken.iter().find(|(other, _)| collide(*other, address)) {
            let message =
                format!("`{address}` can't be listened on beside `{other}` of line {line}");
            ctx.problems.add(&item.place, message);
        }
        taken.push((address, item.place.line));
    }
    Some(listeners)
}

/// Whether binding both would fail, or leave one without connections.
pub fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |wide: SocketAddr, ip: SocketAddr| {
        wide.ip().is_unspecified() && (wide.is_ipv6() || ip.is_ipv4())
    };
    a.port() == b.port() && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

fn listener(ctx: &mut Context, node: &Node) -> Option<Listener> {
    let mut fields = Fields::of(ctx, node, "a listener")?;
    let address = fields.required(ctx, "address", addresses::socket);
    let tls = fields.optional(ctx, "tls", tls);
    let redirects = fields.take("redirect_to").is_some();
    let redirect = fields.optional(ctx, "redirect_to", decode::word(&[("https", ())]));
    let encrypted = !matches!(tls, Some(None));
    let default = if encrypted {
        "h2, http/1.1"
    } else {
        "http/1.1"
    };
    let protocols = if let Some(list) = fields.take("protocols") {
        protocols(ctx, list, encrypted)
    } else {
        fields.note(ctx, "protocols", default);
        Some(Protocols {
            h2: encrypted,
            http1: true,
        })
    };
    if redirects && encrypted {
        let place = fields.key_place("redirect_to");
        ctx.problems.add(
            place,
            "a listener with `tls` can't redirect to https; leave out one of the two",
        );
    }
    let proxy_protocol = fields.or(ctx, "proxy_protocol", "false", decode::flag);
    fields.finish(ctx);
    let kind = match (tls?, redirect?) {
        (Some(tls), _) => ListenerKind::Tls(tls),
        (None, Some(())) => ListenerKind::Redirect,
        (None, None) => ListenerKind::Plain,
    };
    Some(Listener {
        address: address?,
        kind,
        protocols: protocols?,
        proxy_protocol: proxy_protocol?,
    })
}

fn protocols(ctx: &mut Context, node: &Node, encrypted: bool) -> Option<Protocols> {
    let given = decode::some(|ctx, item| {
        let protocol = decode::word(PROTOCOLS)(ctx, item)?;
        if protocol == Protocol::H2 && !encrypted {
            return ctx.fail(
                &item.place,
                "h2 is spoken over TLS only; give this listener `tls`, or leave out h2",
            );
        }
        Some(protocol)
    })(ctx, node)?;
    Some(Protocols {
        h2: given.contains(&Protocol::H2),
        http1: given.contains(&Protocol::Http1),
    })
}

fn tls(ctx: &mut Context, node: &Node) -> Option<Tls> {
    let mut fields = Fields::of(ctx, node, "`tls` of a listener")?;
    let certificates = fields.required(ctx, "certificates", |ctx, node| {
        let certificates = decode::some(certificate)(ctx, node)?;
        warn_of_shadowed(ctx, node, &certificates);
        Some(certificates)
    });
    let minimum_version = fields.or(ctx, "minimum_version", "1.2", decode::word(VERSIONS));
    fields.finish(ctx);
    Some(Tls {
        certificates: certificates?,
        minimum_version: minimum_version?,
    })
}

/// A certificate without names of its own can only be the first, which is the default.
fn warn_of_shadowed(ctx: &mut Context, node: &Node, certificates: &[Certificate]) {
    let Kind::List(items) = &node.kind else {
        return;
    };
    let mut first: HashMap<&str, usize> = HashMap::new();
    for (index, (certificate, item)) in certificates.iter().zip(items).enumerate() {
        if index > 0 && certificate.names.is_empty() {
            ctx.warn(
                &item.place,
                "this certificate names no host (no DNS name in its subjectAltName) \
                 and is not the first of its listener: it is never served",
            );
        }
        let taken = |name: &String| first.contains_key(name.as_str());
        if !certificate.names.is_empty() && certificate.names.iter().all(taken) {
            ctx.warn(
                &item.place,
                "earlier certificates of this listener have all names of this one: \
                 it may never be served",
            );
        }
        for name in &certificate.names {
            first.entry(name).or_insert(index);
        }
    }
}

fn certificate(ctx: &mut Context, node: &Node) -> Option<Certificate> {
    let mut fields = Fields::of(ctx, node, "a certificate")?;
    let chain = fields.required(ctx, "certificate", pem::chain);
    let key = fields.required(ctx, "private_key", pem::private_key);
    let nodes = fields.take("certificate").zip(fields.take("private_key"));
    fields.finish(ctx);
    let (chain_node, key_node) = nodes?;
    let (chain, _, certified) = pem::pair(ctx, chain, key, chain_node, key_node)?;
    Some(Certificate {
        key: Arc::new(certified),
        names: chain.names,
        not_after: chain.not_after,
    })
}
