//! How much a peer has bent a protocol: points for each offence, forgiven as time goes by.
//!
//! A leaky bucket, one a connection. What each offence weighs is written here, with the traffic that
//! must stay free of suspicion in mind; noticing them and closing the connection is the listener's.

use crate::Nanos;
use std::{num::NonZeroU32, time::Duration};

/// A point, in the thousandths that weights are given in.
const POINT: u64 = 1000;

/// What an HTTP/2 client did that costs the server more than the client, or that only an attack does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// A request was taken back before its answer began (rapid reset, CVE-2023-44487). Browsers that
    /// leave a page do so with all that is pending, map viewers some tens of times a second.
    EarlyReset,
    /// A request was taken back while it was answered.
    LateReset,
    /// A frame that obliges the server to reset the stream itself (`MadeYouReset`, CVE-2025-8671).
    ForcedReset,
    /// A frame for a stream that is gone. What was under way when it ended is innocent.
    StrayFrame,
    /// A request that no server may take (RFC 9113, section 8.1.1).
    Malformed,
    /// A stream above the limit that was announced.
    ExcessStream,
    /// A header block cut into small frames (CVE-2024-27316).
    SmallContinuation,
    /// A header block that full frames were not enough for.
    Continuation,
    /// A header block larger than allowed.
    HeaderBytes,
    /// SETTINGS after the first, or their acknowledgement unasked (CVE-2019-9515).
    Settings,
    /// A PING that nothing was sent before, or an answer to none (CVE-2019-9512).
    Ping,
    /// PRIORITY or `PRIORITY_UPDATE` (CVE-2019-9513). Browsers send some tens at once.
    Priority,
    /// A frame that carries nothing and ends nothing (CVE-2019-9518).
    EmptyFrame,
    /// `WINDOW_UPDATE` by far more often than anything was sent (CVE-2019-9511, CVE-2019-9517).
    WindowUpdate,
    /// A window so small that answers leave in crumbs (CVE-2019-9511).
    TinyWindow,
    /// A frame of a type that means nothing. Some clients send one now and then on purpose
    /// (RFC 8701 for HTTP/2).
    UnknownFrame,
}

impl Offence {
    /// What it counts as in metrics.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::EarlyReset | Self::LateReset => "rapid_reset",
            Self::ForcedReset | Self::StrayFrame => "made_you_reset",
            Self::Malformed => "malformed",
            Self::ExcessStream => "streams",
            Self::SmallContinuation | Self::Continuation => "continuation",
            Self::HeaderBytes => "header_bytes",
            Self::Settings => "settings",
            Self::Ping => "ping",
            Self::Priority => "priority",
            Self::EmptyFrame => "empty_frame",
            Self::WindowUpdate | Self::TinyWindow => "window",
            Self::UnknownFrame => "unknown_frame",
        }
    }

    /// In thousandths of a point.
    fn weight(self) -> u64 {
        match self {
            Self::LateReset => 100,
            Self::StrayFrame
            | Self::Continuation
            | Self::Priority
            | Self::TinyWindow
            | Self::UnknownFrame => 250,
            Self::EarlyReset | Self::WindowUpdate => 500,
            Self::ExcessStream | Self::Ping => POINT,
            Self::Malformed | Self::SmallContinuation | Self::Settings | Self::EmptyFrame => {
                2 * POINT
            }
            Self::ForcedReset => 5 * POINT,
            Self::HeaderBytes => 10 * POINT,
        }
    }
}

/// How many points are too many, and how fast they are forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// In thousandths of a point.
    most: u64,
    /// Nanoseconds that a thousandth of a point takes to be forgiven, at least 1.
    interval: u64,
}

impl Tolerance {
    /// Up to `points`; `amount` of them are forgiven every `period`.
    #[must_use]
    pub fn new(points: NonZeroU32, amount: NonZeroU32, period: Duration) -> Self {
        let interval = period.as_nanos() / (u128::from(amount.get()) * u128::from(POINT));
        Self {
            most: u64::from(points.get()) * POINT,
            interval: u64::try_from(interval).unwrap_or(u64::MAX).max(1),
        }
    }
}

/// The score of one connection.
#[derive(Clone, Debug)]
pub struct Score {
    tolerance: Tolerance,
    level: u64,
    /// Up to when forgiveness was counted.
    at: Nanos,
}

impl Score {
    #[must_use]
    pub fn new(tolerance: Tolerance, now: Nanos) -> Self {
        Self {
            tolerance,
            level: 0,
            at: now,
        }
    }

    /// Adds an offence: whether that was too much.
    #[must_use]
    pub fn add(&mut self, offence: Offence, now: Nanos) -> bool {
        let interval = self.tolerance.interval;
        let forgiven = now.0.saturating_sub(self.at.0) / interval;
        if forgiven > 0 {
            self.level = self.level.saturating_sub(forgiven);
            // What was not enough for a thousandth counts the next time.
            self.at = Nanos(self.at.0.saturating_add(forgiven.saturating_mul(interval)));
        }
        self.level = self.level.saturating_add(offence.weight());
        self.level > self.tolerance.most
    }

    /// Whether an eighth of what is too much has come together: more than ordinary peers ever do.
    #[must_use]
    pub fn is_suspicious(&self) -> bool {
        self.level >= self.tolerance.most / 8
    }

    /// A request was served to its end: that makes up for a point.
    pub fn served(&mut self) {
        self.level = self.level.saturating_sub(POINT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn score() -> Score {
        let number = |number: u32| NonZeroU32::new(number).unwrap();
        let tolerance = Tolerance::new(number(200), number(20), Duration::from_secs(1));
        Score::new(tolerance, Nanos(0))
    }

    /// How many of `offence` pass, one every `gap`, until it is too much; `None` when a thousand
    /// seconds of it are fine.
    fn passes(offence: Offence, gap: u64) -> Option<u64> {
        let mut score = score();
        (0..1_000_000_000_000 / gap.max(1_000_000))
            .find(|at| score.add(offence, Nanos(at.saturating_mul(gap))))
    }

    #[test]
    fn floods_are_cut_short() {
        for (offence, most) in [
            (Offence::EarlyReset, 400),
            (Offence::LateReset, 2000),
            (Offence::ForcedReset, 40),
            (Offence::Ping, 200),
            (Offence::Settings, 100),
            (Offence::SmallContinuation, 100),
            (Offence::EmptyFrame, 100),
            (Offence::HeaderBytes, 20),
            (Offence::Priority, 800),
        ] {
            assert_eq!(passes(offence, 0), Some(most), "{offence:?}");
        }
        // One a millisecond lasts a little longer, and no more.
        assert!(passes(Offence::EarlyReset, MILLISECOND).unwrap() < 500);
    }

    #[test]
    fn what_is_seldom_is_never_too_much() {
        for (offence, milliseconds) in [
            (Offence::EarlyReset, 25),
            (Offence::LateReset, 5),
            (Offence::Ping, 50),
            (Offence::Settings, 100),
            (Offence::ForcedReset, 250),
            (Offence::UnknownFrame, 13),
        ] {
            assert_eq!(
                passes(offence, milliseconds * MILLISECOND),
                None,
                "{offence:?}"
            );
        }
    }

    #[test]
    fn a_page_full_of_pending_images_may_be_left() {
        let mut score = score();
        // Three times in a row, a second apart.
        for second in 0..3_u64 {
            for _ in 0..128 {
                assert!(!score.add(Offence::EarlyReset, Nanos(second * 1_000_000_000)));
            }
        }
    }

    #[test]
    fn requests_that_are_served_make_up_for_resets() {
        let mut score = score();
        for _ in 0..100_000 {
            assert!(!score.add(Offence::EarlyReset, Nanos(0)));
            assert!(!score.add(Offence::EarlyReset, Nanos(0)));
            score.served();
        }
    }

    #[test]
    fn suspicion_begins_at_an_eighth() {
        let mut score = score();
        for _ in 0..12 {
            assert!(!score.add(Offence::Settings, Nanos(0)));
            assert!(!score.is_suspicious());
        }
        assert!(!score.add(Offence::Settings, Nanos(0)));
        assert!(score.is_suspicious());
    }

    #[test]
    fn forgiveness_is_counted_to_the_thousandth() {
        let mut score = score();
        let mut now = 0;
        // A point every 50 ms is exactly what is forgiven, however the clock is cut.
        for _ in 0..10_000 {
            assert!(!score.add(Offence::Ping, Nanos(now)));
            now += 49_999_999;
            assert!(!score.add(Offence::LateReset, Nanos(now)));
            now += 5_000_001;
        }
    }

    #[test]
    fn nothing_overflows() {
        let most = NonZeroU32::MAX;
        for (period, now) in [(Duration::ZERO, 0), (Duration::MAX, u64::MAX)] {
            let mut score = Score::new(Tolerance::new(most, most, period), Nanos(now));
            assert!(!score.add(Offence::HeaderBytes, Nanos(u64::MAX)));
            assert!(!score.add(Offence::HeaderBytes, Nanos(0)));
        }
    }
}
