//! The challenge page and the silent rung: what visitors see, in a real browser and over the wire.

use crate::harness::{Edge, Folder, Upstream, edge::HEAD, file, tools, upstream::drain};
use std::{net::SocketAddr, process::Command};

const LOGO: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 48 48\" width=\"48\" height=\"48\">\
    <script>parent.ran = 1</script><rect width=\"48\" height=\"48\" rx=\"12\" fill=\"#1d4fbf\"/>\
    <path d=\"M12 34V14h6v5h3v-5h6v5h3v-5h6v20z\" fill=\"#fff\"/></svg>";

fn upstream(more: &'static str) -> Upstream {
    Upstream::start(move |request, stream| {
        drain(request, stream)?;
        let page = "<!doctype html><title>App</title><h1>original</h1>";
        let length = page.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n{more}content-length: {length}\r\n\r\n{page}"
        )?;
        stream.flush()?;
        Ok(true)
    })
}

fn edge(upstream: SocketAddr, rules: &str, challenge: &str) -> Edge {
    let folder = Folder::new();
    folder.write("logo.svg", LOGO);
    folder.write("provider.secret", "secret-of-the-tests");
    Edge::in_folder(
        folder,
        &format!(
            "{HEAD}upstreams: {{ app: {{ endpoints: [{upstream}] }} }}\n\
             routes: [{{ name: app, path: /, upstream: app }}]\n\
             rules: [{rules}]\n\
             challenge: {{ {challenge} }}\n"
        ),
    )
}

/// A rule for those who hold nothing.
const SILENT: &str =
    "{ name: quiet, when: 'request.path.startsWith(\"/\")', then: { challenge: silent } }";

fn browser(edge: &Edge, story: &str) -> String {
    tools::succeed(
        Command::new(tools::venv("node"))
            .arg(file("tests/browser").join(story))
            .current_dir(file("tests"))
            .env(
                "BASE_URL",
                format!("https://localhost:{}", edge.tls().port()),
            )
            .env("BROWSER", "/usr/bin/chromium"),
    )
}

#[test]
fn a_browser_passes_the_silent_rung() {
    let upstream = upstream("");
    let edge = edge(upstream.address, SILENT, "");
    let said = browser(&edge, "silent.mjs");
    assert!(said.contains("ok   no cookies is told so"), "{said}");
    for outcome in ["issued", "solved", "failed", "invalid"] {
        let labels = [("kind", "silent"), ("outcome", outcome)];
        let count = edge.metric("rempart_challenges_total", &labels);
        assert!(count >= 1.0, "{outcome}");
    }
}

#[test]
fn a_browser_shows_the_page_to_everybody() {
    let upstream = upstream("");
    let edge = edge(
        upstream.address,
        "{ name: blocked, when: 'request.path == \"/blocked\"', then: deny }, \
         { name: prove, when: 'request.path.startsWith(\"/proof\")', then: { challenge: proof_of_work } }",
        "page: { name: Example, logo_file: logo.svg, help: { en: Write to help@example.com, \
         ar: Write to help@example.com, fr: Écrivez à aide@example.com } }",
    );
    let said = browser(&edge, "page.mjs");
    assert!(said.contains("ok   proof of work: ar"), "{said}");
}

/// Of each rung, in languages with long texts and with long letters.
#[test]
fn pages_come_compressed_to_those_who_ask_and_are_small() {
    let rungs = ["silent", "proof_of_work", "captcha", "third_party"];
    let rules = rungs.map(|rung| {
        format!(
            "{{ name: {rung}, when: 'request.path == \"/{rung}\"', then: {{ challenge: {rung} }} }}"
        )
    });
    let provider =
        "third_party: { provider: turnstile, site_key: key, secret_file: provider.secret }";
    let upstream = upstream("");
    let edge = edge(upstream.address, &rules.join(", "), provider);
    for rung in rungs {
        for language in ["en", "fr", "de", "uk", "ar", "ja"] {
            let path = format!("/{rung}");
            let ask = edge.get(&path).navigating();
            let ask = ask.header("accept-language", language);
            let plain = ask.clone().answer();
            assert_eq!(plain.header("content-language"), Some(language), "{rung}");
            assert_eq!(plain.header("content-encoding"), None);
            assert!(plain.text().contains("</html>"));
            let gzip = ask.header("accept-encoding", "br;q=1, gzip;q=0.1").answer();
            assert_eq!(gzip.header("content-encoding"), Some("gzip"));
            let (small, large) = (gzip.body.len(), plain.body.len());
            assert!(
                small < large && small < 20_000,
                "{rung} {language}: {small}"
            );
            let vary = "accept-encoding, accept-language";
            assert_eq!(gzip.header("vary"), Some(vary));
            assert_eq!(
                gzip.header("content-length"),
                Some(small.to_string().as_str())
            );
        }
    }
}

#[test]
fn a_program_sends_it_again_with_the_cookie() {
    let upstream = upstream("");
    let edge = edge(upstream.address, SILENT, "");
    let first = edge.get("/api").answer();
    assert_eq!(first.status, 403);
    let cookie = first.header("set-cookie").unwrap().split(';').next();
    let again = edge.get("/api").header("cookie", cookie.unwrap());
    assert_eq!(again.status(), 200);
    assert_eq!(edge.get("/api").status(), 403);
}

#[test]
fn pages_give_the_cookie_ahead_where_told() {
    let quiet = "{ name: quiet, when: 'request.path == \"/later\"', then: { challenge: silent } }";
    let (private, shared) = (
        upstream(""),
        upstream("cache-control: public, max-age=60\r\n"),
    );
    let on = edge(private.address, quiet, "silent: { ahead: true }");
    let page = on.get("/").navigating().answer();
    assert_eq!(page.status, 200);
    let cookie = page
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let later = on.get("/later").navigating().header("cookie", cookie);
    assert_eq!(later.status(), 200);
    let held = on.get("/").navigating().header("cookie", cookie).answer();
    assert_eq!(held.header("set-cookie"), None, "who holds one gets none");
    assert_eq!(on.get("/").answer().header("set-cookie"), None, "no page");
    let posted = on.get("/").navigating().method("POST").answer();
    assert_eq!(posted.header("set-cookie"), None);

    let cached = edge(shared.address, quiet, "silent: { ahead: true }");
    let page = cached.get("/").navigating().answer();
    assert_eq!((page.status, page.header("set-cookie")), (200, None));
    let off = edge(private.address, quiet, "");
    let page = off.get("/").navigating().answer();
    assert_eq!((page.status, page.header("set-cookie")), (200, None));
}
