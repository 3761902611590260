//! When a provider is no longer asked, and when it is tried again: a circuit breaker as a pure state
//! machine, which is told the time. Asking is [`super::verifier`]'s.
//!
//! ```text
//! closed --failures--> open --pause over, somebody came--> probing --answer--> closed
//!                        ^------------ none, twice the pause -------'
//! ```

use std::time::Duration;
use verdict::Nanos;

/// Failures in a row that open it.
const IN_A_ROW: u32 = 5;
/// Of so many last answers, half of them failed, open it as well.
const LAST: u32 = 20;
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Whether a provider is to be asked.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    first_pause: Duration,
}

#[derive(Debug)]
enum State {
    Closed(Record),
    Open {
        until: Nanos,
        pause: Duration,
    },
    /// One question is under way; when nobody hears of it, `until` allows another.
    Probing {
        until: Nanos,
        pause: Duration,
    },
}

#[derive(Debug, Default)]
struct Record {
    in_a_row: u32,
    /// The last answers, a bit each; set: failed.
    last: u32,
    count: u32,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Nothing,
    Opened,
    Closed,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(FIRST_PAUSE)
    }
}

impl Breaker {
    /// `first_pause`: from opening to the first probe.
    #[must_use]
    pub fn new(first_pause: Duration) -> Self {
        Self {
            state: State::Closed(Record::default()),
            first_pause,
        }
    }

    /// Whether visitors' answers are to be taken to the provider.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Whether the caller has to send a probe now, and to tell [`Self::probed`] of it.
    #[must_use]
    pub fn wants_probe(&mut self, now: Nanos) -> bool {
        let (State::Open { until, pause } | State::Probing { until, pause }) = self.state else {
            return false;
        };
        if now < until {
            return false;
        }
        self.state = State::Probing {
            until: now.after(pause),
            pause,
        };
        true
    }

    /// The provider gave an answer that makes sense, or failed.
    pub fn report(&mut self, answered: bool, now: Nanos) -> Change {
        // Questions that were under way when it opened say nothing new.
        let State::Closed(record) = &mut self.state else {
            return Change::Nothing;
        };
        record.in_a_row = if answered {
            0
        } else {
            record.in_a_row.saturating_add(1)
        };
        let mask = (1_u32 << LAST).wrapping_sub(1);
        record.last = (record.last << 1 | u32::from(!answered)) & mask;
        record.count = record.count.saturating_add(1).min(LAST);
        let half = record.count == LAST && record.last.count_ones().saturating_mul(2) >= LAST;
        if record.in_a_row < IN_A_ROW && (answered || !half) {
            return Change::Nothing;
        }
        self.open(self.first_pause, now);
        Change::Opened
    }

    /// How the probe went.
    pub fn probed(&mut self, answered: bool, now: Nanos) -> Change {
        let State::Probing { pause, .. } = self.state else {
            return Change::Nothing;
        };
        if answered {
            self.state = State::Closed(Record::default());
            return Change::Closed;
        }
        self.open(pause.saturating_mul(2).min(LONGEST_PAUSE), now);
        Change::Nothing
    }

    fn open(&mut self, pause: Duration, now: Nanos) {
        self.state = State::Open {
            until: now.after(pause),
            pause,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 1..IN_A_ROW {
            assert_eq!(breaker.report(false, at(0)), Change::Nothing);
            assert!(breaker.is_closed());
        }
        assert_eq!(breaker.report(false, at(0)), Change::Opened);
        assert!(!breaker.is_closed());
        breaker
    }

    #[test]
    fn an_answer_in_between_begins_the_row_anew() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            for _ in 1..IN_A_ROW {
                breaker.report(false, at(0));
            }
            // Enough answers to keep the share of failures below half of those that count.
            for _ in 0..6 {
                breaker.report(true, at(0));
            }
        }
        assert!(breaker.is_closed());
    }

    #[test]
    fn half_of_the_last_answers_open_it_too() {
        let mut breaker = Breaker::default();
        let mut reports = 0;
        while breaker.is_closed() {
            reports += 1;
            breaker.report(reports % 2 == 0, at(0));
            assert!(reports < 100);
        }
        assert!(reports >= LAST);
    }

    #[test]
    fn one_probe_at_a_time_and_ever_rarer() {
        let mut breaker = opened();
        assert!(!breaker.wants_probe(at(29)));
        assert!(breaker.wants_probe(at(30)));
        assert!(!breaker.wants_probe(at(31)), "a second probe beside it");
        let mut now = 31;
        for pause in [60, 120, 240, 300, 300] {
            assert_eq!(breaker.probed(false, at(now)), Change::Nothing);
            assert!(!breaker.wants_probe(at(now + pause - 1)));
            assert!(breaker.wants_probe(at(now + pause)));
            now += pause;
        }
        assert_eq!(breaker.probed(true, at(now)), Change::Closed);
        assert!(breaker.is_closed());
        assert!(!breaker.wants_probe(at(now + 9999)));
    }

    #[test]
    fn a_probe_that_is_never_heard_of_does_not_keep_it_open() {
        let mut breaker = opened();
        assert!(breaker.wants_probe(at(30)));
        assert!(breaker.wants_probe(at(60)));
    }

    #[test]
    fn late_reports_change_nothing_once_it_is_open() {
        let mut breaker = opened();
        assert_eq!(breaker.report(true, at(1)), Change::Nothing);
        assert!(!breaker.is_closed());
        assert_eq!(breaker.probed(true, at(1)), Change::Nothing);
        assert!(!breaker.is_closed());
    }
}
