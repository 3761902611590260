//! HTTP/1 and HTTP/2 through the proxy, over TLS and in plaintext.

use crate::listener::testing::{
    certificate,
    client::{Client, client_config, connect, handshake},
    edge::{Edge, config, plain, tls},
};
use bytes::Bytes;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Runs these requests over one HTTP/2 connection, all at once.
async fn over_h2<T>(wire: T, requests: &[(&str, usize)]) -> Vec<(u16, String)>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = h2::client::handshake(wire).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut answers = Vec::new();
    for (path, length) in requests {
        let mut client = client.clone().ready().await.unwrap();
        let request = http::Request::builder()
            .method(if *length == 0 { "GET" } else { "POST" })
            .uri(format!("https://app.test{path}"))
            .header("content-length", *length)
            .body(())
            .unwrap();
        let (answer, mut body) = client.send_request(request, *length == 0).unwrap();
        if *length > 0 {
            body.send_data(Bytes::from(vec![b'b'; *length]), true)
                .unwrap();
        }
        answers.push(tokio::spawn(async move {
            let answer = answer.await.unwrap();
            let status = answer.status().as_u16();
            let mut body = answer.into_body();
            let mut text = Vec::new();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                text.extend_from_slice(&data);
            }
            (status, String::from_utf8(text).unwrap())
        }));
    }
    let mut all = Vec::new();
    for answer in answers {
        all.push(answer.await.unwrap());
    }
    drop(client);
    driver.await.unwrap().unwrap();
    all
}

async fn tls_edge() -> (Edge, SocketAddr, crate::config::model::Certificate) {
    let certificate = certificate(&["app.test"]);
    let edge = Edge::start(config(vec![tls(vec![certificate.clone()])]), 1).await;
    let address = edge.addresses[0];
    (edge, address, certificate)
}

#[tokio::test]
async fn many_requests_on_one_connection() {
    let (edge, address, certificate) = tls_edge().await;
    for alpn in [&["http/1.1"][..], &[]] {
        let config = client_config(&[&certificate], alpn);
        let wire = handshake(connect(address).await, "app.test", &config)
            .await
            .unwrap();
        let mut client = Client::new(wire);
        for number in 0..3 {
            let answer = client.get(&format!("/{number}")).await.unwrap();
            assert_eq!(
                (answer.status, answer.body),
                (200, format!("GET /{number} 0"))
            );
        }
        let who = client.get("/who").await.unwrap().body;
        assert_eq!(who, "127.0.0.1 1.3 app.test http/1.1");
        let big = client.get("/big").await.unwrap();
        assert_eq!(big.body.len(), 1024 * 1024);
        assert_eq!(client.get("/after").await.unwrap().body, "GET /after 0");
    }
    edge.stop().await;
}

#[tokio::test]
async fn bodies_of_any_size_and_framing() {
    let edge = Edge::start(config(vec![plain()]), 1).await;
    let mut client = Client::new(connect(edge.addresses[0]).await);
    for length in [1, 100, 4096, 70_000, 1_000_000] {
        let body = "b".repeat(length);
        client
            .send(&format!(
                "POST /up HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
            .await;
        assert_eq!(
            client.answer().await.unwrap().body,
            format!("POST /up {length}")
        );
    }
    client
        .send("POST /chunks HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    client.send("5\r\nhello\r\n").await;
    client.send("0\r\n\r\n").await;
    let answer = client.answer().await.unwrap().body;
    assert!(answer.starts_with("POST /chunks "), "{answer}");
    assert_eq!(client.get("/after").await.unwrap().body, "GET /after 0");
    edge.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let edge = Edge::start(config(vec![plain()]), 1).await;
    let mut client = Client::new(connect(edge.addresses[0]).await);
    client
        .send(
            "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n\
             POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello\
             GET /slow HTTP/1.1\r\nhost: a\r\n\r\n\
             POST /chunks HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
             GET /4 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n\
             GET /never HTTP/1.1\r\nhost: a\r\n\r\n",
        )
        .await;
    for expected in [
        "GET /1 0",
        "POST /2 5",
        "GET /slow 0",
        "POST /chunks 15",
        "GET /4 0",
    ] {
        assert_eq!(client.answer().await.unwrap().body, expected);
    }
    let (rest, _) = client.rest().await;
    assert!(rest.is_empty(), "nothing after connection: close");
    edge.stop().await;
}

#[tokio::test]
async fn malformed_requests_get_400_with_an_id() {
    let edge = Edge::start(config(vec![plain()]), 1).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\nhost: a\n\n".to_owned(), 400),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_owned(),
            400,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
                "x".repeat(70_000)
            ),
            431,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
                "x: y\r\n".repeat(200)
            ),
            431,
        ),
    ] {
        let mut client = Client::new(connect(edge.addresses[0]).await);
        client.send(&request).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, status, "{request:.80}");
        assert_eq!(answer.header("x-request-id").unwrap().len(), 36);
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.rest().await.0.is_empty());
    }
    edge.stop().await;
}

#[tokio::test]
async fn http2_by_alpn_and_by_prior_knowledge() {
    let certificate = certificate(&["app.test"]);
    let edge = Edge::start(config(vec![tls(vec![certificate.clone()]), plain()]), 1).await;
    let requests = [
        ("/1", 0),
        ("/2", 300_000),
        ("/slow", 0),
        ("/big", 0),
        ("/who", 0),
    ];
    let config = client_config(&[&certificate], &["h2", "http/1.1"]);
    let wire = handshake(connect(edge.addresses[0]).await, "app.test", &config)
        .await
        .unwrap();
    let plain = connect(edge.addresses[1]).await;
    for (answers, who) in [
        (over_h2(wire, &requests).await, "127.0.0.1 1.3 app.test h2"),
        (over_h2(plain, &requests).await, "127.0.0.1   "),
    ] {
        assert!(answers.iter().all(|(status, _)| *status == 200));
        let bodies: Vec<&str> = answers.iter().map(|(_, body)| body.as_str()).collect();
        assert_eq!(bodies[..3], ["GET /1 0", "POST /2 300000", "GET /slow 0"]);
        assert_eq!(bodies[3].len(), 1024 * 1024);
        assert_eq!(bodies[4], who);
    }
    edge.stop().await;
}

#[tokio::test]
async fn an_upgraded_stream_flows_both_ways() {
    let mut config = config(vec![plain()]);
    config.connections.timeouts.headers = std::time::Duration::from_millis(200);
    config.connections.timeouts.idle = std::time::Duration::from_millis(200);
    let edge = Edge::start(config, 1).await;
    let mut client = Client::new(connect(edge.addresses[0]).await);
    client
        .send("GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.unwrap().status, 101);
    for _ in 0..4 {
        // Longer than either timeout: neither is about a stream.
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        client.send("ping").await;
        let mut echo = [0; 4];
        client.wire.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
    }
    client.wire.shutdown().await.unwrap();
    client.rest().await;
    edge.stop().await;
}

#[tokio::test]
async fn dropped_and_panicking_connections_end_alone() {
    let (edge, address, certificate) = tls_edge().await;
    let config = client_config(&[&certificate], &["http/1.1"]);
    let secure = async || {
        Client::new(
            handshake(connect(address).await, "app.test", &config)
                .await
                .unwrap(),
        )
    };
    let mut bystander = secure().await;
    assert_eq!(bystander.get("/1").await.unwrap().status, 200);
    let mut dropped = secure().await;
    assert!(dropped.get("/drop").await.is_none());
    assert!(dropped.rest().await.0.is_empty(), "not a word");
    let mut panicking = secure().await;
    assert!(panicking.get("/panic").await.is_none());
    // Dropping a request of HTTP/2 drops the connection.
    let h2_config = client_config(&[&certificate], &["h2"]);
    let wire = handshake(connect(address).await, "app.test", &h2_config)
        .await
        .unwrap();
    let (mut h2, connection) = h2::client::handshake(wire).await.unwrap();
    let driver = tokio::spawn(connection);
    for (path, ends) in [("/panic", false), ("/drop", true)] {
        let request = http::Request::get(format!("https://app.test{path}"));
        let (answer, _) = h2.send_request(request.body(()).unwrap(), true).unwrap();
        assert!(answer.await.is_err());
        assert_eq!(h2.clone().ready().await.is_err(), ends, "{path}");
    }
    assert!(driver.await.unwrap().is_err(), "reset");
    assert_eq!(bystander.get("/2").await.unwrap().status, 200);
    edge.stop().await;
}

#[tokio::test]
async fn an_answer_that_was_cut_off_does_not_look_whole() {
    let edge = Edge::start(config(vec![plain()]), 1).await;
    for version in ["1.1", "1.0"] {
        for (path, cut) in [
            ("/cut/length", true),
            ("/cut/chunks", true),
            ("/chunked", false),
            ("/whole", false),
        ] {
            let mut client = Client::new(connect(edge.addresses[0]).await);
            client
                .send(&format!(
                    "GET {path} HTTP/{version}\r\nhost: a\r\nconnection: close\r\n\r\n"
                ))
                .await;
            let (answer, by_reset) = client.rest().await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert_eq!(by_reset, cut, "{path} {version} {answer:?}");
            assert!(cut || answer.starts_with("HTTP/1."), "{path} {version}");
        }
    }
    edge.stop().await;
}
