//! Figures that others own and that are only read when somebody scrapes: tables, endpoints, bans
//! and certificates.

use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Registry};
use std::sync::Arc;
use verdict::policy::LimitUsage;

/// Where a scrape reads what no one counts on the way. Called once a scrape, never by a request.
pub trait Sources: Send + Sync {
    /// Every limit with its table's fill.
    fn limits(&self) -> Vec<(Arc<str>, LimitUsage)> {
        Vec::new()
    }
    /// How many endpoints of each upstream are in each state. A state without endpoints is listed
    /// with 0, so that alerts can tell "none" from "not known".
    fn endpoints(&self) -> Vec<EndpointCount> {
        Vec::new()
    }
    /// Bans in force of each backend that enforces them.
    fn bans(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
    /// Mean hashes of a proof of work that is issued now.
    fn challenge_effort(&self) -> u32 {
        0
    }
    /// Certificates that are served.
    fn certificates(&self) -> Vec<CertificateExpiry> {
        Vec::new()
    }
}

/// `count` endpoints of `upstream` are `state`: `healthy`, `unhealthy`, `ejected`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointCount {
    pub upstream: Arc<str>,
    pub state: &'static str,
    pub count: u64,
}

/// When a served certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    pub listener: String,
    /// The first name of the certificate.
    pub name: String,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// The families that a scrape fills.
#[derive(Debug)]
pub(super) struct Scraped {
    tracked: IntGaugeVec,
    evicted: IntCounterVec,
    endpoints: IntGaugeVec,
    bans: IntGaugeVec,
    effort: IntGauge,
    certificates: IntGaugeVec,
    /// One scrape at a time: families are emptied and filled again.
    turn: Mutex<()>,
}

impl Scraped {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauge = |name, help, labels: &[&str]| super::gauges(registry, name, help, labels);
        Self {
            tracked: gauge(
                "rempart_tracked_keys",
                "Keys that a limit's table holds.",
                &["limit"],
            ),
            evicted: super::counters(
                registry,
                "rempart_evicted_keys_total",
                "Keys that a limit's table gave up for new ones while they still counted.",
                &["limit"],
            ),
            endpoints: gauge(
                "rempart_upstream_endpoints",
                "Endpoints of an upstream by state.",
                &["upstream", "state"],
            ),
            bans: gauge(
                "rempart_bans",
                "Bans in force, by what enforces them.",
                &["backend"],
            ),
            effort: super::gauge(
                registry,
                "rempart_challenge_effort",
                "Mean hashes of a proof of work that is issued now, before the visitor's risk.",
            ),
            certificates: gauge(
                "rempart_certificate_expiry_timestamp_seconds",
                "When a served certificate ends, in seconds since 1970.",
                &["listener", "name"],
            ),
            turn: Mutex::new(()),
        }
    }

    /// Fills the families anew and lends them to `then` before another scrape may touch them.
    pub(super) fn fill<R>(&self, sources: &dyn Sources, then: impl FnOnce() -> R) -> R {
        let _turn = self.turn.lock();
        self.tracked.reset();
        self.evicted.reset();
        for (limit, usage) in sources.limits() {
            self.tracked
                .with_label_values(&[&*limit])
                .set(signed(usage.tracked));
            self.evicted
                .with_label_values(&[&*limit])
                .inc_by(usage.evicted);
        }
        self.endpoints.reset();
        for entry in sources.endpoints() {
            self.endpoints
                .with_label_values(&[&*entry.upstream, entry.state])
                .add(signed(entry.count));
        }
        self.bans.reset();
        for (backend, count) in sources.bans() {
            self.bans.with_label_values(&[backend]).set(signed(count));
        }
        self.effort.set(sources.challenge_effort().into());
        self.certificates.reset();
        for entry in sources.certificates() {
            self.certificates
                .with_label_values(&[&entry.listener, &entry.name])
                .set(entry.not_after);
        }
        then()
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
