//! The third party's rung against a local server that answers as the providers document it, with a
//! widget's script of its own: their real ones are out of reach of a test.

#![allow(clippy::float_cmp, clippy::cast_precision_loss)] // Counters.

use crate::harness::{
    Edge, Nginx, Upstream,
    curl::Response,
    edge::{Folder, HEAD},
    file, tools,
    upstream::{answer, drain},
    wait_until,
};
use std::{
    collections::HashSet,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

const SECRET: &str = "secret-of-the-tests";

/// How the provider feels.
const WELL: u8 = 0;
const HANGING: u8 = 1;
const FAILING: u8 = 2;
const BABBLING: u8 = 3;
const FORGETFUL: u8 = 4;

/// Answers `POST /siteverify` and `GET /api.js`. Good tokens are `good.HOST.ANYTHING`, each once.
struct Provider {
    server: Upstream,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    mood: AtomicU8,
    /// Questions that came, and those that wait for an answer.
    asked: AtomicUsize,
    held: AtomicUsize,
    used: Mutex<HashSet<String>>,
    /// What was wrong with questions.
    problems: Mutex<Vec<String>>,
}

impl Provider {
    fn start(name: &'static str) -> Self {
        let state = Arc::new(State::default());
        let told = Arc::clone(&state);
        let server = Upstream::start(move |request, stream| {
            let body = drain(request, stream)?;
            if request.method == "GET" {
                let script = std::fs::read(file("tests/browser/widget.js"))?;
                answer(stream, 200, &script)?;
                return Ok(true);
            }
            told.asked.fetch_add(1, SeqCst);
            let said = told.verify(name, &String::from_utf8_lossy(&body));
            match told.mood.load(SeqCst) {
                HANGING => {
                    told.held.fetch_add(1, SeqCst);
                    while told.mood.load(SeqCst) == HANGING {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    told.held.fetch_sub(1, SeqCst);
                    answer(stream, 200, said.as_bytes())?;
                }
                FAILING => answer(stream, 500, b"oh no")?,
                BABBLING => answer(stream, 200, "<p>".repeat(20_000).as_bytes())?,
                FORGETFUL => {
                    let said = r#"{"success":false,"error-codes":["invalid-input-secret"]}"#;
                    answer(stream, 200, said.as_bytes())?;
                }
                _ => answer(stream, 200, said.as_bytes())?,
            }
            Ok(true)
        });
        Self { server, state }
    }

    fn feels(&self, mood: u8) {
        self.state.mood.store(mood, SeqCst);
    }

    fn asked(&self) -> usize {
        self.state.asked.load(SeqCst)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.feels(WELL);
        if !std::thread::panicking() {
            let problems = self.state.problems.lock().unwrap();
            assert!(problems.is_empty(), "{problems:?}");
        }
    }
}

impl State {
    fn verify(&self, provider: &str, body: &str) -> String {
        let fields: Vec<(String, String)> = body
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| {
                let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
                (name.to_owned(), value.into_owned())
            })
            .collect();
        let field = |wanted: &str| {
            let found = fields.iter().find(|(name, _)| name == wanted);
            found.map_or("", |(_, value)| value.as_str())
        };
        let wrong = |what: &str| self.problems.lock().unwrap().push(what.to_owned());
        if fields.iter().any(|(name, _)| name == "remoteip") {
            wrong("the visitor's address was sent");
        }
        if (provider == "hcaptcha") != (field("sitekey") == "site-key") {
            wrong("sitekey");
        }
        if (provider == "turnstile") != (field("idempotency_key").len() == 36) {
            wrong("idempotency_key");
        }
        let fail = |code: &str| format!(r#"{{"success":false,"error-codes":["{code}"]}}"#);
        if field("secret") != SECRET {
            return fail("invalid-input-secret");
        }
        let token = field("response");
        let mut parts = token.split(':');
        let (kind, host) = (parts.next(), parts.next().unwrap_or_default());
        let score = match kind {
            Some("good") => "0.9",
            Some("low") => "0.1",
            _ => return fail("invalid-input-response"),
        };
        if !self.used.lock().unwrap().insert(token.to_owned()) {
            return fail("timeout-or-duplicate");
        }
        let more = match provider {
            "recaptcha_v3" => format!(r#","score":{score},"action":"rempart""#),
            "turnstile" => r#","action":"rempart","cdata":"""#.to_owned(),
            _ => String::new(),
        };
        format!(r#"{{"success":true,"hostname":"{host}","error-codes":[]{more}}}"#)
    }
}

fn edge(upstream: SocketAddr, name: &str, provider: &Provider, timeout: &str) -> Edge {
    let folder = Folder::new();
    folder.write("secrets/provider.secret", SECRET);
    let address = provider.server.address;
    let yaml = format!(
        "{HEAD}upstreams: {{ app: {{ endpoints: [{upstream}] }} }}\n\
         routes:\n\
         \x20 - {{ name: open, path: /open, upstream: app, challenge: false }}\n\
         \x20 - {{ name: app, path: /, upstream: app }}\n\
         rules: [{{ name: prove, when: 'request.path.startsWith(\"/\")', then: {{ challenge: third_party }} }}]\n\
         challenge:\n\
         \x20 third_party:\n\
         \x20   provider: {name}\n\
         \x20   site_key: site-key\n\
         \x20   secret_file: secrets/provider.secret\n\
         \x20   verify_url: http://{address}/siteverify\n\
         \x20   script_url: http://{address}/api.js\n\
         \x20   timeout: {timeout}\n"
    );
    Edge::in_folder(folder, &yaml)
}

/// A ticket for the widget.
#[track_caller]
fn ticket(edge: &Edge) -> (String, String) {
    let challenge = edge.get("/page?a=1").answer().json()["challenge"].clone();
    assert_eq!(challenge["kind"], "third_party", "{challenge}");
    let text = |name: &str| challenge[name].as_str().unwrap().to_owned();
    (text("token"), text("field"))
}

fn post(edge: &Edge, token: &str) -> Response {
    let (ticket, field) = ticket(edge);
    edge.get("/.rempart/challenge")
        .data(&format!("token={ticket}&{field}={token}"))
        .answer()
}

#[track_caller]
fn counted(edge: &Edge, result: &str) -> f64 {
    edge.metric("rempart_challenge_provider_total", &[("result", result)])
}

/// What stands in for the widget: any other challenge.
#[track_caller]
fn is_fallback(response: &Response) {
    assert_eq!(response.status, 403);
    let challenge = response.json()["challenge"].clone();
    assert!(challenge["token"].is_string(), "{}", response.text());
    assert_ne!(challenge["kind"], "third_party");
}

#[test]
fn each_providers_word_opens_the_door_once() {
    let upstream = Nginx::start();
    for (name, field) in [
        ("turnstile", "cf-turnstile-response"),
        ("hcaptcha", "h-captcha-response"),
        ("recaptcha", "g-recaptcha-response"),
        ("recaptcha_v3", "g-recaptcha-response"),
    ] {
        let provider = Provider::start(name);
        let edge = edge(upstream.address, name, &provider, "20s");
        assert_eq!(ticket(&edge).1, field);
        let good = "good:app.example.com:1";
        let solved = post(&edge, good);
        assert_eq!(solved.status, 303, "{name}: {}", solved.text());
        assert_eq!(solved.header("location"), Some("/page?a=1"));
        let cookie = solved.header("set-cookie").unwrap();
        let cookie = cookie.split(';').next().unwrap();
        assert_eq!(edge.get("/page").header("cookie", cookie).status(), 200);
        assert_eq!(counted(&edge, "ok"), 1.0);
        // The same token again, one for another host, made-up ones, and none.
        let bad = [
            good,
            "good:evil.example:2",
            "made-up",
            "",
            "low:app.example.com:3",
        ];
        let bad = &bad[..if name == "recaptcha_v3" { 5 } else { 4 }];
        for token in bad {
            let refused = post(&edge, token);
            assert_eq!(refused.status, 403, "{name}: {token}");
            assert_eq!(refused.header("set-cookie"), None, "{name}: {token}");
            let again = &refused.json()["challenge"]["kind"];
            assert_eq!(again == "third_party", name != "recaptcha_v3", "{again}");
        }
        // An answer without a token is not taken to anybody.
        assert_eq!(counted(&edge, "refused"), bad.len() as f64 - 1.0);
        let asked = provider.asked();
        assert_eq!(post(&edge, &"a".repeat(5000)).status, 403);
        assert_eq!(provider.asked(), asked, "an enormous token");
        let log = format!("{}{:?}", edge.log(), edge.access_log());
        assert!(!log.contains(SECRET) && !log.contains(good));
        let shown = edge.api("/api/config").answer().text();
        assert!(!shown.contains(SECRET));
    }
}

#[test]
fn a_provider_that_fails_gives_way_to_the_captcha() {
    let upstream = Nginx::start();
    let provider = Provider::start("turnstile");
    let edge = edge(upstream.address, "turnstile", &provider, "1s");
    for (mood, result) in [
        (HANGING, "timeout"),
        (BABBLING, "error"),
        (FORGETFUL, "misconfigured"),
        (FAILING, "error"),
    ] {
        provider.feels(mood);
        let before = counted(&edge, result);
        is_fallback(&post(&edge, "good:app.example.com:1"));
        wait_until("the result", 15, || counted(&edge, result) > before);
    }
    assert!(edge.log().contains("check `challenge.third_party`"));
    // The fifth in a row opens the breaker: nobody is sent to the provider any more.
    let (ticket, field) = ticket(&edge);
    is_fallback(&post(&edge, "good:app.example.com:1"));
    wait_until("the breaker", 15, || {
        let page = edge.get("/page").answer();
        page.json()["challenge"]["kind"] != "third_party"
    });
    is_fallback(&edge.get("/page").answer());
    let asked = provider.asked();
    let late = edge
        .get("/.rempart/challenge")
        .data(&format!("token={ticket}&{field}=good:app.example.com:2"))
        .answer();
    is_fallback(&late);
    assert_eq!(counted(&edge, "open"), 1.0);
    assert_eq!(provider.asked(), asked);
}

#[test]
fn a_hanging_provider_holds_up_nobody_else() {
    let upstream = Nginx::start();
    let provider = Provider::start("hcaptcha");
    let edge = edge(upstream.address, "hcaptcha", &provider, "60s");
    provider.feels(HANGING);
    std::thread::scope(|scope| {
        let posts: Vec<_> = (0..8)
            .map(|n| {
                let edge = &edge;
                scope.spawn(move || post(edge, &format!("good:app.example.com:{n}")))
            })
            .collect();
        let held = || provider.state.held.load(SeqCst);
        wait_until("eight held questions", 30, || held() == 8);
        for _ in 0..40 {
            assert_eq!(edge.get("/open").status(), 200);
        }
        assert_eq!(held(), 8, "they were served while all eight were held");
        provider.feels(WELL);
        for post in posts {
            assert_eq!(post.join().unwrap().status, 303);
        }
    });
}

#[test]
fn a_browser_meets_the_widget() {
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
    for name in ["turnstile", "hcaptcha", "recaptcha", "recaptcha_v3"] {
        let provider = Provider::start(name);
        let edge = edge(upstream.address, name, &provider, "20s");
        let said = tools::succeed(
            Command::new(tools::venv("node"))
                .arg(file("tests/browser/third_party.mjs"))
                .current_dir(file("tests"))
                .env(
                    "BASE_URL",
                    format!("https://localhost:{}", edge.tls().port()),
                )
                .env("PROVIDER", name)
                .env("BROWSER", "/usr/bin/chromium"),
        );
        assert!(said.contains("ok   the widget opens the page"), "{said}");
        assert!(counted(&edge, "ok") >= 1.0, "{name}");
    }
}
