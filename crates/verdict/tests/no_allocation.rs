//! That deciding allocates nothing on the allow path, counted by the allocator itself.

use std::net::IpAddr;
use verdict::{Nanos, decision::Action, policy::Policy};

#[path = "../benches/decide/site.rs"]
mod site;

const DECISIONS: u32 = 10_000;

/// 1,000 networks, 10 limits, 20 rules; new clients and known ones.
#[test]
fn deciding_allocates_nothing() {
    let policy = Policy::build(site::spec(1_000_000), None);
    let roles = ["customer".to_owned(), "beta".to_owned()];
    let decide = |number: u32| {
        let ip = IpAddr::V4((0xc633_0000 + number % 3_000).into());
        let facts = site::facts(ip, "ada", &roles);
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
