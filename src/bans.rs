//! The ban table: the truth of who is banned. The kernel behind it comes with a later issue.

use std::time::Duration;
use verdict::{Nanos, prefix::Prefix};

/// Who is banned, until when and why. Bounded; shared by all workers.
#[derive(Debug, Default)]
pub struct Bans {}

impl Bans {
    /// When the ban of this client ends; `None`: it is not banned. Asked for every new connection
    /// and request.
    #[must_use]
    pub fn until(&self, _client: Prefix, _now: Nanos) -> Option<Nanos> {
        None
    }

    /// Bans a client. Repeated bans grow: returns how long this one lasts.
    pub fn ban(&self, _client: Prefix, base: Duration, _source: &str, _now: Nanos) -> Duration {
        base
    }
}
