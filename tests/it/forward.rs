//! Behind the edge: endpoints that die and return, slow and broken ones, and every protocol that
//! is passed through.

use crate::harness::{
    Edge, Nginx, Upstream,
    edge::{Folder, HEAD},
    nginx, raw, tools,
    upstream::{answer, drain},
    wait_until,
};
use std::{
    collections::HashMap,
    io::{Read, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_tungstenite::tungstenite;

fn edge(endpoints: &[SocketAddr], options: &str) -> Edge {
    Edge::start(&site(endpoints, options))
}

fn site(endpoints: &[SocketAddr], options: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let endpoints = endpoints.join(", ");
    format!(
        "upstreams:\n  app:\n    endpoints: [{endpoints}]\n{options}\
         routes: [{{ name: app, path: /, upstream: app }}]\n"
    )
}

#[test]
fn takes_turns() {
    let upstreams = [
        Upstream::named("a"),
        Upstream::named("b"),
        Upstream::named("c"),
    ];
    let edge = edge(&upstreams.each_ref().map(|u| u.address), "");
    let mut counts = HashMap::new();
    for _ in 0..12 {
        *counts.entry(edge.get("/").answer().text()).or_insert(0) += 1;
    }
    // Each core takes its own turns, so equal shares are not promised to the last request.
    assert_eq!(counts.len(), 3, "{counts:?}");
}

#[test]
fn hash_keeps_a_client_where_it_was() {
    let upstreams = [
        Upstream::named("a"),
        Upstream::named("b"),
        Upstream::named("c"),
    ];
    let edge = edge(
        &upstreams.each_ref().map(|u| u.address),
        "    balance: hash\n",
    );
    let mut used = HashMap::new();
    for client in 1..=12 {
        let source = format!("127.0.2.{client}");
        let first = edge.get("/").from(&source).answer().text();
        assert_eq!(edge.get("/").from(&source).answer().text(), first);
        *used.entry(first).or_insert(0) += 1;
    }
    assert!(used.len() > 1, "{used:?}");
}

#[test]
fn an_endpoint_dies_and_returns() {
    let (stays, goes) = (Nginx::start(), Nginx::start());
    let edge = edge(
        &[stays.address, goes.address],
        "    health_check: { path: /healthz, every: 300ms, timeout: 300ms, healthy: 1, unhealthy: 2 }\n    retries: { budget: 100% }\n",
    );
    let healthy = || {
        edge.metric(
            "rempart_upstream_endpoints",
            &[("upstream", "app"), ("state", "healthy")],
        )
    };
    wait_until("both healthy", 10, || healthy() > 1.5);
    let address = goes.stop();
    // Not one visitor notices: retries cover the time until the check has seen it.
    for _ in 0..20 {
        assert_eq!(edge.get("/").status(), 200);
    }
    wait_until("one healthy", 10, || healthy() < 1.5);
    let back = Nginx::at(address);
    wait_until("both healthy again", 10, || healthy() > 1.5);
    wait_until("requests at the one that returned", 10, || {
        assert_eq!(edge.get("/").status(), 200);
        !back.requests().is_empty()
    });
}

#[test]
fn without_any_endpoint_says_when_to_come_back() {
    let nobody = nginx::free_address();
    let edge = edge(
        &[nobody],
        "    health_check: { path: /healthz, every: 200ms, timeout: 150ms, healthy: 1, unhealthy: 1 }\n",
    );
    wait_until("503", 10, || edge.get("/").send().status == 503);
    let answer = edge.get("/").answer();
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(wait >= 1);
    assert!(answer.header("x-request-id").is_some());
    let page = edge.get("/").navigating().answer();
    assert_eq!(page.status, 503);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    let line = edge.logged(answer.header("x-request-id").unwrap());
    assert_eq!(line["response"]["status"], 503);
    assert!(line["error"]["code"].is_string(), "{line}");
}

#[test]
fn a_refused_connection_is_502() {
    let edge = edge(&[nginx::free_address()], "    ejection: { failures: 0 }\n");
    let answer = edge.get("/").answer();
    assert_eq!(answer.status, 502);
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert!(
        edge.metric(
            "rempart_upstream_requests_total",
            &[("upstream", "app"), ("result", "connect_failed")]
        ) >= 1.0
    );
}

#[test]
fn an_upstream_that_does_not_answer_is_504() {
    let upstream = Upstream::start(|_, stream| {
        // Until the edge gives up.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        Ok(false)
    });
    let edge = edge(
        &[upstream.address],
        "    timeouts: { response: 300ms }\n    retries: { attempts: 0 }\n",
    );
    let answer = edge.get("/").answer();
    assert_eq!(answer.status, 504);
    assert_eq!(upstream.seen().len(), 1);
    let line = edge.logged(answer.header("x-request-id").unwrap());
    assert_eq!(line["response"]["status"], 504);
}

#[test]
fn retries_what_may_be_done_twice_and_nothing_else() {
    // Takes each request and hangs up on it: nobody can know whether it was carried out.
    let bad = Upstream::start(|request, stream| {
        drain(request, stream)?;
        Ok(false)
    });
    let good = Upstream::named("good");
    let edge = edge(
        &[bad.address, good.address],
        "    retries: { attempts: 1, budget: 100% }\n    ejection: { failures: 0 }\n",
    );
    for _ in 0..6 {
        let answer = edge.get("/").answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"));
        let line = edge.logged(answer.header("x-request-id").unwrap());
        assert_eq!(
            line["error"],
            serde_json::Value::Null,
            "it went well in the end"
        );
    }
    assert!(!bad.seen().is_empty(), "some went to the bad one first");

    let before = bad.seen().len() + good.seen().len();
    let statuses: Vec<u16> = (0..6)
        .map(|_| edge.get("/").data("an order").status())
        .collect();
    assert!(statuses.contains(&502), "{statuses:?}");
    let after = bad.seen().len() + good.seen().len();
    assert_eq!(after - before, 6, "an order is placed once");
}

#[test]
fn a_connection_refused_is_tried_elsewhere_whatever_the_method() {
    let good = Upstream::named("good");
    let edge = edge(
        &[nginx::free_address(), good.address],
        "    retries: { attempts: 1, budget: 100% }\n    ejection: { failures: 0 }\n",
    );
    for _ in 0..6 {
        assert_eq!(edge.get("/").data("an order").status(), 200);
    }
    assert_eq!(good.seen().len(), 6);
}

#[test]
fn speaks_tls_to_upstreams_and_verifies_them() {
    let folder = Folder::new();
    let served = folder.authority.pair(&["app.internal"]);
    let clients = folder.authority.roots();
    let upstream = Upstream::start_tls(served, Some(clients), |request, stream| {
        drain(request, stream)?;
        answer(stream, 200, b"encrypted")?;
        Ok(true)
    });
    folder.certificate("edge", &["edge.internal"]);
    let yaml = |tls: &str| {
        format!(
            "{HEAD}{}",
            site(&[upstream.address], &format!("    tls: {{ {tls} }}\n"))
        )
    };
    let good = "ca: tls/ca.pem, server_name: app.internal, certificate: tls/edge.pem, private_key: tls/edge.key";
    let edge = Edge::in_folder(folder, &yaml(good));
    let answer = edge.get("/").answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "encrypted"));

    // Another name, another authority, no client certificate: each is refused, none is let by.
    let stranger = crate::harness::Authority::new();
    let bad = [
        "ca: tls/ca.pem, server_name: other.internal, certificate: tls/edge.pem, private_key: tls/edge.key",
        "ca: tls/stranger.pem, server_name: app.internal, certificate: tls/edge.pem, private_key: tls/edge.key",
        "ca: tls/ca.pem, server_name: app.internal",
    ];
    edge.folder.write("tls/stranger.pem", &stranger.pem());
    let before = upstream.seen().len();
    for tls in bad {
        let reloads = edge.reloads();
        edge.folder.write("rempart.yaml", &yaml(tls));
        edge.wait_for_reload_after(reloads);
        let status = edge.get("/").status();
        assert!(status == 502 || status == 503, "{status} with {tls}");
    }
    assert_eq!(upstream.seen().len(), before);
}

#[test]
fn speaks_h2c_to_upstreams() {
    let upstream = Nginx::with("http2", "", nginx::SITE);
    let edge = edge(&[upstream.address], "    protocol: h2\n");
    for curl in [edge.get("/x").http1(), edge.get("/x").http2()] {
        let answer = curl.answer();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["protocol"], "HTTP/2.0");
    }
}

#[test]
fn passes_grpc_with_its_trailers() {
    let mut server = crate::harness::process::Process::start(&mut tools::python("grpc_server.py"));
    let address: SocketAddr = crate::harness::wait_for("the gRPC server", 20, || {
        assert!(server.ended().is_none(), "{:?}", server.stderr());
        server.stdout().first().and_then(|line| line.parse().ok())
    });
    let edge = edge(&[address], "    protocol: h2\n");
    let said = tools::succeed(
        tools::python("grpc_client.py")
            .arg(format!("app.example.com:{}", edge.tls().port()))
            .arg(edge.ca()),
    );
    for expected in [
        "unary ok",
        "server stream ok",
        "bidirectional ok",
        "error ok",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn passes_websockets() {
    let upstream = Upstream::start(|request, stream| {
        assert_eq!(request.header("upgrade"), Some("websocket"));
        let key = request.header("sec-websocket-key").unwrap();
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        write!(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
        )?;
        stream.flush()?;
        let mut socket = tungstenite::WebSocket::from_raw_socket(
            stream,
            tungstenite::protocol::Role::Server,
            None,
        );
        while let Ok(message) = socket.read() {
            if message.is_text() || message.is_binary() {
                socket.send(message).map_err(std::io::Error::other)?;
            }
        }
        Ok(false)
    });
    // Shorter than the conversation below: what is upgraded is no request that takes too long.
    let edge = Edge::start(&format!(
        "connections: {{ timeouts: {{ idle: 1s, request: 3s, headers: 1s }} }}\n{}",
        site(&[upstream.address], "")
    ));
    let (mut socket, response) =
        tungstenite::client("wss://app.example.com/chat", edge.connect("127.0.0.1")).unwrap();
    assert_eq!(response.status(), 101);
    let big = "x".repeat(200_000);
    for text in ["hello", "", &big] {
        socket.send(text.into()).unwrap();
        assert_eq!(socket.read().unwrap().to_text().unwrap(), text);
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        std::thread::sleep(Duration::from_millis(300));
        socket.send("still here".into()).unwrap();
        assert_eq!(socket.read().unwrap().to_text().unwrap(), "still here");
    }
    socket.close(None).unwrap();
}

#[test]
fn streams_answers_as_they_come() {
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")?;
        stream.flush()?;
        let _ = gate.lock().unwrap().recv_timeout(Duration::from_secs(20));
        stream.write_all(b"4\r\nlast\r\n0\r\n\r\n")?;
        stream.flush()?;
        Ok(true)
    });
    let edge = edge(&[upstream.address], "");
    let mut stream = edge.connect("127.0.0.1");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: app.example.com\r\n\r\n")
        .unwrap();
    stream.flush().unwrap();
    let head = raw::read_head(&mut stream).unwrap();
    assert_eq!(head.status, 200);
    let mut seen = String::new();
    let mut byte = [0];
    while !seen.contains("first") {
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0].into());
    }
    // Only now may the upstream go on: the first part came before the last was written.
    go.send(()).unwrap();
    while !seen.contains("last") {
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0].into());
    }
}

#[test]
fn streams_requests_as_they_come() {
    let got = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&got);
    let upstream = Upstream::start(move |request, stream| {
        assert!(request.header("transfer-encoding").is_some());
        let mut chunk = [0; 10];
        // "5\r\nfirst\r\n", whose end is not in sight yet.
        stream.read_exact(&mut chunk)?;
        counter.store(1, Ordering::SeqCst);
        let mut rest = Vec::new();
        let mut byte = [0];
        while !rest.ends_with(b"0\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            rest.push(byte[0]);
        }
        answer(stream, 200, b"got it")?;
        Ok(true)
    });
    let edge = edge(&[upstream.address], "");
    let mut stream = edge.connect("127.0.0.1");
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: app.example.com\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .unwrap();
    stream.flush().unwrap();
    wait_until("the first chunk upstream", 10, || {
        got.load(Ordering::SeqCst) == 1
    });
    let answer = raw::exchange(&mut stream, b"4\r\nlast\r\n0\r\n\r\n").unwrap();
    assert_eq!(answer.status, 200);
}

#[test]
fn carries_large_bodies_both_ways() {
    let upstream = Nginx::start();
    let echo = Upstream::start(|request, stream| {
        let body = drain(request, stream)?;
        answer(stream, 200, body.len().to_string().as_bytes())?;
        Ok(true)
    });
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }}, echo: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: echo, path: /echo, upstream: echo }}, {{ name: app, path: /, upstream: app }}]\n",
        upstream.address, echo.address
    ));
    let expected: Vec<u8> = (0..8 << 20).map(|i: u32| (i % 251) as u8).collect();
    let file = edge.folder.path("upload");
    std::fs::write(&file, &expected).unwrap();
    let upload = format!("@{}", file.display());
    for version in ["--http1.1", "--http2"] {
        let down = edge.get("/big").with(&[version]).answer();
        assert_eq!(down.status, 200, "{version}");
        assert!(
            down.body == expected,
            "{version}: {} bytes",
            down.body.len()
        );
        let up = edge.get("/echo").with(&[version]).data(&upload).answer();
        assert_eq!(up.text(), expected.len().to_string(), "{version}");
    }
}

#[test]
fn a_head_request_has_no_body_and_a_204_neither() {
    let upstream = Upstream::start(|request, stream| {
        let head: &[u8] = if request.method == "HEAD" {
            b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
        } else {
            b"HTTP/1.1 204 No Content\r\n\r\n"
        };
        stream.write_all(head)?;
        stream.flush()?;
        Ok(true)
    });
    let edge = edge(&[upstream.address], "");
    let began = Instant::now();
    for version in ["--http1.1", "--http2"] {
        let head = edge.get("/").with(&[version, "--head"]).answer();
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-length"), Some("1000"));
        assert_eq!(edge.get("/").with(&[version]).status(), 204);
    }
    // curl would have waited its 30 s for a body that does not come.
    assert!(began.elapsed() < Duration::from_secs(25));
}

#[test]
fn resolves_names_of_endpoints() {
    let upstream = Upstream::named("by name");
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ discover: {{ dns: \"localhost:{}\" }} }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n",
        upstream.address.port()
    ));
    // localhost may be ::1 as well, where nothing listens: passive ejection and retries bear it.
    wait_until("an answer by name", 10, || {
        edge.get("/").send().text() == "by name"
    });
}

#[test]
fn an_upstream_that_answers_before_the_upload_is_through_is_heard() {
    let upstream = Upstream::start(|_, stream| {
        // Says no at the sight of the head, and reads no more.
        answer(stream, 413, b"too large")?;
        Ok(false)
    });
    let edge = edge(&[upstream.address], "    retries: { attempts: 0 }\n");
    let file = edge.folder.path("upload");
    std::fs::write(&file, vec![b'x'; 4 << 20]).unwrap();
    for version in ["--http1.1", "--http2"] {
        let began = Instant::now();
        let response = edge
            .get("/")
            .with(&[version])
            .data(&format!("@{}", file.display()))
            .send();
        // The connection behind it breaks while the upload runs: 413 when that was read first. On
        // HTTP/2, ending a stream whose upload still runs may overtake the answer in the client.
        let heard = [413, 502].contains(&response.status);
        assert!(
            heard || (version == "--http2" && response.exit == 92),
            "{version}: {} {}",
            response.status,
            response.error
        );
        assert!(began.elapsed() < Duration::from_secs(25), "{version} hung");
    }
}
