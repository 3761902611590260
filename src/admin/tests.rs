//! The admin listener, asked over real sockets.

use super::*;
use crate::{
    bans::Because,
    clock,
    config::model::{self, AccessLog, Secret},
};
use serde_json::Value;
use std::num::NonZeroU32;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};
use verdict::{
    policy::PolicySpec,
    prefix::{Prefix, PrefixLengths},
};

pub(super) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

pub(super) fn config(token: Option<&str>) -> Config {
    let second = Duration::from_secs(1);
    Config {
        files: Vec::new(),
        warnings: Vec::new(),
        listeners: Vec::new(),
        admin: Some(model::Admin {
            address: "127.0.0.1:9090".parse().unwrap(),
            token: token.map(Secret::new),
        }),
        clients: model::Clients {
            trusted_proxies: Vec::new(),
            prefix: PrefixLengths::CLIENT,
        },
        pressure: None,
        connections: model::Connections {
            under_pressure: None,
            per_client: None,
            rate_per_client: None,
            total: NonZeroU32::MIN,
            handshakes: model::Handshakes::default(),
            http1: model::Http1Limits::default(),
            http2: model::Http2Limits::default(),
            timeouts: model::ClientTimeouts {
                handshake: second,
                headers: second,
                idle: second,
                body_minimum_rate: 0,
                response_minimum_rate: 0,
                request: second,
                stream_idle: second,
            },
        },
        identity: model::Identity::default(),
        upstreams: Vec::new(),
        routes: Vec::new(),
        policy: PolicySpec::default(),
        challenge: model::Challenge::default(),
        bans: model::Bans::default(),
        access_log: AccessLog::Off,
        shutdown: model::Shutdown { grace: second },
        masked: json!({ "admin": { "token_file": "***" } }),
    }
}

pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) bans: Arc<Bans>,
    revoked: Arc<Revoked>,
    readiness: watch::Sender<Readiness>,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

pub(super) fn state(
    token: Option<&str>,
    bans: &Arc<Bans>,
    readiness: watch::Receiver<Readiness>,
) -> AdminState {
    let config = Arc::new(config(token));
    let revoked = Arc::new(Revoked::default());
    revoked.lives(Duration::from_secs(3600));
    AdminState {
        config: Box::new(move || Arc::clone(&config)),
        bans: Arc::clone(bans),
        kernel: Arc::default(),
        revoked,
        metrics: Arc::new(Metrics::new()),
        pressure: Arc::default(),
        readiness,
        upstreams: Box::new(|| json!({ "app": { "healthy": 1 } })),
    }
}

pub(super) async fn start(token: Option<&str>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (readiness, is_ready) = watch::channel(Readiness::Starting);
    let (shutdown, is_shut_down) = watch::channel(false);
    let bans = Arc::new(Bans::default());
    let state = state(token, &bans, is_ready);
    Running {
        address,
        bans,
        revoked: Arc::clone(&state.revoked),
        readiness,
        shutdown,
        task: tokio::spawn(serve(listener, state, is_shut_down)),
    }
}

impl Running {
    /// Status, head and body of the answer to raw bytes.
    async fn raw(&self, request: &[u8]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // The other end may reset what it has refused to read.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    async fn ask(&self, line: &str, token: Option<&str>, body: &str) -> (u16, String, Value) {
        let token = token.map_or(String::new(), |t| format!("authorization: Bearer {t}\r\n"));
        let request = format!(
            "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{token}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, head, body) = self.raw(request.as_bytes()).await;
        (
            status,
            head,
            serde_json::from_str(&body).unwrap_or(Value::Null),
        )
    }
}

#[tokio::test]
async fn health_and_readiness_tell_apart() {
    let running = start(None).await;
    let ready = async || {
        let (status, _, body) = running.ask("GET /readyz", None, "").await;
        (status, body["reason"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(ready().await, (503, "starting".into()));
    running.readiness.send(Readiness::Ready).unwrap();
    assert_eq!(ready().await, (200, String::new()));
    let (_, head, body) = running.ask("GET /readyz", None, "").await;
    assert_eq!(body["upstreams"]["app"]["healthy"], 1);
    assert!(head.contains("cache-control: no-store"), "{head}");
    running.readiness.send(Readiness::Draining).unwrap();
    assert_eq!(ready().await, (503, "draining".into()));
    assert_eq!(running.ask("GET /healthz", None, "").await.0, 200);
    running.shutdown.send(true).unwrap();
    running.task.await.unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn metrics_are_text() {
    let running = start(None).await;
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (status, head, body) = running.raw(request).await;
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("rempart_build_info{version="), "{body}");
}

#[tokio::test]
async fn the_api_needs_the_token() {
    let running = start(Some(TOKEN)).await;
    for (token, expected) in [
        (None, 401),
        (Some(""), 401),
        (Some("0123456789abcdef0123456789abcdee"), 401),
        (Some("0123456789abcdef0123456789abcdef0"), 401),
        (Some(TOKEN), 200),
    ] {
        for path in ["GET /api/bans", "GET /api/pressure", "GET /api/config"] {
            let (status, head, _) = running.ask(path, token, "").await;
            assert_eq!(status, expected, "{path} {token:?}");
            assert_eq!(head.contains("www-authenticate: bearer"), expected == 401);
        }
    }
    let (_, _, config) = running.ask("GET /api/config", Some(TOKEN), "").await;
    assert_eq!(config["admin"]["token_file"], "***");
    let off = start(None).await;
    let (status, _, problem) = off.ask("GET /api/bans", Some(""), "").await;
    assert_eq!(status, 403);
    assert!(problem["detail"].as_str().unwrap().contains("token_file"));
}

#[tokio::test]
async fn bans_come_and_go() {
    let running = start(Some(TOKEN)).await;
    let body = r#"{"prefix":"203.0.113.0/24","duration":"10m","comment":"scan"}"#;
    let (status, _, added) = running.ask("POST /api/bans", Some(TOKEN), body).await;
    assert_eq!((status, &added["prefix"]), (201, &json!("203.0.113.0/24")));
    let client = Prefix::of("203.0.113.7".parse().unwrap(), PrefixLengths::CLIENT);
    assert!(running.bans.until(client, clock::now()).is_some());
    let (status, _, listed) = running.ask("GET /api/bans", Some(TOKEN), "").await;
    assert_eq!((status, &listed["total"]), (200, &json!(1)));
    let ban = &listed["bans"][0];
    assert_eq!(ban["prefix"], "203.0.113.0/24");
    assert_eq!(ban["source"], "admin");
    assert_eq!(ban["comment"], "scan");
    assert_eq!(ban["hits"], 1);
    assert!((590..=600).contains(&ban["seconds_left"].as_u64().unwrap()));
    // One within a network can't be freed alone.
    let delete = async |path: &str| running.ask(path, Some(TOKEN), "").await;
    let (status, _, problem) = delete("DELETE /api/bans/203.0.113.7").await;
    assert_eq!(status, 409, "{problem}");
    assert_eq!(delete("DELETE /api/bans/203.0.113.0/24").await.0, 200);
    assert_eq!(delete("DELETE /api/bans/203.0.113.0/24").await.0, 404);
    assert_eq!(
        delete("DELETE /api/bans?prefix=203.0.113.0%2F24").await.0,
        404
    );
    assert!(running.bans.until(client, clock::now()).is_none());
}

#[tokio::test]
async fn clearances_are_taken_back() {
    let running = start(Some(TOKEN)).await;
    let network = Prefix::of("203.0.113.7".parse().unwrap(), PrefixLengths::NETWORK);
    let issued = clock::unix_seconds();
    assert!(!running.revoked.covers(network, None, issued));
    let revoke = async |body: &str| {
        let line = "POST /api/clearances/revoke";
        let (status, _, answer) = running.ask(line, Some(TOKEN), body).await;
        (status, answer)
    };
    let (status, answer) = revoke(r#"{"prefix":"203.0.113.7"}"#).await;
    assert_eq!(
        (status, &answer["prefix"]),
        (201, &json!("203.0.113.0/24")),
        "clearances are bound to that"
    );
    assert!(running.revoked.covers(network, None, issued));
    let (status, answer) = revoke(r#"{"ja4":"t13d1516h2_8daaf6152771_02713d6af862"}"#).await;
    assert_eq!((status, &answer["ja4"]), (201, &json!("8daaf6152771")));
    let line = "GET /api/clearances/revoked";
    let (status, _, listed) = running.ask(line, Some(TOKEN), "").await;
    assert_eq!((status, &listed["total"]), (200, &json!(2)));
    let found = listed["revoked"].as_array().unwrap();
    assert!(found.iter().any(|one| one["prefix"] == "203.0.113.0/24"));
    assert!(found.iter().any(|one| one["ja4"] == "8daaf6152771"));
    assert!(found[0]["forgotten"].as_str() > found[0]["issued_until"].as_str());
    assert_eq!(running.ask(line, None, "").await.0, 401);
    let line = "POST /api/clearances/revoke";
    assert_eq!(running.ask(line, None, "{}").await.0, 401);
}

#[tokio::test]
async fn what_makes_no_sense_gets_a_problem() {
    let running = start(Some(TOKEN)).await;
    let proxies = [("10.0.0.0/8".parse().unwrap(), Because::TrustedProxy)];
    running
        .bans
        .configure(&proxies, PrefixLengths::CLIENT, clock::now());
    let long = format!(r#"{{"prefix":"{}"}}"#, "x".repeat(70_000));
    for (line, body, expected) in [
        ("POST /api/bans", "", 400),
        ("POST /api/bans", "{}", 400),
        ("POST /api/bans", r#"{"prefix":"x","duration":"10m"}"#, 400),
        (
            "POST /api/bans",
            r#"{"prefix":"192.0.2.1","duration":"10"}"#,
            400,
        ),
        (
            "POST /api/bans",
            r#"{"prefix":"192.0.2.1","duration":"99999999999999999h"}"#,
            400,
        ),
        (
            "POST /api/bans",
            r#"{"prefix":"192.0.2.1","duration":"1m","x":1}"#,
            400,
        ),
        (
            "POST /api/bans",
            r#"{"prefix":"0.0.0.0/0","duration":"1m"}"#,
            400,
        ),
        (
            "POST /api/bans",
            r#"{"prefix":"10.1.1.1","duration":"1m"}"#,
            409,
        ),
        ("POST /api/bans", &long, 413),
        ("GET /api/bans?limit=x", "", 400),
        ("DELETE /api/bans", "", 400),
        ("DELETE /api/bans/x", "", 400),
        ("PUT /api/bans", "", 405),
        ("POST /api/clearances/revoke", "", 400),
        ("POST /api/clearances/revoke", "{}", 400),
        ("POST /api/clearances/revoke", r#"{"prefix":"x"}"#, 400),
        ("POST /api/clearances/revoke", r#"{"ja4":"x"}"#, 400),
        (
            "POST /api/clearances/revoke",
            r#"{"prefix":"192.0.2.1","ja4":"8daaf6152771"}"#,
            400,
        ),
        ("POST /api/clearances/revoke", &long, 413),
        ("GET /api/clearances/revoke", "", 405),
        ("POST /api/clearances/revoked", "", 405),
        ("GET /api/nothing", "", 404),
        ("POST /metrics", "", 405),
    ] {
        let (status, head, problem) = running.ask(line, Some(TOKEN), body).await;
        assert_eq!(status, expected, "{line} {body:.60}");
        assert!(head.contains("application/problem+json"), "{line} {head}");
        assert_eq!(problem["status"], expected);
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    assert_eq!(running.bans.count(clock::now()), 0);
    assert!(running.revoked.list(0).is_empty());
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let running = start(None).await;
    let request = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(HEAD_LIMIT));
    let (status, _, _) = running.raw(request.as_bytes()).await;
    assert_eq!(status, 431);
}
