//! Writing: gathered into few writes, watched for how an answer goes and how fast it is taken.

use super::{Answer, ClientStream, Expected, GATHERED, ROOM, Transport, answer};
use bytes::{Buf, BytesMut};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, ready},
};
use tokio::{io::AsyncWrite, time::Instant};

impl ClientStream {
    pub(super) fn poll_transport_write(
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
