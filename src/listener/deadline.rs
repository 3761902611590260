//! Deadlines that cost nothing while a peer is quick: a timer that is seldom re-armed, and the
//! account of a body's pace. What to do when one passes is left to the stream.

use crate::config::model::ClientTimeouts;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// What clients send at once, and what shows only when it is complete: a record of TLS.
const AT_ONCE: f64 = 16.0 * 1024.0;

/// How far a client may fall behind with a request's body: the time for headers, and what the largest
/// TLS record takes at the minimum rate, up to twice that time.
#[must_use]
pub fn body_grace(timeouts: &ClientTimeouts) -> Duration {
    let most = timeouts.headers.saturating_mul(2);
    #[allow(clippy::cast_precision_loss)] // no rate of interest needs 53 bits
    let record = match timeouts.body_minimum_rate {
        0 => most,
        rate => Duration::from_secs_f64(AT_ONCE / rate as f64).min(most),
    };
    timeouts.headers.saturating_add(record)
}

/// One timer for all deadlines of a connection. It is armed when something first has to wait, and
/// re-armed only when it went off too early or a nearer deadline came up: a keep-alive connection
/// under load touches the timer wheel once an idle period, not once a request.
#[derive(Debug, Default)]
pub struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready when `deadline` has passed; otherwise the task is woken at the deadline or earlier. The
    /// clock is read only when the timer went off.
    pub fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        // It was armed for an earlier deadline that no longer matters.
        sleep.as_mut().reset(deadline);
        sleep.as_mut().poll(cx)
    }
}

/// Whether a peer keeps up `rate` bytes a second, over the time that was spent waiting for it: time
/// in which nobody read (a slow upstream), or had anything to write, costs it nothing.
///
/// The peer holds an allowance of waiting time, `grace` at first. Waiting spends it, each byte earns
/// 1/`rate` seconds back, up to `grace`.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    grace: Duration,
    allowance: Duration,
    waiting_since: Option<Instant>,
}

impl Pace {
    /// `rate` in bytes a second; 0 demands that something moves within each `grace`.
    #[must_use]
    pub fn new(rate: u64, grace: Duration) -> Self {
        Self {
            rate,
            grace,
            allowance: grace,
            waiting_since: None,
        }
    }

    /// Nothing can be read or written: when the allowance will be used up. `now` is asked for only
    /// when the waiting begins.
    pub fn waits(&mut self, now: impl FnOnce() -> Instant) -> Instant {
        *self.waiting_since.get_or_insert_with(now) + self.allowance
    }

    /// The peer is waited for no longer, for a reason of ours. `now` is asked for only when it had been.
    pub fn rests(&mut self, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.waiting_since.take() {
            let waited = now().saturating_duration_since(since);
            self.allowance = self.allowance.saturating_sub(waited);
        }
    }

    /// `bytes` were read or taken. `now` is asked for only when the peer had been waited for.
    pub fn moved(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        self.rests(now);
        if self.allowance < self.grace {
            let earned = match self.rate {
                0 => self.grace,
                #[allow(clippy::cast_precision_loss)] // a body's pace needs no 53 bits
                rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
            };
            self.allowance = self.allowance.saturating_add(earned).min(self.grace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_body_may_fall_behind_by_the_time_for_headers_and_a_record() {
        let grace = |headers: u64, rate| {
            body_grace(&ClientTimeouts {
                handshake: SECOND,
                headers: Duration::from_secs(headers),
                idle: 60 * SECOND,
                body_minimum_rate: rate,
                response_minimum_rate: 0,
                request: 600 * SECOND,
                stream_idle: 300 * SECOND,
            })
        };
        assert_eq!(grace(10, 1024), 26 * SECOND);
        assert_eq!(grace(10, 16 * 1024), 11 * SECOND);
        assert_eq!(grace(1, 1), 3 * SECOND);
        assert_eq!(grace(1, 0), 3 * SECOND);
        assert_eq!(grace(10, u64::MAX), 10 * SECOND);
    }

    #[test]
    fn a_drip_below_the_rate_uses_its_grace_up() {
        let start = Instant::now();
        let mut pace = Pace::new(1024, 5 * SECOND);
        let mut now = start;
        // 100 bytes every second where 1,024 are due.
        for _ in 0..100 {
            if pace.waits(|| now) <= now + SECOND {
                assert!(now > start, "the grace was given");
                return;
            }
            now += SECOND;
            pace.moved(100, || now);
        }
        panic!("a drip lived on");
    }

    #[test]
    fn the_rate_itself_is_enough_for_ever() {
        let mut now = Instant::now();
        let mut pace = Pace::new(1024, 5 * SECOND);
        for _ in 0..10_000 {
            assert!(pace.waits(|| now) > now + SECOND);
            now += SECOND;
            pace.moved(1024, || now);
        }
    }

    #[test]
    fn time_in_which_nobody_reads_is_free() {
        let mut now = Instant::now();
        let mut pace = Pace::new(1024, 5 * SECOND);
        for _ in 0..100 {
            now += 60 * SECOND; // the upstream was slow; no read was tried
            pace.moved(1, || unreachable!("not waited for"));
        }
        assert_eq!(pace.waits(|| now), now + 5 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_alarm_goes_off_at_the_deadline_and_not_before() {
        let mut alarm = Alarm::default();
        let start = Instant::now();
        for (armed, wanted) in [(5, 5), (5, 20), (30, 3)] {
            let begin = Instant::now();
            // Arm it for one deadline, then wait for another.
            std::future::poll_fn(|cx| {
                let _ = alarm.poll(begin + armed * SECOND, cx);
                Poll::Ready(())
            })
            .await;
            std::future::poll_fn(|cx| alarm.poll(begin + wanted * SECOND, cx)).await;
            let waited = begin.elapsed();
            assert!(waited >= wanted * SECOND, "{armed} {wanted}: {waited:?}");
            assert!(
                waited < (wanted + 1) * SECOND,
                "{armed} {wanted}: {waited:?}"
            );
        }
        assert!(start.elapsed() >= 28 * SECOND);
    }
}
