//! What conditions mean, what is refused, and that nothing surprises the compiler.

mod properties;
mod refused;
mod stories;

use super::{EvaluationError, Expression, Lists};
use crate::decision::Rung;
use crate::facts::{Client, Facts, Headers, Request, Tls, User};
use crate::prefix::{Prefix, PrefixLengths};
use crate::pressure::{State, States};
use std::{net::IpAddr, sync::Arc};

/// One request, with all that can be known of it.
#[derive(Clone, Debug)]
struct Visit {
    ip: IpAddr,
    method: String,
    host: Vec<u8>,
    path: Vec<u8>,
    query: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    size: u64,
    user: String,
    roles: Vec<String>,
    encrypted: bool,
    clearance: Option<Rung>,
    pressure: States,
}

/// Mina, an editor, reads a page over TLS.
fn mina() -> Visit {
    Visit {
        ip: "10.1.2.3".parse().unwrap(),
        method: "GET".into(),
        host: b"app.example.com".to_vec(),
        path: b"/Docs/Page.html".to_vec(),
        query: b"q=caf\xc3\xa9&page=2".to_vec(),
        headers: vec![
            ("user-agent".into(), b"Mozilla/5.0 (X11)".to_vec()),
            ("referer".into(), b"https://app.example.com/".to_vec()),
            ("x-empty".into(), b"".to_vec()),
            ("x-bytes".into(), b"\xff\xfe".to_vec()),
        ],
        size: 0,
        user: "mina".into(),
        roles: vec!["editor".into(), "eu-staff".into()],
        encrypted: true,
        clearance: Some(Rung::Captcha),
        pressure: States::NONE,
    }
}

/// Somebody without a name posts 5000 bytes in plaintext over IPv6, amid a SYN flood.
fn nobody() -> Visit {
    Visit {
        ip: "2001:db8::7".parse().unwrap(),
        method: "POST".into(),
        host: b"10.0.0.1".to_vec(),
        path: b"/wp-login.php\xff".to_vec(),
        query: Vec::new(),
        headers: Vec::new(),
        size: 5000,
        user: String::new(),
        roles: Vec::new(),
        encrypted: false,
        clearance: None,
        pressure: States::of(State::SynFlood),
    }
}

impl Headers for Visit {
    fn header(&self, name: &str) -> Option<&[u8]> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_slice())
    }
    fn cookie(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

/// `offices` is 10.0.0.0/8, `blocked` is `2001:db8::/32`.
struct TwoLists;

impl Lists for TwoLists {
    fn contains(&self, list: usize, ip: IpAddr) -> bool {
        let network = ["10.0.0.0/8", "2001:db8::/32"][list];
        network.parse::<ipnet::IpNet>().unwrap().contains(&ip)
    }
}

fn list_names() -> Vec<Arc<str>> {
    vec!["offices".into(), "blocked".into()]
}

impl Visit {
    fn judge(&self, condition: &Expression) -> Result<bool, EvaluationError> {
        let facts = Facts {
            client: Client {
                ip: self.ip,
                prefix: Prefix::of(self.ip, PrefixLengths::CLIENT),
                network: Prefix::of(self.ip, PrefixLengths::NETWORK),
                ja4: "t13d1516h2_8daaf6152771_02713d6af862",
                crawler: "googlebot",
            },
            request: Request {
                method: &self.method,
                host: &self.host,
                path: &self.path,
                query: &self.query,
                headers: self,
                size: self.size,
            },
            user: User {
                id: &self.user,
                roles: &self.roles,
            },
            tls: if self.encrypted {
                Tls {
                    version: "1.3",
                    sni: "app.example.com",
                    alpn: "h2",
                }
            } else {
                Tls::default()
            },
            route: Some(0),
            route_name: "app",
            upstream: "app",
            pressure: self.pressure,
            clearance: self.clearance,
            unchallenged: false,
            ladder: &Rung::ProofOfWork,
        };
        condition.holds(&facts, &TwoLists)
    }
}

fn compiled(source: &str) -> Expression {
    match Expression::compile(source, &list_names()) {
        Ok(condition) => condition,
        Err(errors) => panic!("{source} is refused: {errors:?}"),
    }
}
