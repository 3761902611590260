//! Stories of bodies that are read ahead.

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
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\n{pretext}content-length: 10\r\n\r\nabc");
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
