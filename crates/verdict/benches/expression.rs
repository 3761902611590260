//! What it costs to evaluate one condition of a rule, and to compile it.

use criterion::{Criterion, criterion_group, criterion_main};
use std::{hint::black_box, net::IpAddr, sync::Arc};
use verdict::{
    decision::Rung,
    expression::{Expression, Lists},
    facts::{Client, Facts, Headers, Request, Tls, User},
    prefix::{Prefix, PrefixLengths},
    pressure::States,
};

/// Conditions as rules have them; none holds, so that each is evaluated to its end.
const CONDITIONS: [(&str, &str); 12] = [
    ("constant", "false"),
    ("user", r#"user.id == """#),
    ("list", r#"client.ip in list("offices")"#),
    ("network", r#"cidr("10.0.0.0/8").containsIP(client.ip)"#),
    ("method", r#"request.method in ["PUT", "PATCH", "DELETE"]"#),
    (
        "prefix",
        r#"request.path.startsWith("/wp-") && user.id == """#,
    ),
    (
        "probes",
        r#"["/wp-", "/xmlrpc", "/.env", "/.git", "/phpmyadmin"].exists(p, request.path.startsWith(p))"#,
    ),
    ("contains", r#"request.query.contains("../")"#),
    (
        "lower",
        r#"request.path.lowerAscii().contains("union select")"#,
    ),
    (
        "header",
        r#"request.headers["user-agent"].contains("sqlmap")"#,
    ),
    (
        "pattern",
        r#"request.headers["user-agent"].matches("(?i)(curl|wget|python-requests|sqlmap)/")"#,
    ),
    (
        "typical",
        r#"request.method == "POST" && request.path.startsWith("/login") && !user.authenticated
           && !(client.ip in list("offices")) && request.size > 64 * 1024"#,
    ),
];

/// As few headers as a browser sends, in the order in which it sends them.
struct Sent([(&'static str, &'static [u8]); 6]);

impl Headers for Sent {
    fn header(&self, name: &str) -> Option<&[u8]> {
        let mut headers = self.0.iter();
        headers
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }
    fn cookie(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

struct NoOffice;

impl Lists for NoOffice {
    fn contains(&self, list: usize, ip: IpAddr) -> bool {
        list > 0 && ip.is_loopback()
    }
}

fn expressions(c: &mut Criterion) {
    let ip: IpAddr = [192, 0, 2, 7].into();
    let headers = Sent([
        ("host", b"app.example.com"),
        ("accept", b"text/html,application/xhtml+xml"),
        ("accept-language", b"de-CH,de;q=0.9,en;q=0.8"),
        ("accept-encoding", b"gzip, deflate, br"),
        (
            "user-agent",
            b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ),
        ("sec-fetch-mode", b"navigate"),
    ]);
    let facts = Facts {
        client: Client {
            ip,
            prefix: Prefix::of(ip, PrefixLengths::CLIENT),
            network: Prefix::of(ip, PrefixLengths::NETWORK),
            ja4: "t13d1516h2_8daaf6152771_02713d6af862",
            crawler: "",
        },
        request: Request {
            method: "POST",
            host: b"app.example.com",
            path: b"/login/with/a/password/or/a/token",
            query: b"return=%2Fprojects%2F17%2Fdocuments&lang=de",
            headers: &headers,
            size: 321,
        },
        user: User {
            id: "mina",
            roles: &[],
        },
        tls: Tls::default(),
        route: Some(0),
        route_name: "app",
        upstream: "app",
        pressure: States::NONE,
        clearance: None,
        unchallenged: false,
        ladder: &Rung::ProofOfWork,
    };
    let anonymous = Facts {
        user: User::default(),
        ..facts
    };
    let lists: [Arc<str>; 1] = ["offices".into()];
    let mut group = c.benchmark_group("expression");
    for (name, source) in CONDITIONS {
        let Ok(condition) = Expression::compile(source, &lists) else {
            unreachable!("{source} compiles");
        };
        let facts = if name == "typical" {
            &anonymous
        } else {
            &facts
        };
        assert_eq!(condition.holds(facts, &NoOffice), Ok(false), "{source}");
        group.bench_function(name, |b| {
            b.iter(|| black_box(&condition).holds(black_box(facts), &NoOffice));
        });
    }
    group.bench_function("compile", |b| {
        b.iter(|| Expression::compile(black_box(CONDITIONS[11].1), &lists));
    });
    group.finish();
}

criterion_group!(benches, expressions);
criterion_main!(benches);
