//! The policy that deciding is measured with: 1,000 networks in lists, 10 limits on various keys, 20
//! rules; and requests that pass all of them.

#![allow(clippy::expect_used)] // Everything here is written below.

use ipnet::IpNet;
use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};
use verdict::{
    decision::{Action, Mode, Rung},
    expression::Expression,
    facts::{Client, Facts, Headers, Request, Tls, User},
    policy::{KeyPart, LimitKind, LimitSpec, ListSpec, PolicySpec, RouteSpec, RuleSpec},
    prefix::{Prefix, PrefixLengths},
    pressure::States,
};

/// What a browser sends.
pub struct Browser;

impl Headers for Browser {
    fn header(&self, name: &str) -> Option<&[u8]> {
        match name {
            "user-agent" => Some(b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101"),
            "accept" => Some(b"text/html,application/xhtml+xml"),
            "x-key" => Some(b"3f1d7a"),
            _ => None,
        }
    }

    fn cookie(&self, name: &str) -> Option<&[u8]> {
        (name == "session").then_some(b"0198c6a4f5b27c11")
    }
}

/// The request of the client at `ip`.
pub fn facts<'a>(ip: IpAddr, user: &'a str, roles: &'a [String]) -> Facts<'a> {
    Facts {
        client: Client {
            ip,
            prefix: Prefix::of(ip, PrefixLengths::CLIENT),
            network: Prefix::of(ip, PrefixLengths::NETWORK),
            ja4: "t13d1516h2_8daaf6152771_b186095e22b6",
            crawler: "",
        },
        request: Request {
            method: "GET",
            host: b"app.example.com",
            path: b"/account/orders/4711",
            query: b"page=2&sort=date",
            headers: &Browser,
            size: 0,
        },
        user: User { id: user, roles },
        tls: Tls {
            version: "1.3",
            sni: "app.example.com",
            alpn: "h2",
        },
        route: Some(0),
        route_name: "app",
        upstream: "app",
        pressure: States::NONE,
        clearance: None,
        unchallenged: false,
        ladder: &Rung::ProofOfWork,
    }
}

/// The policy. No limit is ever over at `amount` a second and more.
pub fn spec(amount: u32) -> PolicySpec {
    let lists = lists();
    let names: Vec<Arc<str>> = lists.iter().map(|list| Arc::clone(&list.name)).collect();
    PolicySpec {
        rules: RULES
            .iter()
            .enumerate()
            .map(|(number, when)| RuleSpec {
                name: format!("rule-{number}").into(),
                when: Expression::compile(when, &names).expect("the rules are fine"),
                then: Action::Deny,
                mode: Mode::Enforce,
            })
            .collect(),
        lists,
        limits: limits(amount),
        routes: vec![RouteSpec {
            name: "app".into(),
            limits: (0..10).collect(),
        }],
    }
}

/// Nine hundred networks in three lists that act, one hundred in one for rules to ask.
fn lists() -> Vec<ListSpec> {
    let part = |name: &str, from: u32, count: u32, then| ListSpec {
        name: name.into(),
        networks: (from..from + count).map(network).collect(),
        then,
        mode: Mode::Enforce,
    };
    vec![
        part("offices", 0, 100, Some(Action::Allow)),
        part("blocked", 100, 600, Some(Action::Drop)),
        part("anonymisers", 700, 200, Some(Action::Deny)),
        part("partners", 900, 100, None),
    ]
}

/// Two thirds IPv4, one third IPv6, none of them where the requests come from.
fn network(number: u32) -> IpNet {
    let text = match number % 3 {
        0 => format!("2001:db8:{number:x}::/48"),
        1 => format!("20.{}.{}.0/24", number / 256, number % 256),
        _ => format!("203.{}.{}.64/26", number / 256, number % 256),
    };
    text.parse().expect("a network")
}

fn limits(amount: u32) -> Vec<LimitSpec> {
    let keys = [
        vec![KeyPart::ClientIp],
        vec![KeyPart::ClientNetwork],
        vec![KeyPart::UserId],
        vec![KeyPart::UserRole],
        vec![KeyPart::ClientIp, KeyPart::Route],
        vec![KeyPart::ClientJa4],
        vec![KeyPart::Header("x-key".into())],
        vec![KeyPart::Cookie("session".into())],
        vec![KeyPart::Host, KeyPart::Path, KeyPart::Method],
        vec![KeyPart::ClientIp],
    ];
    let amount = NonZeroU32::new(amount).expect("some");
    keys.into_iter()
        .enumerate()
        .map(|(number, key)| LimitSpec {
            name: format!("limit-{number}").into(),
            key,
            kind: if number == 9 {
                LimitKind::Concurrent { max: amount }
            } else {
                LimitKind::Rate {
                    amount,
                    period: Duration::from_secs(1),
                    burst: amount,
                }
            },
            over: Action::Throttle,
            mode: Mode::Enforce,
            during: States::NONE,
            cleared: NonZeroU32::MIN,
            all: number % 2 == 0,
            max_keys: 100_000,
        })
        .collect()
}

const RULES: [&str; 20] = [
    r#"request.path.startsWith("/wp-") && user.id == """#,
    r#"request.path.startsWith("/.git")"#,
    r#"request.path.endsWith(".php")"#,
    r#"request.path.contains("/../")"#,
    r#"request.method == "TRACE""#,
    r#"request.method in ["CONNECT", "DEBUG", "TRACK"]"#,
    r#"request.host == "internal.example.com" && !(client.ip in list("partners"))"#,
    r#"route == "login" && client.ip in list("anonymisers")"#,
    "request.size > 10000000",
    "request.size > 1000000 && !user.authenticated",
    r#""suspended" in user.roles"#,
    r#"request.path.startsWith("/admin") && !("admin" in user.roles)"#,
    r#"tls.version == "1.2" && request.path.startsWith("/pay")"#,
    "tls.sni != request.host",
    r#"client.ja4 == "t13d190900_9dc949149365_97f8aa674fd9""#,
    r#"request.query.contains("<script")"#,
    r#"request.query.contains("union select")"#,
    r#"request.path == "/xmlrpc.php" || request.path == "/cgi-bin/luci""#,
    r#""user-agent" in request.headers && request.headers["user-agent"].contains("sqlmap")"#,
    r#"tls.alpn == "http/1.1" && request.path.startsWith("/api/stream")"#,
];
