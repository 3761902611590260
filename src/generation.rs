//! Everything that is built from one configuration, swapped whole at a reload. State that outlives
//! a reload (counters, health, caches) is taken over from the generation before.

use crate::{
    challenge::{Challenges, third_party::ThirdParty},
    config::Config,
    forward::{
        Router, Upstreams,
        bulkhead::{Bulkheads, RouteNames},
    },
    identify::{Identifier, TrustedProxies, crawler::Crawlers},
    record::{
        Recorder,
        metrics::{NO_ROUTE, RouteMetrics, UpstreamMetrics},
    },
};
use std::sync::Arc;
use tokio::runtime::Handle;
use verdict::policy::Policy;

/// One configuration, ready to serve.
#[derive(Debug)]
pub struct Generation {
    pub config: Arc<Config>,
    pub recorder: Arc<Recorder>,
    pub trusted: TrustedProxies,
    pub router: Router,
    pub identifier: Arc<Identifier>,
    /// `None`: no crawler is exempt from challenges.
    pub crawlers: Option<Crawlers>,
    pub policy: Policy,
    pub challenges: Challenges,
    pub upstreams: Arc<Upstreams>,
    pub bulkheads: Bulkheads,
    /// In the order of the routes.
    routes: Vec<Arc<RouteMetrics>>,
    no_route: Arc<RouteMetrics>,
    /// In the order of the upstreams.
    upstream_metrics: Vec<Arc<UpstreamMetrics>>,
}

impl Generation {
    /// Builds a generation; nothing is started yet. `control` is where slow work goes on.
    ///
    /// # Errors
    /// A sentence: TLS material for an upstream that can't be used, or no random bytes.
    pub fn build(
        config: Config,
        previous: Option<&Self>,
        recorder: &Arc<Recorder>,
        control: &Handle,
    ) -> Result<Self, String> {
        let config = Arc::new(config);
        let metrics = recorder.metrics();
        Ok(Self {
            trusted: TrustedProxies::new(&config.clients.trusted_proxies),
            router: Router::build(&config.routes),
            identifier: Arc::new(Identifier::build(
                &config.identity,
                previous.map(|previous| &*previous.identifier),
            )),
            crawlers: crawlers(&config, previous, recorder, control)?,
            policy: Policy::build(
                config.policy.clone(),
                previous.map(|previous| &previous.policy),
            ),
            challenges: Challenges::build(
                &config.challenge,
                previous.map(|previous| &previous.challenges),
            )?
            .with_third_party(third_party(&config, previous, recorder, control)?),
            upstreams: Upstreams::build(&config, previous.map(|previous| &previous.upstreams))
                .map_err(|bad| bad.to_string())?,
            bulkheads: Bulkheads::build(
                &config.policy.limits,
                &route_names(&config),
                previous.map(|previous| &previous.bulkheads),
                control.clone(),
            ),
            routes: config
                .routes
                .iter()
                .map(|route| metrics.route(&route.name))
                .collect(),
            no_route: metrics.route(NO_ROUTE),
            upstream_metrics: config
                .upstreams
                .iter()
                .map(|upstream| metrics.upstream(&upstream.name))
                .collect(),
            recorder: Arc::clone(recorder),
            config,
        })
    }

    /// Stops what goes on in the background for a generation that another one has replaced: requests
    /// may hold on to it for hours. To be called after the swap, on the one before.
    pub fn retire(&self) {
        self.upstreams.retire();
        self.identifier.retire();
    }

    /// Applies this configuration to the state that it shares with the one before; to be called after
    /// the swap, when that one has been retired.
    pub fn commit(&self) {
        self.bulkheads.commit();
        self.upstreams.commit();
    }

    /// Where requests of a route are counted.
    #[must_use]
    pub fn route_metrics(&self, route: Option<usize>) -> &RouteMetrics {
        route
            .and_then(|route| self.routes.get(route))
            .unwrap_or(&self.no_route)
    }

    /// Where tries at an upstream are counted.
    #[must_use]
    pub fn upstream_metrics(&self, upstream: usize) -> Option<&UpstreamMetrics> {
        self.upstream_metrics
            .get(upstream)
            .map(|metrics| &**metrics)
    }
}

fn crawlers(
    config: &Config,
    previous: Option<&Generation>,
    recorder: &Arc<Recorder>,
    control: &Handle,
) -> Result<Option<Crawlers>, String> {
    let metrics = Arc::clone(recorder.metrics());
    Crawlers::build(
        &config.challenge,
        previous.and_then(|previous| previous.crawlers.as_ref()),
        control,
        &(Arc::new(move |result| metrics.crawler_lookup(result)) as _),
    )
}

fn third_party(
    config: &Config,
    previous: Option<&Generation>,
    recorder: &Arc<Recorder>,
    control: &Handle,
) -> Result<ThirdParty, String> {
    let spec = &config.challenge;
    let provider = spec.third_party.as_ref();
    let provider = provider.map_or("", |spec| spec.provider.name());
    let metrics = Arc::clone(recorder.metrics());
    ThirdParty::build(
        spec,
        previous.map(|previous| previous.challenges.third_party()),
        control,
        &(Arc::new(move |result| metrics.challenge_provider(provider, result)) as _),
    )
}

fn route_names(config: &Config) -> Vec<RouteNames> {
    let upstream = |index: usize| config.upstreams.get(index).map(|upstream| &upstream.name);
    let routes = config.routes.iter();
    routes
        .map(|route| RouteNames {
            route: Arc::clone(&route.name),
            // Checked when the configuration was loaded: there always is one.
            upstream: upstream(route.upstream).map_or_else(|| Arc::from(""), Arc::clone),
        })
        .collect()
}
