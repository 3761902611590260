//! `upstreams`: where requests go, and how Rempart treats those that fail.

use super::{
    addresses,
    decode::{self, Context, Fields, quote, text},
    model::{
        Balance, ClientCertificate, Ejection, Endpoints, HealthCheck, HostPort, Retries, Upstream,
        UpstreamProtocol, UpstreamTimeouts, UpstreamTls,
    },
    pem,
    routes::check_path,
    yaml::Node,
};
use rustls::pki_types::{CertificateDer, ServerName};
use std::{net::IpAddr, sync::Arc, time::Duration};

const BALANCES: &[(&str, Balance)] = &[
    ("round_robin", Balance::RoundRobin),
    ("least_connections", Balance::LeastConnections),
    ("hash", Balance::Hash),
];
const PROTOCOLS: &[(&str, UpstreamProtocol)] = &[
    ("http/1.1", UpstreamProtocol::Http1),
    ("h2", UpstreamProtocol::H2),
];

pub fn upstreams(ctx: &mut Context, node: &Node) -> Option<Vec<Upstream>> {
    let entries = decode::named(ctx, node, "`upstreams`")?;
    let upstreams: Vec<Option<Upstream>> = entries
        .iter()
        .map(|(key, node)| upstream(ctx, key.text.as_str().into(), node))
        .collect();
    upstreams.into_iter().collect()
}

fn upstream(ctx: &mut Context, name: Arc<str>, node: &Node) -> Option<Upstream> {
    let mut fields = Fields::of(ctx, node, "an upstream")?;
    let endpoints = endpoints(ctx, &mut fields);
    let balance = fields.or(ctx, "balance", "round_robin", decode::word(BALANCES));
    let protocol = fields.or(ctx, "protocol", "http/1.1", decode::word(PROTOCOLS));
    let tls = fields.optional(ctx, "tls", |ctx, node| tls(ctx, node, endpoints.as_ref()));
    let health_check = fields.optional(ctx, "health_check", health_check);
    let ejection = fields.section(ctx, "ejection", ejection);
    let retries = fields.section(ctx, "retries", retries);
    let timeouts = fields.section(ctx, "timeouts", timeouts);
    fields.finish(ctx);
    Some(Upstream {
        name,
        endpoints: endpoints?,
        balance: balance?,
        protocol: protocol?,
        tls: tls?,
        health_check: health_check?,
        ejection: ejection?,
        retries: retries?,
        timeouts: timeouts?,
    })
}

fn endpoints(ctx: &mut Context, fields: &mut Fields<'_>) -> Option<Endpoints> {
    match (fields.take("endpoints"), fields.take("discover")) {
        (Some(list), None) => {
            decode::at_most(ctx, list, 5_000, "endpoints")?;
            let endpoints = decode::some(addresses::host_port)(ctx, list)?;
            for (index, endpoint) in endpoints.iter().enumerate() {
                if endpoints.iter().take(index).any(|other| other == endpoint) {
                    let HostPort { host, port } = endpoint;
                    return ctx.fail(
                        &list.place,
                        format!("endpoint `{host}:{port}` stands twice"),
                    );
                }
            }
            Some(Endpoints::List(endpoints))
        }
        (None, Some(map)) => discover(ctx, map),
        (Some(_), Some(discover)) => ctx.fail(
            &discover.place,
            "an upstream has either `endpoints` or `discover`, not both",
        ),
        (None, None) => ctx.fail(
            fields.place(),
            "an upstream lacks `endpoints` (or `discover`)",
        ),
    }
}

fn discover(ctx: &mut Context, node: &Node) -> Option<Endpoints> {
    let mut fields = Fields::of(ctx, node, "`discover`")?;
    let dns = fields.optional(ctx, "dns", addresses::host_port);
    let srv = fields.optional(ctx, "srv", |ctx, node| {
        let name = text(ctx, node)?;
        if name.contains(':') {
            return ctx.fail(
                &node.place,
                "an SRV record says the port itself; write the name alone",
            );
        }
        addresses::dns_name(ctx, &node.place, name)
    });
    let refresh = fields.or(ctx, "refresh", "10s", decode::duration);
    fields.finish(ctx);
    let (dns, srv, refresh) = (dns?, srv?, refresh?);
    match (dns, srv) {
        (Some(target), None) if target.host.parse::<IpAddr>().is_ok() => ctx.fail(
            &node.place,
            format!(
                "`{}` is an address, there is nothing to discover; write `endpoints: [{}:{}]`",
                target.host, target.host, target.port
            ),
        ),
        (Some(target), None) => Some(Endpoints::Dns { target, refresh }),
        (None, Some(name)) => Some(Endpoints::Srv { name, refresh }),
        _ => ctx.fail(
            &node.place,
            "`discover` has either `dns: \"name:port\"` or `srv: _service._tcp.name`",
        ),
    }
}

fn tls(ctx: &mut Context, node: &Node, endpoints: Option<&Endpoints>) -> Option<UpstreamTls> {
    let mut fields = Fields::of(ctx, node, "`tls` of an upstream")?;
    let ca = fields.optional(ctx, "ca", ca);
    let server_name = match fields.take("server_name") {
        Some(node) => server_name(ctx, node),
        None => match endpoints.map(common_name) {
            Some(Some(name)) => Some(name),
            // The endpoints' own problem was reported.
            None => None,
            Some(None) => ctx.fail(
                &node.place,
                "`tls` of an upstream lacks `server_name`: the name that the upstream's \
                 certificate must have (the endpoints have no single host name)",
            ),
        },
    };
    let chain = fields.optional(ctx, "certificate", pem::chain);
    let key = fields.optional(ctx, "private_key", pem::private_key);
    let nodes = (fields.take("certificate"), fields.take("private_key"));
    fields.finish(ctx);
    let client = match nodes {
        (None, None) => None,
        (Some(certificate), Some(private_key)) => {
            let (chain, key, _) = pem::pair(ctx, chain?, key?, certificate, private_key)?;
            Some(Arc::new(ClientCertificate {
                chain: chain.certificates,
                key,
            }))
        }
        (Some(certificate), None) => {
            return ctx.fail(&certificate.place, "`certificate` lacks its `private_key`");
        }
        (None, Some(private_key)) => {
            return ctx.fail(&private_key.place, "`private_key` lacks its `certificate`");
        }
    };
    Some(UpstreamTls {
        ca: ca?,
        server_name: server_name?,
        client,
    })
}

/// The one host name of all endpoints.
fn common_name(endpoints: &Endpoints) -> Option<String> {
    let name = match endpoints {
        Endpoints::Dns { target, .. } => &target.host,
        Endpoints::Srv { .. } => return None,
        Endpoints::List(list) => {
            let first = &list.first()?.host;
            list.iter()
                .all(|endpoint| endpoint.host == *first)
                .then_some(first)?
        }
    };
    name.parse::<IpAddr>().is_err().then(|| name.clone())
}

fn server_name(ctx: &mut Context, node: &Node) -> Option<String> {
    let name = match &node.kind {
        super::yaml::Kind::Scalar { text, .. } => text.trim().to_ascii_lowercase(),
        _ => text(ctx, node)?.to_owned(),
    };
    if name.is_empty() {
        return ctx.fail(
            &node.place,
            "`server_name` is empty: there would be no name to verify the upstream by",
        );
    }
    if ServerName::try_from(name.as_str()).is_err() {
        return ctx.fail(&node.place, format!("{} is not a host name", quote(&name)));
    }
    Some(name)
}

fn ca(ctx: &mut Context, node: &Node) -> Option<Vec<CertificateDer<'static>>> {
    let chain = pem::chain(ctx, node)?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in &chain.certificates {
        if let Err(error) = roots.add(certificate.clone()) {
            return ctx.fail(
                &node.place,
                format!("a certificate in it can't be a CA: {error}"),
            );
        }
    }
    Some(chain.certificates)
}

fn health_check(ctx: &mut Context, node: &Node) -> Option<HealthCheck> {
    let mut fields = Fields::of(ctx, node, "`health_check`")?;
    let path = fields.required(ctx, "path", |ctx, node| {
        let path = text(ctx, node)?;
        let plain = path.split('?').next().unwrap_or(path);
        check_path(ctx, &node.place, plain).map(|()| path.to_owned())
    });
    let every = fields.or(ctx, "every", "5s", decode::duration);
    let timeout = fields.or(ctx, "timeout", "2s", decode::duration);
    let healthy = fields.or(ctx, "healthy", "2", decode::whole(1..=100));
    let unhealthy = fields.or(ctx, "unhealthy", "3", decode::whole(1..=100));
    if every.is_some_and(|every| every < Duration::from_millis(100)) {
        let place = fields.key_place("every");
        ctx.problems.add(
            place,
            "checking more than ten times a second is a flood of its own",
        );
    }
    fields.finish(ctx);
    Some(HealthCheck {
        path: path?,
        every: every?,
        timeout: timeout?,
        healthy: healthy?,
        unhealthy: unhealthy?,
    })
}

fn ejection(ctx: &mut Context, node: &Node) -> Option<Ejection> {
    let mut fields = Fields::of(ctx, node, "`ejection`")?;
    let failures = fields.or(ctx, "failures", "5", decode::whole(0..=10_000));
    let rest = fields.or(ctx, "rest", "10s", decode::duration);
    let maximum = fields.or(ctx, "maximum", "50%", decode::share);
    fields.finish(ctx);
    Some(Ejection {
        failures: failures?,
        rest: rest?,
        maximum: maximum?,
    })
}

fn retries(ctx: &mut Context, node: &Node) -> Option<Retries> {
    let mut fields = Fields::of(ctx, node, "`retries`")?;
    let attempts = fields.or(ctx, "attempts", "1", decode::whole(0..=10));
    let budget = fields.or(ctx, "budget", "20%", decode::share);
    fields.finish(ctx);
    Some(Retries {
        attempts: attempts?,
        budget: budget?,
    })
}

fn timeouts(ctx: &mut Context, node: &Node) -> Option<UpstreamTimeouts> {
    let mut fields = Fields::of(ctx, node, "`timeouts` of an upstream")?;
    let connect = fields.or(ctx, "connect", "2s", decode::duration);
    let response = fields.or(ctx, "response", "30s", decode::duration);
    fields.finish(ctx);
    Some(UpstreamTimeouts {
        connect: connect?,
        response: response?,
    })
}
