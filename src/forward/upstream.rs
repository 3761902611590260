//! The upstreams of a configuration: their endpoints, which one takes a request, and what becomes of
//! it. Finding addresses is [`super::discovery`]'s, asking after their health [`super::health`]'s.

use super::{
    discovery,
    endpoint::{Change, Endpoint, Outcome},
    health,
    peer::{self, BadPeer},
    pool::{Pool, Target},
    retry::{Failure, Next},
};
use crate::{clock, config::model::Config};
use hickory_resolver::TokioResolver;
use pingora_core::{connectors::http::Connector, upstreams::peer::HttpPeer};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::watch, task::JoinHandle};
use verdict::prefix::Prefix;

/// All upstreams of one configuration, in its order.
#[derive(Debug)]
pub struct Upstreams {
    pools: Vec<Arc<Pool>>,
    /// Background tasks end when this is sent, or dropped with the generation it belongs to.
    alive: watch::Sender<()>,
}

/// The tries of one request, kept in its context.
#[derive(Debug, Default)]
pub struct Tries {
    made: u32,
    /// Endpoints that failed it.
    failed: Vec<SocketAddr>,
}

impl Tries {
    /// How often the request was sent on, or an attempt was made to.
    #[must_use]
    pub fn made(&self) -> u32 {
        self.made
    }
}

/// No endpoint can take the request: answered with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEndpoint {
    /// When asking again may help.
    pub retry_after: Duration,
}

/// An endpoint with one more request in hand, until this is dropped.
#[derive(Debug)]
pub struct Picked {
    pool: Arc<Pool>,
    endpoint: Arc<Endpoint>,
}

impl Upstreams {
    /// Endpoints of `previous` keep their health, rests and requests in flight where the upstream's
    /// name and the address stay; names keep their last answer.
    ///
    /// # Errors
    ///
    /// TLS material that can't be used.
    pub fn build(config: &Config, previous: Option<&Arc<Self>>) -> Result<Arc<Self>, BadPeer> {
        let pools = config
            .upstreams
            .iter()
            .map(|spec| {
                let before = previous.and_then(|previous| previous.named(&spec.name));
                Pool::build(spec, before).map(Arc::new)
            })
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Self {
            pools,
            alive: watch::Sender::new(()),
        }))
    }

    /// Picks an endpoint that is healthy, does not rest, and has not failed this request. When all
    /// that are left rest, one of them: a slim chance is better than none.
    pub fn pick(
        &self,
        upstream: usize,
        client: Prefix,
        tries: &mut Tries,
    ) -> Result<Picked, NoEndpoint> {
        let pool = self.pools.get(upstream).ok_or(NoEndpoint {
            retry_after: Duration::from_secs(1),
        })?;
        if tries.made == 0 {
            pool.budget.deposit(pool.spec.retries.budget);
        }
        tries.made = tries.made.saturating_add(1);
        let endpoint = pool
            .pick(client, &tries.failed)
            .ok_or_else(|| pool.unavailable())?;
        endpoint.fare.begin();
        Ok(Picked {
            pool: Arc::clone(pool),
            endpoint,
        })
    }

    /// Endpoints by state, for `rempart_upstream_endpoints{upstream,state}`; `resolving` counts names
    /// without an answer yet.
    pub fn states(&self) -> impl Iterator<Item = (&str, &'static str, usize)> {
        let now = clock::now();
        self.pools.iter().flat_map(move |pool| {
            let (mut healthy, mut unhealthy, mut ejected) = (0, 0, 0);
            for endpoint in pool.endpoints().iter() {
                let count: &mut usize = if !pool.is_healthy(endpoint) {
                    &mut unhealthy
                } else if endpoint.fare.is_resting(now) {
                    &mut ejected
                } else {
                    &mut healthy
                };
                *count = count.saturating_add(1);
            }
            [
                (&*pool.spec.name, "healthy", healthy),
                (&*pool.spec.name, "unhealthy", unhealthy),
                (&*pool.spec.name, "ejected", ejected),
                (&*pool.spec.name, "resolving", pool.unresolved()),
            ]
        })
    }

    /// Waits until each name has been resolved once, so that the first request finds an endpoint.
    /// Callers bound it: a name that never resolves is never waited out.
    pub async fn resolved(&self) {
        for pool in &self.pools {
            let mut count = pool.resolved.subscribe();
            let all = count.wait_for(|count| *count >= pool.targets.len());
            if all.await.is_err() {
                return;
            }
        }
    }

    /// Starts looking up names and checking health on `handle`'s runtime, until [`Self::retire`] or
    /// until this generation is dropped.
    pub fn spawn_tasks(self: &Arc<Self>, handle: &Handle) {
        self.spawn_tasks_with(handle, None);
    }

    /// With another resolver than the system's.
    pub(super) fn spawn_tasks_with(
        self: &Arc<Self>,
        handle: &Handle,
        resolver: Option<Arc<TokioResolver>>,
    ) {
        let names = self.pools.iter().flat_map(|pool| &pool.targets);
        let has_names = names
            .clone()
            .any(|target| !matches!(target, Target::Address(_)));
        let resolver = resolver.or_else(|| has_names.then(system_resolver).flatten());
        let has_checks = self
            .pools
            .iter()
            .any(|pool| pool.spec.health_check.is_some());
        let connector = has_checks.then(|| Arc::new(Connector::new(None)));
        for pool in &self.pools {
            for (index, target) in pool.targets.iter().enumerate() {
                if let (Some(resolver), false) = (&resolver, matches!(target, Target::Address(_))) {
                    let (pool, resolver) = (Arc::downgrade(pool), Arc::clone(resolver));
                    self.spawn(handle, discovery::run(pool, index, resolver));
                }
            }
            if let (Some(check), Some(connector)) = (&pool.spec.health_check, &connector) {
                let (pool, connector) = (Arc::downgrade(pool), Arc::clone(connector));
                self.spawn(handle, health::run(pool, check.clone(), connector));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// Runs a task until this generation retires or is dropped.
    fn spawn(
        &self,
        handle: &Handle,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let mut alive = self.alive.subscribe();
        handle.spawn(async move {
            tokio::select! {
                _ = alive.changed() => {}
                () = task => {}
            }
        })
    }

    /// Stops the background tasks, which another generation has taken over: requests that still go by
    /// this one may live for hours. To be called after the swap.
    pub fn retire(&self) {
        self.alive.send_replace(());
    }

    /// Lifts verdicts of checks that are no longer made from what is shared with earlier generations;
    /// to be called after the swap, when they have retired.
    pub fn commit(&self) {
        for pool in &self.pools {
            pool.commit();
        }
    }

    fn named(&self, name: &str) -> Option<&Pool> {
        let mut pools = self.pools.iter();
        pools
            .find(|pool| &*pool.spec.name == name)
            .map(|pool| &**pool)
    }
}

impl Picked {
    /// The upstream's name, for labels and logs.
    #[must_use]
    pub fn upstream(&self) -> &Arc<str> {
        &self.pool.spec.name
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// What `upstream_peer` returns. `silence` for requests that become a stream (WebSocket): so long
    /// it may be quiet, where the response timeout would cut it off. Never shortens that.
    #[must_use]
    pub fn peer(&self, silence: Option<Duration>) -> Box<HttpPeer> {
        let mut peer = Box::new(self.endpoint.peer.clone());
        if let Some(silence) = silence {
            peer::allow_silence(&mut peer, silence);
        }
        peer
    }

    /// How long the endpoint may be silent before and in an answer.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.pool.spec.timeouts.response
    }

    /// Tells how the request went; an endpoint that keeps failing rests for a while.
    pub fn report(&self, outcome: Outcome) {
        let now = clock::now();
        let (pool, address) = (&self.pool, self.endpoint.address);
        let may_rest = || pool.may_rest(now);
        match self
            .endpoint
            .fare
            .note(outcome, pool.spec.ejection, now, may_rest)
        {
            Some(Change::Ejected(rest)) => tracing::warn!(
                upstream = &*pool.spec.name,
                endpoint = %address,
                seconds = rest.as_secs(),
                cause = outcome.name(),
                "endpoint keeps failing and is left out for a while"
            ),
            Some(Change::Restored) => tracing::info!(
                upstream = &*pool.spec.name,
                endpoint = %address,
                "endpoint answers again"
            ),
            None => {}
        }
    }

    /// Whether the request may be tried again: by the cause, the number of tries, whether there is
    /// another endpoint, and the upstream's budget. What this returns goes to `Error::set_retry`.
    pub fn may_retry(&self, failure: &Failure<'_>, tries: &mut Tries) -> bool {
        match failure.next() {
            Next::GiveUp => return false,
            Next::Elsewhere => tries.failed.push(self.endpoint.address),
            Next::Anywhere => {}
        }
        let retries = self.pool.spec.retries;
        tries.made <= retries.attempts
            && self.pool.has_another(&tries.failed)
            && self.pool.budget.withdraw(retries.budget, clock::now())
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.fare.end();
    }
}

fn system_resolver() -> Option<Arc<TokioResolver>> {
    match discovery::system_resolver() {
        Ok(resolver) => Some(Arc::new(resolver)),
        Err(problem) => {
            tracing::error!(%problem, "the system's resolver can't be used: no name will resolve");
            None
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
