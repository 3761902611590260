//! What a flood meets: limits, bans, lists, rules; and what everyone else doesn't.

use crate::harness::{Edge, Nginx, raw, wait_until};
use serde_json::Value;
use std::time::{Duration, Instant};

fn start(policy: &str) -> (Nginx, Edge) {
    let upstream = Nginx::start();
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: login, path: /login, upstream: app }}, {{ name: app, path: /, upstream: app }}]\n\
         {policy}",
        upstream.address
    ));
    (upstream, edge)
}

#[test]
fn a_client_over_its_limit_waits_the_time_it_was_told() {
    let (_upstream, edge) = start(
        "limits: { per-ip: { key: [client.ip], rate: 1/s, burst: 2, over: throttle, all: true } }",
    );
    let ask = |source: &str| edge.get("/").from(source).answer();
    let mut refused = None;
    for _ in 0..10 {
        let answer = ask("127.0.0.2");
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, 200);
    }
    let refused = refused.expect("ten requests at once are over 1/s");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert!(refused.header("ratelimit").is_some(), "{refused:?}");
    assert!(refused.header("ratelimit-policy").is_some(), "{refused:?}");
    assert!(refused.header("x-request-id").is_some());
    assert_eq!(
        refused.header("content-type"),
        Some("application/problem+json")
    );
    let problem = refused.json();
    assert_eq!(problem["status"], 429);
    assert!(
        !refused.text().contains("per-ip"),
        "the answer names no rule: {}",
        refused.text()
    );

    // An estimate from a sample of the table: of one key it may say none.
    assert!(edge.metrics().has("rempart_tracked_keys"));
    // Another client is not affected, and after the wait neither is this one.
    assert_eq!(ask("127.0.0.3").status, 200);
    std::thread::sleep(std::time::Duration::from_secs(wait));
    assert_eq!(ask("127.0.0.2").status, 200);

    assert!(
        edge.metric(
            "rempart_decisions_total",
            &[
                ("source", "limit"),
                ("name", "per-ip"),
                ("action", "throttle"),
                ("mode", "enforce")
            ]
        ) >= 1.0
    );
    assert!(edge.metric("rempart_requests_total", &[("status", "429")]) >= 1.0);
}

#[test]
fn the_refusal_of_a_browser_is_a_page() {
    let (_upstream, edge) =
        start("rules: [{ name: no, when: 'request.path == \"/secret\"', then: deny }]");
    let page = edge.get("/secret").navigating().answer();
    assert_eq!(page.status, 403);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    let id = page.header("x-request-id").unwrap();
    assert!(page.text().contains(id), "the page shows the id to quote");
}

#[test]
fn users_have_limits_of_their_own_wherever_they_come_from() {
    let upstream = Nginx::start();
    let folder = crate::harness::edge::Folder::new();
    crate::identity::write_api_keys(&folder, &[("alice-key", "alice"), ("bob-key", "bob")]);
    let yaml = format!(
        "{}identity: {{ api_keys: {{ header: x-api-key, file: secrets/api-keys.yaml }} }}\n\
         upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         limits: {{ per-user: {{ key: [user.id], rate: 1/m, burst: 3, over: throttle, all: true }} }}\n",
        crate::harness::edge::HEAD,
        upstream.address
    );
    let edge = Edge::in_folder(folder, &yaml);
    let ask =
        |source: &str, key: &str| edge.get("/").from(source).header("x-api-key", key).status();
    let alice: Vec<u16> = (2..10)
        .map(|n| ask(&format!("127.0.0.{n}"), "alice-key"))
        .collect();
    assert_eq!(alice.iter().filter(|s| **s == 200).count(), 3, "{alice:?}");
    assert!(alice.iter().skip(3).all(|s| *s == 429), "{alice:?}");
    // Bob shares alice's address; anonymous requests have no user, so the limit isn't theirs.
    assert_eq!(ask("127.0.0.2", "bob-key"), 200);
    for _ in 0..6 {
        assert_eq!(edge.get("/").from("127.0.0.2").status(), 200);
    }
}

#[test]
fn a_banned_client_is_not_even_shaken_hands_with() {
    let (upstream, edge) = start(
        "limits:\n  logins: { key: [client.ip, route], rate: 1/m, burst: 2, over: { ban: 10m } }\n",
    );
    // A limit without `all` bites where a route names it.
    assert_eq!(edge.get("/login").from("127.0.0.4").status(), 200);
    edge.reload(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: login, path: /login, upstream: app, limits: [logins] }}, {{ name: app, path: /, upstream: app }}]\n\
         limits:\n  logins: {{ key: [client.ip, route], rate: 1/m, burst: 2, over: {{ ban: 10m }} }}\n",
        upstream.address
    ));
    for _ in 0..5 {
        let _ = edge.get("/login").from("127.0.0.4").send();
    }
    wait_until("the ban", 5, || {
        edge.get("/").from("127.0.0.4").send().status == 0
    });
    let before = edge.metric("rempart_connections_refused_total", &[("reason", "banned")]);
    let handshakes = edge.metric("rempart_tls_handshakes_total", &[]);
    let mut tcp = raw::connect("127.0.0.4", edge.tls());
    let refused = match &mut tcp {
        Err(_) => true,
        Ok(stream) => raw::is_closed(stream),
    };
    assert!(refused, "the connection of a banned client ends by itself");
    wait_until("the count", 5, || {
        edge.metric("rempart_connections_refused_total", &[("reason", "banned")]) > before
    });
    assert!(
        edge.metric("rempart_tls_handshakes_total", &[]) - handshakes < 0.5,
        "no handshake was spent on it"
    );
    assert!(edge.metric("rempart_bans", &[]) >= 1.0);
    assert_eq!(edge.get("/login").from("127.0.0.5").status(), 200);
}

#[test]
fn shadow_rules_are_counted_and_do_not_bite() {
    let (_upstream, edge) = start(
        "limits: { tight: { key: [client.ip], rate: 1/m, burst: 1, over: throttle, all: true, mode: shadow } }\n\
         rules: [{ name: probes, when: 'request.path.startsWith(\"/wp-\")', then: deny, mode: shadow }]\n\
         lists: { strangers: { networks: [127.0.0.0/8], then: drop, mode: shadow } }\n",
    );
    for _ in 0..3 {
        assert_eq!(edge.get("/wp-login.php").status(), 200);
    }
    for (source, name, action) in [
        ("limit", "tight", "throttle"),
        ("rule", "probes", "deny"),
        ("list", "strangers", "drop"),
    ] {
        let labels = [
            ("source", source),
            ("name", name),
            ("action", action),
            ("mode", "shadow"),
        ];
        wait_until(&format!("{name} in shadow"), 5, || {
            edge.metric("rempart_decisions_total", &labels) >= 1.0
        });
    }
    let enforced = edge.metric(
        "rempart_decisions_total",
        &[("mode", "enforce"), ("name", "tight")],
    );
    assert!(enforced < 0.5, "{enforced}");
}

#[test]
fn rules_see_the_request() {
    let (_upstream, edge) = start(
        "lists: { offices: { networks: [127.0.0.50/32] } }\n\
         rules:\n\
         \x20 - { name: offices, when: 'client.ip in list(\"offices\")', then: allow }\n\
         \x20 - { name: probes, when: 'request.path.startsWith(\"/wp-\") && user.id == \"\"', then: deny }\n\
         \x20 - { name: no-delete, when: 'request.method == \"DELETE\"', then: deny }\n\
         \x20 - { name: no-bots, when: 'request.headers[\"user-agent\"].contains(\"BadBot\")', then: deny }\n\
         \x20 - { name: old-tls, when: 'tls.version == \"1.2\" && request.path == \"/modern\"', then: deny }\n",
    );
    assert_eq!(edge.get("/").status(), 200);
    assert_eq!(edge.get("/wp-admin").status(), 403);
    assert_eq!(edge.get("/wp-admin").from("127.0.0.50").status(), 200);
    assert_eq!(edge.get("/").method("DELETE").status(), 403);
    assert_eq!(edge.get("/").header("user-agent", "BadBot/1").status(), 403);
    assert_eq!(
        edge.get("/modern").with(&["--tls-max", "1.2"]).status(),
        403
    );
    assert_eq!(edge.get("/modern").with(&["--tlsv1.3"]).status(), 200);
    let denied = edge.get("/wp-admin").answer();
    let line = edge.logged(denied.header("x-request-id").unwrap());
    assert_eq!(line["decision"]["action"], "deny");
    assert_eq!(line["decision"]["source"], "rule");
    assert_eq!(line["decision"]["name"], "probes");
    assert_eq!(line["response"]["status"], 403);
}

#[test]
fn listed_networks_are_dropped_without_a_word() {
    let (upstream, edge) = start("lists: { blocked: { networks: [127.0.0.66/32], then: drop } }\n");
    assert_eq!(edge.get("/").from("127.0.0.66").send().status, 0);
    assert_eq!(edge.get("/").from("127.0.0.67").status(), 200);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn many_connections_of_one_client_are_refused_and_others_still_come_in() {
    let (_upstream, edge) = start("connections: { per_client: 4 }\n");
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(edge.connect("127.0.0.9"));
    }
    let fifth = raw::connect("127.0.0.9", edge.tls()).and_then(|tcp| {
        raw::tls(
            tcp,
            "app.example.com",
            &edge.folder.authority,
            &[b"http/1.1"],
        )
    });
    assert!(fifth.is_err());
    assert!(
        edge.metric(
            "rempart_connections_refused_total",
            &[("reason", "per_client")]
        ) >= 1.0
    );
    assert_eq!(edge.get("/").from("127.0.0.10").status(), 200);
    // One that leaves makes room.
    drop(open.pop());
    wait_until("room for one", 5, || {
        edge.get("/").from("127.0.0.9").send().status == 200
    });
}

#[test]
fn an_ipv6_client_is_its_64() {
    // The same address stands for all of its /64 through a trusted proxy's header.
    let (_upstream, edge) = start(
        "clients: { trusted_proxies: [127.0.0.1/32] }\n\
         limits: { per-ip: { key: [client.ip], rate: 1/m, burst: 2, over: throttle, all: true } }\n",
    );
    let ask = |address: &str| edge.get("/").header("x-forwarded-for", address).status();
    assert_eq!(ask("2001:db8:1:2::1"), 200);
    assert_eq!(ask("2001:db8:1:2::2"), 200);
    assert_eq!(ask("2001:db8:1:2:ffff::3"), 429);
    assert_eq!(ask("2001:db8:1:3::1"), 200);
}

#[test]
fn concurrent_requests_of_one_client_have_a_bound() {
    let upstream = crate::bulkhead::Gate::new();
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         limits: {{ in-flight: {{ key: [client.ip], concurrent: 2, over: throttle, all: true }} }}\n",
        upstream.address()
    ));
    let held: Vec<_> = (0..2)
        .map(|_| crate::bulkhead::ask(&edge, "127.0.0.2", "/held"))
        .collect();
    upstream.wait_for_held(2);
    let refused = edge.get("/held").from("127.0.0.2").answer();
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(edge.get("/free").from("127.0.0.3").status(), 200);
    upstream.open();
    for held in held {
        assert_eq!(held.join().unwrap(), 200);
    }
    wait_until("a slot given back", 5, || {
        edge.get("/free").from("127.0.0.2").status() == 200
    });
}

#[test]
fn each_rung_of_the_ladder_does_what_it_is_called() {
    let (upstream, edge) = start(
        "rules:\n\
         \x20 - { name: a, when: 'request.path == \"/allow\"', then: allow }\n\
         \x20 - { name: b, when: 'request.path == \"/delay\"', then: { delay: 300ms } }\n\
         \x20 - { name: c, when: 'request.path == \"/challenge\"', then: challenge }\n\
         \x20 - { name: d, when: 'request.path == \"/throttle\"', then: throttle }\n\
         \x20 - { name: e, when: 'request.path == \"/tarpit\"', then: { tarpit: 300ms } }\n\
         \x20 - { name: f, when: 'request.path == \"/deny\"', then: deny }\n\
         \x20 - { name: g, when: 'request.path == \"/drop\"', then: drop }\n\
         \x20 - { name: h, when: 'request.path == \"/ban\"', then: { ban: 10m } }\n",
    );
    let held = Duration::from_millis(300);
    for version in ["--http1.1", "--http2"] {
        // A client of its own each time: the last rung ends with a ban.
        let source = if version == "--http2" {
            "127.0.0.22"
        } else {
            "127.0.0.21"
        };
        let ask = |path: &str| edge.get(path).from(source).with(&[version]).send();
        let timed = |path: &str| {
            let began = Instant::now();
            (ask(path).status, began.elapsed())
        };
        assert_eq!(ask("/allow").status, 200);
        let (status, took) = timed("/delay");
        assert_eq!(status, 200);
        assert!(took >= held, "{took:?}");
        let challenged = ask("/challenge");
        assert_eq!(challenged.status, 403);
        assert_eq!(challenged.header("rempart-action"), Some("challenge"));
        let throttled = ask("/throttle");
        assert_eq!(throttled.status, 429);
        assert!(throttled.header("retry-after").is_some());
        let (status, took) = timed("/tarpit");
        assert!(status == 403 || status == 0, "{status}");
        assert!(took >= held, "{took:?}");
        assert_eq!(ask("/deny").status, 403);
        assert_eq!(ask("/drop").status, 0);
        assert_eq!(ask("/allow").status, 200, "dropping is not banning");
        assert_eq!(ask("/ban").status, 0);
        wait_until("the ban", 5, || ask("/allow").status == 0);
    }
    let closed = |line: &&Value| line["response"]["status"] == 0;
    wait_until("both of each client in the log", 5, || {
        edge.access_log().iter().filter(closed).count() >= 4
    });
    for line in edge.access_log().iter().filter(closed) {
        assert!(line["error"].is_null(), "a decision is no error: {line}");
    }
    // Of each client: allow, delay and allow again reached the upstream, and nothing else did.
    assert_eq!(upstream.requests().len(), 6, "{:?}", upstream.requests());
}

#[test]
fn a_refused_upload_still_gets_its_answer() {
    let (upstream, edge) =
        start("rules: [{ name: no, when: 'request.path == \"/no\"', then: deny }]\n");
    let file = edge.folder.path("upload");
    std::fs::write(&file, vec![b'x'; 50_000]).unwrap();
    for version in ["--http1.1", "--http2"] {
        let answer = edge
            .get("/no")
            .with(&[version])
            .data(&format!("@{}", file.display()))
            .answer();
        assert_eq!(answer.status, 403, "{version}");
        assert_eq!(answer.json()["status"], 403, "{version}");
    }
    assert!(upstream.requests().is_empty());
}
