//! Process memory a tracked key: `cargo run --release -p verdict --example memory [KEYS]`.
//!
//! Builds a policy with one limit on the client's address, sends one request each from as many
//! clients as the limit's bound, and compares the resident set. Linux only: it reads
//! `/proc/self/statm`.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};
use verdict::{
    Nanos,
    decision::{Action, Mode},
    facts::{Client, Facts, NoHeaders, Request, Tls, User},
    policy::{KeyPart, LimitKind, LimitSpec, Policy, PolicySpec},
    prefix::{Prefix, PrefixLengths},
};

fn main() {
    let keys = std::env::args()
        .nth(1)
        .map_or(1_000_000, |keys| keys.parse().expect("a number of keys"));
    let start = resident();
    let policy = Policy::build(
        PolicySpec {
            limits: vec![limit(keys)],
            ..PolicySpec::default()
        },
        None,
    );
    let built = resident();
    let now = Nanos(1_000_000_000);
    for number in 0..keys {
        let decision = policy.decide(&request(number), now);
        assert_eq!(decision.action, Action::Allow);
    }
    let full = resident();
    let usage = policy.usage(now)[0];
    let each = f64::from(keys);
    println!("keys            {keys}");
    println!(
        "tracked         {} (by sample), {} evicted",
        usage.tracked, usage.evicted
    );
    println!("built           {:.2} bytes a key", (built - start) / each);
    println!("all keys live   {:.2} bytes a key", (full - start) / each);
}

fn limit(max_keys: u32) -> LimitSpec {
    LimitSpec {
        name: "per-ip".into(),
        key: vec![KeyPart::ClientIp],
        kind: LimitKind::Rate {
            amount: NonZeroU32::MIN,
            period: Duration::from_secs(1),
            burst: NonZeroU32::MIN,
        },
        over: Action::Throttle,
        mode: Mode::Enforce,
        all: true,
        max_keys,
    }
}

fn request(number: u32) -> Facts<'static> {
    let ip = IpAddr::V4(number.into());
    Facts {
        client: Client {
            ip,
            prefix: Prefix::of(ip, PrefixLengths::CLIENT),
            network: Prefix::of(ip, PrefixLengths::NETWORK),
            ja4: "",
        },
        request: Request {
            method: "GET",
            host: b"",
            path: b"/",
            query: b"",
            headers: &NoHeaders,
            size: 0,
        },
        user: User::default(),
        tls: Tls::default(),
        route: None,
        route_name: "",
        upstream: "",
        clearance: None,
    }
}

/// Resident set of this process in bytes, for pages of 4 KiB.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u32>().ok());
    f64::from(pages.expect("the second field is a number of pages")) * 4096.0
}
