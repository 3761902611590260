//! What a clearance is worth: a challenge is void for whoever holds it, and limits are lifted.

#![allow(clippy::panic)] // Helpers of tests are no tests to clippy.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use verdict::facts::Ladder;

const POW: Action = Action::Challenge(Some(Rung::ProofOfWork));

fn cleared(times: u32, limit: LimitSpec) -> LimitSpec {
    LimitSpec {
        cleared: NonZeroU32::new(times).unwrap(),
        ..limit
    }
}

fn holding(rung: Option<Rung>) -> Facts<'static> {
    Facts {
        clearance: rung,
        ..facts(VISITOR)
    }
}

/// How many of many requests at once are allowed, and what the next one meets.
fn allowed(policy: &Policy, facts: &Facts<'_>) -> (u32, Action) {
    for count in 0..1_000 {
        let action = policy.decide(facts, NOW).action;
        if action != Action::Allow {
            return (count, action);
        }
    }
    panic!("no limit")
}

#[test]
fn the_rung_that_a_rule_asks_for_or_a_higher_one_voids_it() {
    for asked in Rung::ALL {
        let rules = vec![rule("prove", "true", Action::Challenge(Some(asked)))];
        let policy = policy(vec![], rules, vec![]);
        for held in [None].into_iter().chain(Rung::ALL.map(Some)) {
            let action = policy.decide(&holding(held), NOW).action;
            let expected = if held >= Some(asked) {
                Action::Allow
            } else {
                Action::Challenge(Some(asked))
            };
            assert_eq!(action, expected, "asked {asked:?}, held {held:?}");
        }
    }
}

#[test]
fn a_challenge_without_a_rung_takes_that_of_the_risk() {
    let rules = vec![rule("prove", "true", Action::Challenge(None))];
    let policy = policy(vec![], rules, vec![]);
    let mut facts = holding(Some(Rung::ProofOfWork));
    facts.ladder = &Rung::Captcha;
    assert_eq!(
        policy.decide(&facts, NOW).action,
        Action::Challenge(Some(Rung::Captcha))
    );
    facts.clearance = Some(Rung::Captcha);
    assert_eq!(policy.decide(&facts, NOW).action, Action::Allow);
}

#[test]
fn where_nobody_is_challenged_rules_pass_and_limits_throttle() {
    let mut facts = holding(None);
    facts.unchallenged = true;
    let prove = || vec![rule("prove", "true", POW)];
    let rules = policy(vec![], prove(), vec![]);
    assert_eq!(told(&rules.decide(&facts, NOW)), (Action::Allow, ""));
    let listed = policy(vec![list("odd", &["198.51.100.0/24"], POW)], vec![], vec![]);
    assert_eq!(told(&listed.decide(&facts, NOW)), (Action::Allow, ""));
    let limit = cleared(4, per_ip("per-ip", 1, 3, POW));
    let limits = policy(vec![], prove(), vec![limit]);
    // No clearance is held, so nothing is lifted either.
    assert_eq!(allowed(&limits, &facts), (3, Action::Throttle));
}

#[test]
fn who_solves_starts_with_a_fresh_bucket_and_a_larger_one() {
    let policy = policy(
        vec![],
        vec![],
        vec![cleared(4, per_ip("per-ip", 10, 3, POW))],
    );
    assert_eq!(allowed(&policy, &holding(None)), (3, POW));
    let solved = holding(Some(Rung::ProofOfWork));
    let quota = policy.decide(&solved, NOW).quota.unwrap();
    assert_eq!((quota.remaining, quota.cleared), (11, true));
    assert_eq!(
        quota.reset,
        Duration::from_millis(25),
        "four times the rate"
    );
    assert_eq!(allowed(&policy, &solved), (11, Action::Throttle));
    let decision = policy.decide(&solved, NOW);
    let wait = Duration::from_millis(25);
    assert_eq!(decision.finding.unwrap().reason, Reason::OverRate { wait });
    // The one without is where it was, and neither takes from the other.
    let decision = policy.decide(&holding(None), NOW);
    assert_eq!(decision.action, POW);
    assert!(!decision.quota.unwrap().cleared);
    let later = NOW.after(Duration::from_millis(25));
    assert_eq!(policy.decide(&solved, later).action, Action::Allow);
    assert_eq!(policy.decide(&holding(None), later).action, POW);
}

#[test]
fn which_clearance_lifts_a_limit() {
    let challenge = |rung| Action::Challenge(Some(rung));
    for (over, least) in [
        (Action::Throttle, Rung::ProofOfWork),
        (Action::Deny, Rung::ProofOfWork),
        (Action::Challenge(None), Rung::ProofOfWork),
        (challenge(Rung::Silent), Rung::Silent),
        (challenge(Rung::ProofOfWork), Rung::ProofOfWork),
        (challenge(Rung::Captcha), Rung::Captcha),
    ] {
        for held in [None].into_iter().chain(Rung::ALL.map(Some)) {
            let policy = policy(
                vec![],
                vec![],
                vec![cleared(3, per_ip("per-ip", 1, 5, over))],
            );
            let (count, _) = allowed(&policy, &holding(held));
            let expected = if held >= Some(least) { 15 } else { 5 };
            assert_eq!(count, expected, "over {over:?}, held {held:?}");
        }
    }
}

#[test]
fn a_factor_of_one_lifts_nothing() {
    let policy = policy(vec![], vec![], vec![per_ip("per-ip", 1, 3, POW)]);
    assert_eq!(allowed(&policy, &holding(None)), (3, POW));
    let solved = holding(Some(Rung::ThirdParty));
    assert_eq!(allowed(&policy, &solved), (0, Action::Throttle));
    assert!(!policy.decide(&solved, NOW).quota.unwrap().cleared);
}

#[test]
fn more_requests_may_be_in_flight() {
    let limits = vec![cleared(2, in_flight("in-flight", 2, Action::Throttle))];
    let policy = policy(vec![], vec![], limits);
    let many = |facts: Facts<'static>| -> Vec<Decision> {
        let decisions = std::iter::repeat_with(|| policy.decide(&facts, NOW));
        decisions
            .take_while(|decision| decision.action == Action::Allow)
            .collect()
    };
    let others = many(holding(None));
    assert_eq!(others.len(), 2);
    // All requests of the key are counted, and a cleared client may be where others are.
    let solved = many(holding(Some(Rung::ProofOfWork)));
    assert_eq!(solved.len(), 2);
    drop(others);
    assert_eq!(many(holding(None)).len(), 0);
    drop(solved);
    assert_eq!(many(holding(None)).len(), 2);
}

#[test]
fn the_largest_limits_do_not_overflow() {
    let most = LimitSpec {
        kind: LimitKind::Rate {
            amount: NonZeroU32::MAX,
            period: Duration::from_secs(1),
            burst: NonZeroU32::MAX,
        },
        ..cleared(u32::MAX, per_ip("per-ip", 1, 1, POW))
    };
    let in_flight = cleared(u32::MAX, in_flight("in-flight", u32::MAX, POW));
    let policy = policy(vec![], vec![], vec![most.clone(), in_flight]);
    let decision = policy.decide(&holding(Some(Rung::ProofOfWork)), NOW);
    assert_eq!(decision.action, Action::Allow);
    assert_eq!(most.cleared_kind(), most.kind);
}

#[test]
fn a_shadow_limit_is_lifted_as_it_would_be() {
    let mut tried = cleared(2, per_ip("tried", 1, 1, POW));
    tried.mode = Mode::Shadow;
    let policy = policy(vec![], vec![], vec![tried]);
    let solved = holding(Some(Rung::ProofOfWork));
    for expected in [0, 0, 1] {
        let decision = policy.decide(&solved, NOW);
        assert_eq!(decision.action, Action::Allow);
        assert_eq!(decision.observed.len(), expected);
    }
}

#[test]
fn the_factor_may_change_at_a_reload_and_the_counters_stay() {
    let spec = |times| PolicySpec {
        limits: vec![cleared(times, per_ip("per-ip", 1, 4, Action::Throttle))],
        ..PolicySpec::default()
    };
    let solved = holding(Some(Rung::ProofOfWork));
    let first = Policy::build(spec(3), None);
    assert_eq!(allowed(&first, &solved), (12, Action::Throttle));
    let second = Policy::build(spec(5), Some(&first));
    // Four seconds of debt, at five a second.
    assert_eq!(allowed(&second, &solved), (0, Action::Throttle));
    let later = NOW.after(Duration::from_secs(4));
    assert_eq!(second.decide(&solved, later).action, Action::Allow);
}

#[test]
fn a_rule_may_ask_for_the_rung() {
    let rules = vec![rule(
        "climbed",
        "clearance.rung in ['captcha', 'third_party']",
        Action::Allow,
    )];
    let policy = policy(
        vec![],
        rules,
        vec![per_ip("per-ip", 1, 1, Action::Throttle)],
    );
    let climbed = holding(Some(Rung::Captcha));
    for _ in 0..5 {
        assert_eq!(
            told(&policy.decide(&climbed, NOW)),
            (Action::Allow, "climbed")
        );
    }
    for held in [None, Some(Rung::Silent), Some(Rung::ProofOfWork)] {
        assert_ne!(told(&policy.decide(&holding(held), NOW)).1, "climbed");
    }
}

/// Counts how often the risk was asked for.
#[derive(Default)]
struct Counted(AtomicUsize);

impl Ladder for Counted {
    fn rung(&self, _: Reason) -> Rung {
        self.0.fetch_add(1, Relaxed);
        Rung::Captcha
    }
}

#[test]
fn the_risk_is_judged_only_where_somebody_may_be_challenged() {
    let rules = vec![rule("prove", "true", Action::Challenge(None))];
    let policy = policy(vec![], rules, vec![]);
    let ladder = Counted::default();
    let usual = Facts {
        ladder: &ladder,
        ..facts(VISITOR)
    };
    let asked = || ladder.0.swap(0, Relaxed);
    let decide = |facts: &Facts<'_>| policy.decide(facts, NOW).action;
    let exempt = Facts {
        unchallenged: true,
        ..usual
    };
    assert_eq!((decide(&exempt), asked()), (Action::Allow, 0));
    let highest = Facts {
        clearance: Some(Rung::ThirdParty),
        ..usual
    };
    assert_eq!((decide(&highest), asked()), (Action::Allow, 0));
    let challenged = Action::Challenge(Some(Rung::Captcha));
    assert_eq!((decide(&usual), asked()), (challenged, 1));
}
