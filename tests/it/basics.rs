//! A visitor's plain day: HTTPS in, the upstream's page out, and what each side sees of the other.

use crate::harness::{Curl, Edge, Nginx, nginx, raw};

fn edge(upstream: &Nginx) -> Edge {
    Edge::start(&site(upstream))
}

fn site(upstream: &Nginx) -> String {
    format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n",
        upstream.address
    )
}

#[test]
fn forwards_http1_and_http2() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    for (curl, version) in [
        (edge.get("/a?b=c").http1(), "1.1"),
        (edge.get("/a?b=c").http2(), "2"),
    ] {
        let answer = curl.answer();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.version, version);
        let seen = answer.json();
        assert_eq!(seen["method"], "GET");
        assert_eq!(seen["uri"], "/a?b=c");
        let host = seen["host"].as_str().unwrap();
        assert!(host.starts_with("app.example.com"), "{host}");
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn forwards_plaintext_where_a_listener_has_no_certificate() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let answer = Curl::http(edge.plain(), "/").answer();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["x_forwarded_proto"], "http");
}

#[test]
fn speaks_tls_1_2_and_1_3_and_nothing_older() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    for version in [
        ["--tlsv1.2", "--tls-max", "1.2"],
        ["--tlsv1.3", "--tls-max", "1.3"],
    ] {
        assert_eq!(edge.get("/").with(&version).status(), 200, "{version:?}");
    }
    // Security level 0 makes this curl offer 1.1 at all: the refusal is the server's.
    let old = edge
        .get("/")
        .with(&["--tlsv1.1", "--tls-max", "1.1"])
        .with(&["--ciphers", "DEFAULT@SECLEVEL=0"])
        .send();
    assert_eq!(old.status, 0);
    assert!(old.error.contains(" alert "), "{}", old.error);
}

#[test]
fn a_minimum_of_1_3_refuses_1_2() {
    let upstream = Nginx::start();
    let yaml = format!(
        "listeners:\n\
         \x20 - address: 127.0.0.1:0\n\
         \x20   tls:\n\
         \x20     certificates: [{{ certificate: tls/app.pem, private_key: tls/app.key }}]\n\
         \x20     minimum_version: \"1.3\"\n{}",
        site(&upstream)
    );
    let edge = Edge::in_folder(crate::harness::edge::Folder::new(), &yaml);
    assert_eq!(edge.get("/").with(&["--tls-max", "1.2"]).send().status, 0);
    assert_eq!(edge.get("/").with(&["--tlsv1.3"]).status(), 200);
}

#[test]
fn chooses_the_certificate_by_the_name_asked_for() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    // curl verifies each name against the certificate that it was given.
    for host in ["app.example.com", "other.example.com", "a.wild.example.com"] {
        assert_eq!(edge.get_host(host, "/").status(), 200, "{host}");
    }
    let unknown = edge.get_host("elsewhere.example.net", "/").send();
    assert_eq!(unknown.status, 0, "no certificate of ours has that name");
    assert_eq!(unknown.exit, 60, "{}", unknown.error);
}

#[test]
fn redirects_plaintext_to_https() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let answer = Curl::http(edge.redirect(), "/a/b?c=d")
        .header("host", "app.example.com")
        .answer();
    assert_eq!(answer.status, 308);
    assert_eq!(
        answer.header("location"),
        Some("https://app.example.com/a/b?c=d")
    );
    assert!(answer.header("x-request-id").is_some());
    assert!(upstream.requests().is_empty());
}

#[test]
fn gives_every_request_an_id_that_the_upstream_and_the_log_share() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let answer = edge
        .get("/")
        .header("x-request-id", "chosen-by-the-client")
        .answer();
    let id = answer.header("x-request-id").unwrap().to_owned();
    assert_eq!(answer.json()["x_request_id"], id.as_str());
    let uuid = uuid::Uuid::parse_str(&id).expect("a UUID");
    assert_eq!(uuid.get_version_num(), 7);

    let line = edge.logged(&id);
    assert_eq!(line["response"]["status"], 200);
    assert_eq!(line["request"]["method"], "GET");
    let host = line["request"]["host"].as_str().unwrap();
    assert!(host.starts_with("app.example.com"), "{host}");
    assert_eq!(line["request"]["path"], "/");
    assert_eq!(line["route"], "app");
    assert_eq!(line["upstream"]["name"], "app");
    assert_eq!(
        line["upstream"]["endpoint"],
        upstream.address.to_string().as_str()
    );
    assert_eq!(line["client"]["ip"], "127.0.0.1");
    assert_eq!(line["decision"]["action"], "allow");
    assert_eq!(line["tls"]["sni"], "app.example.com");
}

#[test]
fn tells_the_upstream_who_asks_and_passes_no_forgery() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    for curl in [edge.get("/").http1(), edge.get("/").http2()] {
        let seen = curl
            .from("127.0.0.7")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-forwarded-proto", "gopher")
            .header("x-forwarded-host", "bank.example.com")
            .header("x-rempart-user", "root")
            .header("x-rempart-roles", "admin")
            .header("forwarded", "for=6.6.6.6")
            .header("x-real-ip", "6.6.6.6")
            .answer()
            .json();
        assert_eq!(seen["x_forwarded_for"], "127.0.0.7");
        assert_eq!(seen["x_forwarded_proto"], "https");
        let host = seen["x_forwarded_host"].as_str().unwrap();
        assert!(host.starts_with("app.example.com"), "{host}");
        assert_eq!(seen["x_rempart_user"], "");
        assert_eq!(seen["x_rempart_roles"], "");
        assert_eq!(seen["forwarded"], "");
        assert_eq!(seen["x_real_ip"], "");
    }
}

#[test]
fn strips_what_belongs_to_one_hop() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let mut stream = edge.connect("127.0.0.1");
    let answer = raw::exchange(
        &mut stream,
        b"GET / HTTP/1.1\r\nhost: app.example.com\r\nconnection: x-hop, keep-alive\r\n\
          x-hop: secret of this hop\r\nkeep-alive: timeout=9999\r\nproxy-authorization: Basic Zm9v\r\n\r\n",
    )
    .unwrap();
    assert_eq!(answer.status, 200);
    let seen: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(seen["x_hop"], "");
}

#[test]
fn believes_forwarded_addresses_of_trusted_proxies_only_and_from_the_right() {
    let upstream = Nginx::start();
    let edge = Edge::start(&format!(
        "clients: {{ trusted_proxies: [127.0.0.100/32, 10.0.0.0/8] }}\n{}",
        site(&upstream)
    ));
    let client = |source: &str, forwarded: &str| {
        let answer = edge
            .get("/")
            .from(source)
            .header("x-forwarded-for", forwarded)
            .answer();
        let id = answer.header("x-request-id").unwrap().to_owned();
        edge.logged(&id)["client"]["ip"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(client("127.0.0.100", "203.0.113.9"), "203.0.113.9");
    // What the client wrote itself stands on the left, and counts for nothing.
    assert_eq!(
        client("127.0.0.100", "6.6.6.6, 203.0.113.9, 10.1.2.3"),
        "203.0.113.9"
    );
    assert_eq!(client("127.0.0.101", "203.0.113.9"), "127.0.0.101");
    // Garbage ends the walk: the last address that a trusted one vouched for.
    assert_eq!(client("127.0.0.100", "not-an-address"), "127.0.0.100");
}

#[test]
fn answers_404_where_no_route_matches() {
    let upstream = Nginx::start();
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes:\n\
         \x20 - {{ name: post, path: /form, methods: [POST], upstream: app }}\n\
         \x20 - {{ name: host, host: other.example.com, path: /, upstream: app }}\n\
         \x20 - {{ name: wild, host: \"*.wild.example.com\", path: /w, upstream: app }}\n",
        upstream.address
    ));
    assert_eq!(edge.get("/form").status(), 404);
    assert_eq!(edge.get("/form").data("x").status(), 200);
    assert_eq!(edge.get_host("other.example.com", "/any").status(), 200);
    assert_eq!(edge.get_host("a.wild.example.com", "/w/x").status(), 200);
    // Whole segments: /w is not /wx.
    assert_eq!(edge.get_host("a.wild.example.com", "/wx").status(), 404);
    assert_eq!(upstream.requests().len(), 3);

    let api = edge.get("/nowhere").answer();
    assert_eq!(api.header("content-type"), Some("application/problem+json"));
    assert_eq!(api.json()["status"], 404);
    let page = edge.get("/nowhere").navigating().answer();
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
}

#[test]
fn resumes_tls_sessions() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let said = crate::harness::tools::run(
        std::process::Command::new("openssl")
            .args(["s_client", "-connect", &edge.tls().to_string()])
            .args(["-servername", "app.example.com", "-reconnect", "-tls1_2"])
            .arg("-CAfile")
            .arg(edge.ca())
            .stdin(std::process::Stdio::null()),
    );
    let said = crate::harness::tools::said(&said);
    assert!(said.contains("Reused, TLSv1.2"), "{said}");
    assert!(edge.metric("rempart_tls_handshakes_total", &[("result", "resumed")]) >= 1.0);
}

#[test]
fn serves_an_nginx_behind_tls_of_its_own() {
    // The whole promise: encrypted to the edge, and encrypted behind it.
    let folder = crate::harness::edge::Folder::new();
    folder.certificate("internal", &["app.internal"]);
    let upstream = Nginx::with(
        "ssl",
        &format!(
            "ssl_certificate {0}.pem; ssl_certificate_key {0}.key;\n\
             ssl_client_certificate {1}; ssl_verify_client on;",
            folder.path("tls/internal").display(),
            folder.path("tls/ca.pem").display()
        ),
        nginx::SITE,
    );
    folder.certificate("edge", &["edge.internal"]);
    let yaml = format!(
        "{}upstreams:\n  app:\n    endpoints: [{}]\n    tls: {{ ca: tls/ca.pem, server_name: app.internal, certificate: tls/edge.pem, private_key: tls/edge.key }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n",
        crate::harness::edge::HEAD,
        upstream.address
    );
    let edge = Edge::in_folder(folder, &yaml);
    let answer = edge.get("/").answer();
    assert_eq!(answer.status, 200);
    let subject = answer.json()["subject"].as_str().unwrap().to_owned();
    assert!(subject.contains("edge.internal"), "{subject}");
}
