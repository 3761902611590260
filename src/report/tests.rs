//! Whose fault a refusal is.

use super::*;
use std::sync::Arc;
use verdict::{
    decision::{Mode, Reason},
    policy::LimitKind,
};

fn limit(name: &str, key: &[KeyPart], kind: LimitKind) -> LimitSpec {
    LimitSpec {
        name: Arc::from(name),
        key: key.to_vec(),
        kind,
        over: Action::Throttle,
        mode: Mode::Enforce,
        during: verdict::pressure::States::NONE,
        cleared: std::num::NonZeroU32::MIN,
        all: false,
        max_keys: 100,
    }
}

fn finding(source: Source, name: &str) -> Finding {
    Finding {
        source,
        name: Arc::from(name),
        action: Action::Throttle,
        mode: Mode::Enforce,
        reason: Reason::OverConcurrency { in_flight: 9 },
    }
}

#[test]
fn a_limit_that_others_fill_blames_nobody() {
    let nine = 9.try_into().unwrap();
    let at_once = LimitKind::Concurrent { max: nine };
    let bulkhead = LimitKind::Bulkhead {
        max: nine,
        queue: 0,
        wait: Duration::ZERO,
    };
    let limits = [
        limit("address", &[KeyPart::Route, KeyPart::ClientIp], at_once),
        limit("user", &[KeyPart::UserId], at_once),
        limit("route", &[KeyPart::Route], at_once),
        limit("network", &[KeyPart::ClientNetwork], at_once),
        limit("everyone", &[], at_once),
        limit("bulkhead", &[KeyPart::Upstream], bulkhead),
    ];
    let blamed = |source, name| blames(&finding(source, name), &limits);
    assert!(blamed(Source::Limit, "address"));
    assert!(blamed(Source::Limit, "user"));
    for shared in ["route", "network", "everyone", "bulkhead"] {
        assert!(!blamed(Source::Limit, shared), "{shared}");
        // A rule of the same name is another thing.
        assert!(blamed(Source::Rule, shared));
    }
    assert!(blamed(Source::List, "enemies"));
}
