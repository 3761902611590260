//! What verifying a clearance costs: `cargo bench -p verdict --bench clearance`.

#![allow(clippy::expect_used)] // Everything here is written below.

use criterion::{Criterion, criterion_group, criterion_main};
use std::{hint::black_box, net::IpAddr};
use verdict::{
    clearance::{Bearer, Clearance, Fault, Fingerprint, Grant, MAX_GRANTS, Shown, Standing},
    decision::Rung,
    prefix::{Prefix, PrefixLengths},
    seal::Keyring,
};

const JA4: &str = "t13d1516h2_8daaf6152771_02713d6af862";

fn network(third: u8) -> Prefix {
    Prefix::of(IpAddr::from([192, 0, third, 7]), PrefixLengths::NETWORK)
}

fn grant(third: u8) -> Grant {
    Grant {
        rung: Rung::ProofOfWork,
        network: network(third),
        issued: 1000,
        expires: 5000,
    }
}

fn clearance(criterion: &mut Criterion) {
    let old = Keyring::new(b"an old secret of the site, long enough", []);
    let secrets = [&b"an old secret of the site, long enough"[..]];
    let keys = Keyring::new(b"the secret of the site, long enough", secrets);
    let long = "h".repeat(253);
    let one = Clearance::new([1; 16], Fingerprint::of(JA4), grant(1));
    let mut four = one.clone();
    four.grants.extend((2..).map(grant).take(MAX_GRANTS - 1));
    let host = "app.example.com";
    let usual = one.seal(&keys, host).expect("fits");
    let stale = one.seal(&Keyring::new(b"another", []), host).expect("fits");
    let mut forged = usual.clone();
    forged.replace_range(60..61, if &usual[60..61] == "A" { "B" } else { "A" });
    let held = Standing::Holds(Rung::ProofOfWork);
    for (name, token, host, expected) in [
        ("one network", usual, host, held),
        (
            "an older key",
            one.seal(&old, host).expect("fits"),
            host,
            held,
        ),
        (
            "four networks and the longest host",
            four.seal(&keys, &long).expect("fits"),
            &long,
            held,
        ),
        ("forged", forged, host, Standing::Nothing(Fault::Invalid)),
        (
            "of no key of ours",
            stale,
            host,
            Standing::Nothing(Fault::Invalid),
        ),
        (
            "enormous",
            "A".repeat(8000),
            host,
            Standing::Nothing(Fault::Invalid),
        ),
    ] {
        criterion.bench_function(&format!("clearance: {name}"), |bencher| {
            bencher.iter(|| {
                let bearer = Bearer {
                    network: network(1),
                    shown: Fingerprint::of(black_box(JA4))
                        .map_or(Shown::Nothing, Shown::Fingerprint),
                    host,
                    now: 2000,
                };
                let token = black_box(token.as_bytes());
                let standing = Clearance::verify(token, &keys, &bearer, |_, _| false);
                assert_eq!(standing, expected);
            });
        });
    }
}

criterion_group!(benches, clearance);
criterion_main!(benches);
