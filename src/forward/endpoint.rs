//! One address of an upstream: how it fares, and how many requests it has in hand.

use crate::config::model::Ejection;
use pingora_core::upstreams::peer::HttpPeer;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use verdict::Nanos;

/// Longest rest, in times the configured one.
const LONGEST_REST: u32 = 10;

/// An address with the way to reach it. Rebuilt when settings change; its [`Fare`] stays.
#[derive(Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// Spreads clients over endpoints; a function of the address alone.
    pub seed: u64,
    pub peer: HttpPeer,
    pub fare: Arc<Fare>,
}

/// How an endpoint fares. Survives a reload while its upstream's name and its address stay.
#[derive(Debug, Default)]
pub struct Fare {
    in_flight: AtomicU32,
    /// By active checks; an endpoint that was never checked is healthy.
    unhealthy: AtomicBool,
    /// Failures of real requests in a row.
    failures: AtomicU32,
    /// Rests in a row, for their length.
    rests: AtomicU32,
    /// It rests until then; 0: it does not.
    rests_until: AtomicU64,
}

/// How a request to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    ConnectFailed,
    /// Closed or reset before the answer was complete.
    Reset,
    Timeout,
    /// An answer; 502, 503 and 504 count as failures.
    Status(u16),
}

impl Outcome {
    fn is_failure(self) -> bool {
        match self {
            Self::ConnectFailed | Self::Reset | Self::Timeout => true,
            Self::Status(status) => matches!(status, 502..=504),
        }
    }

    /// The label `result` of `rempart_upstream_requests_total`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect_failed",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status(500..) => "error",
            Self::Status(_) => "success",
        }
    }
}

/// What an outcome led to, to be logged once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Ejected(Duration),
    /// It answered again after a rest.
    Restored,
}

impl Fare {
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Relaxed)
    }

    /// Sets what active checks found; `true` when that is news.
    pub(super) fn set_healthy(&self, healthy: bool) -> bool {
        self.unhealthy.swap(!healthy, Relaxed) == healthy
    }

    #[must_use]
    pub fn is_resting(&self, now: Nanos) -> bool {
        self.rests_until.load(Relaxed) > now.0
    }

    /// Counts an outcome. `may_rest` is asked only when the endpoint is due for a rest.
    pub(super) fn note(
        &self,
        outcome: Outcome,
        ejection: Ejection,
        now: Nanos,
        may_rest: impl FnOnce() -> bool,
    ) -> Option<Change> {
        if !outcome.is_failure() {
            if self.failures.load(Relaxed) != 0 {
                self.failures.store(0, Relaxed);
            }
            // While it rests, answers of older requests prove nothing.
            if self.rests.load(Relaxed) != 0 && !self.is_resting(now) {
                self.rests_until.store(0, Relaxed);
                return (self.rests.swap(0, Relaxed) != 0).then_some(Change::Restored);
            }
            return None;
        }
        let failures = self.failures.load(Relaxed).saturating_add(1);
        self.failures.store(failures, Relaxed);
        // After a rest, the first failure leads to the next one.
        let due = failures >= ejection.failures || self.rests.load(Relaxed) != 0;
        if ejection.failures == 0 || !due || self.is_resting(now) || !may_rest() {
            return None;
        }
        let rests = self.rests.fetch_add(1, Relaxed).saturating_add(1);
        let rest = ejection.rest.saturating_mul(rests.min(LONGEST_REST));
        self.rests_until.store(now.after(rest).0, Relaxed);
        Some(Change::Ejected(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const EJECTION: Ejection = Ejection {
        failures: 3,
        rest: Duration::from_secs(10),
        maximum: 0.5,
    };

    #[test]
    fn failures_in_a_row_lead_to_growing_rests() {
        let fare = Fare::default();
        let note = |outcome, at: u64| fare.note(outcome, EJECTION, Nanos(at * SECOND), || true);
        let (good, bad) = (Outcome::Status(200), Outcome::Status(503));
        assert_eq!(note(bad, 0), None);
        assert_eq!(note(Outcome::Reset, 0), None);
        assert_eq!(note(good, 0), None);
        assert_eq!(note(Outcome::Timeout, 0), None);
        assert_eq!(note(Outcome::Status(500), 0), None);
        assert_eq!(note(bad, 1), None);
        assert_eq!(note(bad, 1), None);
        let ten = Duration::from_secs(10);
        assert_eq!(note(Outcome::ConnectFailed, 1), Some(Change::Ejected(ten)));
        assert!(fare.is_resting(Nanos(10 * SECOND)));
        // Requests that were on their way don't count.
        assert_eq!(note(bad, 2), None);
        assert_eq!(note(good, 2), None);
        assert!(!fare.is_resting(Nanos(11 * SECOND)));
        assert_eq!(note(bad, 11), Some(Change::Ejected(ten * 2)));
        assert!(fare.is_resting(Nanos(30 * SECOND)));
        assert_eq!(note(good, 31), Some(Change::Restored));
        assert_eq!(note(bad, 32), None);
    }

    #[test]
    fn it_rests_only_when_allowed_and_turned_on() {
        let fare = Fare::default();
        for _ in 0..10 {
            let off = Ejection {
                failures: 0,
                ..EJECTION
            };
            assert_eq!(fare.note(Outcome::Reset, off, Nanos(1), || true), None);
            assert_eq!(
                fare.note(Outcome::Reset, EJECTION, Nanos(1), || false),
                None
            );
        }
        assert!(!fare.is_resting(Nanos(1)));
    }
}
