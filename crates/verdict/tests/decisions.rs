//! What operators write, and what follows for requests: stories told with facts and a time.

#![allow(clippy::unwrap_used)] // Helpers of tests are no tests to clippy.

use ipnet::IpNet;
use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};
use verdict::{
    Nanos,
    decision::{Action, Decision, Mode, Reason, Rung, Source},
    expression::Expression,
    facts::{Client, Facts, NoHeaders, Request, Tls, User},
    policy::{KeyPart, LimitKind, LimitSpec, ListSpec, Policy, PolicySpec, RouteSpec, RuleSpec},
    prefix::{Prefix, PrefixLengths},
    pressure::{State, States},
};

const NOW: Nanos = Nanos(1_000_000_000);
const VISITOR: &str = "198.51.100.9";

#[path = "decisions/clearances.rs"]
mod clearances;
#[path = "decisions/keys.rs"]
mod keys;
#[path = "decisions/limits.rs"]
mod limits;
#[path = "decisions/lists_and_rules.rs"]
mod lists_and_rules;
#[path = "decisions/reload.rs"]
mod reload;

fn facts(ip: &str) -> Facts<'static> {
    let ip: IpAddr = ip.parse().unwrap();
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
            host: b"app.example.com",
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

fn list(name: &str, networks: &[&str], then: Action) -> ListSpec {
    ListSpec {
        name: name.into(),
        networks: networks
            .iter()
            .map(|network| network.parse::<IpNet>().unwrap())
            .collect(),
        then: Some(then),
        mode: Mode::Enforce,
    }
}

fn rule(name: &str, when: &str, then: Action) -> RuleSpec {
    RuleSpec {
        name: name.into(),
        when: Expression::compile(when, &[]).unwrap(),
        then,
        mode: Mode::Enforce,
    }
}

/// `amount` a second on the client's address, for all routes.
fn per_ip(name: &str, amount: u32, burst: u32, over: Action) -> LimitSpec {
    LimitSpec {
        name: name.into(),
        key: vec![KeyPart::ClientIp],
        kind: LimitKind::Rate {
            amount: NonZeroU32::new(amount).unwrap(),
            period: Duration::from_secs(1),
            burst: NonZeroU32::new(burst).unwrap(),
        },
        over,
        mode: Mode::Enforce,
        during: States::NONE,
        cleared: NonZeroU32::MIN,
        all: true,
        max_keys: 1_000,
    }
}

fn in_flight(name: &str, max: u32, over: Action) -> LimitSpec {
    LimitSpec {
        kind: LimitKind::Concurrent {
            max: NonZeroU32::new(max).unwrap(),
        },
        ..per_ip(name, 1, 1, over)
    }
}

fn policy(lists: Vec<ListSpec>, rules: Vec<RuleSpec>, limits: Vec<LimitSpec>) -> Policy {
    let spec = PolicySpec {
        lists,
        rules,
        limits,
        routes: Vec::new(),
    };
    Policy::build(spec, None)
}

/// Action and the name of the guard behind it.
fn told(decision: &Decision) -> (Action, &str) {
    let name = decision.finding.as_ref().map_or("", |found| &found.name);
    (decision.action, name)
}

fn observed(decision: &Decision) -> Vec<(&str, Action, Reason)> {
    decision
        .observed
        .iter()
        .map(|found| (&*found.name, found.action, found.reason))
        .collect()
}

#[test]
fn a_policy_is_shared_by_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Policy>();
    shared::<Decision>();
}

#[test]
fn an_empty_policy_allows() {
    let policy = policy(vec![], vec![], vec![]);
    let decision = policy.decide(&facts(VISITOR), NOW);
    assert_eq!(told(&decision), (Action::Allow, ""));
    assert!(decision.quota.is_none() && decision.observed.is_empty());
}
