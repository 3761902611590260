//! What must hold of a ledger, whatever frames or other bytes pass it, in whatever pieces.

use super::ledger::{Ledger, Limits};
use crate::config::model::{AbuseLimits, ClientTimeouts, Http2Limits, Rate};
use std::{num::NonZeroU32, time::Duration};
use verdict::Nanos;

/// Feeds `data` to a ledger as what a client and a server say: each piece begins with a byte for its
/// direction, one for its length, one for the time before it. Half of the pieces are made to frames,
/// so that what they mean is reached and not just where they end.
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
    let limits = Limits::new(&http2, &timeouts);
    let mut ledger = begin(limits, now);
    let mut rest = data;
    while let Some((&[what, length, time], bytes)) = rest.split_first_chunk::<3>() {
        now = now.after(Duration::from_millis(u64::from(time).saturating_mul(4)));
        let (piece, after) = bytes
            .split_at_checked(usize::from(length))
            .unwrap_or((bytes, &[]));
        rest = after;
        match what % 8 {
            0 => ledger.received(piece, now),
            1 | 2 => ledger.received(&framed(piece), now),
            3 if length % 2 == 0 => ledger.sent(piece, now),
            3 | 4 => ledger.sent(&framed(piece), now),
            5 => ledger.starves(|| now),
            6 => {
                if let Some(id) = ledger.handed_out() {
                    ledger.served_by(id, ());
                    if length % 2 == 0 {
                        ledger.forwarded(id, second, length % 4 == 0, now);
                    }
                    if length % 8 < 2 {
                        ledger.answered(id, length % 8 == 0, now);
                    }
                }
            }
            _ => {
                ledger.all_accepted();
                let due = ledger.deadline() <= now;
                let mut ended = false;
                let late = ledger.expire(now, |_, _| ended = true);
                assert!(due || (late.is_none() && !ended), "ended too early");
                if late.is_some() {
                    // The connection ends, and the next one begins.
                    ledger = begin(limits, now);
                }
                assert!(ledger.deadline() > now, "a deadline that has passed stays");
            }
        }
        ledger.check();
    }
}

/// A connection that has asked for something.
fn begin(limits: Limits, now: Nanos) -> Ledger<()> {
    let mut ledger = Ledger::new(limits, now);
    ledger.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now);
    ledger.received(&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x82], now);
    ledger
}

/// A frame whose type, flags and stream are the first bytes, and its payload the rest.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let Some((&[kind, flags, stream], payload)) = bytes.split_first_chunk::<3>() else {
        return bytes.to_vec();
    };
    let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    let mut frame = vec![0, 0, length, kind % 12, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
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
