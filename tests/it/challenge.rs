//! The challenge: a page that a browser solves, a cookie that opens, and nothing else that does.

#![allow(clippy::float_cmp)] // Counters.

use crate::harness::{Edge, Nginx, Upstream, file, tools, upstream::drain};
use std::{net::SocketAddr, process::Command};

fn edge(upstream: SocketAddr, more: &str) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{upstream}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         rules: [{{ name: prove, when: 'request.path.startsWith(\"/\")', then: {{ challenge: proof_of_work }} }}]\n{more}"
    ))
}

#[test]
fn programs_are_told_and_browsers_are_shown() {
    let upstream = Nginx::start();
    let edge = edge(upstream.address, "");
    let program = edge.get("/page").answer();
    assert_eq!(program.status, 403);
    assert_eq!(program.header("rempart-action"), Some("challenge"));
    assert_eq!(
        program.header("content-type"),
        Some("application/problem+json")
    );
    let browser = edge.get("/page").navigating().answer();
    assert_eq!(browser.status, 403);
    assert_eq!(browser.header("rempart-action"), Some("challenge"));
    assert!(
        browser
            .header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(
        browser.text().contains("<noscript"),
        "a word for those without scripts"
    );
    let cache = browser.header("cache-control").unwrap_or_default();
    assert!(cache.contains("no-store"), "{cache}");
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_made_up_cookie_opens_nothing() {
    let upstream = Nginx::start();
    let edge = edge(upstream.address, "");
    let long = "A".repeat(3000);
    for value in ["", "x", "AAAA.BBBB.CCCC", "==", "%00", &long] {
        for name in ["rempart_clearance", "rempart-clearance", "__Host-rempart"] {
            let cookie = format!("{name}={value}");
            assert_eq!(edge.get("/page").header("cookie", &cookie).status(), 403);
        }
    }
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_browser_solves_it_and_sees_the_page() {
    let upstream = Upstream::start(|request, stream| {
        drain(request, stream)?;
        let page = "<!doctype html><title>App</title><h1>original</h1>";
        let length = page.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{page}"
        )?;
        stream.flush()?;
        Ok(true)
    });
    // Little work: it is the way that is tested, not the patience.
    let edge = edge(
        upstream.address,
        "challenge: { proof_of_work: { effort: 5000 } }\n",
    );
    let said = tools::succeed(
        Command::new(tools::venv("node"))
            .arg(file("tests/browser/proof_of_work.mjs"))
            .current_dir(file("tests"))
            .env(
                "BASE_URL",
                format!("https://localhost:{}", edge.tls().port()),
            )
            .env("TEXT", "original")
            .env("COOKIE", "rempart-clearance")
            .env("BROWSER", "/usr/bin/chromium"),
    );
    assert!(said.contains("ok   a visitor waits"), "{said}");
    println!("{said}");
    assert!(!upstream.seen().is_empty());
    for outcome in ["issued", "solved"] {
        let labels = [("outcome", outcome)];
        assert!(
            edge.metric("rempart_challenges_total", &labels) >= 1.0,
            "{outcome}"
        );
    }
    let kind = [("kind", "proof_of_work")];
    assert!(edge.metric("rempart_challenge_solve_seconds_count", &kind) >= 1.0);
    assert_eq!(edge.metric("rempart_challenge_effort", &[]), 5000.0);
}

#[test]
fn all_solvers_find_the_same() {
    let said = tools::succeed(
        Command::new(tools::venv("node"))
            .arg(file("tests/browser/solver.mjs"))
            .env("SCRIPT", file("src/challenge/proof_of_work.js"))
            .env("BINARY", concat!(env!("OUT_DIR"), "/solver.wasm")),
    );
    assert!(said.contains("ok   all ways"), "{said}");
    println!("{said}");
}

/// As the docs tell authors of programs to.
#[test]
fn a_program_solves_it() {
    let upstream = Nginx::start();
    let edge = edge(
        upstream.address,
        "challenge: { proof_of_work: { effort: 5000 } }\n",
    );
    let page = std::fs::read_to_string(file("docs/tasks/solve-a-challenge.md")).unwrap();
    let (_, rest) = page.split_once("```python\n").unwrap();
    let (program, _) = rest.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.py");
    std::fs::write(&path, program).unwrap();
    let url = format!("http://{}/page", edge.plain());
    let said = tools::succeed(Command::new("python3").arg(&path).arg(url));
    assert!(said.starts_with("200"), "{said}");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn the_rung_follows_the_risk() {
    let upstream = Nginx::start();
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         rules: [{{ name: prove, when: 'request.path.startsWith(\"/\")', then: challenge }}]\n\
         challenge: {{ ladder: [silent, proof_of_work, captcha] }}\n",
        upstream.address
    ));
    // It asks, and never solves.
    for _ in 0..26 {
        assert_eq!(edge.get("/page").status(), 403);
    }
    let issued = |kind| {
        let labels = [("kind", kind), ("outcome", "issued")];
        edge.metric("rempart_challenges_total", &labels)
    };
    assert_eq!(issued("silent"), 6.0);
    assert_eq!(issued("proof_of_work"), 18.0);
    assert_eq!(issued("captcha"), 2.0);
}
