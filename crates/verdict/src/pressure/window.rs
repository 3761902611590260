//! What moved between two snapshots, as rates.

use super::{Counters, HalfOpen, Reflected, Snapshot};
use std::time::Duration;

/// A second in which so many answers to SYNs had to be sent again is worth a look at what is half open.
const SUSPICIOUS_RETRANSMITS: f64 = 20.0;
/// Or in which so many SYNs got a cookie.
const SUSPICIOUS_COOKIES: f64 = 50.0;

/// The time between two snapshots.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    earlier: &'a Snapshot,
    later: &'a Snapshot,
    seconds: f64,
}

impl<'a> Window<'a> {
    /// `None`: no time passed between them, or a counter went back in it. Then the kernel counts anew
    /// (in another namespace, say), and nothing is known of what happened.
    #[must_use]
    pub fn between(earlier: &'a Snapshot, later: &'a Snapshot) -> Option<Self> {
        let elapsed = later.at.since(earlier.at);
        let continuous = FIELDS.iter().all(|field| {
            match (field(&earlier.counters), field(&later.counters)) {
                (Some(earlier), Some(later)) => moved(earlier, later).is_some(),
                // One that comes or goes says nothing of the others.
                _ => true,
            }
        });
        (elapsed > Duration::ZERO && continuous).then_some(Self {
            earlier,
            later,
            seconds: elapsed.as_secs_f64(),
        })
    }

    /// How fast a counter moved, a second.
    #[must_use]
    pub fn rate(&self, field: fn(&Counters) -> Option<u64>) -> Option<f64> {
        let moved = moved(field(&self.earlier.counters)?, field(&self.later.counters)?)?;
        Some(precise(moved) / self.seconds)
    }

    #[must_use]
    pub fn half_open(&self) -> Option<HalfOpen> {
        self.later.half_open
    }

    #[must_use]
    pub fn reflected(&self) -> Option<Reflected> {
        self.later.reflected
    }

    /// The share of SYN cookies that came back; `None` where none was sent.
    #[must_use]
    pub fn answered(&self) -> Option<f64> {
        let sent = self.rate(|counters| counters.cookies_sent)?;
        let received = self.rate(|counters| counters.cookies_received)?;
        (sent > 0.0).then(|| received / sent)
    }

    /// Whether counting what is half open would tell more.
    #[must_use]
    pub fn is_suspicious(&self) -> bool {
        let above = |field, threshold| self.rate(field).is_some_and(|rate| rate > threshold);
        above(|counters| counters.syn_retransmits, SUSPICIOUS_RETRANSMITS)
            || above(|counters| counters.cookies_sent, SUSPICIOUS_COOKIES)
    }
}

const FIELDS: [fn(&Counters) -> Option<u64>; 12] = [
    |counters| counters.cookies_sent,
    |counters| counters.cookies_received,
    |counters| counters.listen_overflows,
    |counters| counters.listen_drops,
    |counters| counters.syn_drops,
    |counters| counters.syn_retransmits,
    |counters| counters.passive_opens,
    |counters| counters.active_opens,
    |counters| counters.resets_sent,
    |counters| counters.aborts,
    |counters| counters.udp_no_ports,
    |counters| counters.udp_overflows,
];

/// How far a counter moved; `None` when it began anew. On 32-bit kernels they wrap.
fn moved(earlier: u64, later: u64) -> Option<u64> {
    if later >= earlier {
        return Some(later - earlier);
    }
    let (earlier, later) = (u32::try_from(earlier).ok()?, u32::try_from(later).ok()?);
    let wrapped = later.wrapping_sub(earlier);
    (wrapped < u32::MAX / 2).then_some(wrapped.into())
}

#[expect(clippy::cast_precision_loss, reason = "no rate needs 53 bits")]
pub(super) fn precise(count: u64) -> f64 {
    count as f64
}
