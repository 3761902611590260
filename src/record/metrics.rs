//! The metrics of the contract. Labels come from the configuration only, never from a client.
//!
//! Requests go through handles ([`RouteMetrics`], [`UpstreamMetrics`]) that are resolved when a
//! configuration is loaded; what is counted rarely is found by name.

mod handles;
mod pressure;
mod process;
mod sources;

pub use pressure::PressureMetrics;
pub use sources::{CertificateExpiry, EndpointCount, KernelFigures, Sources};

use handles::{Cells, Names, Words};
use parking_lot::RwLock;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use std::{cell::Cell, sync::Arc, time::Duration};
use verdict::decision::{Action, Finding, Mode, Source};

/// The `route` label of requests that no route took.
pub const NO_ROUTE: &str = "none";

/// One decision in this many is timed, by each thread: reading the clock twice costs more than the
/// decision itself.
const DECISION_SAMPLE: u32 = 16;

/// Every counter of the process; shared by all workers.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    routes: Names<RouteMetrics>,
    decisions: IntCounterVec,
    decision_names: Names<Cells>,
    decision_duration: Histogram,
    connections: IntGaugeVec,
    listeners: Names<IntGauge>,
    refused: (IntCounterVec, Words<1>),
    h2_abuse: (IntCounterVec, Words<1>),
    handshakes: (IntCounterVec, Words<1>),
    upstream_requests: IntCounterVec,
    upstreams: Names<UpstreamMetrics>,
    challenges: (IntCounterVec, Words<2>),
    challenge_solves: HistogramVec,
    clearances: (IntCounterVec, Words<1>),
    providers: (IntCounterVec, Words<2>),
    crawler_lookups: (IntCounterVec, Words<1>),
    crawler_requests: IntCounter,
    reloads: (IntCounterVec, Words<1>),
    upgrades: (IntCounterVec, Words<1>),
    last_reload_successful: IntGauge,
    last_reload_success_time: IntGauge,
    bans_placed: IntCounterVec,
    ban_state_failures: IntCounter,
    ban_names: Names<IntCounter>,
    access_log_dropped: IntCounter,
    pressure: PressureMetrics,
    panics: IntCounter,
    process: process::Process,
    scraped: sources::Scraped,
    sources: RwLock<Box<dyn Sources>>,
}

/// The requests of one route. Kept by whoever keeps the route.
#[derive(Debug)]
pub struct RouteMetrics {
    name: Box<str>,
    requests: IntCounterVec,
    by_outcome: Cells,
    duration: Histogram,
}

/// The requests to one upstream. Kept by whoever keeps the upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    name: Box<str>,
    requests: IntCounterVec,
    by_result: Cells,
}

/// How one try at an upstream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamResult {
    /// An answer below 500.
    Ok,
    /// An answer of 500 or above.
    ServerError,
    /// No connection: refused, unreachable, timed out.
    ConnectFailed,
    /// The TLS handshake failed, or the certificate was not the one to expect.
    TlsFailed,
    /// No answer in time.
    Timeout,
    /// The connection broke before the answer was whole, or the answer made no sense.
    Broken,
    /// The client left first.
    ClientGone,
    /// There was no endpoint to try.
    NoEndpoint,
    /// A bulkhead was full.
    Shed,
}

impl UpstreamResult {
    /// The label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ServerError => "server_error",
            Self::ConnectFailed => "connect_failed",
            Self::TlsFailed => "tls_failed",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::ClientGone => "client_gone",
            Self::NoEndpoint => "no_endpoint",
            Self::Shed => "shed",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    #[must_use]
    #[allow(clippy::too_many_lines)] // a list
    pub fn new() -> Self {
        let registry = Registry::new();
        let counters = |name, help, labels: &[&str]| counters(&registry, name, help, labels);
        let gauge = |name, help| gauge(&registry, name, help);
        build_info(&registry);
        Self {
            requests: counters(
                "rempart_requests_total",
                "Requests by route, what was done with them and status (0: closed unanswered).",
                &["route", "action", "status"],
            ),
            request_duration: request_durations(&registry),
            routes: Names::default(),
            decisions: counters(
                "rempart_decisions_total",
                "Findings of lists, rules and limits, those in shadow mode included.",
                &["source", "name", "action", "mode"],
            ),
            decision_names: Names::default(),
            decision_duration: decision_duration(&registry),
            connections: gauges(
                &registry,
                "rempart_connections",
                "Open client connections.",
                &["listener"],
            ),
            listeners: Names::default(),
            refused: (
                counters(
                    "rempart_connections_refused_total",
                    "Connections closed before or for what they sent, by reason.",
                    &["reason"],
                ),
                Words::default(),
            ),
            h2_abuse: (
                counters(
                    "rempart_h2_abuse_total",
                    "HTTP/2 connections ended for abuse, by what was too much.",
                    &["kind"],
                ),
                Words::default(),
            ),
            handshakes: (
                counters(
                    "rempart_tls_handshakes_total",
                    "TLS handshakes with clients by result.",
                    &["result"],
                ),
                Words::default(),
            ),
            upstream_requests: counters(
                "rempart_upstream_requests_total",
                "Tries at upstreams by result; a retry is a try.",
                &["upstream", "result"],
            ),
            upstreams: Names::default(),
            challenges: (
                counters(
                    "rempart_challenges_total",
                    "Challenges by kind and outcome.",
                    &["kind", "outcome"],
                ),
                Words::default(),
            ),
            challenge_solves: challenge_solves(&registry),
            clearances: (
                counters(
                    "rempart_clearances_total",
                    "Requests that showed a clearance, by what it was worth.",
                    &["result"],
                ),
                Words::default(),
            ),
            providers: (
                counters(
                    "rempart_challenge_provider_total",
                    "Tokens taken to a third party's siteverify, by provider and result.",
                    &["provider", "result"],
                ),
                Words::default(),
            ),
            crawler_lookups: (
                counters(
                    "rempart_crawler_lookups_total",
                    "Addresses of alleged crawlers looked up in the DNS, by result.",
                    &["result"],
                ),
                Words::default(),
            ),
            crawler_requests: counter(
                &registry,
                "rempart_crawler_requests_total",
                "Requests of verified crawlers.",
            ),
            reloads: (
                counters(
                    "rempart_config_reloads_total",
                    "Reloads of the configuration by result.",
                    &["result"],
                ),
                Words::default(),
            ),
            upgrades: upgrades(&registry),
            last_reload_successful: gauge(
                "rempart_config_last_reload_successful",
                "1 when the last reload was taken, 0 when the file was refused.",
            ),
            last_reload_success_time: gauge(
                "rempart_config_last_reload_success_timestamp_seconds",
                "When a configuration was last taken, in seconds since 1970.",
            ),
            bans_placed: counters(
                "rempart_bans_placed_total",
                "Bans placed or prolonged, by the guard that asked for them.",
                &["source"],
            ),
            ban_names: Names::default(),
            ban_state_failures: counter(
                &registry,
                "rempart_ban_state_failures_total",
                "Times that the file of bans could not be read or written.",
            ),
            access_log_dropped: counter(
                &registry,
                "rempart_access_log_dropped_total",
                "Access log lines lost because the log could not be written fast enough.",
            ),
            pressure: PressureMetrics::new(&registry),
            panics: counter(
                &registry,
                "rempart_panics_total",
                "Panics caught; each ended one connection or task.",
            ),
            process: process::Process::new(&registry),
            scraped: sources::Scraped::new(&registry),
            sources: RwLock::new(Box::new(NoSources)),
            registry,
        }
    }

    /// The handle of a route, the same for the same name over reloads.
    #[must_use]
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        self.routes.share(name, || RouteMetrics {
            name: name.into(),
            requests: self.requests.clone(),
            by_outcome: Cells::default(),
            duration: self.request_duration.with_label_values(&[name]),
        })
    }

    /// The handle of an upstream, the same for the same name over reloads.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        self.upstreams.share(name, || UpstreamMetrics {
            name: name.into(),
            requests: self.upstream_requests.clone(),
            by_result: Cells::default(),
        })
    }

    /// A guard found something, in force or in the shadow.
    pub fn decision(&self, finding: &Finding) {
        let key = (source_number(finding.source) << 16)
            | (action_number(finding.action) << 8)
            | u32::from(finding.mode == Mode::Shadow);
        self.decision_names
            .with(&finding.name, Cells::default, |cells| {
                cells.inc(key, || {
                    self.decisions.with_label_values(&[
                        finding.source.name(),
                        &*finding.name,
                        finding.action.name(),
                        finding.mode.name(),
                    ])
                });
            });
    }

    /// Whether this thread should time its next decision: one in sixteen.
    #[must_use]
    pub fn decision_is_sampled() -> bool {
        thread_local!(static SINCE: Cell<u32> = const { Cell::new(0) });
        SINCE.with(|since| {
            let next = since.get().wrapping_add(1) % DECISION_SAMPLE;
            since.set(next);
            next == 1
        })
    }

    /// A decision took this long.
    pub fn decision_took(&self, took: Duration) {
        self.decision_duration.observe(took.as_secs_f64());
    }

    /// A connection was accepted by this listener.
    pub fn connection_opened(&self, listener: &str) {
        self.with_listener(listener, IntGauge::inc);
    }

    /// An accepted connection ended.
    pub fn connection_closed(&self, listener: &str) {
        self.with_listener(listener, IntGauge::dec);
    }

    fn with_listener(&self, listener: &str, then: impl FnOnce(&IntGauge)) {
        let make = || self.connections.with_label_values(&[listener]);
        self.listeners.with(listener, make, then);
    }

    /// A connection was refused before TLS, or for what it sent: `banned`, `listed`, `per_client`,
    /// `rate`, `total`, `no_descriptors`, `proxy_header`, `handshake`, `handshake_budget`, `timeout`,
    /// `malformed`, `too_large`, `slow_body`, `slow_reader`, `h2_abuse`.
    pub fn connection_refused(&self, reason: &'static str) {
        let (family, known) = &self.refused;
        known.inc([reason], || family.with_label_values(&[reason]));
    }

    /// An HTTP/2 connection was ended for abuse of this kind (see [`verdict::abuse::Offence::kind`]).
    pub fn h2_abuse(&self, kind: &'static str) {
        let (family, known) = &self.h2_abuse;
        known.inc([kind], || family.with_label_values(&[kind]));
    }

    /// A handshake ended: `full`, `resumed`, `failed`, `timeout`.
    pub fn handshake(&self, result: &'static str) {
        let (family, known) = &self.handshakes;
        known.inc([result], || family.with_label_values(&[result]));
    }

    /// A challenge of this kind came to an outcome (see [`crate::challenge::Outcome`]).
    pub fn challenge(&self, kind: &'static str, outcome: &'static str) {
        let (family, known) = &self.challenges;
        known.inc([kind, outcome], || {
            family.with_label_values(&[kind, outcome])
        });
    }

    /// A puzzle of this kind (see [`verdict::ticket::Kind`]) was solved, so long after it was issued.
    pub fn challenge_solved(&self, kind: &'static str, took: Duration) {
        let family = &self.challenge_solves;
        family
            .with_label_values(&[kind])
            .observe(took.as_secs_f64());
    }

    /// A request showed a clearance: `good`, or why it proves nothing (see [`verdict::clearance::Fault`]).
    pub fn clearance(&self, result: &'static str) {
        let (family, known) = &self.clearances;
        known.inc([result], || family.with_label_values(&[result]));
    }

    /// A token was taken to this provider, or could not be: `ok`, `refused`, `timeout`, `error`,
    /// `misconfigured`, `busy`, `open`.
    pub fn challenge_provider(&self, provider: &'static str, result: &'static str) {
        let (family, known) = &self.providers;
        known.inc([provider, result], || {
            family.with_label_values(&[provider, result])
        });
    }

    /// The address of an alleged crawler was looked up: `verified`, `refused`, `failed`; or could not
    /// be, since there are too many: `shed`.
    pub fn crawler_lookup(&self, result: &'static str) {
        let (family, known) = &self.crawler_lookups;
        known.inc([result], || family.with_label_values(&[result]));
    }

    /// A request came from a verified crawler.
    pub fn crawler_request(&self) {
        self.crawler_requests.inc();
    }

    /// A configuration was taken, at the start as well (`unix_seconds`), or refused.
    pub fn reload(&self, taken: bool, unix_seconds: u64) {
        let result = if taken { "taken" } else { "refused" };
        let (family, known) = &self.reloads;
        known.inc([result], || family.with_label_values(&[result]));
        self.last_reload_successful.set(i64::from(taken));
        if taken {
            let now = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
            self.last_reload_success_time.set(now);
        }
    }

    /// This process has taken over from another, or failed to hand over to one.
    pub fn upgrade(&self, taken: bool) {
        let result = if taken { "taken" } else { "failed" };
        let (family, known) = &self.upgrades;
        known.inc([result], || family.with_label_values(&[result]));
    }

    /// A guard of this name, or `admin`, placed a ban.
    pub fn ban_placed(&self, source: &str) {
        let make = || self.bans_placed.with_label_values(&[source]);
        self.ban_names.with(source, make, IntCounter::inc);
    }

    /// What the network does to this host.
    #[must_use]
    pub fn pressure(&self) -> &PressureMetrics {
        &self.pressure
    }

    /// The file of bans could not be read or written.
    pub fn ban_state_failed(&self) {
        self.ban_state_failures.inc();
    }

    /// A panic was caught.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// What the access log counts its lost lines with.
    #[must_use]
    pub fn access_log_dropped(&self) -> IntCounter {
        self.access_log_dropped.clone()
    }

    /// Where scrapes read tables, endpoints, bans and certificates from now on.
    pub fn read_from(&self, sources: Box<dyn Sources>) {
        *self.sources.write() = sources;
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let sources = self.sources.read();
        let families = self.scraped.fill(&**sources, || {
            self.process.read();
            self.registry.gather()
        });
        // Encoding to a String fails only on families that this file didn't make.
        TextEncoder::new()
            .encode_to_string(&families)
            .unwrap_or_default()
    }
}

impl RouteMetrics {
    /// The route's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A request ended: what was done with it, the status that was sent (0: none), how long it took.
    pub fn request(&self, action: Action, status: u16, took: Duration) {
        // Three digits are all that a status can have; an upstream can't invent more series.
        let status = if status < 1000 { status } else { 0 };
        let key = (action_number(action) << 16) | u32::from(status);
        self.by_outcome.inc(key, || {
            let status = status.to_string();
            self.requests
                .with_label_values(&[&*self.name, action.name(), &status])
        });
        self.duration.observe(took.as_secs_f64());
    }
}

impl UpstreamMetrics {
    /// The upstream's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A try at this upstream ended.
    pub fn request(&self, result: UpstreamResult) {
        self.by_result.inc(result as u32, || {
            self.requests
                .with_label_values(&[&*self.name, result.name()])
        });
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

struct NoSources;

impl Sources for NoSources {}

fn action_number(action: Action) -> u32 {
    match action {
        Action::Allow => 0,
        Action::Delay(_) => 1,
        Action::Challenge(_) => 2,
        Action::Throttle => 3,
        Action::Tarpit(_) => 4,
        Action::Deny => 5,
        Action::Drop => 6,
        Action::Ban(_) => 7,
    }
}

fn source_number(source: Source) -> u32 {
    match source {
        Source::List => 0,
        Source::Rule => 1,
        Source::Limit => 2,
    }
}

fn build_info(registry: &Registry) {
    let help = "1, with the version that runs.";
    let build = gauges(registry, "rempart_build_info", help, &["version"]);
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
}

fn request_durations(registry: &Registry) -> HistogramVec {
    let options = HistogramOpts::new(
        "rempart_request_duration_seconds",
        "From a request's first byte to the end of its answer.",
    )
    .buckets(vec![
        0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        30.0, 60.0,
    ]);
    register(registry, HistogramVec::new(options, &["route"]))
}

fn challenge_solves(registry: &Registry) -> HistogramVec {
    let options = HistogramOpts::new(
        "rempart_challenge_solve_seconds",
        "From a challenge's issue to its right answer.",
    )
    .buckets(vec![
        0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0,
    ]);
    register(registry, HistogramVec::new(options, &["kind"]))
}

fn decision_duration(registry: &Registry) -> Histogram {
    let options = HistogramOpts::new(
        "rempart_decision_duration_seconds",
        "Judging one request, one in sixteen timed.",
    )
    .buckets(vec![
        1e-7, 2.5e-7, 5e-7, 1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 1e-3, 1e-2,
    ]);
    register(registry, Histogram::with_opts(options))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

/// There from the start, so that an alert sees the first one that fails.
fn upgrades(registry: &Registry) -> (IntCounterVec, Words<1>) {
    let help = "Hand-overs between processes by result: taken by this one, or failed to another.";
    let family = counters(registry, "rempart_upgrades_total", help, &["result"]);
    for result in ["taken", "failed"] {
        family.with_label_values(&[result]);
    }
    (family, Words::default())
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

/// Names and labels stand in this program's text, so a refusal is a mistake that every start shows.
#[expect(clippy::expect_used, reason = "fails for every start or for none")]
fn register<C>(registry: &Registry, made: prometheus::Result<C>) -> C
where
    C: prometheus::core::Collector + Clone + 'static,
{
    let family = made.expect("metric names and labels are valid");
    registry
        .register(Box::new(family.clone()))
        .expect("metric names are unique");
    family
}

#[cfg(test)]
mod tests;
