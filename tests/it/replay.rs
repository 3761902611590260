//! What a challenged visitor posts reaches its page after the climb, byte for byte, and reaches
//! nothing that it was not posted to.

#![allow(clippy::float_cmp)] // Counters.

use crate::harness::{
    Curl, Edge, Nginx, Upstream,
    curl::Response,
    file, nginx, tools,
    upstream::{answer, drain},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
};
use verdict::proof_of_work;

const EFFORT: u32 = 64 * 4;
const URLENCODED: &str = "application/x-www-form-urlencoded";

/// Challenges whoever posts to `/orders`.
fn config(upstream: SocketAddr, more: &str, challenge: &str) -> String {
    format!(
        "upstreams:\n  app:\n    endpoints: [{upstream}]\n{more}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         rules: [{{ name: prove, when: 'request.path.startsWith(\"/orders\")', then: {{ challenge: proof_of_work }} }}]\n\
         challenge: {{ proof_of_work: {{ effort: {EFFORT}, adapt: false }}, {challenge} }}\n"
    )
}

/// An application that remembers the bodies it was sent.
struct App {
    upstream: Upstream,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl App {
    fn new() -> Self {
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bodies);
        let upstream = Upstream::start(move |request, stream| {
            let body = drain(request, stream)?;
            kept.lock().unwrap().push(body);
            answer(stream, 200, b"the application")?;
            Ok(true)
        });
        Self { upstream, bodies }
    }

    fn bodies(&self) -> Vec<Vec<u8>> {
        self.bodies.lock().unwrap().clone()
    }
}

/// Bytes that nothing may touch.
fn bytes(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| at.to_le_bytes()[0].wrapping_mul(31))
        .collect()
}

/// The value of a quoted attribute on a page.
fn attribute(page: &str, before: &str) -> Option<String> {
    let (_, rest) = page.split_once(before)?;
    Some(rest.split_once('"')?.0.to_owned())
}

const BLOB: &str = r#"name="rempart-replay" value=""#;

/// A visitor: keeps cookies, as a browser does.
struct Visitor<'a> {
    edge: &'a Edge,
    source: &'static str,
    version: &'static str,
    cookies: Vec<String>,
}

impl<'a> Visitor<'a> {
    fn new(edge: &'a Edge, source: &'static str, version: &'static str) -> Self {
        Self {
            edge,
            source,
            version,
            cookies: Vec::new(),
        }
    }

    /// A form is sent from a page of the same site, unless said otherwise.
    fn post(&mut self, path: &str, kind: &str, body: &[u8], site: &str) -> Response {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), body).unwrap();
        let curl = self
            .edge
            .get(path)
            .from(self.source)
            .with(&[self.version])
            .navigating()
            .header("sec-fetch-site", site)
            .header("content-type", kind)
            .header("expect", "")
            .data(&format!("@{}", file.path().display()));
        self.send(&curl)
    }

    fn send(&mut self, curl: &Curl) -> Response {
        let curl = if self.cookies.is_empty() {
            curl.clone()
        } else {
            curl.clone().header("cookie", &self.cookies.join("; "))
        };
        let response = curl.answer();
        for (name, value) in &response.headers {
            if name == "set-cookie" {
                let pair = value.split(';').next().unwrap().to_owned();
                let name = pair.split('=').next().unwrap().to_owned();
                self.cookies
                    .retain(|old| !old.starts_with(&format!("{name}=")));
                self.cookies.push(pair);
            }
        }
        response
    }

    /// Solves the page's challenge and sends the answer as a form does.
    fn solve(&mut self, page: &str) -> Response {
        let token = attribute(page, r#"data-token=""#).expect("a token");
        let sealed = URL_SAFE_NO_PAD.decode(&token).unwrap();
        let seed = sealed[sealed.len() - 32..].try_into().unwrap();
        let nonces = proof_of_work::solve(&seed, EFFORT);
        let nonces: Vec<String> = nonces.iter().map(u32::to_string).collect();
        let blob = attribute(page, BLOB).unwrap_or_default();
        let form = format!(
            "token={token}&nonces={}&rempart-replay={blob}",
            nonces.join("%2C")
        );
        self.post(
            "/.rempart/challenge",
            URLENCODED,
            form.as_bytes(),
            "same-origin",
        )
    }

    /// The whole climb; what the page that was posted to says in the end.
    fn climb(&mut self, path: &str, kind: &str, body: &[u8]) -> Response {
        let challenged = self.post(path, kind, body, "same-origin");
        assert_eq!(challenged.status, 403);
        assert_eq!(challenged.header("rempart-action"), Some("challenge"));
        let page = challenged.text();
        assert!(
            page.contains(r#"<form id="replay" method="post""#),
            "{page}"
        );
        let solved = self.solve(&page);
        assert_eq!(solved.status, 200, "{}", solved.text());
        assert_eq!(solved.header("rempart-action"), None);
        let page = solved.text();
        assert_eq!(attribute(&page, r#"action=""#).as_deref(), Some(path));
        let form = format!("rempart-replay={}", attribute(&page, BLOB).unwrap());
        self.post(path, URLENCODED, form.as_bytes(), "same-origin")
    }
}

#[test]
fn what_was_posted_arrives_as_it_was() {
    let app = App::new();
    let edge = Edge::start(&config(app.upstream.address, "", "replay: 256KiB"));
    let mut expected = Vec::new();
    for (source, version) in [("127.0.5.1", "--http1.1"), ("127.0.6.1", "--http2")] {
        for (kind, length) in [
            ("multipart/form-data; boundary=----x", 30_000),
            ("text/plain", 0),
            (URLENCODED, 1),
            // More than pingora buffers.
            ("multipart/form-data; boundary=y", 200_000),
        ] {
            let mut visitor = Visitor::new(&edge, source, version);
            let body = bytes(length);
            let answer = visitor.climb("/orders?new=1", kind, &body);
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, "the application")
            );
            let heard = app.upstream.seen().pop().unwrap();
            assert_eq!(
                (heard.method.as_str(), heard.target.as_str()),
                ("POST", "/orders?new=1")
            );
            let all = |name: &str| -> Vec<&str> {
                let named = heard.headers.iter().filter(|(key, _)| key == name);
                named.map(|(_, value)| value.as_str()).collect()
            };
            assert_eq!(all("content-type"), [kind]);
            assert_eq!(all("content-length"), [length.to_string()]);
            assert!(all("transfer-encoding").is_empty());
            let cookies = all("cookie").join("; ");
            assert!(cookies.contains("rempart-clearance="), "{cookies}");
            assert!(!cookies.contains("-replay="), "{cookies}");
            expected.push(body);
        }
    }
    assert!(
        app.bodies() == expected,
        "the bodies are not those that were posted"
    );
}

#[test]
fn bulkheads_and_http2_upstreams_get_it_too() {
    let upstream = Nginx::with("http2", "", nginx::SITE);
    let edge = Edge::start(&format!(
        "{}limits: {{ few: {{ key: [route], concurrent: 5, over: throttle }} }}\n",
        config(upstream.address, "    protocol: h2", "replay: 256KiB")
            .replace("upstream: app }", "upstream: app, limits: [few] }")
    ));
    for (source, version) in [("127.0.5.1", "--http1.1"), ("127.0.6.1", "--http2")] {
        // nginx answers before it has read the body: what fits a window is not cut short by that.
        for length in [0, 1000, 20_000] {
            let mut visitor = Visitor::new(&edge, source, version);
            let answer = visitor.climb("/orders", "text/plain", &bytes(length));
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.json()["length"], length.to_string());
            assert_eq!(answer.json()["coding"], "");
        }
    }
    assert_eq!(upstream.requests().len(), 6);
}

#[test]
fn a_form_of_another_site_is_not_sent_for_it() {
    let app = App::new();
    let edge = Edge::start(&config(app.upstream.address, "", ""));
    let mut visitor = Visitor::new(&edge, "127.0.5.1", "--http2");
    for site in ["cross-site", "same-site"] {
        let page = visitor.post("/orders", URLENCODED, b"pay=all", site).text();
        assert!(page.contains(r#"id="lost""#), "{page}");
        assert!(!page.contains("rempart-replay"), "{page}");
        // The way on is the page itself.
        let solved = visitor.solve(&page);
        assert_eq!(solved.status, 303);
        let way = solved.header("location").unwrap().to_owned();
        assert!(way.starts_with("/.rempart/challenge?solved="), "{way}");
        let led = visitor.send(&edge.get(&way).from(visitor.source).navigating());
        assert_eq!((led.status, led.header("location")), (303, Some("/orders")));
        visitor.cookies.clear();
    }
    assert!(app.bodies().is_empty());
}

#[test]
fn a_body_is_nobody_elses_and_for_nothing_else() {
    let app = App::new();
    let edge = Edge::start(&config(app.upstream.address, "", ""));
    let mut visitor = Visitor::new(&edge, "127.0.5.1", "--http1.1");
    let page = visitor
        .post("/orders", URLENCODED, b"pay=all", "same-origin")
        .text();
    let form = format!("rempart-replay={}", attribute(&page, BLOB).unwrap());
    let form = form.as_bytes();
    // Cleared, and marked: all that is missing is to be the one it was given to.
    let mut other = Visitor::new(&edge, "127.0.6.1", "--http1.1");
    other.climb("/orders", URLENCODED, b"own=1");
    assert_eq!(app.bodies().pop().unwrap(), b"own=1");
    let led = other.post("/orders", URLENCODED, form, "same-origin");
    assert_eq!((led.status, led.header("location")), (303, Some("/orders")));
    // Sent by a page of another site, it is what it looks like: some form.
    other.post("/orders", URLENCODED, form, "cross-site");
    assert_eq!(app.bodies().pop().unwrap(), form);
    let solved = visitor.solve(&page);
    assert_eq!(solved.status, 200);
    let led = visitor.post("/orders/other", URLENCODED, form, "same-origin");
    assert_eq!(
        (led.status, led.header("location")),
        (303, Some("/orders/other"))
    );
    let heard = app.bodies().len();
    // Twice: what any form does that is submitted twice.
    for _ in 0..2 {
        let sent = visitor.post("/orders", URLENCODED, form, "same-origin");
        assert_eq!(sent.status, 200);
        assert_eq!(app.bodies().pop().unwrap(), b"pay=all");
    }
    assert_eq!(app.bodies().len(), heard + 2);
    // A form of the application is left alone, with the mark too.
    visitor.post("/orders", URLENCODED, b"a=b", "same-origin");
    assert_eq!(app.bodies().pop().unwrap(), b"a=b");
    visitor.post("/orders", URLENCODED, b"rempart-replay=AAAA", "same-origin");
    assert_eq!(app.bodies().pop().unwrap(), b"rempart-replay=AAAA");
}

/// A clearance may be missing when the form comes back: it has expired, another replica does not know
/// it, the challenge was for a rate that has passed.
#[test]
fn what_was_wrapped_here_reaches_no_application_as_it_is() {
    let app = App::new();
    let config = config(app.upstream.address, "", "replay: 256KiB");
    let edge = Edge::start(&config.replace(
        "'request.path.startsWith(\"/orders\")'",
        "'request.path.startsWith(\"/orders\") && request.headers[\"x-suspect\"] == \"1\"'",
    ));
    let mut visitor = Visitor::new(&edge, "127.0.5.1", "--http1.1");
    let suspected = |visitor: &mut Visitor<'_>, body: &[u8]| {
        let curl = edge
            .get("/orders?new=1")
            .from(visitor.source)
            .navigating()
            .header("sec-fetch-site", "same-origin")
            .header("content-type", URLENCODED)
            .header("x-suspect", "1")
            .data(std::str::from_utf8(body).unwrap());
        visitor.send(&curl)
    };
    let page = suspected(&mut visitor, b"pay=all").text();
    let form = format!("rempart-replay={}", attribute(&page, BLOB).unwrap());
    assert_eq!(visitor.cookies.len(), 1, "marked, and not cleared");
    // Still suspect: challenged again, with what was posted at first.
    let page = suspected(&mut visitor, form.as_bytes()).text();
    let again = format!("rempart-replay={}", attribute(&page, BLOB).unwrap());
    assert!(app.bodies().is_empty());
    // Suspect no more: it is what it was.
    for form in [&form, &again] {
        let sent = visitor.post("/orders?new=1", URLENCODED, form.as_bytes(), "same-origin");
        assert_eq!(sent.status, 200, "{}", sent.text());
        assert_eq!(app.bodies().pop().unwrap(), b"pay=all");
    }
    // Elsewhere it leads to the page; and not to another site.
    let led = visitor.post("/orders", URLENCODED, form.as_bytes(), "same-origin");
    assert_eq!((led.status, led.header("location")), (303, Some("/orders")));
    let led = visitor.post(
        "//evil.example/",
        URLENCODED,
        form.as_bytes(),
        "same-origin",
    );
    assert_eq!((led.status, led.header("location")), (303, Some("/")));
    assert_eq!(app.bodies().len(), 2);
    // Where there is no room for it, it has to come again; forms of the application's own do not.
    let page = suspected(&mut visitor, &vec![b'a'; 100_000]).text();
    let form = format!("rempart-replay={}", attribute(&page, BLOB).unwrap());
    let full = (0..300).find_map(|_| {
        let sent = visitor.post("/orders?new=1", URLENCODED, form.as_bytes(), "same-origin");
        (sent.status != 200).then_some(sent)
    });
    let full = full.expect("no end of room");
    assert_eq!((full.status, full.header("retry-after")), (429, Some("1")));
    for version in ["--http1.1", "--http2"] {
        visitor.version = version;
        for length in [1, 30_000, 60_000] {
            let body = vec![b'a'; length];
            let own = visitor.post("/orders?new=1", URLENCODED, &body, "same-origin");
            assert_eq!(own.status, 200);
            assert!(app.bodies().pop().unwrap() == body, "{length}");
        }
    }
    assert!(
        app.bodies()
            .iter()
            .all(|body| !body.starts_with(b"rempart-replay"))
    );
}

#[test]
fn what_is_too_large_or_switched_off_is_said_to_be_lost() {
    let app = App::new();
    for (challenge, length) in [("replay: 1KiB", 1025), ("replay: off", 10)] {
        let edge = Edge::start(&config(app.upstream.address, "", challenge));
        let mut visitor = Visitor::new(&edge, "127.0.5.1", "--http2");
        let page = visitor.post("/orders", "text/plain", &bytes(length), "same-origin");
        assert_eq!(page.status, 403);
        assert!(page.text().contains(r#"id="lost""#), "{}", page.text());
    }
    assert!(app.bodies().is_empty());
}

#[test]
fn a_wrong_answer_leads_to_another_challenge_that_keeps_what_was_posted() {
    let app = App::new();
    let edge = Edge::start(&config(app.upstream.address, "", ""));
    let mut visitor = Visitor::new(&edge, "127.0.5.1", "--http2");
    let page = visitor
        .post("/orders?x=1", URLENCODED, b"a=b", "same-origin")
        .text();
    let (token, blob) = (
        attribute(&page, r#"data-token=""#).unwrap(),
        attribute(&page, BLOB).unwrap(),
    );
    let wrong = format!("token={token}&nonces=1&rempart-replay={blob}");
    let again = visitor.post(
        "/.rempart/challenge",
        URLENCODED,
        wrong.as_bytes(),
        "same-origin",
    );
    assert_eq!(again.status, 403);
    assert_eq!(again.header("rempart-action"), Some("challenge"));
    assert!(again.header("cache-control").unwrap().contains("no-store"));
    let again = again.text();
    assert_ne!(attribute(&again, r#"data-token=""#), Some(token));
    assert_eq!(
        attribute(&again, r#"id="replay" method="post" action=""#).as_deref(),
        Some("/orders?x=1")
    );
    let solved = visitor.solve(&again);
    assert_eq!(solved.status, 200, "{}", solved.text());
    let count = |outcome| edge.metric("rempart_challenges_total", &[("outcome", outcome)]);
    assert_eq!(
        (count("issued"), count("failed"), count("solved")),
        (2.0, 1.0, 1.0)
    );
}

#[test]
fn an_enormous_answer_is_refused_unread() {
    let app = App::new();
    let edge = Edge::start(&config(app.upstream.address, "", "replay: 1KiB"));
    let mut visitor = Visitor::new(&edge, "127.0.5.1", "--http1.1");
    let huge = vec![b'a'; 2_000_000];
    for body in [&huge[..], &huge[..=12 * 1024]] {
        let refused = visitor.post("/.rempart/challenge", URLENCODED, body, "same-origin");
        assert_eq!(refused.status, 413);
    }
    let labels = [("outcome", "too_large")];
    assert_eq!(edge.metric("rempart_challenges_total", &labels), 2.0);
}

#[test]
fn a_browser_sends_its_form_and_gets_its_page() {
    let upstream = Upstream::start(|request, stream| {
        let body = drain(request, stream)?;
        if let Some((_, away)) = request.target.split_once("away=") {
            write!(
                stream,
                "HTTP/1.1 302 Found\r\nlocation: {away}/form?arrived\r\ncontent-length: 0\r\n\r\n"
            )?;
            stream.flush()?;
            return Ok(true);
        }
        let page = if request.target.starts_with("/form") {
            let target = request.target.split_once("to=").map_or("", |(_, to)| to);
            format!(
                "<!doctype html><title>App</title>\
                 <form method=post action='{target}/orders?new=1' enctype='application/x-www-form-urlencoded'>\
                 <input name=text value='a b&amp;é\"'><input name=file type=file><button>Send</button></form>"
            )
        } else {
            let body: Vec<String> = body.iter().map(|byte| format!("{byte:02x}")).collect();
            format!(
                "<!doctype html><title>Echo</title><p id=method>{}<p id=kind>{}<p id=body>{}",
                request.method,
                request.header("content-type").unwrap_or("none"),
                body.concat()
            )
        };
        let length = page.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {length}\r\n\r\n{page}"
        )?;
        stream.flush()?;
        Ok(true)
    });
    let edge = Edge::start(&config(upstream.address, "", ""));
    let said = tools::succeed(
        Command::new(tools::venv("node"))
            .arg(file("tests/browser/replay.mjs"))
            .current_dir(file("tests"))
            .env(
                "BASE_URL",
                format!("https://localhost:{}", edge.tls().port()),
            )
            .env(
                "OTHER_URL",
                format!("https://127.0.0.1:{}", edge.tls().port()),
            )
            .env("BROWSER", "/usr/bin/chromium"),
    );
    for story in [
        "urlencoded",
        "multipart",
        "text",
        "another site",
        "without JavaScript",
        "the application may lead on",
        "no cookies",
    ] {
        assert!(said.contains(&format!("ok   {story}")), "{said}");
    }
    let posts = upstream
        .seen()
        .into_iter()
        .filter(|heard| heard.method == "POST");
    assert!(posts.count() >= 3);
}
