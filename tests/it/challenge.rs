//! The challenge: a page that a browser solves, a cookie that opens, and nothing else that does.

use crate::harness::{Edge, Nginx, file, nginx, tools};
use std::process::Command;

fn edge(upstream: &Nginx) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         rules: [{{ name: prove, when: 'request.path.startsWith(\"/\")', then: challenge }}]\n",
        upstream.address
    ))
}

fn upstream() -> Nginx {
    Nginx::with("", "", nginx::SITE)
}

#[test]
fn programs_are_told_and_browsers_are_shown() {
    let upstream = upstream();
    let edge = edge(&upstream);
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
    let upstream = upstream();
    let edge = edge(&upstream);
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
    let upstream = upstream();
    let edge = edge(&upstream);
    let script = file("tests/browser/challenge.mjs");
    assert!(script.exists());
    let url = format!("https://localhost:{}/page", edge.tls().port());
    let said = tools::succeed(
        Command::new(tools::venv("node"))
            .arg(script)
            .arg(&url)
            .env("CHROMIUM", "/usr/bin/chromium"),
    );
    assert!(said.contains("hello"), "{said}");
    assert!(
        upstream
            .requests()
            .iter()
            .any(|line| line.contains("/page"))
    );
    assert!(
        edge.metric("rempart_challenges_total", &[]) >= 2.0,
        "issued and solved"
    );
}
