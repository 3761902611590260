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
            Err(_) => Err(Error::explain(
                ErrorType::ReadTimedout,
                "the request's body did not come in time",
            )
            .into_down()),
        }
    }

    async fn read_unbounded(&mut self, session: &mut Session) -> Result<()> {
        if session.req_header().headers.contains_key(header::EXPECT) {
            session.write_continue_response().await?;
            session.req_header_mut().remove_header(&header::EXPECT);
        }
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
mod tests {
    use super::*;
    use crate::forward::testing::{self, Heard};
    use async_trait::async_trait;
    use parking_lot::Mutex;
    use pingora_core::upstreams::peer::HttpPeer;
    use pingora_proxy::ProxyHttp;
    use std::{net::SocketAddr, sync::Arc};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Reads ahead, then forwards; retries once whatever failed.
    struct Proxy {
        upstream: SocketAddr,
        patience: Duration,
        events: Arc<Mutex<Vec<&'static str>>>,
    }

    #[derive(Default)]
    struct Context {
        ahead: ReadAhead,
        tries: usize,
    }

    #[async_trait]
    impl ProxyHttp for Proxy {
        type CTX = Context;

        fn new_ctx(&self) -> Context {
            Context::default()
        }

        async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
            ctx.ahead.read(session, self.patience).await?;
            self.events.lock().push("slot taken");
            Ok(false)
        }

        async fn upstream_peer(&self, _: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
            ctx.tries += 1;
            Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
        }

        async fn upstream_request_filter(
            &self,
            _: &mut Session,
            _: &mut pingora_http::RequestHeader,
            ctx: &mut Context,
        ) -> Result<()> {
            ctx.ahead.begin_try();
            Ok(())
        }

        async fn request_body_filter(
            &self,
            _: &mut Session,
            body: &mut Option<Bytes>,
            _: bool,
            ctx: &mut Context,
        ) -> Result<()> {
            ctx.ahead.filter(body);
            Ok(())
        }

        fn error_while_proxy(
            &self,
            _: &HttpPeer,
            session: &mut Session,
            mut e: Box<Error>,
            ctx: &mut Context,
            _: bool,
        ) -> Box<Error> {
            e.set_retry(is_kept(session) && ctx.tries < 2);
            e
        }
    }

    struct Story {
        proxy: SocketAddr,
        upstream: testing::Upstream,
        events: Arc<Mutex<Vec<&'static str>>>,
    }

    async fn story(fail_first: usize, patience: Duration) -> Story {
        let upstream = testing::Upstream::start(fail_first).await;
        let events = Arc::new(Mutex::new(Vec::new()));
        let proxy = testing::serve(Proxy {
            upstream: upstream.address,
            patience,
            events: Arc::clone(&events),
        })
        .await;
        Story {
            proxy,
            upstream,
            events,
        }
    }

    fn body(length: usize) -> Vec<u8> {
        (0..length)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect()
    }

    fn chunked(body: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        for chunk in body.chunks(7_000) {
            wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
            wire.extend(chunk);
            wire.extend(b"\r\n");
        }
        wire.extend(b"0\r\n\r\n");
        wire
    }

    /// One HTTP/1 request in two halves; the status line's code.
    async fn send_h1(story: &Story, framing: &str, wire: &[u8]) -> u16 {
        let mut stream = TcpStream::connect(story.proxy).await.unwrap();
        let head = format!("PUT /x HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n");
        let (first, second) = wire.split_at(wire.len() / 3);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(first).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
        story.events.lock().push("sending the rest");
        stream.write_all(second).await.unwrap();
        testing::read_status(&mut stream).await
    }

    #[tokio::test]
    async fn http1_bodies_arrive_whole() {
        for length in [
            1, 10, 60_000, 65_536, 65_537, 100_000, 131_072, 131_073, 1_000_000,
        ] {
            let sent = body(length);
            let story = story(0, PATIENCE).await;
            let framing = format!("content-length: {length}");
            assert_eq!(send_h1(&story, &framing, &sent).await, 200);
            assert_eq!(
                send_h1(&story, "transfer-encoding: chunked", &chunked(&sent)).await,
                200
            );
            let heard: Vec<Heard> = story.upstream.heard();
            assert_eq!(heard.len(), 2);
            assert!(heard.iter().all(|heard| heard.body == sent), "{length}");
            assert_eq!(
                heard[0].header("content-length"),
                Some(length.to_string().as_str())
            );
        }
    }

    #[tokio::test]
    async fn the_slot_waits_for_the_body() {
        for length in [10, 60_000, 65_536] {
            let story = story(0, PATIENCE).await;
            let framing = format!("content-length: {length}");
            assert_eq!(send_h1(&story, &framing, &body(length)).await, 200);
            assert_eq!(*story.events.lock(), ["sending the rest", "slot taken"]);
        }
    }

    #[tokio::test]
    async fn a_body_that_never_comes_takes_no_slot() {
        for pretext in [
            "",
            "upgrade: x\r\n",
            "connection: upgrade\r\nupgrade: websocket\r\n",
        ] {
            let story = story(0, Duration::from_millis(50)).await;
            let mut stream = TcpStream::connect(story.proxy).await.unwrap();
            let head =
                format!("POST / HTTP/1.1\r\nhost: a\r\n{pretext}content-length: 10\r\n\r\nabc");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(story.events.lock().is_empty(), "{pretext}");
            assert!(story.upstream.heard().is_empty());
        }
    }

    #[tokio::test]
    async fn retries_send_the_whole_body_again() {
        for length in [10, 65_536, 100_000, 131_072] {
            let sent = body(length);
            let story = story(1, PATIENCE).await;
            let framing = format!("content-length: {length}");
            assert_eq!(send_h1(&story, &framing, &sent).await, 200, "{length}");
            let heard = story.upstream.heard();
            assert_eq!(heard.len(), 2);
            assert!(heard.iter().all(|heard| heard.body == sent), "{length}");
        }
    }

    #[tokio::test]
    async fn a_client_that_expects_a_word_gets_it() {
        let story = story(0, PATIENCE).await;
        let mut stream = TcpStream::connect(story.proxy).await.unwrap();
        stream
            .write_all(
                b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n",
            )
            .await
            .unwrap();
        assert_eq!(testing::read_status(&mut stream).await, 100);
        stream.write_all(b"abc").await.unwrap();
        assert_eq!(testing::read_status(&mut stream).await, 200);
        let heard = story.upstream.heard();
        assert_eq!(heard[0].body, b"abc");
        assert_eq!(heard[0].header("expect"), None);
    }

    #[tokio::test]
    async fn h2_bodies_arrive_whole() {
        for length in [1, 60_000, 65_536, 65_537, 200_000, 1_000_000] {
            for declare in [true, false] {
                let sent = body(length);
                let story = story(0, PATIENCE).await;
                let status = testing::send_h2(story.proxy, &sent, declare).await;
                assert_eq!(status, 200);
                let heard = story.upstream.heard();
                assert!(heard[0].body == sent, "{length} {declare}");
            }
        }
    }
}
