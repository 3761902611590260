//! What Linux tells of this process, under the names that Prometheus' clients agreed on.

use prometheus::{Counter, IntGauge, Registry};
use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

/// `/proc` counts processor time in hundredths of a second on every Linux architecture
/// (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    open_files: IntGauge,
    max_files: IntGauge,
}

impl Process {
    pub(super) fn new(registry: &Registry) -> Self {
        let started = super::gauge(
            registry,
            "process_start_time_seconds",
            "When the process started, in seconds since 1970.",
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        started.set(now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0)));
        let max_files = super::gauge(
            registry,
            "process_max_fds",
            "File descriptors that the process may have open.",
        );
        Self {
            cpu: super::register(
                registry,
                Counter::new(
                    "process_cpu_seconds_total",
                    "Processor time used so far, in user and system mode.",
                ),
            ),
            resident: super::gauge(
                registry,
                "process_resident_memory_bytes",
                "Memory that is resident.",
            ),
            open_files: super::gauge(
                registry,
                "process_open_fds",
                "File descriptors that are open.",
            ),
            max_files,
        }
    }

    /// Reads `/proc` anew, by one thread at a time. What can't be read keeps its last value.
    pub(super) fn read(&self) {
        if let Some(seconds) = cpu_seconds() {
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes);
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // One of them is this very listing.
            let open = entries.count().saturating_sub(1);
            self.open_files.set(i64::try_from(open).unwrap_or(i64::MAX));
        }
        if let Some(files) = max_files() {
            self.max_files.set(files);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "ticks stay far below 2^52")]
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name may hold blanks and brackets, so fields are counted from its closing one.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system) as f64 / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn max_files() -> Option<i64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
