//! Clients that dawdle, and the end of the process.

use crate::config::model::UnderPressure;
use crate::listener::testing::{
    certificate,
    client::{Client, PATIENCE, client_config, connect, handshake},
    edge::{Edge, config, plain, tls},
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};
use verdict::pressure::{State, States};

const SHORT: Duration = Duration::from_millis(250);

/// Connections that were refused for the time they took.
fn late(edge: &Edge) -> u32 {
    let metrics = edge.shared.metrics.render();
    let line = r#"refused_total{reason="timeout"} "#;
    let count = metrics.split_once(line).map(|(_, rest)| rest);
    count.map_or(0, |rest| {
        rest.split_whitespace().next().unwrap().parse().unwrap()
    })
}

/// Sends `head`, then one piece after another, never an end; gives what came back when the connection
/// was closed on it.
async fn drip(
    wire: impl crate::listener::testing::client::Wire,
    head: &str,
    piece: &str,
) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(wire);
    let dripping = async {
        write.write_all(head.as_bytes()).await?;
        loop {
            write.write_all(piece.as_bytes()).await?;
            write.flush().await?;
            sleep(Duration::from_millis(20)).await;
        }
        #[allow(unreachable_code)]
        std::io::Result::Ok(())
    };
    let mut answer = Vec::new();
    let closed = async {
        // A reset is a close as well.
        let _ = read.read_to_end(&mut answer).await;
    };
    timeout(PATIENCE, async {
        tokio::select! {
            () = closed => {}
            result = dripping => assert!(result.is_err()),
        }
    })
    .await
    .expect("a drip is closed");
    answer
}

#[tokio::test]
async fn a_header_drip_is_closed_at_the_deadline() {
    let certificate = certificate(&["app.test"]);
    let mut config = config(vec![tls(vec![certificate.clone()]), plain()]);
    config.connections.timeouts.headers = SHORT;
    let edge = Edge::start(config, 1).await;
    let trusting = client_config(&[&certificate], &["http/1.1"]);
    let wire = handshake(connect(edge.addresses[0]).await, "app.test", &trusting)
        .await
        .unwrap();
    assert!(drip(wire, "GET / HTTP/1.1\r\nx: ", "x").await.is_empty());
    let tcp = connect(edge.addresses[1]).await;
    assert!(drip(tcp, "GET / HTTP/1.1\r\nx: ", "x").await.is_empty());
    // Empty lines don't count as a beginning that never ends, and there may not be many.
    let tcp = connect(edge.addresses[1]).await;
    let answer = drip(tcp, "", "\r\n").await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "));
    // A second request on a connection has the same deadline.
    let tcp = connect(edge.addresses[1]).await;
    let answer = drip(
        tcp,
        "GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nx: ",
        "x",
    )
    .await;
    assert!(answer.ends_with(b"GET /1 0"));
    // Nor does it matter that its beginning came with the request before.
    let before = late(&edge);
    let mut client = Client::new(connect(edge.addresses[1]).await);
    client
        .send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nx: ")
        .await;
    assert_eq!(client.answer().await.unwrap().body, "GET /1 0");
    assert!(client.rest().await.0.is_empty());
    assert_eq!(late(&edge), before + 1);
    edge.stop().await;
}

/// A browser's connection for later, which it never needs.
#[tokio::test]
async fn a_connection_that_is_never_used_ends_as_others_do() {
    let certificate = certificate(&["app.test"]);
    let mut config = config(vec![tls(vec![certificate.clone()]), plain()]);
    config.connections.timeouts.headers = SHORT;
    let edge = Edge::start(config, 1).await;
    let trusting = client_config(&[&certificate], &["http/1.1"]);
    let wire = handshake(connect(edge.addresses[0]).await, "app.test", &trusting)
        .await
        .unwrap();
    let mut unused = [
        Client::new(wire),
        Client::new(connect(edge.addresses[1]).await),
    ];
    for client in &mut unused {
        let (rest, by_reset) = client.rest().await;
        assert!(rest.is_empty() && !by_reset, "{rest:?} {by_reset}");
    }
    assert_eq!(late(&edge), 0);
    drop(unused);
    edge.stop().await;
}

#[tokio::test]
async fn a_body_drip_is_closed_and_a_steady_body_is_not() {
    let mut config = config(vec![plain()]);
    config.connections.timeouts.headers = SHORT;
    config.connections.timeouts.body_minimum_rate = 2000;
    let edge = Edge::start(config, 1).await;
    for framing in [
        "content-length: 100000\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nffff\r\n",
    ] {
        let tcp = connect(edge.addresses[0]).await;
        let answer = drip(
            tcp,
            &format!("POST /up HTTP/1.1\r\nhost: a\r\n{framing}"),
            "b",
        )
        .await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{framing:?}");
    }
    let mut client = Client::new(connect(edge.addresses[0]).await);
    client
        .send("POST /up HTTP/1.1\r\nhost: a\r\ncontent-length: 20000\r\n\r\n")
        .await;
    for _ in 0..20 {
        client.send(&"b".repeat(1000)).await;
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.answer().await.unwrap().body, "POST /up 20000");
    edge.stop().await;
}

#[tokio::test]
async fn silence_is_closed_in_every_state() {
    let certificate = certificate(&["app.test"]);
    let mut config = config(vec![tls(vec![certificate.clone()]), plain()]);
    config.connections.timeouts.headers = SHORT;
    config.connections.timeouts.handshake = SHORT;
    config.connections.timeouts.idle = SHORT;
    let edge = Edge::start(config, 1).await;
    // Before the handshake
    Client::new(connect(edge.addresses[0]).await).rest().await;
    // After it, on HTTP/1 and HTTP/2, before the preface and after it
    for (alpn, first) in [
        ("http/1.1", ""),
        ("h2", ""),
        ("h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    ] {
        let trusting = client_config(&[&certificate], &[alpn]);
        let wire = handshake(connect(edge.addresses[0]).await, "app.test", &trusting)
            .await
            .unwrap();
        let mut client = Client::new(wire);
        client.send(first).await;
        client.rest().await;
    }
    // Between requests
    let mut client = Client::new(connect(edge.addresses[1]).await);
    assert_eq!(client.get("/1").await.unwrap().status, 200);
    assert!(client.rest().await.0.is_empty());
    edge.stop().await;
}

#[tokio::test]
async fn under_pressure_a_handshake_has_less_time() {
    let mut config = config(vec![tls(vec![certificate(&["app.test"])])]);
    config.connections.timeouts.handshake = PATIENCE * 60;
    config.connections.under_pressure = Some(UnderPressure {
        during: States::of(State::SynFlood),
        handshake: Some(SHORT),
        rate_per_client: None,
        known_first: false,
    });
    let edge = Edge::start(config, 1).await;
    edge.shared.pressure.raise(States::of(State::SynFlood));
    Client::new(connect(edge.addresses[0]).await).rest().await;
    assert_eq!(late(&edge), 1);
    edge.stop().await;
}

#[tokio::test]
async fn a_shutdown_closes_idle_connections_and_finishes_busy_ones() {
    let certificate = certificate(&["app.test"]);
    let edge = Edge::start(config(vec![tls(vec![certificate.clone()]), plain()]), 2).await;
    let mut idle = Client::new(connect(edge.addresses[1]).await);
    assert_eq!(idle.get("/1").await.unwrap().status, 200);
    let mut busy = Client::new(connect(edge.addresses[1]).await);
    busy.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut crossing = Client::new(connect(edge.addresses[1]).await);
    assert_eq!(crossing.get("/1").await.unwrap().status, 200);
    let trusting = client_config(&[&certificate], &["h2"]);
    let wire = handshake(connect(edge.addresses[0]).await, "app.test", &trusting)
        .await
        .unwrap();
    let (mut h2, connection) = h2::client::handshake(wire).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("https://app.test/slow")
        .body(())
        .unwrap();
    let (slow, _) = h2.send_request(request, true).unwrap();
    // The upstream has it: the shutdown comes in the midst of it.
    sleep(Duration::from_millis(50)).await;
    edge.leave();
    assert_eq!(busy.answer().await.unwrap().status, 200);
    assert_eq!(slow.await.unwrap().status(), 200);
    let last = crossing.get("/2").await.unwrap();
    assert_eq!(
        (last.status, last.header("connection")),
        (200, Some("close"))
    );
    assert!(crossing.rest().await.0.is_empty());
    assert!(idle.rest().await.0.is_empty());
    driver.await.unwrap().unwrap();
    let address = edge.addresses[1];
    edge.stop().await;
    let refused = tokio::net::TcpStream::connect(address).await;
    assert!(refused.is_err(), "the listening sockets are closed");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed() {
    let mut config = config(vec![plain()]);
    config.connections.timeouts.idle = SHORT;
    let edge = Edge::start(config, 1).await;
    let mut client = Client::new(connect(edge.addresses[0]).await);
    // Far more than the sockets' buffers hold.
    let request = "GET /big HTTP/1.1\r\nhost: a\r\n\r\n";
    client.send(&request.repeat(64)).await;
    for open in [1, 0] {
        timeout(PATIENCE, async {
            while edge.shared.budget.open() != open {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the connection is accepted, and then closed");
    }
    let reasons = edge.shared.metrics.render();
    assert!(
        reasons.contains(r#"refused_total{reason="slow_reader"} 1"#),
        "{reasons}"
    );
    let (rest, by_reset) = client.rest().await;
    assert!(
        by_reset && rest.len() < 64 * 1024 * 1024,
        "{by_reset} {}",
        rest.len()
    );
    edge.stop().await;
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_closed() {
    let certificate = certificate(&["app.test"]);
    let mut listeners = vec![plain(), tls(vec![certificate])];
    for listener in &mut listeners {
        listener.proxy_protocol = true;
    }
    let mut config = config(listeners);
    config.clients.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    config.connections.timeouts.handshake = SHORT;
    // Header and handshake have one deadline together; this one is for requests.
    config.connections.timeouts.headers = Duration::from_secs(3600);
    let edge = Edge::start(config, 1).await;
    for said in ["", "PROXY TCP4 "] {
        let mut client = Client::new(connect(edge.addresses[0]).await);
        client.send(said).await;
        client.rest().await;
    }
    // Nor does it help to be silent only after the header.
    let mut client = Client::new(connect(edge.addresses[1]).await);
    client.send("PROXY TCP4 127.0.0.9 127.0.0.1 1 2\r\n").await;
    assert!(client.rest().await.0.is_empty());
    edge.stop().await;
}

/// What the kernel has accepted for a listener that is about to close is served, however much.
#[tokio::test]
async fn a_shutdown_serves_what_waits_in_the_queue() {
    use std::io::Write;
    let edge = Edge::start(config(vec![plain()]), 1).await;
    // The runtime does not turn meanwhile: none of them is accepted.
    let mut waiting = Vec::new();
    for _ in 0..300 {
        let mut client = std::net::TcpStream::connect(edge.addresses[0]).unwrap();
        client
            .write_all(b"GET /queued HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        client.set_nonblocking(true).unwrap();
        waiting.push(client);
    }
    edge.leave();
    for client in waiting {
        let tcp = tokio::net::TcpStream::from_std(client).unwrap();
        let answer = Client::new(tcp).answer().await.expect("it is served");
        assert_eq!(answer.status, 200);
    }
    edge.stop().await;
}

const EVENTS: &str = "accept: text/event-stream\r\n";

#[tokio::test]
async fn a_request_has_a_deadline_unless_it_is_a_stream() {
    let mut config = config(vec![plain()]);
    config.connections.timeouts.request = Duration::from_millis(100);
    let edge = Edge::start(config, 1).await;
    let address = edge.addresses[0];
    // The upstream takes 300 ms.
    let mut client = Client::new(connect(address).await);
    client.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (rest, by_reset) = client.rest().await;
    assert!(rest.is_empty() && by_reset, "{rest:?} {by_reset}");
    // To ask for a stream is not to be one.
    let mut client = Client::new(connect(address).await);
    client
        .send(&format!("GET /slow HTTP/1.1\r\nhost: a\r\n{EVENTS}\r\n"))
        .await;
    assert!(client.rest().await.1);
    // The next request of that connection has a deadline of its own.
    let mut client = Client::new(connect(address).await);
    assert_eq!(client.get("/quick").await.unwrap().status, 200);
    client.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(client.rest().await.1);
    // An upgraded connection lives as long as something moves.
    let mut client = Client::new(connect(address).await);
    client
        .send("GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.unwrap().status, 101);
    for _ in 0..15 {
        client.send("ping").await;
        let mut pong = [0; 4];
        client.wire.read_exact(&mut pong).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    edge.stop().await;
}

/// Sends `sent`, and a body byte by byte.
async fn upload_slowly(client: &mut Client, length: usize) {
    client
        .send(&format!(
            "POST /up HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n"
        ))
        .await;
    for _ in 0..length {
        client.send("b").await;
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_makes_progress_lives_on_beyond_the_total() {
    let short = || {
        let mut config = config(vec![plain()]);
        config.connections.timeouts.request = 2 * SHORT;
        config.connections.timeouts.body_minimum_rate = 10;
        config
    };
    let edge = Edge::start(short(), 1).await;
    let mut client = Client::new(connect(edge.addresses[0]).await);
    upload_slowly(&mut client, 60).await;
    assert_eq!(client.answer().await.unwrap().body, "POST /up 60");
    edge.stop().await;
    // A stream of events may be silent for longer than anything else.
    let mut config = short();
    config.connections.timeouts.idle = SHORT;
    let edge = Edge::start(config, 1).await;
    for (accept, whole) in [(EVENTS, true), ("accept: */*\r\n", false)] {
        let mut client = Client::new(connect(edge.addresses[0]).await);
        client
            .send(&format!("GET /events HTTP/1.1\r\nhost: a\r\n{accept}\r\n"))
            .await;
        assert_eq!(client.answer().await.is_some(), whole, "{accept}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_client_that_has_said_all_it_wants_gets_its_answer() {
    let certificate = certificate(&["app.test"]);
    let edge = Edge::start(config(vec![tls(vec![certificate.clone()]), plain()]), 1).await;
    let trusting = client_config(&[&certificate], &["http/1.1"]);
    let wire = handshake(connect(edge.addresses[0]).await, "app.test", &trusting)
        .await
        .unwrap();
    let clients = [
        Client::new(wire),
        Client::new(connect(edge.addresses[1]).await),
    ];
    for mut client in clients {
        client
            .send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\nGET /more HTTP/1.1\r\nhost: a\r\n\r\n")
            .await;
        client.wire.shutdown().await.unwrap();
        assert_eq!(client.answer().await.unwrap().body, "GET /slow 0");
        assert_eq!(client.answer().await.unwrap().body, "GET /more 0");
        assert!(client.rest().await.0.is_empty());
    }
    edge.stop().await;
}

#[tokio::test]
async fn an_http2_stream_has_deadlines_of_its_own() {
    let mut config = config(vec![plain()]);
    // The upstream takes 300 ms, in which nothing moves.
    config.connections.timeouts.request = Duration::from_millis(100);
    config.connections.timeouts.idle = Duration::from_millis(100);
    let edge = Edge::start(config, 1).await;
    let ask = async |path: &str, accept: &str| {
        let tcp = connect(edge.addresses[0]).await;
        let (mut h2, connection) = h2::client::handshake(tcp).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::get(format!("http://app.test{path}"))
            .header("accept", accept)
            .body(())
            .unwrap();
        let (answer, _) = h2.send_request(request, true).unwrap();
        let answer = timeout(PATIENCE, async {
            let mut body = answer.await?.into_body();
            let mut length = 0;
            while let Some(data) = body.data().await {
                length += data?.len();
            }
            Ok::<_, h2::Error>(length)
        });
        let answer = answer.await.expect("an answer or a reset");
        drop(h2);
        // It may have been told to go.
        let _ = driver.await.unwrap();
        answer
    };
    assert!(ask("/slow", "*/*").await.unwrap_err().is_reset());
    assert!(ask("/quick", "*/*").await.unwrap() > 0);
    // It is the answer that says whether it is a stream, and only to those who asked for one.
    let events = "text/event-stream";
    assert!(ask("/slow", events).await.unwrap_err().is_reset());
    assert!(ask("/events", "*/*").await.unwrap_err().is_reset());
    assert_eq!(ask("/events", events).await.unwrap(), 4);
    edge.stop().await;
}

#[tokio::test]
async fn an_http2_stream_that_nobody_reads_is_reset() {
    let mut config = config(vec![plain()]);
    config.connections.timeouts.idle = SHORT;
    let edge = Edge::start(config, 1).await;
    let tcp = connect(edge.addresses[0]).await;
    let (mut h2, connection) = h2::client::handshake(tcp).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("http://app.test/big").body(()).unwrap();
    let (answer, _) = h2.send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    // The window is never opened again.
    let ended = timeout(PATIENCE, async {
        loop {
            match body.data().await {
                Some(Ok(_)) => {}
                other => return other,
            }
        }
    });
    let ended = ended.await.expect("the stream ends");
    assert!(ended.unwrap().unwrap_err().is_reset());
    drop((h2, body));
    // The connection may have been idle for too long meanwhile.
    let _ = driver.await.unwrap();
    edge.stop().await;
}

#[tokio::test]
async fn a_shutdown_gives_long_idle_connections_a_moment_too() {
    let edge = Edge::start(config(vec![plain()]), 1).await;
    let mut crossing = Client::new(connect(edge.addresses[0]).await);
    assert_eq!(crossing.get("/1").await.unwrap().status, 200);
    // Idle for longer than the moment lasts.
    sleep(crate::listener::http1::FAREWELL + SHORT).await;
    edge.leave();
    // The worker notices before the request is on its way.
    sleep(SHORT).await;
    assert_eq!(crossing.get("/2").await.unwrap().status, 200);
    edge.stop().await;
}

#[tokio::test]
async fn a_draining_edge_says_so_and_still_accepts() {
    let edge = Edge::start(config(vec![plain()]), 1).await;
    let address = edge.addresses[0];
    let mut open = Client::new(connect(address).await);
    assert_ne!(
        open.get("/1").await.unwrap().header("connection"),
        Some("close")
    );
    let (mut h2, connection) = h2::client::handshake(connect(address).await).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("http://app.test/").body(()).unwrap();
    let (answer, _) = h2.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    edge.draining.send_replace(true);
    // HTTP/2 is told to go, by a GOAWAY that ends the connection.
    timeout(PATIENCE, driver).await.unwrap().unwrap().unwrap();
    let fresh = Client::new(connect(address).await);
    for mut client in [open, fresh] {
        let answer = client.get("/2").await.unwrap();
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.rest().await.0.is_empty());
    }
    edge.stop().await;
}
