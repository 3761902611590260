//! JA4: real clients are known by their hello, in the log, in keys and in rules, wherever they
//! connect from.

use crate::harness::{Curl, Edge, Upstream, edge::Folder, raw, tools, wait_for};
use std::{
    collections::HashSet,
    io::Write,
    process::{Command, Stdio},
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: app.example.com\r\nconnection: close\r\n\r\n";

fn routes(upstream: &Upstream) -> String {
    format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n",
        upstream.address
    )
}

/// The fingerprint in the log line of this request, which must succeed.
#[track_caller]
fn fingerprint(edge: &Edge, curl: &Curl) -> String {
    let answer = curl.answer();
    assert_eq!(answer.status, 200, "{}", answer.text());
    ja4_of(edge, answer.header("x-request-id").unwrap())
}

#[track_caller]
fn ja4_of(edge: &Edge, id: &str) -> String {
    let line = edge.logged(id);
    let ja4 = line["client"]["ja4"].as_str().unwrap_or_default();
    ja4.to_owned()
}

/// The fingerprint of whoever asks for this path by a program that shows no headers.
#[track_caller]
fn fingerprint_of_path(edge: &Edge, path: &str) -> String {
    let line = wait_for("a line in the access log", 20, || {
        edge.access_log()
            .into_iter()
            .find(|line| line["request"]["path"] == path)
    });
    line["client"]["ja4"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn chromium(edge: &Edge, path: &str) {
    let profile = tempfile::tempdir().unwrap();
    let port = edge.tls().port();
    tools::succeed(
        Command::new("timeout")
            .args(["60", "chromium", "--headless", "--no-sandbox"])
            .args(["--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--no-proxy-server"])
            .args(["--ignore-certificate-errors", "--disable-dev-shm-usage"])
            .arg("--host-resolver-rules=MAP app.example.com 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("--dump-dom")
            .arg(format!("https://app.example.com:{port}{path}")),
    );
}

fn openssl(edge: &Edge, path: &str) {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-servername", "app.example.com"])
        .args(["-connect", &edge.tls().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl; run `make test`");
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: app.example.com\r\nconnection: close\r\n\r\n");
    let mut input = client.stdin.take().unwrap();
    input.write_all(request.as_bytes()).unwrap();
    client.wait().unwrap();
}

#[test]
fn real_clients_are_known_by_their_hello() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&routes(&upstream));

    let curl = edge.get("/").http2();
    let first = fingerprint(&edge, &curl.clone().from("127.0.0.2"));
    assert_eq!(first.len(), 36, "{first}");
    assert!(first.starts_with("t13d") && first[8..].starts_with("h2_"));
    for source in ["127.0.0.2", "127.9.8.7"] {
        let again = fingerprint(&edge, &curl.clone().from(source));
        assert_eq!(again, first, "the same from run to run");
    }
    // What it offers shows, and nothing else changes.
    let http1 = fingerprint(&edge, &edge.get("/").http1());
    assert_eq!(http1, first.replacen("h2_", "h1_", 1));
    let old = fingerprint(&edge, &curl.with(&["--tls-max", "1.2"]));
    assert!(old.starts_with("t12d") && old != first, "{old}");

    let mut known = HashSet::from([first, http1, old]);
    for (name, visit) in [
        ("openssl", openssl as fn(&Edge, &str)),
        ("chromium", chromium),
    ] {
        let [one, two] = ["one", "two"].map(|run| {
            let path = format!("/{name}/{run}");
            visit(&edge, &path);
            fingerprint_of_path(&edge, &path)
        });
        assert_eq!(one, two, "{name}: the same from run to run");
        assert!(one.starts_with("t13d"), "{name}: {one}");
        assert!(known.insert(one.clone()), "{name} is told apart: {one}");
    }

    // In plaintext there is none.
    let plain = Curl::http(edge.plain(), "/").header("host", "app.example.com");
    assert_eq!(fingerprint(&edge, &plain), "");
}

#[test]
fn a_limit_counts_a_fingerprint_wherever_it_comes_from() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&format!(
        "{}limits: {{ per-print: {{ key: [client.ja4], rate: 1/h, burst: 3, over: throttle, all: true }} }}\n",
        routes(&upstream)
    ));
    let ask = |source: &str| edge.get("/").from(source);
    for source in ["127.0.0.2", "127.0.0.3", "127.0.0.4"] {
        assert_eq!(ask(source).status(), 200);
    }
    assert_eq!(ask("127.0.0.5").status(), 429, "the same program");
    let other = ask("127.0.0.5").with(&["--tls-max", "1.2"]);
    assert_eq!(other.status(), 200, "another");
    for _ in 0..5 {
        let plain = Curl::http(edge.plain(), "/").header("host", "app.example.com");
        assert_eq!(plain.status(), 200, "none: the limit does not apply");
    }
}

#[test]
fn a_rule_refuses_a_fingerprint() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&routes(&upstream));
    let ja4 = fingerprint(&edge, &edge.get("/"));
    edge.reload(&format!(
        "{}rules: [{{ name: tool, when: 'client.ja4 == \"{ja4}\"', then: deny }}]\n",
        routes(&upstream)
    ));
    let refused = edge.get("/").answer();
    assert_eq!(refused.status, 403);
    let line = edge.logged(refused.header("x-request-id").unwrap());
    assert_eq!(line["decision"]["name"], "tool");
    assert_eq!(line["client"]["ja4"], ja4.as_str());
    assert_eq!(edge.get("/").with(&["--tls-max", "1.2"]).status(), 200);
}

#[test]
fn a_load_balancer_does_not_hide_it() {
    let upstream = Upstream::named("app");
    let edge = Edge::in_folder(
        Folder::new(),
        &format!(
            "listeners:\n\
             \x20 - address: 127.0.0.1:0\n\
             \x20   tls: {{ certificates: [{{ certificate: tls/app.pem, private_key: tls/app.key }}] }}\n\
             \x20 - address: 127.0.0.1:0\n\
             \x20   tls: {{ certificates: [{{ certificate: tls/app.pem, private_key: tls/app.key }}] }}\n\
             \x20   proxy_protocol: true\n\
             admin: {{ address: 127.0.0.1:0, token_file: secrets/admin.token }}\n\
             clients: {{ trusted_proxies: [127.0.0.9/32] }}\n\
             {}",
            routes(&upstream)
        ),
    );
    let visit = |listener: usize, source: &str, header: &str| {
        let mut tcp = raw::connect(source, edge.listener(listener)).unwrap();
        tcp.write_all(header.as_bytes()).unwrap();
        let authority = &edge.folder.authority;
        let mut tls = raw::tls(tcp, "app.example.com", authority, &[b"http/1.1"]).unwrap();
        let answer = raw::exchange(&mut tls, GET).unwrap();
        assert_eq!(answer.status, 200);
        let line = edge.logged(answer.header("x-request-id").unwrap());
        (line["client"]["ip"].clone(), line["client"]["ja4"].clone())
    };
    let (_, direct) = visit(0, "127.0.0.2", "");
    let proxied = visit(
        1,
        "127.0.0.9",
        "PROXY TCP4 203.0.113.7 192.0.2.1 51000 443\r\n",
    );
    assert_eq!(direct.as_str().unwrap().len(), 36);
    assert_eq!(proxied, ("203.0.113.7".into(), direct));
}
