//! Reading: how much of what comes belongs to the request in service, and how long it may take.

use super::{ClientStream, Expected, GATHERED, Transport};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Instant,
};

impl ClientStream {
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
