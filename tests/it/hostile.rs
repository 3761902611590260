//! Input that no honest peer sends: it gets an answer or a closed door, and the server lives on.

use crate::harness::{Edge, Upstream, raw, upstream::answer, wait_until};
use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

fn edge(upstream: &Upstream, more: &str) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}], ejection: {{ failures: 0 }}, retries: {{ attempts: 0 }} }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n{more}",
        upstream.address
    ))
}

/// The edge still serves, and nothing in it panicked.
#[track_caller]
fn lives(edge: &mut Edge) {
    assert!(edge.process().ended().is_none());
    assert_eq!(edge.get("/alive").status(), 200);
    let log = edge.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn garbage_where_a_handshake_should_be() {
    let upstream = Upstream::named("app");
    let mut edge = edge(&upstream, "connections: { timeouts: { handshake: 1s } }\n");
    let noise = vec![0xff; 20_000];
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nhost: app.example.com\r\n\r\n",
        b"\x16\x03\x01\xff\xff\xff\xff\xff",
        b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x00",
        &[0; 300],
        &noise,
        b"",
    ];
    for bytes in garbage {
        let mut tcp = raw::connect("127.0.0.1", edge.tls()).unwrap();
        let _ = tcp.write_all(bytes);
        let mut rest = Vec::new();
        // Closed by the edge: at once, or by the deadline of the handshake.
        let began = Instant::now();
        let _ = tcp.read_to_end(&mut rest);
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{bytes:?} held its connection"
        );
        assert!(!String::from_utf8_lossy(&rest).contains("200"), "{bytes:?}");
    }
    lives(&mut edge);
}

#[test]
fn malformed_requests_are_400_or_closed_and_reach_no_upstream() {
    let upstream = Upstream::named("app");
    let mut edge = edge(&upstream, "");
    let many = "h: x\r\n".repeat(2000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no HTTP", b"what is this\r\n\r\n".to_vec()),
        ("a version beyond", b"GET / HTTP/9.9\r\nhost: app.example.com\r\n\r\n".to_vec()),
        ("no host", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("two hosts", b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_vec()),
        ("length and chunks", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
        ("two lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!".to_vec()),
        ("a negative length", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n".to_vec()),
        ("an odd coding", b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n".to_vec()),
        ("a blank before the colon", b"GET / HTTP/1.1\r\nhost : a\r\n\r\n".to_vec()),
        ("a folded header", b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n".to_vec()),
        ("bare line feeds", b"GET / HTTP/1.1\nhost: a\n\n".to_vec()),
        ("a control in a value", b"GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n".to_vec()),
        ("a header of 1 MiB", [b"GET / HTTP/1.1\r\nhost: a\r\nx: ".to_vec(), vec![b'a'; 1 << 20], b"\r\n\r\n".to_vec()].concat()),
        ("2000 headers", format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n").into_bytes()),
    ];
    for (what, bytes) in cases {
        let mut stream = edge.connect("127.0.0.1");
        let _ = stream.write_all(&bytes);
        let _ = stream.flush();
        match raw::read_head(&mut stream) {
            Ok(answer) => assert!(
                matches!(answer.status, 400 | 413 | 414 | 431 | 501 | 505),
                "{what}: {}",
                answer.status
            ),
            Err(error) => assert!(
                !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ),
                "{what}: the edge neither answered nor closed"
            ),
        }
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
    lives(&mut edge);
}

#[test]
fn headers_that_drip_are_cut_off() {
    let upstream = Upstream::named("app");
    let mut edge = edge(&upstream, "connections: { timeouts: { headers: 1s } }\n");
    let mut stream = edge.connect("127.0.0.1");
    let began = Instant::now();
    let mut closed = false;
    // A byte each 100 ms would go on for 40 s.
    for byte in b"GET / HTTP/1.1\r\nhost: app.example.com\r\nx: "
        .iter()
        .chain([&b'a'; 360])
    {
        if stream
            .write_all(&[*byte])
            .and_then(|()| stream.flush())
            .is_err()
        {
            closed = true;
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        if began.elapsed() > Duration::from_secs(15) {
            break;
        }
    }
    assert!(closed, "still open after {:?}", began.elapsed());
    lives(&mut edge);
}

#[test]
fn silence_is_cut_off_on_both_protocols() {
    let upstream = Upstream::named("app");
    let mut edge = edge(
        &upstream,
        "connections: { timeouts: { headers: 1s, idle: 1s } }\n",
    );
    for protocol in [b"http/1.1".as_slice(), b"h2"] {
        let tcp = raw::connect("127.0.0.1", edge.tls()).unwrap();
        let mut stream =
            raw::tls(tcp, "app.example.com", &edge.folder.authority, &[protocol]).unwrap();
        let mut rest = Vec::new();
        // The socket's own deadline of 20 s would be an error of another kind.
        let result = stream.read_to_end(&mut rest);
        let timed_out = result.is_err_and(|e| {
            matches!(
                e.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            )
        });
        assert!(!timed_out, "{}", String::from_utf8_lossy(protocol));
    }
    lives(&mut edge);
}

#[test]
fn a_body_that_drips_is_cut_off() {
    let upstream = Upstream::named("app");
    let mut edge = edge(
        &upstream,
        "connections: { timeouts: { body_minimum_rate: 10KiB/s, request: 3s } }\n",
    );
    let mut stream = edge.connect("127.0.0.1");
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: app.example.com\r\ncontent-length: 100000\r\n\r\n")
        .unwrap();
    stream.flush().unwrap();
    let began = Instant::now();
    let mut closed = false;
    while began.elapsed() < Duration::from_secs(15) {
        if stream
            .write_all(b"x")
            .and_then(|()| stream.flush())
            .is_err()
        {
            closed = true;
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(closed, "still open after {:?}", began.elapsed());
    lives(&mut edge);
}

#[test]
fn upstreams_that_speak_nonsense_are_502() {
    let nonsense: [(&str, &[u8]); 6] = [
        ("nothing", b""),
        ("no HTTP", b"hello there\r\n\r\n"),
        ("a status of letters", b"HTTP/1.1 abc OK\r\n\r\n"),
        ("half a head", b"HTTP/1.1 200 OK\r\ncontent-le"),
        (
            "a length of letters",
            b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        ),
        ("zeros", &[0; 100]),
    ];
    let upstream = Upstream::start(move |request, stream| {
        let number: usize = request.target.trim_start_matches('/').parse().unwrap_or(99);
        if let Some((_, bytes)) = nonsense.get(number) {
            stream.write_all(bytes)?;
            stream.flush()?;
            return Ok(false);
        }
        answer(stream, 200, b"fine")?;
        Ok(true)
    });
    let mut edge = edge(&upstream, "");
    for (number, (what, _)) in nonsense.iter().enumerate() {
        let answer = edge.get(&format!("/{number}")).answer();
        assert_eq!(answer.status, 502, "{what}: {}", answer.text());
    }
    lives(&mut edge);
}

#[test]
fn an_upstream_that_breaks_off_breaks_the_answer_off() {
    let upstream = Upstream::start(|request, stream| {
        if request.target == "/alive" {
            answer(stream, 200, b"fine")?;
            return Ok(true);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly this")?;
        stream.flush()?;
        Ok(false)
    });
    let mut edge = edge(&upstream, "");
    for version in ["--http1.1", "--http2"] {
        let answer = edge.get("/").with(&[version]).send();
        assert_ne!(answer.exit, 0, "{version}: a torn answer looks whole");
    }
    lives(&mut edge);
}

#[test]
fn cookies_and_queries_of_any_bytes_are_passed_or_refused() {
    let upstream = Upstream::named("app");
    let mut edge = edge(
        &upstream,
        "limits: { by-cookie: { key: [cookie.session], rate: 1000/s, burst: 1000, over: throttle, all: true } }\n\
         rules: [{ name: odd, when: 'request.query.contains(\"evil\")', then: deny }]\n",
    );
    let cookies: [&[u8]; 6] = [
        b"session",
        b"session=",
        b"=;;;=",
        b"session=\xff\xfe",
        b"a=b; session=x; session=y",
        &[b';'; 3000],
    ];
    for cookie in cookies {
        let mut stream = edge.connect("127.0.0.1");
        let bytes = [
            b"GET /a?\xc3\xa4=%ff%00 HTTP/1.1\r\nhost: app.example.com\r\ncookie: ".as_slice(),
            cookie,
            b"\r\n\r\n",
        ]
        .concat();
        let status = raw::exchange(&mut stream, &bytes).unwrap().status;
        assert!(status == 200 || status == 400, "{status}");
    }
    assert_eq!(edge.get("/?evil").status(), 403);
    lives(&mut edge);
}

#[test]
fn a_flood_of_bad_clients_does_not_fill_the_log() {
    let upstream = Upstream::named("app");
    let mut edge = edge(
        &upstream,
        "connections: { per_client: off, rate_per_client: off }\n",
    );
    let before = edge.log().len();
    for _ in 0..400 {
        if let Ok(mut tcp) = raw::connect("127.0.0.1", edge.tls()) {
            let _ = tcp.write_all(b"not a handshake at all\r\n\r\n");
        }
    }
    wait_until("the failures counted", 15, || {
        edge.metric("rempart_tls_handshakes_total", &[("result", "failed")]) >= 300.0
    });
    let lines = edge.log().len() - before;
    assert!(lines < 40_000, "{lines} bytes for 400 bad clients");
    lives(&mut edge);
}
