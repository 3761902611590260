//! Limits: what they take, what they leave, and what they tell.

use super::*;

#[test]
fn over_its_rate_a_client_is_throttled_with_the_true_wait() {
    let policy = policy(
        vec![],
        vec![],
        vec![per_ip("per-ip", 50, 3, Action::Throttle)],
    );
    for left in [2, 1, 0] {
        let decision = policy.decide(&facts(VISITOR), NOW);
        assert_eq!(told(&decision), (Action::Allow, ""));
        let quota = decision.quota.unwrap();
        assert_eq!((quota.limit, quota.remaining), (0, left));
        assert_eq!(quota.reset, Duration::from_millis(20) * (3 - left));
    }
    let decision = policy.decide(&facts(VISITOR), NOW);
    assert_eq!(told(&decision), (Action::Throttle, "per-ip"));
    let wait = Duration::from_millis(20);
    assert_eq!(decision.finding.unwrap().reason, Reason::OverRate { wait });
    assert_eq!(decision.quota.unwrap().remaining, 0);
    assert_eq!(
        told(&policy.decide(&facts(VISITOR), NOW.after(wait))).0,
        Action::Allow
    );
    assert_eq!(
        told(&policy.decide(&facts("198.51.100.10"), NOW)).0,
        Action::Allow
    );
}

#[test]
fn a_refused_request_takes_nothing_from_later_limits() {
    let hourly = LimitSpec {
        kind: LimitKind::Rate {
            amount: NonZeroU32::MIN,
            period: Duration::from_secs(3_600),
            burst: NonZeroU32::new(2).unwrap(),
        },
        ..per_ip("third", 1, 1, Action::Deny)
    };
    let policy = policy(
        vec![],
        vec![],
        vec![
            per_ip("first", 1, 1, Action::Throttle),
            in_flight("second", 1, Action::Throttle),
            hourly,
        ],
    );
    let at = |seconds| NOW.after(Duration::from_secs(seconds));
    drop(policy.decide(&facts(VISITOR), at(0)));
    for _ in 0..10 {
        let decision = policy.decide(&facts(VISITOR), at(0));
        assert_eq!(told(&decision), (Action::Throttle, "first"));
        assert!(decision.slots.is_empty());
    }
    // The second of the two hourly tokens is still there, and the last.
    assert_eq!(
        told(&policy.decide(&facts(VISITOR), at(1))).0,
        Action::Allow
    );
    assert_eq!(
        told(&policy.decide(&facts(VISITOR), at(2))),
        (Action::Deny, "third")
    );
}

#[test]
fn the_tightest_bucket_is_told() {
    let policy = policy(
        vec![],
        vec![],
        vec![
            per_ip("wide", 100, 100, Action::Throttle),
            per_ip("narrow", 1, 5, Action::Throttle),
            per_ip("fast", 100, 5, Action::Throttle),
        ],
    );
    let quota = policy.decide(&facts(VISITOR), NOW).quota.unwrap();
    assert_eq!((quota.limit, quota.remaining), (1, 4));
    assert_eq!(quota.reset, Duration::from_secs(1));
}

#[test]
fn a_shadow_limit_counts_in_its_own_bucket_and_does_not_bite() {
    let mut tried = per_ip("tried", 1, 2, Action::Ban(Duration::from_secs(60)));
    tried.mode = Mode::Shadow;
    let policy = policy(
        vec![],
        vec![],
        vec![tried, per_ip("per-ip", 10, 10, Action::Throttle)],
    );
    for turn in 0..10 {
        let decision = policy.decide(&facts(VISITOR), NOW);
        assert_eq!(told(&decision), (Action::Allow, ""));
        assert_eq!(
            decision.quota.unwrap().limit,
            1,
            "nobody is told of a trial"
        );
        if turn < 2 {
            assert!(decision.observed.is_empty());
        } else {
            let wait = Duration::from_secs(1);
            let ban = Action::Ban(Duration::from_secs(60));
            assert_eq!(
                observed(&decision),
                [("tried", ban, Reason::OverRate { wait })]
            );
        }
    }
    assert_eq!(
        told(&policy.decide(&facts(VISITOR), NOW)),
        (Action::Throttle, "per-ip")
    );
}

#[test]
fn a_delay_on_a_limit_queues_until_the_token_is_there() {
    let policy = policy(
        vec![],
        vec![],
        vec![per_ip("smooth", 1, 1, Action::Delay(None))],
    );
    assert_eq!(told(&policy.decide(&facts(VISITOR), NOW)).0, Action::Allow);
    for seconds in 1..=5 {
        let wait = Duration::from_secs(seconds);
        let decision = policy.decide(&facts(VISITOR), NOW);
        assert_eq!(told(&decision), (Action::Delay(Some(wait)), "smooth"));
        assert_eq!(decision.finding.unwrap().reason, Reason::OverRate { wait });
        assert_eq!(decision.quota.unwrap().remaining, 0);
    }
    // A longer queue would hold connections for little: throttled, with the wait for a place in it.
    let decision = policy.decide(&facts(VISITOR), NOW);
    assert_eq!(told(&decision), (Action::Throttle, "smooth"));
    let wait = Duration::from_secs(1);
    assert_eq!(decision.finding.unwrap().reason, Reason::OverRate { wait });
}

#[test]
fn the_hardest_limit_wins_and_a_delay_lets_later_ones_speak() {
    let fixed = Action::Delay(Some(Duration::from_millis(50)));
    let policy = policy(
        vec![],
        vec![],
        vec![
            per_ip("slow-down", 1, 1, fixed),
            per_ip(
                "challenge",
                1,
                2,
                Action::Challenge(Some(Rung::ProofOfWork)),
            ),
            per_ip("stop", 1, 3, Action::Deny),
        ],
    );
    let names = ["", "slow-down", "challenge", "stop"];
    for name in names {
        assert_eq!(told(&policy.decide(&facts(VISITOR), NOW)).1, name);
    }
}

#[test]
fn requests_in_flight_are_limited_until_they_end() {
    let policy = policy(
        vec![],
        vec![],
        vec![in_flight("in-flight", 2, Action::Throttle)],
    );
    let first = policy.decide(&facts(VISITOR), NOW);
    let second = policy.decide(&facts(VISITOR), NOW);
    assert_eq!((first.slots.len(), second.slots.len()), (1, 1));
    let third = policy.decide(&facts(VISITOR), NOW);
    assert_eq!(told(&third), (Action::Throttle, "in-flight"));
    assert!(third.slots.is_empty());
    let reason = third.finding.as_ref().unwrap().reason;
    assert_eq!(reason, Reason::OverConcurrency { in_flight: 2 });
    assert_eq!(policy.usage(NOW)[0].tracked, 1);
    drop(first);
    assert_eq!(told(&policy.decide(&facts(VISITOR), NOW)).0, Action::Allow);
    drop((second, third));
    assert_eq!(policy.usage(NOW)[0].tracked, 0);
}

#[test]
fn in_flight_limits_delay_challenge_and_watch_too() {
    let fixed = Action::Delay(Some(Duration::from_millis(50)));
    let mut tried = in_flight("tried", 1, Action::Deny);
    tried.mode = Mode::Shadow;
    let policy = policy(
        vec![],
        vec![],
        vec![
            tried,
            in_flight("slow-down", 1, fixed),
            in_flight("unknowable", 3, Action::Delay(None)),
        ],
    );
    let first = policy.decide(&facts(VISITOR), NOW);
    assert_eq!((told(&first).0, first.slots.len()), (Action::Allow, 3));
    let second = policy.decide(&facts(VISITOR), NOW);
    assert_eq!(told(&second), (fixed, "slow-down"));
    // As if the shadow limit had refused it, it is not in flight there.
    assert_eq!(second.slots.len(), 2);
    let reason = Reason::OverConcurrency { in_flight: 1 };
    assert_eq!(observed(&second), [("tried", Action::Deny, reason)]);
    let third = policy.decide(&facts(VISITOR), NOW);
    assert_eq!(told(&third), (fixed, "slow-down"));
    let fourth = policy.decide(&facts(VISITOR), NOW);
    assert_eq!(told(&fourth), (Action::Throttle, "unknowable"));
}

#[test]
fn routes_pick_their_limits_and_bulkheads() {
    let named = |name| LimitSpec {
        cleared: NonZeroU32::MIN,
        all: false,
        ..per_ip(name, 1, 1, Action::Throttle)
    };
    let bulkhead = |name, all| LimitSpec {
        kind: LimitKind::Bulkhead {
            max: NonZeroU32::MIN,
            queue: 0,
            wait: Duration::ZERO,
        },
        all,
        ..per_ip(name, 1, 1, Action::Throttle)
    };
    let route = |limits: &[usize]| RouteSpec {
        name: "r".into(),
        limits: limits.to_vec(),
    };
    let spec = PolicySpec {
        limits: vec![
            bulkhead("search", false),
            named("login"),
            bulkhead("everything", true),
            per_ip("per-ip", 10, 10, Action::Throttle),
        ],
        routes: vec![route(&[1, 0, 1]), route(&[]), route(&[99])],
        ..PolicySpec::default()
    };
    let policy = Policy::build(spec, None);
    assert_eq!(policy.bulkheads(Some(0)), [0, 2]);
    for route in [Some(1), Some(2), Some(1_000), None] {
        assert_eq!(policy.bulkheads(route), [2]);
    }
    assert_eq!(policy.limits()[1].name, "login".into());
    let mut facts = facts(VISITOR);
    facts.route = Some(0);
    assert_eq!(policy.decide(&facts, NOW).quota.unwrap().limit, 1);
    assert_eq!(
        told(&policy.decide(&facts, NOW)),
        (Action::Throttle, "login")
    );
    facts.route = Some(1);
    assert_eq!(policy.decide(&facts, NOW).quota.unwrap().limit, 3);
}

#[test]
fn a_limit_for_a_pressure_counts_while_it_lasts_and_not_before() {
    let during = States::of(State::SynFlood).with(State::SlowSynFlood);
    let limit = LimitSpec {
        during,
        ..per_ip("under-fire", 1, 1, Action::Throttle)
    };
    let policy = policy(vec![], vec![], vec![limit]);
    let under = |pressure| {
        let facts = Facts {
            pressure,
            ..facts(VISITOR)
        };
        told(&policy.decide(&facts, NOW)).0
    };
    for _ in 0..10 {
        assert_eq!(under(States::NONE), Action::Allow);
        assert_eq!(under(States::of(State::AckFlood)), Action::Allow);
    }
    // The whole bucket is there when it begins.
    assert_eq!(under(States::of(State::SlowSynFlood)), Action::Allow);
    assert_eq!(under(States::of(State::SynFlood)), Action::Throttle);
    assert_eq!(under(States::ALL), Action::Throttle);
    assert_eq!(under(States::NONE), Action::Allow);
}
