//! The same moment by both clocks, to show one by the other.

use crate::{clock, record::timestamp::Timestamp};
use std::time::{Duration, SystemTime};
use verdict::Nanos;

#[derive(Clone, Copy)]
pub(super) struct Now {
    pub monotonic: Nanos,
    wall: SystemTime,
}

impl Now {
    pub fn read() -> Self {
        Self {
            monotonic: clock::now(),
            wall: SystemTime::now(),
        }
    }

    pub fn wall(self, at: Nanos) -> Timestamp {
        let (ago, ahead) = (self.monotonic.since(at), at.since(self.monotonic));
        let wall = self.wall.checked_sub(ago).unwrap_or(self.wall);
        Timestamp(wall.checked_add(ahead).unwrap_or(wall))
    }

    /// So long ago, which may be before this process began to count.
    pub fn ago(self, age: Duration) -> Timestamp {
        Timestamp(self.wall.checked_sub(age).unwrap_or(self.wall))
    }
}
