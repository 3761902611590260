//! Where a chunked body ends (RFC 9112, section 7.1): followed byte by byte, without decoding it, so
//! that what comes after it is kept for the next request.
//!
//! Stricter than the RFC where parsers are known to disagree: line ends are CRLF everywhere, sizes are
//! plain hexadecimal, and extensions and trailers must keep to their grammar. Extensions go no further
//! than here, nor do trailers: pingora frames the body anew for the upstream.

/// Most digits of a chunk's size: what every parser of 64 bits reads alike.
const DIGITS: u8 = 15;
/// Most bytes of extensions of one chunk, and of all chunks of a body.
const EXTENSION: u32 = 256;
const EXTENSIONS: u32 = 16 * 1024;
/// Most bytes of trailers.
const TRAILERS: u32 = 8 * 1024;

/// Follows one body.
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    /// Bytes of all extensions so far.
    extensions: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a chunk's size, after this many digits.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind a chunk's size, after this many bytes.
    Extension {
        size: u64,
        bytes: u32,
        part: Extension,
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
    /// In the trailers, of which there are this many bytes so far.
    Trailer {
        bytes: u32,
        part: Trailer,
    },
    /// Before the line feed of a trailer, of the last line.
    TrailerLineFeed {
        bytes: u32,
    },
    LastLineFeed,
    Done,
}

/// `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// Blanks, after which a semicolon must come.
    Blank,
    Semicolon,
    Name,
    NameEnd,
    Equals,
    Value,
    Quoted,
    Escaped,
    QuoteEnd,
}

/// `*( token ":" value CRLF ) CRLF`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailer {
    Start,
    Name,
    Value,
}

/// The body breaks the rules: where it ends can't be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Chunked {
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::NEXT,
            extensions: 0,
        }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn done(&self) -> bool {
        self.state == State::Done
    }

    /// How many of the next bytes are the body's: all, unless it ends within them.
    ///
    /// # Errors
    /// When the body is malformed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0_usize;
        while self.state != State::Done {
            if let State::Data { left } = self.state {
                let rest = bytes.len().saturating_sub(at);
                let taken = usize::try_from(left).map_or(rest, |left| left.min(rest));
                at = at.saturating_add(taken);
                let left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                if left > 0 {
                    self.state = State::Data { left };
                    break;
                }
                self.state = State::DataEnd;
            }
            let Some(byte) = bytes.get(at) else { break };
            self.state = self.state.next(*byte)?;
            if let State::Extension { .. } = self.state {
                self.extensions = self.extensions.saturating_add(1);
                if self.extensions > EXTENSIONS {
                    return Err(Malformed);
                }
            }
            at = at.saturating_add(1);
        }
        Ok(at)
    }
}

impl State {
    /// Before a chunk.
    const NEXT: Self = Self::Size { size: 0, digits: 0 };

    /// The state after a byte that is not data.
    fn next(self, byte: u8) -> Result<Self, Malformed> {
        Ok(match (self, byte) {
            (Self::Size { size, digits }, _) => Self::after_size(size, digits, byte)?,
            (Self::Extension { size, part, .. }, b'\r') if part.may_end() => Self::SizeEnd { size },
            (Self::Extension { size, bytes, part }, _) if bytes < EXTENSION => Self::Extension {
                size,
                bytes: bytes.saturating_add(1),
                part: part.next(byte).ok_or(Malformed)?,
            },
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer {
                bytes: 0,
                part: Trailer::Start,
            },
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataEnd, b'\r') => Self::DataLineFeed,
            (Self::DataLineFeed, b'\n') => Self::NEXT,
            (Self::Trailer { part, bytes }, b'\r') => match part {
                Trailer::Start => Self::LastLineFeed,
                Trailer::Name => return Err(Malformed),
                Trailer::Value => Self::TrailerLineFeed { bytes },
            },
            (Self::Trailer { bytes, part }, _) if bytes < TRAILERS => Self::Trailer {
                bytes: bytes.saturating_add(1),
                part: part.next(byte).ok_or(Malformed)?,
            },
            (Self::TrailerLineFeed { bytes }, b'\n') => Self::Trailer {
                bytes,
                part: Trailer::Start,
            },
            (Self::LastLineFeed, b'\n') => Self::Done,
            _ => return Err(Malformed),
        })
    }

    fn after_size(size: u64, digits: u8, byte: u8) -> Result<Self, Malformed> {
        let extension = |part| Self::Extension {
            size,
            bytes: 0,
            part,
        };
        Ok(match byte {
            b'\r' if digits > 0 => Self::SizeEnd { size },
            b';' if digits > 0 => extension(Extension::Semicolon),
            b' ' | b'\t' if digits > 0 => extension(Extension::Blank),
            digit if digits < DIGITS => Self::Size {
                size: (size << 4) | u64::from(char::from(digit).to_digit(16).ok_or(Malformed)?),
                digits: digits.saturating_add(1),
            },
            _ => return Err(Malformed),
        })
    }
}

impl Extension {
    fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Value | Self::QuoteEnd)
    }

    fn next(self, byte: u8) -> Option<Self> {
        let blank = matches!(byte, b' ' | b'\t');
        Some(match self {
            Self::Quoted => match byte {
                b'"' => Self::QuoteEnd,
                b'\\' => Self::Escaped,
                _ if is_text(byte) => Self::Quoted,
                _ => return None,
            },
            Self::Escaped if is_text(byte) => Self::Quoted,
            Self::Semicolon | Self::Equals if blank => self,
            Self::Semicolon if is_token(byte) => Self::Name,
            Self::Equals if byte == b'"' => Self::Quoted,
            Self::Equals if is_token(byte) => Self::Value,
            Self::Name | Self::Value if is_token(byte) => self,
            Self::Name | Self::NameEnd if byte == b'=' => Self::Equals,
            Self::Name | Self::NameEnd if blank => Self::NameEnd,
            Self::Value | Self::QuoteEnd | Self::Blank if blank => Self::Blank,
            Self::Name | Self::NameEnd | Self::Value | Self::QuoteEnd | Self::Blank
                if byte == b';' =>
            {
                Self::Semicolon
            }
            _ => return None,
        })
    }
}

impl Trailer {
    fn next(self, byte: u8) -> Option<Self> {
        match self {
            Self::Start | Self::Name if is_token(byte) => Some(Self::Name),
            Self::Name if byte == b':' => Some(Self::Value),
            Self::Value if is_text(byte) => Some(Self::Value),
            Self::Start | Self::Name | Self::Value => None,
        }
    }
}

/// `tchar` (RFC 9110, section 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Anything but control characters.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests;
