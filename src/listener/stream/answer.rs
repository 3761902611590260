//! How far an answer to an HTTP/1 request has come, from the bytes that pingora writes: only so that
//! one that was cut off is not closed as if it were whole. The framing is pingora's own, not a
//! stranger's: this reads it, and judges nothing.

use memchr::memchr_iter;

/// What of an answer's body is still due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing is: it is whole, or none has begun.
    Complete,
    /// This many bytes.
    Length(u64),
    /// Chunks, up to the last.
    Chunked,
    /// Everything up to the end of the connection.
    UntilClose,
}

impl Answer {
    /// What is due after a final response's head.
    pub fn of(head: &[u8]) -> Self {
        const LENGTH: &[u8] = b"content-length:";
        const CODING: &[u8] = b"transfer-encoding:";
        let status = head.get(b"HTTP/1.1 ".len()..).unwrap_or_default();
        if status.starts_with(b"204") || status.starts_with(b"304") {
            return Self::Complete;
        }
        let mut start = 0;
        for newline in memchr_iter(b'\n', head) {
            let line = head.get(start..newline).unwrap_or_default();
            start = newline.saturating_add(1);
            let value = |name: &[u8]| {
                let (given, value) = line.split_at_checked(name.len())?;
                given.eq_ignore_ascii_case(name).then_some(value)
            };
            match line.first() {
                Some(b'c' | b'C') => {
                    if let Some(length) = value(LENGTH).and_then(decimal) {
                        return Self::Length(length).settled();
                    }
                }
                Some(b't' | b'T') if value(CODING).is_some() => return Self::Chunked,
                _ => {}
            }
        }
        Self::UntilClose
    }

    /// Bytes of the body were written.
    pub fn sent(&mut self, bytes: &[u8]) {
        match self {
            Self::Length(left) => {
                let sent = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                *self = Self::Length(left.saturating_sub(sent)).settled();
            }
            // Pingora writes the last chunk in one piece.
            Self::Chunked if bytes.ends_with(b"0\r\n\r\n") => *self = Self::Complete,
            Self::Complete | Self::Chunked | Self::UntilClose => {}
        }
    }

    pub fn is_complete(self) -> bool {
        self == Self::Complete
    }

    fn settled(self) -> Self {
        match self {
            Self::Length(0) => Self::Complete,
            other => other,
        }
    }
}

/// Whether an answer with this head is a stream of events.
pub fn is_event_stream(head: &[u8]) -> bool {
    const NAME: &[u8] = b"content-type:";
    const KIND: &[u8] = b"text/event-stream";
    let begins = |text: &[u8], with: &[u8]| {
        text.get(..with.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    head.split(|byte| *byte == b'\n')
        .filter(|line| begins(line, NAME))
        .filter_map(|line| line.get(NAME.len()..))
        .any(|value| begins(value.trim_ascii_start(), KIND))
}

fn decimal(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_streams_say_so() {
        for (head, expected) in [
            (
                "200 OK\r\nContent-Type: text/event-stream; charset=utf-8",
                true,
            ),
            ("200 OK\r\na: b\r\ncontent-type:text/event-stream", true),
            ("200 OK\r\ncontent-type: text/html", false),
            ("200 OK\r\nx-content-type: text/event-stream", false),
        ] {
            let head = format!("HTTP/1.1 {head}\r\n\r\n");
            assert_eq!(is_event_stream(head.as_bytes()), expected, "{head}");
        }
    }

    #[test]
    fn an_answer_is_complete_when_all_of_it_is_sent() {
        let cases: [(&str, &[&[u8]], bool); 9] = [
            ("200 OK\r\nContent-Length: 0", &[], true),
            ("200 OK\r\ncontent-length: 5", &[], false),
            (
                "200 OK\r\na: b\r\ncontent-length: 5",
                &[b"he", b"llo"],
                true,
            ),
            ("200 OK\r\ncontent-length: 5", &[b"hell"], false),
            ("204 No Content", &[], true),
            ("304 Not Modified\r\ncontent-length: 5", &[], true),
            (
                "200 OK\r\nTransfer-Encoding: chunked",
                &[b"1\r\n", b"x", b"\r\n", b"0\r\n\r\n"],
                true,
            ),
            (
                "200 OK\r\ntransfer-encoding: chunked",
                &[b"1\r\n", b"0", b"\r\n"],
                false,
            ),
            ("200 OK\r\nconnection: close", &[b"x"], false),
        ];
        for (head, body, complete) in cases {
            let mut answer = Answer::of(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes());
            for bytes in body {
                answer.sent(bytes);
            }
            assert_eq!(answer.is_complete(), complete, "{head} {body:?}");
        }
    }
}
