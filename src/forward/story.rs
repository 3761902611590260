//! The stage as a whole, called by pingora the way the proxy calls it, over real sockets.

use super::{
    Failure, Outcome, Picked, Stage, Tries, Upstreams,
    body::{self, ReadAhead},
    headers::{Forwarded, prepare_request, prepare_response},
    testing,
    upstream::tests::{client, generation, upstream},
};
use crate::config::model::{Upstream, UpstreamProtocol};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method};
use pingora_core::{Error, ErrorType, Result, upstreams::peer::HttpPeer};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{ProxyHttp, Session};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

struct Proxy {
    upstreams: Arc<Upstreams>,
    request_id: HeaderValue,
}

#[derive(Default)]
struct Context {
    tries: Tries,
    picked: Option<Picked>,
    ahead: ReadAhead,
}

impl Proxy {
    /// Reports the failure and marks it when it may be tried again.
    fn failed(session: &Session, ctx: &mut Context, error: &mut Error, stage: Stage) {
        let Some(picked) = ctx.picked.take() else {
            return;
        };
        picked.report(match error.etype() {
            _ if stage == Stage::Connecting => Outcome::ConnectFailed,
            ErrorType::ReadTimedout => Outcome::Timeout,
            _ => Outcome::Reset,
        });
        let failure = Failure {
            error,
            stage,
            method: &session.req_header().method,
            body_kept: body::is_kept(session),
            answered: session
                .response_written()
                .is_some_and(|response| !response.status.is_informational()),
        };
        let again = picked.may_retry(&failure, &mut ctx.tries);
        error.set_retry(again);
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        ctx.ahead.read(session, Duration::from_secs(20)).await?;
        Ok(false)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        let picked = self
            .upstreams
            .pick(0, client(), &mut ctx.tries)
            .map_err(|_| Error::new(ErrorType::HTTPStatus(503)))?;
        let peer = picked.peer(session.is_upgrade_req().then_some(Duration::from_secs(60)));
        ctx.picked = Some(picked);
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.ahead.begin_try();
        let told = Forwarded {
            client: client().address(),
            peer: client().address(),
            https: false,
            host: b"a.example",
            request_id: &self.request_id,
            user: "zoe",
            roles: &[],
        };
        prepare_request(request, &told)
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

    async fn response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if let Some(picked) = &ctx.picked {
            picked.report(Outcome::Status(response.status.as_u16()));
        }
        prepare_response(response, &self.request_id)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        mut e: Box<Error>,
    ) -> Box<Error> {
        Self::failed(session, ctx, &mut e, Stage::Connecting);
        e
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut e: Box<Error>,
        ctx: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        let stage = if reused { Stage::Reused } else { Stage::Fresh };
        Self::failed(session, ctx, &mut e, stage);
        e
    }
}

async fn proxy(spec: Upstream) -> (SocketAddr, Arc<Upstreams>) {
    let upstreams = Arc::new(generation(&[spec], None));
    let proxy = Proxy {
        upstreams: Arc::clone(&upstreams),
        request_id: HeaderValue::from_static("0190"),
    };
    (testing::serve(proxy).await, upstreams)
}

/// An address that nobody listens on.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

async fn send(proxy: SocketAddr, method: Method, body: &str) -> u16 {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request = format!(
        "{method} / HTTP/1.1\r\nhost: a.example\r\nx-rempart-user: root\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    testing::read_status(&mut stream).await
}

#[tokio::test]
async fn a_dead_endpoint_costs_nobody_a_request() {
    let alive = testing::Upstream::start(0).await;
    let dead = nobody().await.to_string();
    let spec = upstream("app", &[&dead, &alive.address.to_string()]);
    let (proxy, upstreams) = proxy(spec).await;
    for _ in 0..6 {
        // Nothing was sent to the dead one, so a POST may go elsewhere, too.
        assert_eq!(send(proxy, Method::POST, "hello").await, 200);
    }
    let heard = alive.heard();
    assert_eq!(heard.len(), 6);
    assert!(heard.iter().all(|heard| heard.body == b"hello"));
    assert_eq!(heard[0].header("x-rempart-user"), Some("zoe"));
    assert_eq!(heard[0].header("host"), Some("a.example"));
    assert_eq!(heard[0].header("connection"), None);
    let ejected = ("app", "ejected", 1);
    assert!(upstreams.states().any(|state| state == ejected));
    // Whatever became of them, none is still counted as in hand.
    assert!(
        upstreams.pools()[0]
            .endpoints()
            .iter()
            .all(|endpoint| endpoint.fare.in_flight() == 0)
    );
}

#[tokio::test]
async fn upstreams_see_the_path_that_was_judged() {
    let upstream_server = testing::Upstream::start(0).await;
    let (proxy, _) = proxy(upstream("app", &[&upstream_server.address.to_string()])).await;
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request =
        b"GET http://a.example/admin?q HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    assert_eq!(testing::read_status(&mut stream).await, 200);
    let heard = upstream_server.heard();
    assert!(
        heard[0].head.starts_with("GET /admin?q HTTP/1.1\r\n"),
        "{}",
        heard[0].head
    );
    assert_eq!(heard[0].header("host"), Some("a.example"));
}

#[tokio::test]
async fn a_request_refused_unseen_goes_again() {
    let address = testing::refusing_h2c_server().await;
    let other = testing::h2c_server().await;
    let mut spec = upstream("app", &[&address.to_string(), &other.to_string()]);
    spec.protocol = UpstreamProtocol::H2;
    let (proxy, _) = proxy(spec).await;
    for _ in 0..2 {
        assert_eq!(send(proxy, Method::POST, "hello").await, 200);
    }
}

#[tokio::test]
async fn what_reached_an_upstream_is_repeated_only_when_safe() {
    for (method, status, heard) in [(Method::GET, 200, 2), (Method::POST, 502, 1)] {
        let failing = testing::Upstream::start(1).await;
        let other = testing::Upstream::start(0).await;
        let addresses = [failing.address.to_string(), other.address.to_string()];
        let (proxy, _) = proxy(upstream("app", &[&addresses[0], &addresses[1]])).await;
        assert_eq!(send(proxy, method, "").await, status);
        assert_eq!(failing.heard().len() + other.heard().len(), heard);
    }
}

#[tokio::test]
async fn without_an_endpoint_there_is_an_answer() {
    let (unresolved, _) = proxy(upstream("app", &["app.internal:80"])).await;
    assert_eq!(send(unresolved, Method::GET, "").await, 503);
    let (refused, _) = proxy(upstream("app", &[&nobody().await.to_string()])).await;
    assert_eq!(send(refused, Method::GET, "").await, 502);
}

#[tokio::test]
async fn web_sockets_pass_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let heard = testing::read_request(&mut stream).await.unwrap();
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
            upgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
        heard
    });
    let (proxy, _) = proxy(upstream("app", &[&address.to_string()])).await;
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nhost: a.example\r\nconnection: keep-alive, Upgrade\r\n\
              upgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n",
        )
        .await
        .unwrap();
    assert_eq!(testing::read_status(&mut stream).await, 101);
    stream.write_all(b"ping").await.unwrap();
    let mut said = [0; 4];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"ping");
    let heard = server.await.unwrap();
    assert_eq!(heard.header("upgrade"), Some("websocket"));
}
