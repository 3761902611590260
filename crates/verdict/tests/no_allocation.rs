//! That deciding on the allow path and verifying a clearance allocate nothing, counted by the allocator itself.

use std::{net::IpAddr, num::NonZeroU32};
use verdict::{
    Nanos,
    clearance::{Bearer, Clearance, Fault, Fingerprint, Grant, MAX_GRANTS, Shown, Standing},
    decision::{Action, Rung},
    policy::Policy,
    prefix::{Prefix, PrefixLengths},
    seal::Keyring,
};

#[path = "../benches/decide/site.rs"]
mod site;

const DECISIONS: u32 = 10_000;

/// 1,000 networks, 10 limits, 20 rules; new clients and known ones.
#[test]
fn deciding_allocates_nothing() {
    let mut spec = site::spec(1_000_000);
    for limit in &mut spec.limits {
        limit.cleared = NonZeroU32::new(4).expect("some");
    }
    let policy = Policy::build(spec, None);
    let roles = ["customer".to_owned(), "beta".to_owned()];
    let decide = |number: u32| {
        let ip = IpAddr::V4((0xc633_0000 + number % 3_000).into());
        let mut facts = site::facts(ip, "ada", &roles);
        facts.clearance = (number.is_multiple_of(2)).then_some(Rung::ProofOfWork);
        let now = Nanos(1_000_000_000 + u64::from(number) * 1_000);
        let decision = policy.decide(&facts, now);
        assert_eq!(decision.action, Action::Allow);
        assert!(decision.finding.is_none() && decision.observed.is_empty());
        assert_eq!((decision.slots.len(), decision.quota.is_some()), (1, true));
    };
    // The table of requests in flight makes room for its first entries here; a shard of it is
    // emptied before it needs more.
    (0..1_000).for_each(decide);
    let seen = allocation_counter::measure(|| (1_000..1_000 + DECISIONS).for_each(decide));
    assert_eq!(seen.count_total, 0);
    // The counter counts.
    let seen = allocation_counter::measure(|| drop(Box::new(roles.len())));
    assert_eq!(seen.count_total, 1);
}

/// One that holds, with as much in it as fits and of an older key, and ones that do not.
#[test]
fn verifying_a_clearance_allocates_nothing() {
    const JA4: &str = "t13d1516h2_8daaf6152771_02713d6af862";
    let network = |third| {
        let ip = IpAddr::from([192, 0, third, 7]);
        Prefix::of(ip, PrefixLengths::NETWORK)
    };
    let grant = |third| Grant {
        rung: Rung::Captcha,
        network: network(third),
        issued: 1000,
        expires: 5000,
    };
    let host = "h".repeat(253);
    let mut clearance = Clearance::new([1; 16], Fingerprint::of(JA4), grant(0));
    clearance
        .grants
        .extend((1..).map(grant).take(MAX_GRANTS - 1));
    let old = Keyring::new(b"an old secret", []);
    let keys = Keyring::new(b"a new secret", [&b"an old secret"[..]]);
    let token = clearance.seal(&old, &host).expect("fits");
    let forged = token.replace('A', "B");
    let junk = "A".repeat(5000);
    let verify = |token: &str, network| {
        let bearer = Bearer {
            network,
            shown: Fingerprint::of(JA4).map_or(Shown::Nothing, Shown::Fingerprint),
            host: &host,
            now: 2000,
        };
        Clearance::verify(token.as_bytes(), &keys, &bearer, |_, grant| {
            grant.issued == 1
        })
    };
    let seen = allocation_counter::measure(|| {
        for _ in 0..100 {
            assert_eq!(verify(&token, network(3)), Standing::Holds(Rung::Captcha));
            assert_eq!(
                verify(&token, network(4)),
                Standing::Nothing(Fault::ForeignNetwork)
            );
            let six = Prefix::of(IpAddr::from([0x2001; 8]), PrefixLengths::NETWORK);
            assert!(matches!(verify(&token, six), Standing::Elsewhere { .. }));
            for token in [&forged, &junk, &token[1..]] {
                assert_eq!(verify(token, network(3)), Standing::Nothing(Fault::Invalid));
            }
        }
    });
    assert_eq!(seen.count_total, 0);
}
