//! Lists and rules: who ends the evaluation, and who wins.

use super::*;

#[test]
fn a_listed_client_meets_the_action() {
    let policy = policy(
        vec![list("blocked", &["203.0.113.0/24"], Action::Drop)],
        vec![],
        vec![per_ip("per-ip", 1, 1, Action::Throttle)],
    );
    for _ in 0..3 {
        let decision = policy.decide(&facts("203.0.113.5"), NOW);
        assert_eq!(told(&decision), (Action::Drop, "blocked"));
        let finding = decision.finding.unwrap();
        assert_eq!(
            (finding.source, finding.reason),
            (Source::List, Reason::Listed)
        );
        assert!(decision.quota.is_none(), "no limit was asked");
    }
    assert_eq!(policy.usage(NOW)[0].tracked, 0);
    assert_eq!(
        told(&policy.decide(&facts(VISITOR), NOW)),
        (Action::Allow, "")
    );
}

#[test]
fn allow_beats_every_other_list_in_whatever_order() {
    let offices = list("offices", &["203.0.113.7/32"], Action::Allow);
    let blocked = list("blocked", &["203.0.113.0/24"], Action::Drop);
    for lists in [
        vec![offices.clone(), blocked.clone()],
        vec![blocked, offices],
    ] {
        let limit = per_ip("per-ip", 1, 1, Action::Throttle);
        let policy = policy(lists, vec![], vec![limit]);
        for _ in 0..5 {
            let office = policy.decide(&facts("203.0.113.7"), NOW);
            assert_eq!(told(&office), (Action::Allow, "offices"));
            assert!(office.quota.is_none());
        }
        assert!(
            policy
                .judge_address("203.0.113.7".parse().unwrap())
                .is_none()
        );
        let other = policy.decide(&facts("203.0.113.8"), NOW);
        assert_eq!(told(&other), (Action::Drop, "blocked"));
    }
}

#[test]
fn the_hardest_of_the_other_lists_wins() {
    let policy = policy(
        vec![
            list(
                "odd",
                &["203.0.113.0/24"],
                Action::Challenge(Some(Rung::ProofOfWork)),
            ),
            list("bad", &["203.0.113.0/25"], Action::Deny),
            list(
                "worse",
                &["203.0.113.0/26"],
                Action::Ban(Duration::from_secs(60)),
            ),
        ],
        vec![],
        vec![],
    );
    for (ip, name) in [
        ("203.0.113.1", "worse"),
        ("203.0.113.100", "bad"),
        ("203.0.113.200", "odd"),
    ] {
        assert_eq!(told(&policy.decide(&facts(ip), NOW)).1, name);
    }
}

#[test]
fn addresses_are_refused_before_tls_by_enforced_lists_only() {
    let mut tried = list("tried", &["192.0.2.0/24"], Action::Drop);
    tried.mode = Mode::Shadow;
    let policy = policy(
        vec![
            tried,
            list(
                "odd",
                &["203.0.113.0/24"],
                Action::Challenge(Some(Rung::ProofOfWork)),
            ),
            list(
                "slow",
                &["203.0.113.0/25"],
                Action::Tarpit(Duration::from_secs(9)),
            ),
            list(
                "blocked",
                &["203.0.113.0/26", "2001:db8::/32"],
                Action::Drop,
            ),
        ],
        vec![],
        vec![],
    );
    let judge = |ip: &str| policy.judge_address(ip.parse().unwrap());
    for refused in ["203.0.113.1", "::ffff:203.0.113.1", "2001:db8::1"] {
        let finding = judge(refused).unwrap();
        assert_eq!((&*finding.name, finding.action), ("blocked", Action::Drop));
    }
    for heard in ["203.0.113.100", "203.0.113.200", "192.0.2.1", VISITOR] {
        assert!(judge(heard).is_none(), "{heard}");
    }
}

#[test]
fn a_shadow_list_is_seen_and_does_not_bite() {
    let mut blocked = list("blocked", &["203.0.113.0/24"], Action::Drop);
    blocked.mode = Mode::Shadow;
    let policy = policy(vec![blocked], vec![], vec![]);
    let decision = policy.decide(&facts("203.0.113.5"), NOW);
    assert_eq!(told(&decision), (Action::Allow, ""));
    assert_eq!(
        observed(&decision),
        [("blocked", Action::Drop, Reason::Listed)]
    );
    assert_eq!(decision.observed[0].mode, Mode::Shadow);
}

#[test]
fn a_clearance_voids_a_challenge() {
    let policy = policy(
        vec![list(
            "odd",
            &["203.0.113.0/24"],
            Action::Challenge(Some(Rung::ProofOfWork)),
        )],
        vec![],
        vec![per_ip("per-ip", 1, 1, Action::Throttle)],
    );
    let mut facts = facts("203.0.113.5");
    let challenged = policy.decide(&facts, NOW);
    assert_eq!(
        told(&challenged),
        (Action::Challenge(Some(Rung::ProofOfWork)), "odd")
    );
    // Hammering the challenge page runs into the limit.
    assert_eq!(
        told(&policy.decide(&facts, NOW)),
        (Action::Throttle, "per-ip")
    );
    facts.clearance = Some(Rung::ProofOfWork);
    let cleared = policy.decide(&facts, NOW.after(Duration::from_secs(1)));
    assert_eq!(told(&cleared), (Action::Allow, ""));
}

#[test]
fn the_first_rule_that_matches_and_bites_decides() {
    let mut tried = rule("tried", "request.path.startsWith('/admin')", Action::Drop);
    tried.mode = Mode::Shadow;
    let policy = policy(
        vec![],
        vec![
            tried,
            rule("never", "request.method == 'TRACE'", Action::Drop),
            rule(
                "probes",
                "request.path.startsWith('/admin') && user.id == ''",
                Action::Deny,
            ),
            rule(
                "all-admin",
                "request.path.startsWith('/admin')",
                Action::Drop,
            ),
        ],
        vec![per_ip("per-ip", 1, 1, Action::Throttle)],
    );
    let mut facts = facts(VISITOR);
    facts.request.path = b"/admin/users";
    for _ in 0..3 {
        let decision = policy.decide(&facts, NOW);
        assert_eq!(told(&decision), (Action::Deny, "probes"));
        assert_eq!(
            observed(&decision),
            [("tried", Action::Drop, Reason::Matched)]
        );
        assert!(decision.quota.is_none(), "a refused request takes no token");
    }
    facts.user.id = "ada";
    assert_eq!(
        told(&policy.decide(&facts, NOW)),
        (Action::Drop, "all-admin")
    );
    facts.request.path = b"/";
    let decision = policy.decide(&facts, NOW);
    assert_eq!(told(&decision), (Action::Allow, ""));
    assert!(decision.observed.is_empty());
}

#[test]
fn an_allow_rule_ends_the_evaluation_and_leaves_what_was_found() {
    let policy = policy(
        vec![list(
            "odd",
            &["203.0.113.0/24"],
            Action::Challenge(Some(Rung::ProofOfWork)),
        )],
        vec![
            rule("health", "request.path == '/healthz'", Action::Allow),
            rule(
                "others",
                "true",
                Action::Delay(Some(Duration::from_millis(5))),
            ),
        ],
        vec![per_ip("per-ip", 1, 1, Action::Throttle)],
    );
    let mut health = facts(VISITOR);
    health.request.path = b"/healthz";
    for _ in 0..5 {
        assert_eq!(
            told(&policy.decide(&health, NOW)),
            (Action::Allow, "health")
        );
    }
    let delay = Action::Delay(Some(Duration::from_millis(5)));
    assert_eq!(
        told(&policy.decide(&facts(VISITOR), NOW)),
        (delay, "others")
    );
    assert_eq!(
        told(&policy.decide(&facts(VISITOR), NOW)),
        (Action::Throttle, "per-ip")
    );
    let mut odd = facts("203.0.113.5");
    odd.request.path = b"/healthz";
    let decision = policy.decide(&odd, NOW);
    assert_eq!(
        told(&decision),
        (Action::Challenge(Some(Rung::ProofOfWork)), "odd")
    );
}

#[test]
fn a_void_challenge_lets_the_next_rule_decide() {
    let policy = policy(
        vec![],
        vec![
            rule("first", "true", Action::Challenge(Some(Rung::ProofOfWork))),
            rule("second", "true", Action::Deny),
        ],
        vec![],
    );
    let mut facts = facts(VISITOR);
    assert_eq!(told(&policy.decide(&facts, NOW)).1, "first");
    facts.clearance = Some(Rung::ProofOfWork);
    assert_eq!(told(&policy.decide(&facts, NOW)).1, "second");
}

#[test]
fn a_rule_that_fails_does_not_hold_and_is_told() {
    let rules = (0..20)
        .map(|_| {
            rule(
                "strict",
                "request.headers['x-version'] == '1'",
                Action::Deny,
            )
        })
        .collect();
    let policy = policy(vec![], rules, vec![]);
    let decision = policy.decide(&facts(VISITOR), NOW);
    assert_eq!(told(&decision), (Action::Allow, ""));
    // No more than a decision carries.
    assert_eq!(
        observed(&decision),
        [("strict", Action::Deny, Reason::Failed); verdict::decision::CARRIED]
    );
}

#[test]
fn rules_ask_lists() {
    let lists = vec![ListSpec {
        then: None,
        ..list("offices", &["203.0.113.0/24"], Action::Allow)
    }];
    let names: Vec<Arc<str>> = lists.iter().map(|list| Arc::clone(&list.name)).collect();
    let outside = RuleSpec {
        when: Expression::compile("!(client.ip in list('offices'))", &names).unwrap(),
        ..rule("outside", "true", Action::Deny)
    };
    let policy = policy(lists, vec![outside], vec![]);
    assert_eq!(told(&policy.decide(&facts(VISITOR), NOW)).1, "outside");
    assert_eq!(told(&policy.decide(&facts("203.0.113.5"), NOW)).1, "");
}
