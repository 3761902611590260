//! The one place where time is read. `verdict` takes it as an argument.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use verdict::Nanos;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Monotonic time since this process first asked.
#[must_use]
pub fn now() -> Nanos {
    Nanos(u64::try_from(ORIGIN.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// Whole seconds since 1970.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
