//! Which failures are tried again, and a budget so that retries never become the flood.

use http::Method;
use pingora_core::{Error, ErrorSource, ErrorType, RetryType};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use verdict::Nanos;

/// Methods that may be sent twice: reading ones only. `PUT` and `DELETE` are idempotent by RFC 9110
/// but not in every application, and nobody thanks a proxy for finding out.
#[must_use]
pub fn is_repeatable(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    )
}

/// What is known of a failed try.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    pub error: &'a Error,
    pub stage: Stage,
    pub method: &'a Method,
    /// Whether all that was read of the body can be sent again.
    pub body_kept: bool,
    /// Whether response headers have reached the client.
    pub answered: bool,
}

/// How far a try came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The connection never stood: nothing was sent (`fail_to_connect`).
    Connecting,
    /// On a connection made for it (`error_while_proxy`).
    Fresh,
    /// On a pooled connection, which may have been closed meanwhile (`error_while_proxy`).
    Reused,
}

/// Where a failed request may go next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To an endpoint that was not tried yet.
    Elsewhere,
    /// Anywhere: the failure says nothing of the endpoint.
    Anywhere,
    /// Nowhere.
    GiveUp,
}

impl Failure<'_> {
    /// By cause alone; the caller also keeps to `attempts` and asks the [`Budget`].
    #[must_use]
    pub fn next(&self) -> Next {
        if self.answered {
            return Next::GiveUp;
        }
        if self.stage == Stage::Connecting {
            return if is_trouble_of_ours(self.error) {
                Next::GiveUp
            } else {
                Next::Elsewhere
            };
        }
        if self.error.esource() != &ErrorSource::Upstream || !self.body_kept {
            return Next::GiveUp;
        }
        if is_unprocessed(self.error) {
            return Next::Anywhere;
        }
        if !is_repeatable(self.method) {
            return Next::GiveUp;
        }
        match self.error.etype() {
            ErrorType::ConnectionClosed
            | ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::H2Error => {
                if self.stage == Stage::Reused {
                    Next::Anywhere
                } else {
                    Next::Elsewhere
                }
            }
            // After a timeout the upstream may still be at it: a second try doubles its work.
            _ => Next::GiveUp,
        }
    }
}

/// Refused by the peer before it was worked on (RFC 9113, 8.7: `REFUSED_STREAM`, or beyond the last
/// stream of a GOAWAY): safe for any method. Pingora marks these; on HTTP/1 it leaves the question
/// open, which is a no here.
fn is_unprocessed(error: &Error) -> bool {
    error.retry == RetryType::Decided(true)
        && matches!(
            error.etype(),
            ErrorType::H2Error | ErrorType::ReadError | ErrorType::WriteError
        )
}

/// No other endpoint would do better.
fn is_trouble_of_ours(error: &Error) -> bool {
    matches!(
        error.etype(),
        ErrorType::InternalError | ErrorType::SocketError | ErrorType::BindError
    )
}

/// Retries of one upstream: each request pays `share` of a token in, each retry takes one out. A few
/// a second are always there, so that a quiet upstream can retry at all.
#[derive(Debug)]
pub struct Budget {
    /// In millionths.
    tokens: AtomicU64,
    /// When tokens last came for nothing, in [`Nanos`].
    filled: AtomicU64,
}

impl Budget {
    const ONE: u64 = 1_000_000;
    /// Tokens a second that come without any request.
    const MINIMUM: u64 = 3 * Self::ONE;
    /// Tokens that can be saved up: bounds the burst of retries after a sudden failure.
    const CAPACITY: u64 = 100 * Self::ONE;

    #[must_use]
    pub fn new(now: Nanos) -> Self {
        Self {
            tokens: AtomicU64::new(Self::MINIMUM),
            filled: AtomicU64::new(now.0),
        }
    }

    /// A request (not a retry) is on its way. While nothing fails, this only reads.
    pub fn deposit(&self, share: f64) {
        if self.tokens.load(Relaxed) >= Self::CAPACITY {
            return;
        }
        let share = millionths(share);
        let more = |tokens: u64| Some(tokens.saturating_add(share).min(Self::CAPACITY));
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, more);
    }

    /// Whether a retry may go; takes its token. Never, with a `share` of 0.
    #[must_use]
    pub fn withdraw(&self, share: f64, now: Nanos) -> bool {
        if share <= 0.0 {
            return false;
        }
        let filled = Nanos(self.filled.fetch_max(now.0, Relaxed));
        let since = u64::try_from(now.since(filled).as_micros()).unwrap_or(u64::MAX);
        // A token is a million, a second a million microseconds.
        let earned = since.saturating_mul(Self::MINIMUM / Self::ONE);
        let mut enough = false;
        let less = |tokens: u64| {
            // What comes for nothing never adds up to more than a second's worth.
            let filled = tokens.saturating_add(earned).min(Self::MINIMUM).max(tokens);
            let left = filled.checked_sub(Self::ONE);
            enough = left.is_some();
            Some(left.unwrap_or(filled))
        };
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, less);
        enough
    }
}

/// 0 for what is no share.
fn millionths(share: f64) -> u64 {
    let share = Duration::try_from_secs_f64(share).unwrap_or_default();
    u64::try_from(share.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure<'a>(error: &'a Error, method: &'a Method) -> Failure<'a> {
        Failure {
            error,
            stage: Stage::Fresh,
            method,
            body_kept: true,
            answered: false,
        }
    }

    #[test]
    fn only_what_is_safe_is_sent_twice() {
        let closed = Error::new_up(ErrorType::ConnectionClosed);
        let slow = Error::new_up(ErrorType::ReadTimedout);
        let refused = Error::new_up(ErrorType::ConnectRefused);
        let client = Error::new_down(ErrorType::ConnectionClosed);
        let get = failure(&closed, &Method::GET);
        let post = failure(&closed, &Method::POST);
        assert_eq!(get.next(), Next::Elsewhere);
        assert_eq!(
            Failure {
                stage: Stage::Reused,
                ..get
            }
            .next(),
            Next::Anywhere
        );
        assert_eq!(
            Failure {
                answered: true,
                ..get
            }
            .next(),
            Next::GiveUp
        );
        assert_eq!(
            Failure {
                body_kept: false,
                ..get
            }
            .next(),
            Next::GiveUp
        );
        assert_eq!(post.next(), Next::GiveUp);
        assert_eq!(
            Failure {
                stage: Stage::Reused,
                ..post
            }
            .next(),
            Next::GiveUp
        );
        assert_eq!(failure(&slow, &Method::GET).next(), Next::GiveUp);
        assert_eq!(failure(&client, &Method::GET).next(), Next::GiveUp);
        assert_eq!(
            Failure {
                stage: Stage::Connecting,
                ..failure(&refused, &Method::POST)
            }
            .next(),
            Next::Elsewhere
        );
    }

    #[test]
    fn what_was_refused_unseen_is_sent_again_whatever_it_was() {
        let mut refused = Error::new_up(ErrorType::H2Error);
        refused.retry = RetryType::Decided(true);
        let post = failure(&refused, &Method::POST);
        assert_eq!(post.next(), Next::Anywhere);
        let body_gone = Failure {
            body_kept: false,
            ..post
        };
        assert_eq!(body_gone.next(), Next::GiveUp);
        let answered = Failure {
            answered: true,
            ..post
        };
        assert_eq!(answered.next(), Next::GiveUp);
        // Says nothing of what became of the request.
        let mut downgrade = Error::new_up(ErrorType::H2Downgrade);
        downgrade.retry = RetryType::Decided(true);
        assert_eq!(failure(&downgrade, &Method::POST).next(), Next::GiveUp);
        // Still open: nothing may ask `Error::retry`, which panics.
        let mut open = Error::new_up(ErrorType::ReadError);
        open.retry = RetryType::ReusedOnly;
        assert_eq!(failure(&open, &Method::POST).next(), Next::GiveUp);
        let mut unknown = Error::new_up(ErrorType::Custom("unknown"));
        unknown.retry = RetryType::ReusedOnly;
        assert_eq!(failure(&unknown, &Method::GET).next(), Next::GiveUp);
    }

    #[test]
    fn retries_are_a_share_of_requests() {
        let budget = Budget::new(Nanos(0));
        let taken = |now: Nanos| (0..1000).filter(|_| budget.withdraw(0.2, now)).count();
        assert_eq!(taken(Nanos(0)), 3);
        for _ in 0..100 {
            budget.deposit(0.2);
        }
        assert_eq!(taken(Nanos(0)), 20);
        // An hour of quiet saves up no more than a second's worth.
        assert_eq!(taken(Nanos(3_600_000_000_000)), 3);
        for _ in 0..100_000 {
            budget.deposit(0.2);
        }
        assert_eq!(taken(Nanos(3_600_000_000_000)), 100);
        assert!(!Budget::new(Nanos(0)).withdraw(0.0, Nanos(0)));
        // Asking often loses nothing to rounding: 3 a second, and what was there.
        let budget = Budget::new(Nanos(0));
        let asked = (0..=10_000_u64).map(|at| Nanos(at * 1_000_000));
        assert_eq!(asked.filter(|now| budget.withdraw(0.2, *now)).count(), 33);
    }

    #[test]
    fn a_budget_shared_by_many_is_never_overdrawn() {
        let budget = Budget::new(Nanos(0));
        for _ in 0..200 {
            budget.deposit(0.2);
        }
        let take = || {
            (0..1_000)
                .filter(|_| budget.withdraw(0.2, Nanos(0)))
                .count()
        };
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(taken, 43);
    }
}
