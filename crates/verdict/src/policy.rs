//! What the operator wrote, as types that can't be wrong, and the guards made from it.

use crate::{
    Nanos,
    decision::{Action, Decision, Mode},
    expression::Expression,
    facts::Facts,
};
use ipnet::IpNet;
use std::{num::NonZeroU32, sync::Arc, time::Duration};

/// A policy before it is built: plain data.
#[derive(Clone, Debug, Default)]
pub struct PolicySpec {
    pub lists: Vec<ListSpec>,
    /// In order; the first that matches and bites decides.
    pub rules: Vec<RuleSpec>,
    pub limits: Vec<LimitSpec>,
    /// One entry a route, in the configuration's order.
    pub routes: Vec<RouteSpec>,
}

/// A named list of networks.
#[derive(Clone, Debug)]
pub struct ListSpec {
    pub name: Arc<str>,
    pub networks: Vec<IpNet>,
    /// What happens to a client in it; `None`: it is only there for rules to ask.
    pub then: Option<Action>,
    pub mode: Mode,
}

/// A CEL condition and what follows from it.
#[derive(Clone, Debug)]
pub struct RuleSpec {
    pub name: Arc<str>,
    pub when: Expression,
    pub then: Action,
    pub mode: Mode,
}

/// A token bucket or a concurrency limit on a composite key.
#[derive(Clone, Debug)]
pub struct LimitSpec {
    pub name: Arc<str>,
    pub key: Vec<KeyPart>,
    pub kind: LimitKind,
    pub over: Action,
    pub mode: Mode,
    /// On every request, whether or not its route names it.
    pub all: bool,
    /// Bound of the table behind it, in keys.
    pub max_keys: u32,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LimitKind {
    /// A token bucket: `amount` tokens every `period`, `burst` of them at once.
    Rate {
        amount: NonZeroU32,
        period: Duration,
        burst: NonZeroU32,
    },
    /// Requests in flight at once.
    Concurrent { max: NonZeroU32 },
    /// Requests in flight at an upstream or route. It protects the upstream and judges nobody:
    /// the proxy takes its slots when it sends a request on, so the policy leaves it alone.
    Bulkhead {
        max: NonZeroU32,
        queue: u32,
        wait: Duration,
    },
}

/// One part of a composite key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyPart {
    ClientIp,
    ClientNetwork,
    ClientJa4,
    UserId,
    UserRole,
    Route,
    Upstream,
    Host,
    Path,
    Method,
    /// Lower case.
    Header(String),
    Cookie(String),
}

/// What the policy needs to know of a route.
#[derive(Clone, Debug, Default)]
pub struct RouteSpec {
    pub name: Arc<str>,
    /// Indexes into [`PolicySpec::limits`], besides those with `all`.
    pub limits: Vec<usize>,
}

/// A policy that decides. Shared by all workers.
#[derive(Debug)]
pub struct Policy {
    _todo: (),
}

/// How full a limit's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitUsage {
    pub tracked: u64,
    pub evicted: u64,
}

impl Policy {
    /// Builds the guards. Counters of `previous` are kept for each limit whose name, key and kind
    /// (rate or concurrent) stay.
    #[must_use]
    pub fn build(_spec: PolicySpec, _previous: Option<&Self>) -> Self {
        unimplemented!()
    }

    /// Judges one request. Allocates nothing on the allow path.
    pub fn decide(&self, _facts: &Facts<'_>, _now: Nanos) -> Decision {
        unimplemented!()
    }

    /// The limits as they were specified, by index.
    #[must_use]
    pub fn limits(&self) -> &[LimitSpec] {
        unimplemented!()
    }

    /// How full each limit's table is, in the order of [`Self::limits`].
    #[must_use]
    pub fn usage(&self, _now: Nanos) -> Vec<LimitUsage> {
        unimplemented!()
    }

    /// The enforced `drop`, `deny` or `ban` of a list for an address, before anything else of the
    /// connection is known: what lets a listener refuse before TLS.
    #[must_use]
    pub fn judge_address(&self, _client: std::net::IpAddr) -> Option<crate::decision::Finding> {
        unimplemented!()
    }
}
