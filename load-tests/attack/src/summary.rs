//! What came of an attack, as numbers.

use crate::{
    attack::Attack,
    ending::{Ending, How},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The whole attack. Times are in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub kind: &'static str,
    pub variant: &'static str,
    pub seconds: f64,
    /// Connections begun, refused ones among them.
    pub opened: usize,
    /// Ended by the server, by how: `reset`, `fin`, `close_notify`, `alert:NAME`, `refused`,
    /// `answered:STATUS`.
    pub closed: BTreeMap<String, usize>,
    /// Connections that were told GOAWAY, by the name of its code.
    pub goaway: BTreeMap<String, usize>,
    /// Ended by the attack, having reached what it wanted (handshakes).
    pub done: usize,
    pub still_open: usize,
    /// Of those that the server ended: from beginning to end.
    pub closed_after_p50_ms: f64,
    pub closed_after_max_ms: f64,
    /// Units sent: frames, or bytes of a drip.
    pub units_sent: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Header blocks and stream resets that came back (HTTP/2).
    pub answers: u64,
    pub resets_received: u64,
    /// CPU time that the attack cost the attacker.
    pub cpu_ms: f64,
}

impl Summary {
    /// Connections that the server ended.
    #[must_use]
    pub fn ended_by_server(&self) -> usize {
        self.closed.values().sum()
    }
}

/// What is counted while it runs.
#[derive(Debug, Default)]
pub struct Counts {
    pub units: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
    pub answers: AtomicU64,
    pub resets: AtomicU64,
    endings: Mutex<Vec<Ending>>,
}

impl Counts {
    pub fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(u64::try_from(amount).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn ended(&self, ending: Ending) {
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        endings.push(ending);
    }

    pub fn summary(&self, attack: &Attack, took: Duration, cpu: Duration) -> Summary {
        let endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut summary = Summary {
            kind: attack.kind.name,
            variant: attack.variant(),
            seconds: took.as_secs_f64(),
            opened: endings.len(),
            units_sent: self.units.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            answers: self.answers.load(Relaxed),
            resets_received: self.resets.load(Relaxed),
            cpu_ms: cpu.as_secs_f64() * 1000.0,
            ..Summary::default()
        };
        let mut times = Vec::new();
        for ending in endings.iter() {
            if let Some(code) = ending.goaway {
                *summary.goaway.entry(error_code(code)).or_default() += 1;
            }
            match ending.how {
                How::Open => summary.still_open += 1,
                How::Done => summary.done += 1,
                _ => {
                    *summary.closed.entry(ending.how.name()).or_default() += 1;
                    times.push(ending.after);
                }
            }
        }
        times.sort_unstable();
        let at = |place: usize| {
            times
                .get(place)
                .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        summary.closed_after_p50_ms = at(times.len() / 2);
        summary.closed_after_max_ms = at(times.len().saturating_sub(1));
        summary
    }
}

/// The name of an HTTP/2 error code (RFC 9113, section 7).
fn error_code(code: u32) -> String {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    usize::try_from(code)
        .ok()
        .and_then(|code| NAMES.get(code))
        .map_or_else(|| format!("{code:#x}"), ToString::to_string)
}
