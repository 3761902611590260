//! HTTP/2 frames, right and wrong: the encoders take whatever they are given (RFC 9113, section 4).

/// What every client sends first (section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header.
pub const HEAD: usize = 9;
/// Bytes of a frame's payload, at most, unless the other side allows more.
pub const PAYLOAD: usize = 16_384;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame of any type, with any payload.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut frame = Vec::with_capacity(HEAD.saturating_add(payload.len()));
    frame.extend_from_slice(&length);
    frame.push(kind);
    frame.push(flags);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A request with a complete header block.
pub fn headers(stream: u32, block: &[u8], end_stream: bool) -> Vec<u8> {
    let end = if end_stream { END_STREAM } else { 0 };
    frame(HEADERS, END_HEADERS | end, stream, block)
}

/// A header block of any length, in as many frames as it takes.
pub fn long_headers(stream: u32, block: &[u8], end_stream: bool) -> Vec<u8> {
    let mut parts = block.chunks(PAYLOAD).peekable();
    let mut out = Vec::new();
    let mut kind = HEADERS;
    let mut flags = if end_stream { END_STREAM } else { 0 };
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= END_HEADERS;
        }
        out.extend_from_slice(&frame(kind, flags, stream, part));
        kind = CONTINUATION;
        flags = 0;
    }
    out
}

pub fn data(stream: u32, bytes: &[u8], end_stream: bool) -> Vec<u8> {
    frame(DATA, u8::from(end_stream), stream, bytes)
}

pub fn rst_stream(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// Depends on `parent` with weight 16.
pub fn priority(stream: u32, parent: u32) -> Vec<u8> {
    let [a, b, c, d] = parent.to_be_bytes();
    frame(PRIORITY, 0, stream, &[a, b, c, d, 15])
}

pub fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = entries
        .iter()
        .flat_map(|(name, value)| {
            let value = value.to_be_bytes();
            name.to_be_bytes().into_iter().chain(value)
        })
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn ping(bytes: u64) -> Vec<u8> {
    frame(PING, 0, 0, &bytes.to_be_bytes())
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// The head of a frame as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    pub fn parse([a, b, c, kind, flags, s1, s2, s3, s4]: [u8; HEAD]) -> Self {
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes([s1, s2, s3, s4]) & 0x7fff_ffff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_the_rfc_draws_them() {
        assert_eq!(settings(&[]), [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(
            settings(&[(INITIAL_WINDOW_SIZE, 0)]),
            [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]
        );
        assert_eq!(ping(1), [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(rst_stream(3, 8), [0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 8]);
        assert_eq!(
            window_update(1, 0x7fff_ffff),
            [0, 0, 4, 8, 0, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff]
        );
        assert_eq!(priority(5, 5), [0, 0, 5, 2, 0, 0, 0, 0, 5, 0, 0, 0, 5, 15]);
        assert_eq!(data(1, b"", true), [0, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(headers(1, &[0x82], true), [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x82]);
    }

    #[test]
    fn a_long_block_goes_on_in_continuations() {
        let bytes = long_headers(7, &vec![0; PAYLOAD * 2 + 5], true);
        let mut at = 0;
        let mut seen = Vec::new();
        while at < bytes.len() {
            let head = Head::parse(bytes[at..at + HEAD].try_into().unwrap());
            seen.push((head.kind, head.flags, head.length, head.stream));
            at += HEAD + head.length;
        }
        assert_eq!(
            seen,
            [
                (HEADERS, END_STREAM, PAYLOAD, 7),
                (CONTINUATION, 0, PAYLOAD, 7),
                (CONTINUATION, END_HEADERS, 5, 7)
            ]
        );
    }
}
