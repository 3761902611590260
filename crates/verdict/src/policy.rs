//! What the operator wrote, as types that can't be wrong, and the guards made from it.
//!
//! How the guards' findings are weighed against each other is [`crate::engine`]'s.

use crate::{
    Nanos,
    bucket::Rate,
    decision::{Action, Decision, Finding, Mode, Rung, Source},
    engine,
    expression::Expression,
    facts::Facts,
    guard::{
        Case, Guard, Judgement,
        concurrency::{ConcurrencyLimit, InFlight},
        list::{List, ListSet, Networks},
        rate::RateLimit,
        rule::Rule,
    },
    key_table::KeyTable,
    pressure::States,
};
use ipnet::IpNet;
use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

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
    /// Only while one of these is raised; none: always.
    pub during: States,
    /// How many times the limit a client with a clearance has; 1: none more. Which clearance it takes
    /// is [`Self::lifted_by`].
    pub cleared: NonZeroU32,
    /// On every request, whether or not its route names it.
    pub all: bool,
    /// Bound of the table behind it, in keys: a rate limit sets 27 bytes aside for each, and of that
    /// much memory only what keys have touched is used.
    ///
    /// A key is live while its bucket is not full. As long as no more keys than this are live, no
    /// bucket is forgotten; under a flood of more, those go first that are nearest to full. With a
    /// burst of 1 all are alike, so there the bound should exceed the new keys that may come in the
    /// time a token takes.
    pub max_keys: u32,
}

impl LimitSpec {
    /// The clearance that lifts this limit: what its own `challenge` asks for where it names a rung,
    /// else a proof of work. A silent one is had for nothing, so it lifts only what asks for no more.
    #[must_use]
    pub fn lifted_by(&self) -> Rung {
        match self.over {
            Action::Challenge(Some(rung)) => rung,
            _ => Rung::ProofOfWork,
        }
    }

    /// What counts for clients with that clearance. What a bulkhead protects is lifted for nobody.
    #[must_use]
    pub fn cleared_kind(&self) -> LimitKind {
        let times = |number: NonZeroU32| number.saturating_mul(self.cleared);
        match self.kind {
            LimitKind::Rate {
                amount,
                period,
                burst,
            } => LimitKind::Rate {
                amount: times(amount),
                period,
                burst: times(burst),
            },
            LimitKind::Concurrent { max } => LimitKind::Concurrent { max: times(max) },
            bulkhead @ LimitKind::Bulkhead { .. } => bulkhead,
        }
    }

    fn lifts(&self) -> bool {
        self.cleared > NonZeroU32::MIN
    }
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
    /// Indexes into [`PolicySpec::limits`], besides those with `all`. Others are passed over.
    pub limits: Vec<usize>,
}

/// A policy that decides. Shared by all workers.
#[derive(Debug)]
pub struct Policy {
    /// All lists by index, for conditions to ask.
    pub(crate) lists: ListSet,
    /// The lists that act by themselves, those that allow before the others.
    pub(crate) acting_lists: Box<[Member<List>]>,
    pub(crate) rules: Box<[Member<Rule>]>,
    /// By index of the specification.
    pub(crate) limits: Box<[Member<Limit>]>,
    specs: Vec<LimitSpec>,
    routes: Box<[RouteLimits]>,
    /// For requests that no route matched.
    no_route: RouteLimits,
}

/// A guard by the name and in the mode that the operator gave it.
#[derive(Debug)]
pub(crate) struct Member<G> {
    pub(crate) source: Source,
    pub(crate) name: Arc<str>,
    pub(crate) mode: Mode,
    /// See [`LimitSpec::during`]; lists and rules have none.
    pub(crate) during: States,
    pub(crate) guard: G,
}

/// What stands behind a [`LimitSpec`].
#[derive(Debug)]
pub(crate) enum Limit {
    Rate(RateLimit),
    Concurrent(ConcurrencyLimit),
    /// The proxy's.
    Bulkhead,
}

impl Guard for Limit {
    fn judge(&self, case: &Case<'_>) -> Judgement {
        match self {
            Self::Rate(limit) => limit.judge(case),
            Self::Concurrent(limit) => limit.judge(case),
            Self::Bulkhead => Judgement::default(),
        }
    }
}

/// Indexes of the limits of a route, in the configuration's order, those for all routes among them.
#[derive(Debug)]
struct RouteLimits {
    judged: Box<[usize]>,
    bulkheads: Box<[usize]>,
}

/// How full a limit's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitUsage {
    /// Live keys: in debt, or with requests in flight. Large tables are sampled.
    pub tracked: u64,
    /// Keys forgotten, or requests not counted, for want of room.
    pub evicted: u64,
}

impl Policy {
    /// Builds the guards. Counters of `previous` are kept for each limit whose name, key and kind
    /// (rate or concurrent) stay; its rate, bound and everything else may change.
    #[must_use]
    pub fn build(spec: PolicySpec, previous: Option<&Self>) -> Self {
        let limits = spec
            .limits
            .iter()
            .map(|limit| Member {
                source: Source::Limit,
                name: Arc::clone(&limit.name),
                mode: limit.mode,
                during: limit.during,
                guard: Limit::build(limit, previous.and_then(|old| old.counters_of(limit))),
            })
            .collect();
        let mut acting_lists: Vec<_> = spec
            .lists
            .iter()
            .enumerate()
            .filter_map(|(index, list)| {
                let then = at_once(list.then?);
                Some(Member {
                    source: Source::List,
                    name: Arc::clone(&list.name),
                    mode: list.mode,
                    during: States::NONE,
                    guard: List { index, then },
                })
            })
            .collect();
        acting_lists.sort_by_key(|list| list.guard.then != Action::Allow);
        Self {
            lists: ListSet(
                spec.lists
                    .iter()
                    .map(|list| Networks::new(&list.networks))
                    .collect(),
            ),
            acting_lists: acting_lists.into(),
            rules: spec
                .rules
                .into_iter()
                .map(|rule| Member {
                    source: Source::Rule,
                    name: rule.name,
                    mode: rule.mode,
                    during: States::NONE,
                    guard: Rule {
                        when: rule.when,
                        then: at_once(rule.then),
                    },
                })
                .collect(),
            limits,
            routes: spec
                .routes
                .iter()
                .map(|route| RouteLimits::of(&spec.limits, &route.limits))
                .collect(),
            no_route: RouteLimits::of(&spec.limits, &[]),
            specs: spec.limits,
        }
    }

    /// Judges one request. Allocates nothing on the allow path. See [`crate::engine`] for what
    /// follows from what.
    #[must_use]
    pub fn decide(&self, facts: &Facts<'_>, now: Nanos) -> Decision {
        engine::decide(self, facts, now)
    }

    /// The limits as they were specified, by index.
    #[must_use]
    pub fn limits(&self) -> &[LimitSpec] {
        &self.specs
    }

    /// Indexes of the bulkheads that a request of this route passes, in the configuration's order.
    #[must_use]
    pub fn bulkheads(&self, route: Option<usize>) -> &[usize] {
        &self.route_limits(route).bulkheads
    }

    /// How full each limit's table is, in the order of [`Self::limits`]. Bulkheads are not counted
    /// here. Takes well under a millisecond a limit, whatever its bound.
    #[must_use]
    pub fn usage(&self, now: Nanos) -> Vec<LimitUsage> {
        self.limits
            .iter()
            .map(|limit| {
                let (tracked, evicted) = match &limit.guard {
                    Limit::Rate(limit) => (limit.table().tracked(now), limit.table().evicted()),
                    Limit::Concurrent(limit) => (limit.table.tracked(), limit.table.uncounted()),
                    Limit::Bulkhead => (0, 0),
                };
                LimitUsage { tracked, evicted }
            })
            .collect()
    }

    /// The enforced `drop`, `deny` or `ban` of a list for an address, before anything else of the
    /// connection is known: what lets a listener refuse before TLS. An address that a list allows is
    /// never refused here.
    #[must_use]
    pub fn judge_address(&self, client: IpAddr) -> Option<Finding> {
        engine::judge_address(self, client)
    }

    /// The limits that judge requests of a route.
    pub(crate) fn judged(&self, route: Option<usize>) -> &[usize] {
        &self.route_limits(route).judged
    }

    fn route_limits(&self, route: Option<usize>) -> &RouteLimits {
        route
            .and_then(|route| self.routes.get(route))
            .unwrap_or(&self.no_route)
    }

    /// The limit that counted what `wanted` is about to count.
    fn counters_of(&self, wanted: &LimitSpec) -> Option<&Limit> {
        let at = self
            .specs
            .iter()
            .position(|spec| spec.name == wanted.name && spec.key == wanted.key)?;
        self.limits.get(at).map(|limit| &limit.guard)
    }
}

impl Limit {
    fn build(spec: &LimitSpec, previous: Option<&Self>) -> Self {
        match spec.kind {
            LimitKind::Rate {
                amount,
                period,
                burst,
            } => {
                let table = match previous {
                    Some(Self::Rate(old)) if old.table().max_keys() == spec.max_keys => {
                        Arc::clone(old.table())
                    }
                    Some(Self::Rate(old)) => Arc::new(old.table().resized(spec.max_keys)),
                    _ => Arc::new(KeyTable::new(spec.max_keys)),
                };
                let rate = Rate::new(amount, period, burst);
                let cleared = match spec.cleared_kind() {
                    LimitKind::Rate { amount, burst, .. } if spec.lifts() => {
                        Some((spec.lifted_by(), Rate::new(amount, period, burst)))
                    }
                    _ => None,
                };
                let key = spec.key.clone();
                Self::Rate(RateLimit::new(key, rate, cleared, spec.over, table))
            }
            LimitKind::Concurrent { max } => {
                let table = match previous {
                    Some(Self::Concurrent(old)) => {
                        old.table.set_max_keys(spec.max_keys);
                        Arc::clone(&old.table)
                    }
                    _ => Arc::new(InFlight::new(spec.max_keys)),
                };
                Self::Concurrent(ConcurrencyLimit {
                    key: spec.key.clone(),
                    max,
                    cleared: match spec.cleared_kind() {
                        LimitKind::Concurrent { max } if spec.lifts() => {
                            Some((spec.lifted_by(), max))
                        }
                        _ => None,
                    },
                    over: spec.over,
                    table,
                })
            }
            LimitKind::Bulkhead { .. } => Self::Bulkhead,
        }
    }
}

impl RouteLimits {
    fn of(limits: &[LimitSpec], named: &[usize]) -> Self {
        let (mut judged, mut bulkheads) = (Vec::new(), Vec::new());
        for (index, limit) in limits.iter().enumerate() {
            if limit.all || named.contains(&index) {
                match limit.kind {
                    LimitKind::Bulkhead { .. } => bulkheads.push(index),
                    LimitKind::Rate { .. } | LimitKind::Concurrent { .. } => judged.push(index),
                }
            }
        }
        Self {
            judged: judged.into(),
            bulkheads: bulkheads.into(),
        }
    }
}

/// Only a token bucket knows how long `Delay(None)` is; lists and rules have nothing to wait for.
fn at_once(action: Action) -> Action {
    match action {
        Action::Delay(None) => Action::Delay(Some(Duration::ZERO)),
        action => action,
    }
}
