//! The handshake budget of one worker, in CPU time: what handshakes of unknown clients may take, and
//! the line they wait in once it is spent. Who counts as known is told by the handshake; see
//! docs/decisions/handshake-budget.md.
//!
//! Time is an argument down to [`Admission`] itself, which is where clocks are read.

use super::deadline::Alarm;
use crate::{clock, config::model::Handshakes};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::time::Instant;
use verdict::Nanos;

/// How much unused budget is kept for a burst, and how much debt at the most.
const BURST: i64 = 100_000_000;

/// A token bucket of CPU nanoseconds. What a handshake costs is known only afterwards, so that the
/// level may fall below zero; what is lent that way is paid back before the next begins.
#[derive(Debug)]
struct Bucket {
    level: i64,
    /// When `level` was true.
    at: Nanos,
}

impl Bucket {
    fn new(now: Nanos) -> Self {
        Self {
            level: BURST,
            at: now,
        }
    }

    /// How long until the next handshake may begin: zero for now.
    fn wait(&mut self, share: f64, now: Nanos) -> Duration {
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

    fn charge(&mut self, took: Duration) {
        self.level = self.level.saturating_sub(nanos(took)).max(-BURST);
    }

    fn refund(&mut self, took: Duration) {
        self.level = self.level.saturating_add(nanos(took)).min(BURST);
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Who waits, first come first served.
#[derive(Debug, Default)]
struct Line {
    /// Numbers rise from front to back.
    waiting: VecDeque<(u64, Option<Waker>)>,
    next: u64,
}

impl Line {
    /// Joins the line, if it is shorter than `most`.
    fn join(&mut self, most: usize) -> Option<u64> {
        if self.waiting.len() >= most {
            return None;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.waiting.push_back((number, None));
        Some(number)
    }

    /// Whether this one is the first; it will be woken when it becomes so.
    fn is_first(&mut self, number: u64, waker: &Waker) -> bool {
        if let Some(at) = self.position(number)
            && let Some((_, known)) = self.waiting.get_mut(at)
        {
            match known {
                Some(known) => known.clone_from(waker),
                None => *known = Some(waker.clone()),
            }
            return at == 0;
        }
        false
    }

    /// Leaves the line from wherever it stands; the new first one is woken.
    fn leave(&mut self, number: u64) {
        let Some(at) = self.position(number) else {
            return;
        };
        self.waiting.remove(at);
        if at == 0
            && let Some((_, Some(first))) = self.waiting.front()
        {
            first.wake_by_ref();
        }
    }

    fn position(&self, number: u64) -> Option<usize> {
        self.waiting
            .binary_search_by_key(&number, |(number, _)| *number)
            .ok()
    }
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    line: Line,
}

/// Why a handshake may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The line is full.
    Full,
    /// The deadline came first.
    Late,
    /// The client has left.
    Gone,
}

/// One worker's budget and line. The lock is the worker's own: nobody else ever holds it.
#[derive(Debug)]
pub struct Admission(Mutex<State>);

impl Default for Admission {
    fn default() -> Self {
        Self(Mutex::new(State {
            bucket: Bucket::new(clock::now()),
            line: Line::default(),
        }))
    }
}

impl Admission {
    /// Whether a handshake may begin at once, whoever asks: there is budget, and nobody waits for it.
    pub fn is_open(&self, share: f64) -> bool {
        let mut state = self.0.lock();
        state.line.waiting.is_empty() && state.bucket.wait(share, clock::now()).is_zero()
    }

    /// Waits in line for the budget. `left` is ready when the client has gone.
    ///
    /// The caller goes on to its handshake without yielding, so that what it costs is charged before
    /// the next in line asks.
    ///
    /// # Errors
    /// When the line is full, at the deadline, or when the client is gone.
    pub async fn wait(
        &self,
        limits: &Handshakes,
        share: f64,
        deadline: Instant,
        mut left: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<(), Refused> {
        let most = usize::try_from(limits.waiting.get()).unwrap_or(usize::MAX);
        let joined = self.0.lock().line.join(most);
        let place = Place {
            admission: self,
            number: joined.ok_or(Refused::Full)?,
        };
        let mut alarm = Alarm::default();
        poll_fn(|cx| {
            if left(cx).is_ready() {
                return Poll::Ready(Err(Refused::Gone));
            }
            loop {
                let now = Instant::now();
                if now >= deadline {
                    return Poll::Ready(Err(Refused::Late));
                }
                let until = match place.turn(share, cx.waker()) {
                    Some(Duration::ZERO) => return Poll::Ready(Ok(())),
                    Some(wait) => deadline.min(now + wait),
                    None => deadline,
                };
                ready!(alarm.poll(until, cx));
            }
        })
        .await
    }

    /// Runs a handshake, or a part of it, and gives what it took of this thread's CPU time. With
    /// `charged`, the budget is charged as it goes.
    pub async fn metered<F: Future + Unpin>(
        &self,
        mut handshake: F,
        charged: bool,
    ) -> (F::Output, Duration) {
        let mut total = Duration::ZERO;
        let output = poll_fn(|cx| {
            let before = cpu_time();
            let polled = Pin::new(&mut handshake).poll(cx);
            let took = cpu_time().saturating_sub(before);
            total = total.saturating_add(took);
            if charged {
                self.charge(took);
            }
            polled
        })
        .await;
        (output, total)
    }

    /// Takes this from the budget.
    pub fn charge(&self, took: Duration) {
        self.0.lock().bucket.charge(took);
    }

    #[cfg(test)]
    pub(super) fn level(&self) -> i64 {
        self.0.lock().bucket.level
    }

    /// Gives back what was charged for a client that proved to be known.
    pub fn refund(&self, took: Duration) {
        self.0.lock().bucket.refund(took);
    }
}

/// A place in line, left on drop.
struct Place<'a> {
    admission: &'a Admission,
    number: u64,
}

impl Place<'_> {
    /// How long until this one's turn; `None` as long as others stand before it.
    fn turn(&self, share: f64, waker: &Waker) -> Option<Duration> {
        let mut state = self.admission.0.lock();
        state
            .line
            .is_first(self.number, waker)
            .then(|| state.bucket.wait(share, clock::now()))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.admission.0.lock().line.leave(self.number);
    }
}

/// What the calling thread has used of a CPU. Unlike the time that passes, it does not grow while
/// others have the core.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
