//! Figures that others own and that are only read when somebody scrapes: tables, endpoints, bans
//! and certificates.

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use rempart_kernel::filter::Reflector;
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
    /// What the kernel does for bans; `None` where that is not configured.
    fn kernel(&self) -> Option<KernelFigures> {
        None
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

/// What the kernel does for bans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFigures {
    /// What is in use of [`KernelFigures::BACKENDS`].
    pub backend: &'static str,
    pub dropped_packets: u64,
    pub dropped_bytes: u64,
    /// Bans that found no room there.
    pub refused: u64,
    /// What came from ports that floods are reflected from.
    pub reflectors: Vec<Reflector>,
}

impl KernelFigures {
    /// All that can be in use; the last is none at all.
    pub const BACKENDS: [&'static str; 3] = ["xdp", "nftables", "user_space"];
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
    kernel_backend: IntGaugeVec,
    /// Packets, bytes and refused bans.
    kernel: [IntCounter; 3],
    /// Packets, bytes and dropped packets.
    reflected: [IntCounterVec; 3],
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
            kernel_backend: gauge(
                "rempart_kernel_backend",
                "1 for what drops banned clients, where the kernel is to do so.",
                &["backend"],
            ),
            kernel: [
                (
                    "rempart_kernel_dropped_packets_total",
                    "Packets of banned sources that the kernel dropped.",
                ),
                (
                    "rempart_kernel_dropped_bytes_total",
                    "Bytes of those packets.",
                ),
                (
                    "rempart_kernel_refused_bans_total",
                    "Bans that found no room in the kernel.",
                ),
            ]
            .map(|(name, help)| super::counter(registry, name, help)),
            reflected: [
                (
                    "rempart_reflector_packets_total",
                    "UDP packets from a port that floods are reflected from.",
                ),
                ("rempart_reflector_bytes_total", "Bytes of those packets."),
                (
                    "rempart_reflector_dropped_packets_total",
                    "Those packets that the kernel dropped.",
                ),
            ]
            .map(|(name, help)| super::counters(registry, name, help, &["port"])),
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
        self.kernel_backend.reset();
        if let Some(figures) = sources.kernel() {
            for backend in KernelFigures::BACKENDS {
                let in_use = i64::from(backend == figures.backend);
                self.kernel_backend
                    .with_label_values(&[backend])
                    .set(in_use);
            }
            let counts = [
                figures.dropped_packets,
                figures.dropped_bytes,
                figures.refused,
            ];
            for (counter, count) in self.kernel.iter().zip(counts) {
                counter.reset();
                counter.inc_by(count);
            }
            self.fill_reflected(&figures.reflectors);
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

    /// Ports are those of the filter, which are few.
    fn fill_reflected(&self, reflectors: &[Reflector]) {
        for family in &self.reflected {
            family.reset();
        }
        for seen in reflectors {
            let port = match seen.port {
                0 => "fragments".to_owned(),
                port => port.to_string(),
            };
            let counts = [seen.packets, seen.bytes, seen.dropped];
            for (family, count) in self.reflected.iter().zip(counts) {
                family.with_label_values(&[&port]).inc_by(count);
            }
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
