//! What must hold of a ledger, whatever frames or other bytes pass it, in whatever pieces.

use super::ledger::{Late, Ledger, Limits};
use crate::config::model::{AbuseLimits, ClientTimeouts, Http2Limits, Rate};
use std::{num::NonZeroU32, time::Duration};
use verdict::Nanos;

/// Feeds `data` to a ledger as what a client and a server say: each piece begins with a byte for its
/// direction, one for its length, one for the time before it.
///
/// # Panics
/// When deadlines that have passed stay, or something is ended that no deadline told of.
#[allow(clippy::panic)] // a finding is told by a panic
pub fn http2_frames(data: &[u8]) {
    let second = Duration::from_secs(1);
    let http2 = Http2Limits {
        streams: NonZeroU32::MIN.saturating_add(7),
        header_bytes: 4096,
        abuse: Some(AbuseLimits {
            points: NonZeroU32::MIN.saturating_add(1_000_000),
            recovery: Rate {
                amount: NonZeroU32::MIN,
                period: second,
            },
            strikes: NonZeroU32::MIN,
            ban: None,
        }),
    };
    let timeouts = ClientTimeouts {
        handshake: second,
        headers: second,
        idle: 3 * second,
        body_minimum_rate: 1000,
        response_minimum_rate: 1000,
        request: 20 * second,
        stream_idle: 10 * second,
    };
    let mut now = Nanos(0);
    let mut ledger: Ledger<()> = Ledger::new(Limits::new(&http2, &timeouts), now);
    ledger.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now);
    let mut rest = data;
    while let Some((&[what, length, time], bytes)) = rest.split_first_chunk::<3>() {
        now = now.after(Duration::from_millis(u64::from(time).saturating_mul(20)));
        let (piece, after) = bytes
            .split_at_checked(usize::from(length))
            .unwrap_or((bytes, &[]));
        rest = after;
        match what % 8 {
            0..=2 => ledger.received(piece, now),
            3 | 4 => ledger.sent(piece, now),
            5 => ledger.starves(|| now),
            6 => {
                if let Some(id) = ledger.handed_out() {
                    ledger.served_by(id, (), length % 2 == 0, now);
                }
            }
            _ => {
                ledger.all_accepted();
                let due = ledger.deadline() <= now;
                let mut ended = false;
                let late = ledger.expire(now, |_, _| ended = true);
                assert!(due || (late.is_none() && !ended), "ended too early");
                if late.is_some_and(|late| late != Late::Idle) {
                    return;
                }
                assert!(
                    late.is_some() || ledger.deadline() > now,
                    "a deadline that has passed stays"
                );
            }
        }
        ledger.check();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_passes(bytes in proptest::collection::vec(prop_oneof![3 => 0_u8..12, 1 => any::<u8>()], 0..2000)) {
            super::http2_frames(&bytes);
        }
    }
}
