//! Texts as they are compared: borrowed bytes, with ASCII letters lowered while they are looked at.
//!
//! This is what makes `lowerAscii()` free of allocation: nothing is ever lowered in memory.

use memchr::memmem;
use std::cmp::Ordering;

/// Bytes that stand for a text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct View<'a> {
    pub bytes: &'a [u8],
    /// ASCII letters count as lower case.
    lower: bool,
}

impl<'a> View<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            lower: false,
        }
    }

    pub fn lowered(self) -> Self {
        Self {
            lower: true,
            ..self
        }
    }

    pub fn equals(self, other: Self) -> bool {
        if self.lower || other.lower {
            self.bytes.len() == other.bytes.len() && self.each().eq(other.each())
        } else {
            self.bytes == other.bytes
        }
    }

    /// By bytes, which for UTF-8 is by code points.
    pub fn order(self, other: Self) -> Ordering {
        if self.lower || other.lower {
            self.each().cmp(other.each())
        } else {
            self.bytes.cmp(other.bytes)
        }
    }

    pub fn starts_with(self, start: Self) -> bool {
        let head = self.bytes.get(..start.bytes.len());
        head.is_some_and(|bytes| Self { bytes, ..self }.equals(start))
    }

    pub fn ends_with(self, end: Self) -> bool {
        let from = self.bytes.len().checked_sub(end.bytes.len());
        let tail = from.and_then(|from| self.bytes.get(from..));
        tail.is_some_and(|bytes| Self { bytes, ..self }.equals(end))
    }

    /// Whether the literal that `finder` looks for stands somewhere in this text.
    pub fn contains(self, finder: &'a memmem::Finder<'_>) -> bool {
        let needle = Self::of(finder.needle());
        if self.lower {
            // The needle is the operator's and shorter than the longest condition, so a client
            // can't make this quadratic.
            needle.bytes.is_empty()
                || self
                    .bytes
                    .windows(needle.bytes.len())
                    .any(|bytes| Self { bytes, ..self }.equals(needle))
        } else {
            finder.find(self.bytes).is_some()
        }
    }

    /// How many bytes start a code point.
    pub fn code_points(self) -> usize {
        self.bytes
            .iter()
            .filter(|byte| *byte & 0xc0 != 0x80)
            .count()
    }

    fn each(self) -> impl Iterator<Item = u8> + 'a {
        let lower = self.lower;
        self.bytes.iter().map(move |byte| {
            if lower {
                byte.to_ascii_lowercase()
            } else {
                *byte
            }
        })
    }
}
