//! No request behind another: the tables of strictness again, before a real nginx. What hides a second
//! request in a first one must not make nginx see it, nor shift whose answer is whose.

use crate::harness::{Edge, Nginx, cases::cases, raw, wait_until};
use std::io::{Read, Write};

fn edge(nginx: &Nginx) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\nroutes: [{{ name: app, path: /, upstream: app }}]\n",
        nginx.address
    ))
}

/// What nginx says of the request that it saw.
fn uri(answer: &raw::Answer) -> String {
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    said["uri"].as_str().unwrap_or_default().to_owned()
}

/// After this one has reached nginx, all before it would have.
fn settle(edge: &Edge, nginx: &Nginx) {
    assert_eq!(edge.get("/the-last").status(), 200);
    wait_until("the last request in nginx's log", 15, || {
        nginx
            .requests()
            .iter()
            .any(|line| line.contains("/the-last"))
    });
}

#[test]
fn nothing_behind_a_malformed_request_is_ever_asked() {
    let nginx = Nginx::start();
    let edge = edge(&nginx);
    for (number, case) in cases("malformed.txt").into_iter().enumerate() {
        let mut stream = edge.connect("127.0.0.1");
        let smuggled = format!("GET /smuggled/{number} HTTP/1.1\r\nhost: app.example.com\r\n\r\n");
        let bytes = [case.bytes.as_slice(), smuggled.as_bytes()].concat();
        let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
        let answer = raw::read_answer(&mut stream).unwrap_or_else(|e| panic!("{}: {e}", case.what));
        assert_eq!(answer.status, case.status, "{}", case.what);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{}: a second answer", case.what);
        // Whoever comes next, over the same connections to nginx, gets an answer of their own.
        let own = format!("/own/{number}");
        let answer = raw::exchange(
            &mut raw::connect("127.0.0.2", edge.plain()).unwrap(),
            format!("GET {own} HTTP/1.1\r\nhost: app.example.com\r\n\r\n").as_bytes(),
        );
        assert_eq!(uri(&answer.unwrap()), own, "after {}", case.what);
    }
    settle(&edge, &nginx);
    let log = nginx.requests();
    let strangers = log
        .iter()
        .filter(|line| !line.contains("\"GET /own/") && !line.contains("/the-last"))
        .collect::<Vec<_>>();
    assert!(strangers.is_empty(), "{strangers:?}");
}

#[test]
fn what_follows_an_odd_request_gets_its_own_answer() {
    let nginx = Nginx::start();
    let edge = edge(&nginx);
    for (number, case) in cases("legal.txt").into_iter().enumerate() {
        if case.is_last() {
            continue;
        }
        let mut stream = edge.connect("127.0.0.1");
        let next = format!("/next/{number}");
        let bytes = [
            case.bytes.as_slice(),
            format!("GET {next} HTTP/1.1\r\nhost: app.example.com\r\n\r\n").as_bytes(),
        ]
        .concat();
        stream.write_all(&bytes).unwrap();
        stream.flush().unwrap();
        // nginx's own answer, whatever it thinks of the method or the target.
        let first = loop {
            let answer = if case.is_head() {
                raw::read_head(&mut stream)
            } else {
                raw::read_answer(&mut stream)
            };
            let answer = answer.unwrap_or_else(|e| panic!("{}: {e}", case.what));
            if answer.status >= 200 {
                break answer;
            }
        };
        assert_ne!(uri(&first), next, "{}", case.what);
        if first.header("connection") == Some("close") {
            continue;
        }
        let second =
            raw::read_answer(&mut stream).unwrap_or_else(|e| panic!("behind {}: {e}", case.what));
        assert_eq!(uri(&second), next, "behind {}", case.what);
    }
}

#[test]
fn requests_in_bodies_are_bodies() {
    let nginx = Nginx::start();
    let edge = edge(&nginx);
    let inner = "GET /smuggled HTTP/1.1\r\nhost: app.example.com\r\n\r\n";
    let length = inner.len();
    let chunks = format!("{length:x};{}\r\n{inner}\r\n0\r\n", "a=\"b;c\"");
    let wrapped = [
        format!("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{inner}"),
        format!("GET /a HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{inner}"),
        format!("HEAD /a HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{inner}"),
        format!(
            "OPTIONS /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n{inner}"
        ),
        format!("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}\r\n"),
        format!(
            "GET /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunks}x: y\r\n\r\n"
        ),
        format!(
            "POST /a HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: {length}\r\n\r\n{inner}"
        ),
        format!("POST /sick HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{inner}"),
        format!("POST /big HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{inner}"),
    ];
    for request in &wrapped {
        // At once, and cut within the body.
        for cut in [request.len(), request.len() - length / 2] {
            let mut stream = edge.connect("127.0.0.1");
            let (early, late) = request.as_bytes().split_at(cut);
            stream
                .write_all(early)
                .and_then(|()| stream.flush())
                .unwrap();
            let _ = stream.write_all(late).and_then(|()| stream.flush());
            let answer = if request.starts_with("HEAD") {
                raw::read_head(&mut stream)
            } else {
                raw::read_answer(&mut stream)
            };
            let mut answer = answer.unwrap();
            while answer.status < 200 {
                answer = raw::read_answer(&mut stream).unwrap();
            }
            if answer.header("connection") != Some("close") {
                let next = b"GET /own HTTP/1.1\r\nhost: app.example.com\r\n\r\n";
                let second = raw::exchange(&mut stream, next).unwrap();
                assert_eq!(uri(&second), "/own", "after {request}");
            }
        }
    }
    settle(&edge, &nginx);
    let log = nginx.requests();
    let seen = |path: &str| log.iter().filter(|line| line.contains(path)).count();
    assert_eq!(seen("/smuggled"), 0, "{log:?}");
    assert!(seen(" /a ") >= 2, "{log:?}");
}

#[test]
fn requests_one_behind_the_other_are_answered_in_turn() {
    let nginx = Nginx::start();
    let edge = edge(&nginx);
    let mut stream = edge.connect("127.0.0.1");
    let all: Vec<String> = (0..50)
        .map(|number| match number % 3 {
            0 => format!("GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n"),
            1 => format!("POST /{number} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello"),
            _ => format!(
                "POST /{number} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
            ),
        })
        .collect();
    stream.write_all(all.concat().as_bytes()).unwrap();
    stream.flush().unwrap();
    for number in 0..50 {
        let answer = raw::read_answer(&mut stream).unwrap();
        assert_eq!(uri(&answer), format!("/{number}"));
    }
}
