//! Points in time as text: RFC 3339 in UTC, with milliseconds.

use serde::{Serialize, Serializer};
use std::time::SystemTime;
use time::OffsetDateTime;

/// Shows as `2026-10-03T04:00:00.042Z`. Allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp(pub SystemTime);

impl Timestamp {
    /// The text in ASCII.
    #[must_use]
    pub fn digits(self) -> [u8; 24] {
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let at = OffsetDateTime::from(self.0);
        let fields = [
            (0, 4, u32::try_from(at.year()).unwrap_or(0)),
            (5, 2, u8::from(at.month()).into()),
            (8, 2, at.day().into()),
            (11, 2, at.hour().into()),
            (14, 2, at.minute().into()),
            (17, 2, at.second().into()),
            (20, 3, at.millisecond().into()),
        ];
        for (start, digits, mut value) in fields {
            for digit in text.iter_mut().skip(start).take(digits).rev() {
                *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
                value /= 10;
            }
        }
        text
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}
