//! The challenge: a page that a browser solves, a cookie that opens, and nothing else that does.

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
            .arg(file("tests/browser/challenge.mjs"))
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
    assert!(!upstream.seen().is_empty());
    for outcome in ["issued", "solved"] {
        let labels = [("outcome", outcome)];
        assert!(
            edge.metric("rempart_challenges_total", &labels) >= 1.0,
            "{outcome}"
        );
    }
}
