//! A client's connection: decrypted bytes, a write buffer, and the deadlines of a request in service.
//! How it is read is in [`read`], how it is written in [`write`]. Waiting between requests is left to
//! [`super::http1`], what pingora asks of a stream to [`lent`].

mod answer;
mod frames;
mod lent;
mod read;
mod write;

use answer::Answer;
pub use lent::{Home, Lent};

use super::{
    chunked::Chunked,
    deadline::{Alarm, Pace},
    head::Framing,
    http2::Watch,
};
use crate::connection::Connection;
use bytes::BytesMut;
use pingora_core::protocols::{raw_connect::ProxyDigest, tls::SslDigest};
use std::{
    fmt, io,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::server::TlsStream;

/// Bytes that are gathered before they are written unasked: one TLS record.
const GATHERED: usize = 16 * 1024;

/// Bytes that may lie encrypted: they count as taken, so that a client has to be able to take them
/// within its grace at the least rate; and few enough writes to the system are made of them.
const ENCRYPTED: usize = 32 * 1024;

/// Room for the head of an answer and a short body, taken at once rather than grown to.
const ROOM: usize = 1024;

/// The transport below a [`ClientStream`].
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// The socket itself.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// The socket, without a word to the peer.
    #[must_use]
    pub fn into_tcp(self) -> TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.into_inner().0,
        }
    }
}

/// What a read means at this point of the connection.
#[derive(Debug)]
enum Expected {
    /// Nothing: the request is complete. What comes is the next one's.
    Nothing,
    /// Frames decide, not this stream (HTTP/2).
    Frames(Arc<Watch>),
    /// This many bytes of a body are still due.
    Length(u64, Pace),
    /// A chunked body, up to its end.
    Chunked(Chunked, Pace),
    /// An upgraded stream: either side must say something within the limit.
    Upgraded { limit: Duration, last: Instant },
}

/// How a request's body is framed (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    Length(u64),
    Chunked,
}

/// The limits that hold while a request is in service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes a second of a request body.
    pub body_minimum_rate: u64,
    /// How long a body may fall behind that rate at first.
    pub body_grace: Duration,
    /// Bytes a second that a client must take of an answer.
    pub response_minimum_rate: u64,
    /// How long it may fall behind that rate at first.
    pub response_grace: Duration,
    /// How long an upgraded stream may be silent.
    pub stream_idle: Duration,
}

impl Limits {
    fn drain(&self) -> Pace {
        Pace::new(self.response_minimum_rate, self.response_grace)
    }
}

/// One client's connection after the handshake.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own, not a state machine
pub struct ClientStream {
    transport: Transport,
    /// Bytes that were read and not consumed yet: the beginning of a request or of its body, or of
    /// what a client sent after it.
    ahead: BytesMut,
    gathered: BytesMut,
    /// What was gathered last, to begin with as much room.
    room: usize,
    expected: Expected,
    limits: Limits,
    alarm: Alarm,
    /// Whether the client takes what is written.
    drain: Pace,
    /// No final response has begun since the request.
    unanswered: bool,
    /// The request was HEAD.
    bodiless_answer: bool,
    /// The request asked for server-sent events.
    events: bool,
    /// The client may wait with its body to be told to go on.
    expects: bool,
    /// What of the answer's body is still due.
    answer: Answer,
    /// Bytes of its head that were not written yet.
    head_left: usize,
    /// Something moved since [`Expected::Upgraded`] last looked at the clock.
    moved: bool,
    /// The peer has closed its side.
    pub ended: bool,
    /// A deadline passed.
    pub timed_out: bool,
    /// What the client did wrong in the midst of a request, as it is counted.
    pub fault: Option<&'static str>,
    shut: bool,
    connection: Arc<Connection>,
    proxy_digest: Arc<ProxyDigest>,
    ssl_digest: Option<Arc<SslDigest>>,
}

impl ClientStream {
    #[must_use]
    pub fn new(
        mut transport: Transport,
        connection: Arc<Connection>,
        ssl_digest: Option<Arc<SslDigest>>,
        limits: Limits,
    ) -> Self {
        if let Transport::Tls(tls) = &mut transport {
            tls.get_mut().1.set_buffer_limit(Some(ENCRYPTED));
        }
        // Pingora's place for a CONNECT proxy's answer: empty, the user data is what counts.
        let answer = http::Response::new(()).into_parts().0;
        let proxy_digest = ProxyDigest::new(
            Box::new(answer.into()),
            Some(Box::new(Arc::clone(&connection))),
        );
        Self {
            transport,
            ahead: BytesMut::new(),
            gathered: BytesMut::new(),
            room: ROOM,
            expected: Expected::Nothing,
            limits,
            alarm: Alarm::default(),
            drain: limits.drain(),
            unanswered: false,
            bodiless_answer: false,
            events: false,
            expects: false,
            answer: Answer::Complete,
            head_left: 0,
            moved: false,
            ended: false,
            timed_out: false,
            fault: None,
            shut: false,
            connection,
            proxy_digest: Arc::new(proxy_digest),
            ssl_digest,
        }
    }

    /// What is known of the connection.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// What was read and not consumed yet.
    #[must_use]
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Takes the first `length` bytes of what was read ahead.
    #[must_use]
    pub fn take_ahead(&mut self, length: usize) -> BytesMut {
        if length >= self.ahead.len() {
            // Whole, it stays a plain vector, which costs no shared storage.
            return std::mem::take(&mut self.ahead);
        }
        self.ahead.split_to(length)
    }

    /// A request begins, whose head was taken from what was read ahead.
    pub fn begin(&mut self, framing: &Framing, limits: Limits) {
        self.limits = limits;
        self.unanswered = true;
        self.bodiless_answer = framing.bodiless_answer;
        self.events = framing.events;
        self.expects = framing.expects;
        self.answer = Answer::Complete;
        self.head_left = 0;
        self.drain = limits.drain();
        let progress = &self.connection.progress;
        progress.answered.store(false, Relaxed);
        progress.stream.store(false, Relaxed);
        progress.patience.store(0, Relaxed);
        let pace = Pace::new(limits.body_minimum_rate, limits.body_grace);
        self.expected = match framing.body {
            Body::None | Body::Length(0) => Expected::Nothing,
            Body::Length(length) => Expected::Length(length, pace),
            Body::Chunked => Expected::Chunked(Chunked::new(), pace),
        };
    }

    /// Nothing is in service any more: buffers are given back while the connection is idle.
    pub fn rest(&mut self) {
        self.expected = Expected::Nothing;
        self.unanswered = false;
        self.answer = Answer::Complete;
        if self.gathered.is_empty() {
            self.gathered = BytesMut::new();
        }
    }

    /// Ready when `deadline` has passed.
    pub fn poll_deadline(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.alarm.poll(deadline, cx)
    }

    /// The connection's timer, for the deadline of a request in service.
    #[must_use]
    pub fn take_alarm(&mut self) -> Alarm {
        std::mem::take(&mut self.alarm)
    }

    /// Takes the timer back.
    pub fn set_alarm(&mut self, alarm: Alarm) {
        self.alarm = alarm;
    }

    /// The socket, for a reset or a lingering close.
    #[must_use]
    pub fn into_tcp(self) -> TcpStream {
        self.transport.into_tcp()
    }

    /// A deadline passed: why the stream ends.
    fn run_late(&mut self, fault: &'static str) -> io::Error {
        self.timed_out = true;
        self.fault = Some(fault);
        io::ErrorKind::TimedOut.into()
    }

    /// Bytes were moved for the request in service.
    fn note_moved(&mut self, bytes: usize) {
        // One thread alone writes it.
        let moved = &self.connection.progress.bytes;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        moved.store(moved.load(Relaxed).wrapping_add(bytes), Relaxed);
    }

    /// The request asked for server-sent events.
    #[must_use]
    pub fn wants_events(&self) -> bool {
        self.events
    }

    /// No final answer to the request in service has begun.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// An answer was begun and never came to its end. One that ends with the connection does so only
    /// by a shutdown.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        !self.shut && (self.head_left > 0 || !self.answer.is_complete())
    }
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream")
            .field("peer", &self.connection.peer)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
