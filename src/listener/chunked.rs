//! Where a chunked body ends (RFC 9112, section 7.1): followed byte by byte, without decoding it, so
//! that what comes after it is kept for the next request. Stricter than the RFC where parsers are
//! known to disagree: line ends are CRLF, sizes are plain hexadecimal.

/// Most bytes of extensions of one chunk.
const EXTENSION: u32 = 256;
/// Most bytes of trailers.
const TRAILERS: u32 = 8 * 1024;

/// Follows one body.
#[derive(Debug)]
pub struct Chunked(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a chunk's size, after this many digits.
    Size {
        size: u64,
        digits: u8,
    },
    /// In a chunk's extensions, after this many bytes.
    Extension {
        size: u64,
        bytes: u32,
    },
    /// Before the line feed after a chunk's size.
    SizeEnd {
        size: u64,
    },
    /// In a chunk, with this many bytes left.
    Data {
        left: u64,
    },
    /// Before the CR, the LF after a chunk's data.
    DataEnd,
    DataLineFeed,
    /// In the trailers; whether the line has something in it.
    Trailer {
        bytes: u32,
        empty: bool,
    },
    TrailerLineFeed {
        bytes: u32,
        empty: bool,
    },
    Done,
}

/// The body breaks the rules: where it ends can't be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Chunked {
    #[must_use]
    pub fn new() -> Self {
        Self(State::Size { size: 0, digits: 0 })
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn done(&self) -> bool {
        self.0 == State::Done
    }

    /// How many of the next bytes are the body's: all, unless it ends within them.
    ///
    /// # Errors
    /// When the body is malformed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0_usize;
        while self.0 != State::Done {
            if let State::Data { left } = self.0 {
                let rest = bytes.len().saturating_sub(at);
                let taken = usize::try_from(left).map_or(rest, |left| left.min(rest));
                at = at.saturating_add(taken);
                let left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                if left > 0 {
                    self.0 = State::Data { left };
                    break;
                }
                self.0 = State::DataEnd;
            }
            let Some(byte) = bytes.get(at) else { break };
            self.0 = self.0.next(*byte)?;
            at = at.saturating_add(1);
        }
        Ok(at)
    }
}

impl State {
    /// The state after a byte that is not data.
    fn next(self, byte: u8) -> Result<Self, Malformed> {
        Ok(match (self, byte) {
            (Self::Size { size, digits: 1.. } | Self::Extension { size, .. }, b'\r') => {
                Self::SizeEnd { size }
            }
            (Self::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => {
                Self::Extension { size, bytes: 0 }
            }
            (Self::Size { size, digits: ..16 }, digit) => {
                let value = char::from(digit).to_digit(16).ok_or(Malformed)?;
                let Self::Size { digits, .. } = self else {
                    return Err(Malformed);
                };
                Self::Size {
                    size: (size << 4) | u64::from(value),
                    digits: digits.saturating_add(1),
                }
            }
            (Self::Extension { size, bytes }, other) if other != b'\n' && bytes < EXTENSION => {
                Self::Extension {
                    size,
                    bytes: bytes.saturating_add(1),
                }
            }
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer {
                bytes: 0,
                empty: true,
            },
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataEnd, b'\r') => Self::DataLineFeed,
            (Self::DataLineFeed, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::Trailer { bytes, empty }, b'\r') => Self::TrailerLineFeed { bytes, empty },
            (Self::Trailer { bytes, .. }, other) if other != b'\n' && bytes < TRAILERS => {
                Self::Trailer {
                    bytes: bytes.saturating_add(1),
                    empty: false,
                }
            }
            (Self::TrailerLineFeed { empty: true, .. }, b'\n') => Self::Done,
            (Self::TrailerLineFeed { bytes, .. }, b'\n') => Self::Trailer { bytes, empty: true },
            _ => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_end_is_found_however_the_body_is_cut() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "00A;name=value\r\n0123456789\r\n0\r\nx-sum: 5\r\ny: z\r\n\r\n",
            "1 \r\n\r\r\n0\r\n\r\n",
        ] {
            let stream = format!("{body}GET / HTTP/1.1\r\n");
            for cut in 0..=stream.len() {
                let mut chunked = Chunked::new();
                let (first, second) = stream.as_bytes().split_at(cut);
                let taken = chunked.advance(first).unwrap();
                let taken = taken + chunked.advance(second).unwrap();
                assert!(chunked.done());
                assert_eq!(taken, body.len(), "{body:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_parsers_disagree_about_is_malformed() {
        let extension = format!("1;{}\r\n", "x".repeat(300));
        let trailers = format!("0\r\n{}", "x: y\r\n".repeat(3000));
        for body in [
            "\r\n",
            ";x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            "g\r\n",
            "5\nhello",
            "5\r\nhello!",
            "5\r\nhello\n",
            "0\r\n\n",
            "0\n\n",
            "1\rx",
            "5;a\nb\r\n",
            "11111111111111111\r\n",
            &extension,
            &trailers,
        ] {
            let mut chunked = Chunked::new();
            assert_eq!(
                chunked.advance(body.as_bytes()),
                Err(Malformed),
                "{:?}",
                body.get(..40)
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(taken) = Chunked::new().advance(&bytes) {
                prop_assert!(taken <= bytes.len());
            }
        }

        #[test]
        fn chunks_of_any_size_end_where_they_should(
            chunks in proptest::collection::vec(1_usize..3000, 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut body = Vec::new();
            for size in chunks {
                body.extend(format!("{size:x}\r\n").into_bytes());
                body.extend(vec![b'\n'; size]);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            let length = body.len();
            body.extend(b"next");
            let (first, second) = body.split_at(cut.index(body.len()));
            let mut chunked = Chunked::new();
            let taken = chunked.advance(first).unwrap() + chunked.advance(second).unwrap();
            prop_assert_eq!(taken, length);
            prop_assert!(chunked.done());
        }
    }
}
