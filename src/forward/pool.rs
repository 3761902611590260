//! One upstream: what its names are known to mean, the endpoints made from that, and which is picked.

use super::{
    balance,
    endpoint::{Endpoint, Fare},
    peer::{BadPeer, PeerTemplate},
    retry::Budget,
    upstream::NoEndpoint,
};
use crate::{
    clock,
    config::model::{Endpoints, HostPort, Upstream},
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::watch;
use verdict::{Nanos, prefix::Prefix};

/// Most endpoints of one upstream: what DNS answers is bounded, too.
const MAX_ENDPOINTS: usize = 256;

/// One upstream.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) spec: Upstream,
    pub(super) targets: Vec<Target>,
    template: PeerTemplate,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// What each target is known to mean; `None` until it was resolved once.
    answers: Mutex<Vec<Option<Vec<SocketAddr>>>>,
    /// Counts targets that were resolved, for those who wait for it.
    pub(super) resolved: watch::Sender<usize>,
    turn: AtomicUsize,
    pub(super) budget: Arc<Budget>,
}

/// Something that stands for addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Address(SocketAddr),
    Name(HostPort),
    Srv(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => write!(f, "{}:{}", name.host, name.port),
            Self::Srv(name) => f.write_str(name),
        }
    }
}

impl Pool {
    pub(super) fn build(spec: &Upstream, previous: Option<&Self>) -> Result<Self, BadPeer> {
        let targets = targets(&spec.endpoints);
        let known: HashMap<Target, Vec<SocketAddr>> =
            previous.map_or_else(HashMap::new, Self::known);
        let answers: Vec<Option<Vec<SocketAddr>>> = targets
            .iter()
            .map(|target| match target {
                Target::Address(address) => Some(vec![*address]),
                target => known.get(target).cloned(),
            })
            .collect();
        let pool = Self {
            template: PeerTemplate::build(spec)?,
            spec: spec.clone(),
            targets,
            endpoints: ArcSwap::from_pointee(Vec::new()),
            resolved: watch::Sender::new(0),
            answers: Mutex::new(answers),
            turn: AtomicUsize::new(0),
            budget: previous.map_or_else(
                || Arc::new(Budget::new(clock::now())),
                |previous| Arc::clone(&previous.budget),
            ),
        };
        if let Some(previous) = previous {
            pool.endpoints.store(previous.endpoints.load_full());
        }
        pool.refresh();
        Ok(pool)
    }

    fn known(&self) -> HashMap<Target, Vec<SocketAddr>> {
        let answers = self.answers.lock().clone();
        let both = self.targets.iter().cloned().zip(answers);
        both.filter_map(|(target, answer)| Some((target, answer?)))
            .collect()
    }

    /// Takes over what a target was resolved to; `true` when the endpoints changed by it.
    pub(super) fn learn(&self, target: usize, addresses: Vec<SocketAddr>) -> bool {
        match self.answers.lock().get_mut(target) {
            Some(answer) if answer.as_ref() == Some(&addresses) => return false,
            Some(answer) => *answer = Some(addresses),
            None => return false,
        }
        self.refresh()
    }

    /// Makes the endpoints anew from all answers; those that stay keep how they fare. `true` when
    /// their addresses changed.
    fn refresh(&self) -> bool {
        let answers = self.answers.lock();
        let before = self.endpoints.load_full();
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        for address in answers.iter().flatten().flatten().copied() {
            let known = endpoints.iter().any(|endpoint| endpoint.address == address);
            if known || endpoints.len() >= MAX_ENDPOINTS {
                continue;
            }
            let fare = before
                .iter()
                .find(|endpoint| endpoint.address == address)
                .map_or_else(|| Arc::new(Fare::default()), |old| Arc::clone(&old.fare));
            endpoints.push(Arc::new(Endpoint {
                address,
                seed: balance::seed(address),
                peer: self.template.peer(address),
                fare,
            }));
        }
        let addresses = |list: &[Arc<Endpoint>]| -> Vec<SocketAddr> {
            list.iter().map(|endpoint| endpoint.address).collect()
        };
        let changed = addresses(&before) != addresses(&endpoints);
        self.endpoints.store(Arc::new(endpoints));
        self.resolved.send_replace(answers.iter().flatten().count());
        changed
    }

    /// By checks, if there are any: without them a verdict would stand for ever.
    pub(super) fn is_healthy(&self, endpoint: &Endpoint) -> bool {
        self.spec.health_check.is_none() || endpoint.fare.is_healthy()
    }

    /// Forgets the verdicts of checks that are no longer made.
    pub(super) fn commit(&self) {
        if self.spec.health_check.is_none() {
            for endpoint in self.endpoints.load().iter() {
                endpoint.fare.set_healthy(true);
            }
        }
    }

    pub(super) fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// Picks an endpoint that did not fail the request yet.
    pub(super) fn pick(&self, client: Prefix, failed: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        let now = clock::now();
        let turn = self.turn.fetch_add(1, Relaxed);
        let fits =
            |endpoint: &Endpoint| self.is_healthy(endpoint) && !failed.contains(&endpoint.address);
        let pick = |fits: &dyn Fn(&Endpoint) -> bool| {
            balance::pick(self.spec.balance, &endpoints, client, turn, fits).cloned()
        };
        pick(&|endpoint| fits(endpoint) && !endpoint.fare.is_resting(now)).or_else(|| pick(&fits))
    }

    pub(super) fn has_another(&self, failed: &[SocketAddr]) -> bool {
        self.endpoints
            .load()
            .iter()
            .any(|endpoint| self.is_healthy(endpoint) && !failed.contains(&endpoint.address))
    }

    pub(super) fn unavailable(&self) -> NoEndpoint {
        let check = self.spec.health_check.as_ref();
        let every = check.map_or(Duration::from_secs(1), |check| check.every);
        NoEndpoint {
            retry_after: every.clamp(Duration::from_secs(1), Duration::from_secs(60)),
        }
    }

    pub(super) fn unresolved(&self) -> usize {
        self.answers
            .lock()
            .iter()
            .filter(|answer| answer.is_none())
            .count()
    }

    /// Whether one more endpoint may rest without going over `ejection.maximum`.
    pub(super) fn may_rest(&self, now: Nanos) -> bool {
        let endpoints = self.endpoints.load();
        let resting = endpoints
            .iter()
            .filter(|endpoint| endpoint.fare.is_resting(now))
            .count();
        let share = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        share(resting) + 1.0 <= share(endpoints.len()) * self.spec.ejection.maximum
    }
}

fn targets(endpoints: &Endpoints) -> Vec<Target> {
    match endpoints {
        Endpoints::List(list) => list
            .iter()
            .map(|entry| match entry.host.parse::<IpAddr>() {
                Ok(address) => Target::Address(SocketAddr::new(address, entry.port)),
                Err(_) => Target::Name(entry.clone()),
            })
            .collect(),
        Endpoints::Dns { target, .. } => vec![match target.host.parse::<IpAddr>() {
            Ok(address) => Target::Address(SocketAddr::new(address, target.port)),
            Err(_) => Target::Name(target.clone()),
        }],
        Endpoints::Srv { name, .. } => vec![Target::Srv(name.clone())],
    }
}
