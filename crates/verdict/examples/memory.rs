//! Process memory a tracked key: `cargo run --release -p verdict --example memory [KEYS]`.
//!
//! Builds a policy with one limit on the client's address, sends one request each from as many
//! clients as the limit's bound, and compares the resident set. Linux only: it reads
//! `/proc/self/statm`.

use std::{error::Error, net::IpAddr, num::NonZeroU32, time::Duration};
use verdict::{
    Nanos,
    decision::{Action, Mode, Rung},
    facts::{Client, Facts, NoHeaders, Request, Tls, User},
    policy::{KeyPart, LimitKind, LimitSpec, Policy, PolicySpec},
    prefix::{Prefix, PrefixLengths},
    pressure::States,
};

/// More than this is a failure: the promise of docs/performance.md.
const MOST_BYTES_A_KEY: f64 = 32.0;

fn main() -> Result<(), Box<dyn Error>> {
    let keys = match std::env::args().nth(1) {
        Some(keys) => keys.parse()?,
        None => 1_000_000,
    };
    let start = resident()?;
    let spec = PolicySpec {
        limits: vec![limit(keys)],
        ..PolicySpec::default()
    };
    let policy = Policy::build(spec, None);
    let built = resident()?;
    let now = Nanos(1_000_000_000);
    for number in 0..keys {
        let decision = policy.decide(&request(number), now);
        assert_eq!(decision.action, Action::Allow);
    }
    let full = resident()?;
    let each = (full - start) / f64::from(keys);
    println!("keys           {keys}");
    for usage in policy.usage(now) {
        println!("tracked        {} (by sample)", usage.tracked);
        println!("evicted        {}", usage.evicted);
    }
    println!(
        "built          {:.2} bytes a key",
        (built - start) / f64::from(keys)
    );
    println!("all keys live  {each:.2} bytes a key");
    if each > MOST_BYTES_A_KEY {
        return Err(format!("more than {MOST_BYTES_A_KEY} bytes a key").into());
    }
    Ok(())
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
        during: States::NONE,
        cleared: NonZeroU32::MIN,
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
            crawler: "",
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
        pressure: States::NONE,
        clearance: None,
        unchallenged: false,
        ladder: &Rung::ProofOfWork,
    }
}

/// Resident set of this process in bytes, for pages of 4 KiB.
fn resident() -> Result<f64, Box<dyn Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u32 = statm.split(' ').nth(1).unwrap_or_default().parse()?;
    Ok(f64::from(pages) * 4096.0)
}
