//! How long an HTTP/1 request may take in all. There is a total; beyond it, a request lives on while
//! it makes progress, so that long downloads, uploads and streams do, and anything stuck ends. Where
//! pingora's timeout for an upstream is that of a stream, the wait for its answer is bounded here. The
//! deadlines of single reads and writes are the stream's.

use super::deadline::Alarm;
use crate::{config::model::ClientTimeouts, connection::Progress};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::Instant;

/// The deadlines of one request.
#[derive(Debug)]
pub struct Term<'a> {
    progress: &'a Progress,
    idle: Duration,
    stream_idle: Duration,
    /// Before this nothing ends it.
    total: Instant,
    /// When to look next whether it moves.
    next: Instant,
    /// What had moved when it was last looked at, and since when nothing is known to have moved.
    seen: u64,
    quiet_since: Instant,
    /// When the upstream must have begun its answer, and what that was reckoned from.
    answer_due: Option<(Instant, Wait)>,
}

/// What a wait for an upstream began with: the try, and what had moved by then. While the request is
/// still arriving the upstream is not to blame, so that the wait begins again with each piece of it.
type Wait = (u32, u64);

impl<'a> Term<'a> {
    #[must_use]
    pub fn new(progress: &'a Progress, begun: Instant, timeouts: &ClientTimeouts) -> Self {
        let total = begun + timeouts.request;
        Self {
            progress,
            idle: timeouts.idle,
            stream_idle: timeouts.stream_idle,
            total,
            // A look before the total, so as to know there what moved lately.
            next: match timeouts.request.checked_sub(timeouts.idle) {
                Some(lead) if !lead.is_zero() => begun + lead,
                _ => total,
            },
            seen: progress.bytes.load(Relaxed),
            quiet_since: begun,
            answer_due: None,
        }
    }

    /// Ready when the request must end.
    fn poll(&mut self, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.deadline(Instant::now);
            ready!(alarm.poll(deadline, cx));
            if !self.lives_on(Instant::now()) {
                return Poll::Ready(());
            }
        }
    }

    /// When to look at it. `now` is asked for only by requests for streams.
    fn deadline(&mut self, now: impl FnOnce() -> Instant) -> Instant {
        let progress = self.progress;
        let patience = progress.patience.load(Relaxed);
        if patience == 0 || progress.answered.load(Relaxed) {
            return self.next;
        }
        let wait = (progress.tries.load(Relaxed), progress.bytes.load(Relaxed));
        let due = match self.answer_due {
            Some((due, since)) if since == wait => due,
            _ => now() + Duration::from_millis(patience.into()),
        };
        self.answer_due = Some((due, wait));
        due.min(self.next)
    }

    /// Whether it may go on, at a deadline.
    fn lives_on(&mut self, now: Instant) -> bool {
        let answered = self.progress.answered.load(Relaxed);
        if !answered && self.answer_due.is_some_and(|(due, _)| now >= due) {
            return false;
        }
        if now < self.next {
            return true;
        }
        let bytes = self.progress.bytes.load(Relaxed);
        let moved = bytes != self.seen;
        if moved || now < self.total {
            self.seen = bytes;
            self.quiet_since = now;
        }
        self.next = if now < self.total {
            self.total
        } else if self.progress.stream.load(Relaxed) {
            self.quiet_since + self.stream_idle
        } else if moved {
            now + self.idle
        } else {
            return false;
        };
        now < self.next
    }
}

/// Runs `future` until it must end. `None` when it had to: then the future is dropped.
pub async fn within<F: Future + Unpin>(
    mut future: F,
    alarm: &mut Alarm,
    term: &mut Term<'_>,
) -> Option<F::Output> {
    poll_fn(|cx| {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
            return Poll::Ready(Some(output));
        }
        term.poll(alarm, cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timeouts() -> ClientTimeouts {
        ClientTimeouts {
            handshake: SECOND,
            headers: SECOND,
            idle: 60 * SECOND,
            body_minimum_rate: 0,
            response_minimum_rate: 0,
            request: 600 * SECOND,
            stream_idle: 300 * SECOND,
        }
    }

    /// Seconds after which a request ends that moves a byte at each of these seconds.
    fn ends_after(
        progress: &Progress,
        timeouts: &ClientTimeouts,
        moves: impl Fn(u64) -> bool,
    ) -> u64 {
        let begun = Instant::now();
        let mut term = Term::new(progress, begun, timeouts);
        for second in 0..5000 {
            let now = begun + u32::try_from(second).unwrap() * SECOND;
            while term.deadline(|| now) <= now {
                if !term.lives_on(now) {
                    return second;
                }
            }
            if moves(second) {
                progress.bytes.fetch_add(1, Relaxed);
            }
        }
        5000
    }

    #[test]
    fn a_request_ends_at_its_total_unless_it_moves() {
        let progress = Progress::default();
        let timeouts = timeouts();
        assert_eq!(ends_after(&progress, &timeouts, |_| false), 600);
        assert_eq!(ends_after(&progress, &timeouts, |at| at < 500), 600);
        assert_eq!(ends_after(&progress, &timeouts, |at| at % 50 == 0), 5000);
        // Stuck later, it ends within two idle periods.
        let end = ends_after(&progress, &timeouts, |at| at < 1000);
        assert!((1060..=1120).contains(&end), "{end}");
    }

    #[test]
    fn a_total_below_the_idle_period_holds_as_well() {
        let timeouts = ClientTimeouts {
            request: 10 * SECOND,
            ..timeouts()
        };
        let progress = Progress::default();
        assert_eq!(ends_after(&progress, &timeouts, |_| false), 10);
        let end = ends_after(&progress, &timeouts, |at| at == 5);
        assert_eq!(end, 70);
    }

    #[test]
    fn streams_may_be_silent_for_longer() {
        let progress = Progress::default();
        progress.answered.store(true, Relaxed);
        progress.stream.store(true, Relaxed);
        let end = ends_after(&progress, &timeouts(), |at| at < 700);
        assert!((1000..=1300).contains(&end), "{end}");
        assert_eq!(ends_after(&progress, &timeouts(), |at| at % 200 == 0), 5000);
    }

    #[test]
    fn to_ask_for_a_stream_gains_no_time_for_the_answer() {
        let progress = Progress::default();
        progress.awaits(30 * SECOND);
        assert_eq!(ends_after(&progress, &timeouts(), |_| false), 30);
        progress.answered.store(true, Relaxed);
        assert_eq!(ends_after(&progress, &timeouts(), |_| true), 5000);
    }

    #[test]
    fn an_upstream_is_waited_for_from_the_end_of_the_request_and_for_each_try() {
        let progress = Progress::default();
        progress.awaits(30 * SECOND);
        // A long upload, whose last byte comes in the second before.
        assert_eq!(ends_after(&progress, &timeouts(), |at| at < 200), 230);
        let retried = |at| {
            if at == 20 {
                progress.awaits(30 * SECOND);
            }
            false
        };
        assert_eq!(ends_after(&progress, &timeouts(), retried), 51);
    }
}
