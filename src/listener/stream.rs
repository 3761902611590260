//! A client's connection: decrypted bytes, a write buffer, and the deadlines of a request in service.
//! Waiting between requests is left to [`super::http1`], what pingora asks of a stream to [`lent`].

mod answer;
mod frames;
mod lent;

use answer::Answer;
pub use lent::{Home, Lent};

use super::{
    chunked::Chunked,
    deadline::{Alarm, Pace},
    head::Framing,
    http2::Watch,
};
use crate::connection::Connection;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::{raw_connect::ProxyDigest, tls::SslDigest};
use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
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

    /// Reads some more ahead: how many bytes came, 0 at the end.
    ///
    /// The buffer is on the stack, so that a connection that waits holds none.
    pub fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 4096];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        let result = ready!(self.poll_transport_read(cx, &mut buffer));
        let bytes = buffer.filled();
        self.ended |= bytes.is_empty();
        if result.is_err() {
            // A reset: nobody waits for what was asked before it.
            self.ahead.clear();
        }
        result?;
        self.ahead.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
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

    fn poll_transport_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buffer),
        }
    }

    fn poll_transport_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, data),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, data),
        };
        self.watch_write(result, cx)
    }

    /// Watches that what waits to be written is taken, at the rate that is due: how many bytes were.
    fn watch_write(
        &mut self,
        result: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = result {
            if let Ok(bytes) = result {
                self.drain.moved(bytes, Instant::now);
                self.note_moved(bytes);
            }
            return Poll::Ready(result);
        }
        if let Expected::Length(_, pace) | Expected::Chunked(_, pace) = &mut self.expected {
            // Nobody reads meanwhile.
            pace.rests(Instant::now);
        }
        let deadline = self.drain.waits(Instant::now);
        ready!(self.alarm.poll(deadline, cx));
        Poll::Ready(Err(self.run_late("slow_reader")))
    }

    /// As [`Self::watch_write`], for what takes nothing new.
    fn watch_flush(
        &mut self,
        result: Poll<io::Result<()>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let result = result.map(|result| result.map(|()| 0));
        self.watch_write(result, cx).map(|result| result.map(drop))
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

    /// Nothing can be read: whether that has lasted too long.
    fn watch_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (deadline, fault) = match &mut self.expected {
            Expected::Nothing => return Poll::Pending,
            Expected::Frames(watch) => {
                watch.starves();
                return Poll::Pending;
            }
            // It is the upstream that is waited for.
            Expected::Length(..) | Expected::Chunked(..) if self.expects => return Poll::Pending,
            Expected::Length(_, pace) | Expected::Chunked(_, pace) => {
                (pace.waits(Instant::now), "slow_body")
            }
            Expected::Upgraded { limit, last } => {
                if std::mem::take(&mut self.moved) {
                    *last = Instant::now();
                }
                (*last + *limit, "timeout")
            }
        };
        ready!(self.alarm.poll(deadline, cx));
        Poll::Ready(Err(self.run_late(fault)))
    }

    /// How many of `bytes` belong to the request in service: all, unless it ends within them.
    fn admit(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.expects = false;
        let taken = match &mut self.expected {
            Expected::Nothing => 0,
            Expected::Frames(watch) => {
                watch.received(bytes);
                bytes.len()
            }
            Expected::Length(left, pace) => {
                let taken =
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                if *left == 0 {
                    self.expected = Expected::Nothing;
                } else {
                    pace.moved(taken, Instant::now);
                }
                taken
            }
            Expected::Chunked(chunked, pace) => {
                let Ok(taken) = chunked.advance(bytes) else {
                    self.fault = Some("malformed");
                    return Err(io::ErrorKind::InvalidData.into());
                };
                if chunked.done() {
                    self.expected = Expected::Nothing;
                } else {
                    pace.moved(taken, Instant::now);
                }
                taken
            }
            Expected::Upgraded { .. } => {
                self.moved = true;
                bytes.len()
            }
        };
        self.note_moved(taken);
        Ok(taken)
    }

    /// The request is complete, and pingora watches whether the client leaves. What the client sends
    /// meanwhile is the next request: it is kept.
    fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ended && self.ahead.len() < GATHERED {
            ready!(self.poll_ahead(cx))?;
        }
        // Whoever has said more before closing its side wants more than this answer.
        if self.ended && (self.ahead.is_empty() || self.events) {
            Poll::Ready(Ok(()))
        } else {
            // Enough is kept. The answer that is on its way wakes the task.
            Poll::Pending
        }
    }

    /// Looks at what a response begins with, once some of it was written: 101 turns the connection into
    /// a stream.
    fn note_write(&mut self, data: &[u8], written: usize) {
        if self.unanswered && self.head_left == 0 {
            // Pingora writes a head in one piece; the system may take it in several.
            self.head_left = data.len();
            if data.starts_with(b"HTTP/1.1 100") || !data.starts_with(b"HTTP/1.1 1") {
                self.expects = false;
            }
            if data.starts_with(b"HTTP/1.1 101") {
                self.expected = Expected::Upgraded {
                    limit: self.limits.stream_idle,
                    last: Instant::now(),
                };
                self.begin_answer(true);
            } else if !data.starts_with(b"HTTP/1.1 1") {
                self.begin_answer(self.events && answer::is_event_stream(data));
                if !self.bodiless_answer {
                    self.answer = Answer::of(data);
                }
            }
        }
        let head = self.head_left.min(written);
        self.head_left = self.head_left.saturating_sub(head);
        self.answer
            .sent(data.get(head..written).unwrap_or_default());
        self.moved = true;
    }

    fn begin_answer(&mut self, stream: bool) {
        self.unanswered = false;
        let progress = &self.connection.progress;
        progress.answered.store(true, Relaxed);
        progress.stream.store(stream, Relaxed);
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

    /// Makes room for what is to be gathered. The buffer stays while a request is in service, and
    /// [`Self::rest`] gives it back; frames have no such end, and it goes when they were sent.
    fn make_room(&mut self, length: usize) {
        if self.gathered.capacity() == 0 {
            self.gathered.reserve(length.max(self.room));
        }
    }

    /// Hands everything gathered to the transport.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            let result = self.poll_transport_write(cx, &gathered);
            self.gathered = gathered;
            match ready!(result)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                // Emptied whole, it begins at its beginning again.
                written if written >= self.gathered.len() => {
                    self.gathered.clear();
                    if matches!(self.expected, Expected::Frames(_)) {
                        self.room = written.clamp(ROOM, GATHERED);
                        self.gathered = BytesMut::new();
                    }
                }
                written => self.gathered.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.expected, Expected::Nothing) {
            return this.poll_leaving(cx);
        }
        if this.is_over() {
            return Poll::Pending;
        }
        if !this.ahead.is_empty() {
            let room = this.ahead.len().min(buffer.remaining());
            let mut bytes = this.take_ahead(room);
            let taken = this.admit(&bytes)?;
            buffer.put_slice(bytes.get(..taken).unwrap_or_default());
            if taken < bytes.len() {
                // The rest is the next request's: it goes back in front.
                let mut rest = bytes.split_off(taken);
                rest.unsplit(std::mem::take(&mut this.ahead));
                this.ahead = rest;
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match this.poll_transport_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled().get(before..).unwrap_or_default();
                this.ended |= bytes.is_empty();
                let taken = this.admit(bytes)?;
                if let Some(rest @ [_, ..]) = bytes.get(taken..) {
                    // The rest is the next request's.
                    this.ahead.extend_from_slice(rest);
                    buffer.set_filled(before.saturating_add(taken));
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                this.ended = true;
                Poll::Ready(Err(error))
            }
            Poll::Pending => this.watch_read(cx),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathered.len().saturating_add(data.len()) > GATHERED {
            ready!(this.poll_drain(cx))?;
        }
        let written = if data.len() >= GATHERED {
            ready!(this.poll_transport_write(cx, data))?
        } else {
            this.make_room(data.len());
            this.gathered.extend_from_slice(data);
            data.len()
        };
        this.note_write(data, written);
        this.show_sent(data.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let total = slices
            .iter()
            .fold(0_usize, |sum, slice| sum.saturating_add(slice.len()));
        if total > GATHERED {
            // Too much to gather: the first slice that has anything, as it is.
            let first = slices.iter().find(|slice| !slice.is_empty());
            return Pin::new(this).poll_write(cx, first.map_or(&[][..], |slice| slice));
        }
        if this.gathered.len().saturating_add(total) > GATHERED {
            ready!(this.poll_drain(cx))?;
        }
        this.make_room(total);
        for slice in slices {
            this.gathered.extend_from_slice(slice);
            this.answer.sent(slice);
            this.show_sent(slice);
        }
        this.moved = true;
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        let result = match &mut this.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        };
        this.watch_flush(result, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.shut || this.connection.drop.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_drain(cx))?;
        let result = match &mut this.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        };
        let result = ready!(this.watch_flush(result, cx));
        this.shut = true;
        Poll::Ready(result)
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
