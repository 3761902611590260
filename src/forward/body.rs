//! Waits until a request's body is there before the request is sent on, so that a body that never
//! comes holds no slot at the upstream.
//!
//! Small bodies are awaited whole; of larger ones the first [`AWAITED`] bytes, and of gRPC requests
//! the first message, since those may be a conversation. Pingora keeps what was read in its retry
//! buffer and sends it on by itself; what does not fit there is kept here and given back in
//! `request_body_filter`.

use bytes::{Bytes, BytesMut};
use http::header;
use pingora_core::{Error, ErrorType, Result};
use pingora_proxy::Session;
use std::time::Duration;

/// How much of a body is awaited, in bytes. Also the size of pingora's retry buffer.
pub const AWAITED: usize = 64 * 1024;
/// Most that one read returns: pingora's body buffer on HTTP/1, a frame on h2 (16 KiB unless raised).
const LARGEST_READ: usize = 64 * 1024;
const LARGEST_FRAME: usize = 16 * 1024;

/// The part of a body that was read ahead; lives in the request's context.
#[derive(Debug, Default)]
pub struct ReadAhead {
    /// What pingora's retry buffer does not hold, in order: it comes before everything else.
    kept: Vec<Bytes>,
    /// Whether this try has sent `kept` already.
    sent: bool,
    /// Whether `kept` is all of the body, in place of what the client sent.
    replaced: bool,
}

impl ReadAhead {
    /// Reads ahead; to be called once, from `request_filter`. Answers `expect: 100-continue` itself.
    ///
    /// # Errors
    ///
    /// The client's: it left, broke the framing, or took longer than `patience` (`ReadTimedout`,
    /// to be answered with 408).
    pub async fn read(&mut self, session: &mut Session, patience: Duration) -> Result<()> {
        // An upgrade has no body before it was answered; one that declares a body is awaited too.
        if session.as_mut().is_body_done() {
            return Ok(());
        }
        let reading = self.read_unbounded(session);
        match tokio::time::timeout(patience, reading).await {
            Ok(result) => result.map_err(Error::into_down),
            Err(_) => Err(too_slow()),
        }
    }

    /// Whether the body begins with `start`. Reads no more than shows it; of a body that declares no length, or
    /// more than [`LARGEST_READ`] bytes, nothing (`None`). What was read is sent on all the same.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub async fn begins_with(
        &mut self,
        session: &mut Session,
        patience: Duration,
        start: &[u8],
    ) -> Result<Option<bool>> {
        let declared = content_length(session).filter(|length| *length <= LARGEST_READ);
        let Some(length) = declared.filter(|_| !self.replaced) else {
            return Ok(None);
        };
        if length < start.len() {
            return Ok(Some(false));
        }
        let reading = async {
            expected(session).await?;
            // All of the body fits there.
            session.as_mut().enable_retry_buffering();
            let mut read = 0_usize;
            while read < start.len() && !session.as_mut().is_body_done() {
                let Some(chunk) = session.as_mut().read_request_body().await? else {
                    break;
                };
                read = read.saturating_add(chunk.len());
            }
            Ok(())
        };
        match tokio::time::timeout(patience, reading).await {
            Ok(result) => result.map_err(Error::into_down)?,
            Err(_) => return Err(too_slow()),
        }
        let read = session.as_ref().get_retry_buffer();
        Ok(Some(read.is_some_and(|read| read.starts_with(start))))
    }

    /// The whole body, when it declares a length of at most `most`: that the client sent, or what it
    /// was [replaced](Self::replace) by. What was read is sent on all the same.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub async fn whole(
        &mut self,
        session: &mut Session,
        patience: Duration,
        most: usize,
    ) -> Result<Option<Bytes>> {
        if self.replaced {
            return Ok(self.kept.first().cloned());
        }
        let declared = content_length(session).filter(|length| *length <= most);
        let Some(length) = declared else {
            return Ok(None);
        };
        if !session.as_mut().is_body_done() {
            let reading = self.read_to_end(session, length);
            match tokio::time::timeout(patience, reading).await {
                Ok(result) => result.map_err(Error::into_down)?,
                Err(_) => return Err(too_slow()),
            }
        }
        let mut body = BytesMut::with_capacity(length);
        let tail = session.as_ref().get_retry_buffer();
        for chunk in self.kept.iter().chain(&tail) {
            body.extend_from_slice(chunk);
        }
        Ok(Some(body.freeze()).filter(|body| body.len() == length))
    }

    /// Keeps what comes before the last [`LARGEST_READ`] bytes; pingora buffers those.
    async fn read_to_end(&mut self, session: &mut Session, length: usize) -> Result<()> {
        expected(session).await?;
        let mut read = 0_usize;
        while length.saturating_sub(read) > LARGEST_READ {
            let Some(chunk) = session.as_mut().read_request_body().await? else {
                return Ok(());
            };
            read = read.saturating_add(chunk.len());
            self.kept.push(chunk);
        }
        session.as_mut().enable_retry_buffering();
        while !session.as_mut().is_body_done() {
            if session.as_mut().read_request_body().await?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Sends this on in place of a body that was read [whole](Self::whole). The headers are the
    /// caller's to change.
    pub fn replace(&mut self, body: Bytes) {
        self.kept = vec![body];
        self.replaced = true;
    }

    async fn read_unbounded(&mut self, session: &mut Session) -> Result<()> {
        expected(session).await?;
        let declared = content_length(session);
        if session.is_http2() {
            // A frame more than this still fits the retry buffer.
            let enough = match declared {
                _ if is_grpc(session) => 1,
                Some(length) if length <= AWAITED => AWAITED,
                _ => AWAITED - LARGEST_FRAME,
            };
            self.buffered(session, enough).await
        } else if let Some(length) = declared.filter(|length| *length > AWAITED) {
            self.unbuffered(session, length).await
        } else {
            self.buffered(session, AWAITED).await
        }
    }

    /// With pingora's retry buffer on: it sends what was read, also when that was all.
    async fn buffered(&mut self, session: &mut Session, enough: usize) -> Result<()> {
        session.as_mut().enable_retry_buffering();
        let mut read = 0_usize;
        while read < enough && !session.as_mut().is_body_done() {
            let Some(chunk) = session.as_mut().read_request_body().await? else {
                break;
            };
            read = read.saturating_add(chunk.len());
            self.kept.push(chunk);
            if session.as_mut().retry_buffer_truncated() {
                // Chunked bodies end in a read of their own, so pingora will still read, and ask the
                // filter: `kept` goes out then. Nothing else gets here.
                return if session.as_mut().is_body_done() {
                    Err(Error::explain(
                        ErrorType::InternalError,
                        "a body ended past what can be buffered",
                    ))
                } else {
                    Ok(())
                };
            }
        }
        self.kept = Vec::new();
        Ok(())
    }

    /// A declared length that the retry buffer can't hold: keeps the first part here, and stops, or
    /// lets pingora buffer, before the rest could end in a single read.
    async fn unbuffered(&mut self, session: &mut Session, length: usize) -> Result<()> {
        let mut read = 0_usize;
        while read < AWAITED {
            if length.saturating_sub(read) <= LARGEST_READ {
                let mut tail = Self::default();
                return tail.buffered(session, AWAITED).await;
            }
            let Some(chunk) = session.as_mut().read_request_body().await? else {
                break;
            };
            read = read.saturating_add(chunk.len());
            self.kept.push(chunk);
        }
        Ok(())
    }

    /// A try begins; to be called from `upstream_request_filter`.
    pub fn begin_try(&mut self) {
        self.sent = false;
    }

    /// Puts what was read ahead in front of the body; to be called from `request_body_filter`.
    pub fn filter(&mut self, body: &mut Option<Bytes>) {
        if self.sent || self.kept.is_empty() {
            return;
        }
        self.sent = true;
        if self.replaced {
            *body = self.kept.first().cloned();
            return;
        }
        let rest = body.take().unwrap_or_default();
        let length = self.kept.iter().map(Bytes::len).sum::<usize>();
        let mut whole = BytesMut::with_capacity(length.saturating_add(rest.len()));
        for chunk in &self.kept {
            whole.extend_from_slice(chunk);
        }
        whole.extend_from_slice(&rest);
        *body = Some(whole.freeze());
    }
}

#[allow(clippy::unnecessary_box_returns)] // as Pingora has it
fn too_slow() -> Box<Error> {
    Error::explain(
        ErrorType::ReadTimedout,
        "the request's body did not come in time",
    )
    .into_down()
}

/// Says the word that a client waits for before it sends the body.
async fn expected(session: &mut Session) -> Result<()> {
    if session.req_header().headers.contains_key(header::EXPECT) {
        session.write_continue_response().await?;
        session.req_header_mut().remove_header(&header::EXPECT);
    }
    Ok(())
}

/// Whether all that was read of the body can be sent again.
#[must_use]
pub fn is_kept(session: &Session) -> bool {
    !session.as_ref().retry_buffer_truncated()
}

fn content_length(session: &Session) -> Option<usize> {
    let headers = &session.req_header().headers;
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn is_grpc(session: &Session) -> bool {
    session
        .get_header_bytes(header::CONTENT_TYPE)
        .starts_with(b"application/grpc")
}

#[cfg(test)]
mod tests;
