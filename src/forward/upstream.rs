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
pub(super) mod tests {
    use super::*;
    use crate::config::model::{
        Balance, Ejection, Endpoints, HealthCheck, HostPort, Retries, Upstream, UpstreamProtocol,
        UpstreamTimeouts,
    };
    use crate::forward::retry::Stage;
    use http::Method;
    use pingora_core::{Error, ErrorType, upstreams::peer::Peer};
    use std::net::IpAddr;
    use verdict::prefix::PrefixLengths;

    pub fn upstream(name: &str, endpoints: &[&str]) -> Upstream {
        let list = endpoints.iter().map(|endpoint| {
            let (host, port) = endpoint.rsplit_once(':').unwrap();
            HostPort {
                host: host.into(),
                port: port.parse().unwrap(),
            }
        });
        Upstream {
            name: name.into(),
            endpoints: Endpoints::List(list.collect()),
            balance: Balance::RoundRobin,
            protocol: UpstreamProtocol::Http1,
            tls: None,
            health_check: None,
            ejection: Ejection {
                failures: 2,
                rest: Duration::from_secs(600),
                maximum: 0.5,
            },
            retries: Retries {
                attempts: 2,
                budget: 0.2,
            },
            timeouts: UpstreamTimeouts {
                connect: Duration::from_secs(2),
                response: Duration::from_secs(30),
            },
        }
    }

    pub fn generation(specs: &[Upstream], previous: Option<&Upstreams>) -> Upstreams {
        let pools = specs.iter().map(|spec| {
            let before = previous.and_then(|previous| previous.named(&spec.name));
            Arc::new(Pool::build(spec, before).unwrap())
        });
        Upstreams {
            pools: pools.collect(),
            alive: watch::Sender::new(()),
        }
    }

    pub fn client() -> Prefix {
        Prefix::of(IpAddr::from([192, 0, 2, 7]), PrefixLengths::CLIENT)
    }

    fn check() -> HealthCheck {
        HealthCheck {
            path: "/".into(),
            every: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy: 1,
            unhealthy: 1,
        }
    }

    fn pick(upstreams: &Upstreams) -> Result<Picked, NoEndpoint> {
        upstreams.pick(0, client(), &mut Tries::default())
    }

    fn count(upstreams: &Upstreams, state: &str) -> usize {
        let mut states = upstreams.states();
        states.find(|(_, name, _)| *name == state).unwrap().2
    }

    #[test]
    fn a_failing_endpoint_rests_and_its_share_is_bounded() {
        let upstreams = generation(&[upstream("app", &["10.0.0.1:80", "10.0.0.2:80"])], None);
        let first = pick(&upstreams).unwrap();
        first.report(Outcome::ConnectFailed);
        first.report(Outcome::ConnectFailed);
        assert_eq!(count(&upstreams, "ejected"), 1);
        for _ in 0..10 {
            let other = pick(&upstreams).unwrap();
            assert_ne!(other.address(), first.address());
            // Half may rest, no more.
            other.report(Outcome::ConnectFailed);
        }
        assert_eq!(count(&upstreams, "ejected"), 1);
        assert_eq!(count(&upstreams, "healthy"), 1);
    }

    #[test]
    fn unhealthy_endpoints_get_nothing() {
        let mut spec = upstream("app", &["10.0.0.1:80"]);
        spec.health_check = Some(check());
        let upstreams = generation(&[spec], None);
        upstreams.pools[0].endpoints()[0].fare.set_healthy(false);
        assert!(pick(&upstreams).is_err());
        assert_eq!(count(&upstreams, "unhealthy"), 1);
    }

    #[test]
    fn a_reload_keeps_how_endpoints_fare() {
        let mut spec = upstream("app", &["10.0.0.1:80", "10.0.0.2:80"]);
        spec.health_check = Some(check());
        let before = generation(&[spec.clone()], None);
        before.pools[0].endpoints()[0].fare.set_healthy(false);
        let held = pick(&before).unwrap();
        spec.timeouts.response = Duration::from_secs(5);
        spec.endpoints = upstream("app", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]).endpoints;
        let after = generation(&[spec.clone()], Some(&before));
        assert_eq!(count(&after, "unhealthy"), 1);
        assert_eq!(count(&after, "healthy"), 2);
        assert_eq!(after.pools[0].endpoints()[1].fare.in_flight(), 1);
        drop(held);
        assert_eq!(after.pools[0].endpoints()[1].fare.in_flight(), 0);
        assert_eq!(
            pick(&after).unwrap().peer(None).options.read_timeout,
            Some(Duration::from_secs(5))
        );
        // Nothing would ever lift a verdict of checks that are no longer made; but as long as the
        // generation before is in force, it stands there.
        let checked = spec.clone();
        spec.health_check = None;
        let unchecked = generation(&[spec], Some(&after));
        assert_eq!(count(&unchecked, "unhealthy"), 0);
        assert_eq!(count(&after, "unhealthy"), 1);
        // Nor does a check that was at it when it was retired.
        unchecked.pools[0].endpoints()[0].fare.set_healthy(false);
        assert_eq!(count(&unchecked, "unhealthy"), 0);
        unchecked.commit();
        assert_eq!(
            count(&generation(&[checked], Some(&unchecked)), "unhealthy"),
            0
        );
    }

    #[tokio::test]
    async fn tasks_end_when_their_generation_retires_or_is_dropped() {
        for retire in [true, false] {
            let upstreams = generation(&[], None);
            let task = upstreams.spawn(&Handle::current(), std::future::pending());
            let held = retire.then(|| {
                upstreams.retire();
                upstreams
            });
            tokio::time::timeout(Duration::from_secs(20), task)
                .await
                .unwrap()
                .unwrap();
            drop(held);
        }
    }

    #[test]
    fn retries_go_elsewhere_and_end() {
        let refused = Error::new_up(ErrorType::ConnectRefused);
        let failure = Failure {
            error: &refused,
            stage: Stage::Connecting,
            method: &Method::POST,
            body_kept: true,
            answered: false,
        };
        let upstreams = generation(
            &[upstream(
                "app",
                &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"],
            )],
            None,
        );
        let mut tries = Tries::default();
        let mut seen = Vec::new();
        loop {
            let picked = upstreams.pick(0, client(), &mut tries).unwrap();
            assert!(!seen.contains(&picked.address()));
            seen.push(picked.address());
            if !picked.may_retry(&failure, &mut tries) {
                break;
            }
        }
        assert_eq!(seen.len(), 3);

        let alone = generation(&[upstream("app", &["10.0.0.1:80"])], None);
        let mut tries = Tries::default();
        let picked = alone.pick(0, client(), &mut tries).unwrap();
        assert!(!picked.may_retry(&failure, &mut tries));
    }

    #[test]
    fn names_have_no_endpoint_until_resolved() {
        let spec = upstream("app", &["app.internal:80"]);
        let before = generation(std::slice::from_ref(&spec), None);
        assert!(pick(&before).is_err());
        assert_eq!(count(&before, "resolving"), 1);
        let address: SocketAddr = "10.0.0.9:80".parse().unwrap();
        assert!(before.pools[0].learn(0, vec![address]));
        assert!(!before.pools[0].learn(0, vec![address]));
        assert_eq!(pick(&before).unwrap().address(), address);
        let after = generation(&[spec], Some(&before));
        assert_eq!(pick(&after).unwrap().address(), address);
    }

    #[test]
    fn streams_may_be_silent_as_long_as_told() {
        let upstreams = generation(&[upstream("app", &["10.0.0.1:80"])], None);
        let picked = pick(&upstreams).unwrap();
        let timeouts = |silence| {
            let peer = picked.peer(silence);
            (peer.options.read_timeout, peer.options.write_timeout)
        };
        let both = |seconds| {
            let timeout = Some(Duration::from_secs(seconds));
            (timeout, timeout)
        };
        assert_eq!(timeouts(None), both(30));
        assert_eq!(timeouts(Some(Duration::from_secs(90))), both(90));
        assert_eq!(timeouts(Some(Duration::from_secs(1))), both(30));
        // Timeouts don't divide the pool of connections.
        let quiet = picked.peer(Some(Duration::from_secs(90)));
        assert_eq!(quiet.reuse_hash(), picked.peer(None).reuse_hash());
    }

    #[test]
    fn a_first_try_costs_one_allocation() {
        let upstreams = generation(&[upstream("app", &["10.0.0.1:80", "10.0.0.2:80"])], None);
        let _warm = pick(&upstreams).unwrap().peer(None);
        let seen = allocation_counter::measure(|| {
            let mut tries = Tries::default();
            let picked = upstreams.pick(0, client(), &mut tries).unwrap();
            // The box that pingora wants.
            drop(picked.peer(None));
            picked.report(Outcome::Status(200));
        });
        assert_eq!(seen.count_total, 1);
    }
}
