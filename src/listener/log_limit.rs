//! Log lines that a client can cause come at most once a period, with the number left out.

use crate::clock;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use verdict::Nanos;

/// Lets one line through every ten seconds.
#[derive(Debug)]
pub struct LogLimit {
    /// When the next line may be written, in nanoseconds of [`clock::now`].
    next: AtomicU64,
    left_out: AtomicU64,
}

impl LogLimit {
    const PERIOD: Duration = Duration::from_secs(10);

    #[must_use]
    pub const fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// How many lines were left out since the last one, if a line may be written now.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(clock::now())
    }

    fn admit_at(&self, now: Nanos) -> Option<u64> {
        let next = self.next.load(Relaxed);
        let following = now.after(Self::PERIOD).0;
        if now.0 < next
            || self
                .next
                .compare_exchange(next, following, Relaxed, Relaxed)
                .is_err()
        {
            self.left_out.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Relaxed))
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_period_and_the_rest_are_counted() {
        let limit = LogLimit::new();
        let start = Nanos(1);
        assert_eq!(limit.admit_at(start), Some(0));
        for _ in 0..41 {
            assert_eq!(limit.admit_at(start), None);
        }
        assert_eq!(limit.admit_at(start.after(LogLimit::PERIOD)), Some(41));
    }
}
