//! A worker's time for handshakes as a token bucket. Time is an argument.

use std::time::Duration;
use verdict::Nanos;

/// How much unused budget is kept for a burst, and how much debt at the most: no part of a handshake
/// takes as long, unless the whole machine stands still.
const BURST: i64 = 100_000_000;

/// A token bucket of nanoseconds. What a handshake costs is known only afterwards, so that the
/// level may fall below zero; what is lent that way is paid back before the next begins.
#[derive(Debug)]
pub struct Bucket {
    pub level: i64,
    /// When `level` was true.
    at: Nanos,
}

impl Bucket {
    pub fn new(now: Nanos) -> Self {
        Self {
            level: BURST,
            at: now,
        }
    }

    /// How long until the next handshake may begin: zero for now.
    pub fn wait(&mut self, share: f64, now: Nanos) -> Duration {
        let passed = now.since(self.at);
        self.at = self.at.max(now);
        self.level = self.level.saturating_add(nanos(passed.mul_f64(share)));
        self.level = self.level.min(BURST);
        if self.level > 0 {
            return Duration::ZERO;
        }
        let missing = u64::try_from(self.level.saturating_neg().saturating_add(1)).unwrap_or(0);
        Duration::from_nanos(missing).div_f64(share.max(0.001))
    }

    pub fn charge(&mut self, took: Duration) {
        self.level = self.level.saturating_sub(nanos(took)).max(-BURST);
    }

    pub fn refund(&mut self, took: Duration) {
        self.level = self.level.saturating_add(nanos(took)).min(BURST);
    }
}

pub fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
