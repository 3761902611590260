//! What a reload keeps: counters stay where name, key and kind stay.

use super::*;

fn spec(limits: Vec<LimitSpec>) -> PolicySpec {
    PolicySpec {
        limits,
        ..PolicySpec::default()
    }
}

fn throttled(policy: &Policy) -> bool {
    policy.decide(&facts(VISITOR), NOW).action == Action::Throttle
}

#[test]
fn counters_survive_where_name_key_and_kind_stay() {
    let limit = per_ip("per-ip", 1, 1, Action::Throttle);
    let old = Policy::build(spec(vec![limit.clone()]), None);
    assert!(!throttled(&old) && throttled(&old));
    let rate = |amount, burst| per_ip("per-ip", amount, burst, Action::Throttle);
    for kept in [
        limit.clone(),
        LimitSpec {
            max_keys: 50_000,
            ..limit.clone()
        },
        LimitSpec {
            mode: Mode::Enforce,
            ..rate(2, 1)
        },
    ] {
        let added = per_ip("new", 100, 100, Action::Throttle);
        let new = Policy::build(spec(vec![added, kept]), Some(&old));
        assert!(throttled(&new));
    }
    for fresh in [
        LimitSpec {
            name: "other".into(),
            ..limit.clone()
        },
        LimitSpec {
            key: vec![KeyPart::ClientNetwork],
            ..limit.clone()
        },
        in_flight("per-ip", 1, Action::Throttle),
    ] {
        let new = Policy::build(spec(vec![fresh]), Some(&old));
        assert!(!throttled(&new));
    }
}

#[test]
fn requests_in_flight_stay_counted() {
    let limit = in_flight("in-flight", 2, Action::Throttle);
    let old = Policy::build(spec(vec![limit.clone()]), None);
    let first = old.decide(&facts(VISITOR), NOW);
    let changed = LimitSpec {
        max_keys: 5,
        ..limit
    };
    let new = Policy::build(spec(vec![changed]), Some(&old));
    drop(old);
    let _second = new.decide(&facts(VISITOR), NOW);
    assert!(throttled(&new));
    drop(first);
    assert!(!throttled(&new));
}

#[test]
fn a_rate_that_changes_forgets_no_debt() {
    let slow = per_ip("per-ip", 1, 10, Action::Throttle);
    let old = Policy::build(spec(vec![slow]), None);
    for _ in 0..10 {
        assert!(!throttled(&old));
    }
    // Ten seconds of debt are at most an empty bucket of the new rate.
    let fast = per_ip("per-ip", 10, 10, Action::Throttle);
    let new = Policy::build(spec(vec![fast]), Some(&old));
    let decision = new.decide(&facts(VISITOR), NOW);
    let wait = Duration::from_millis(100);
    assert_eq!(decision.finding.unwrap().reason, Reason::OverRate { wait });
    assert_eq!(
        told(&new.decide(&facts(VISITOR), NOW.after(wait))).0,
        Action::Allow
    );
}
