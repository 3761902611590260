//! What a solved challenge is worth: to whom, where, and until an operator takes it back.

#![allow(clippy::float_cmp)] // Counters.

use crate::harness::{Edge, Upstream, edge::rempart, tools::said, wait_until};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;
use verdict::proof_of_work;

const EFFORT: u32 = 64 * 20;

fn edge(upstream: &Upstream, more: &str) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         challenge: {{ proof_of_work: {{ effort: {EFFORT}, adapt: false }} }}\n{more}",
        upstream.address
    ))
}

/// Solves what stands before a page, as a program does, and gives the cookie.
fn solve(edge: &Edge, path: &str, source: &str) -> String {
    let asked = edge.get(path).from(source).answer();
    assert_eq!(asked.status, 403);
    let token = asked.json()["challenge"]["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    let seed = bytes.last_chunk().unwrap();
    let nonces = proof_of_work::solve(seed, EFFORT);
    let solved = edge
        .get("/.rempart/challenge")
        .from(source)
        .header("content-type", "application/json")
        .data(&json!({ "token": token, "nonces": nonces }).to_string())
        .answer();
    assert_eq!(solved.status, 204, "{}", solved.text());
    let cookie = solved.header("set-cookie").unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

#[test]
fn it_is_its_owners_until_it_is_revoked() {
    let upstream = Upstream::named("app");
    let rule = "rules: [{ name: prove, when: 'request.path == \"/page\"', then: { challenge: proof_of_work } }]\n";
    let edge = edge(&upstream, rule);
    let cookie = solve(&edge, "/page", "127.0.0.8");
    let get = |source: &str| edge.get("/page").from(source).header("cookie", &cookie);
    assert_eq!(get("127.0.0.8").http2().status(), 200);
    assert_eq!(get("127.0.0.8").http1().status(), 200, "another JA4_a");
    assert_eq!(get("127.0.0.9").status(), 200, "the same network");
    assert_eq!(get("127.0.5.8").status(), 403, "stolen");
    let other = get("127.0.0.8").with(&["--tls13-ciphers", "TLS_AES_128_GCM_SHA256"]);
    assert_eq!(other.status(), 403, "another client");
    let host = get("127.0.0.8").http1().header("host", "else.example");
    assert_ne!(host.status(), 200, "another host");
    for forged in [cookie.replace('A', "B"), cookie[..90].to_owned()] {
        let forged = edge
            .get("/page")
            .from("127.0.0.8")
            .header("cookie", &forged);
        assert_eq!(forged.status(), 403);
    }

    let admin = format!("http://{}", edge.admin());
    let token = edge.folder.path("secrets/admin.token");
    let token = token.display().to_string();
    let clearances = |arguments: &[&str]| {
        let mut all = vec!["clearances"];
        all.extend(arguments);
        all.extend(["--admin", &admin, "--token-file", &token]);
        rempart(&all)
    };
    let output = clearances(&["revoke", "127.0.0.8"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("127.0.0.0/24"), "{}", said(&output));
    assert_eq!(get("127.0.0.8").status(), 403);
    assert!(said(&clearances(&["list"])).contains("127.0.0.0/24"));
    for (result, count) in [
        ("good", 3.0),
        ("foreign_network", 1.0),
        ("foreign_client", 1.0),
        ("foreign_host", 1.0),
        ("invalid", 2.0),
        ("revoked", 1.0),
    ] {
        let labels = [("result", result)];
        assert_eq!(
            edge.metric("rempart_clearances_total", &labels),
            count,
            "{result}"
        );
    }
    assert_eq!(clearances(&["revoke", "nonsense"]).status.code(), Some(2));
    // Whoever solves again, from the next second on, is let through again.
    wait_until("a new clearance", 15, || {
        let cookie = solve(&edge, "/page", "127.0.0.8");
        let again = edge.get("/page").from("127.0.0.8");
        again.header("cookie", &cookie).status() == 200
    });
}

#[test]
fn it_lifts_a_limit_and_a_rule_sees_it() {
    let upstream = Upstream::named("app");
    let more = "limits: { per-ip: { key: [client.ip], rate: 1/h, burst: 3, over: { challenge: proof_of_work }, cleared: 2, all: true } }\n\
        rules: [{ name: climbed, when: 'request.path == \"/vip\" && clearance.rung == \"proof_of_work\"', then: allow }]\n";
    let edge = edge(&upstream, more);
    let source = "127.0.0.8";
    for _ in 0..3 {
        assert_eq!(edge.get("/vip").from(source).status(), 200);
    }
    let cookie = solve(&edge, "/vip", source);
    let get = |path: &str| edge.get(path).from(source).header("cookie", &cookie);
    let mut statuses: Vec<u16> = (0..7).map(|_| get("/").status()).collect();
    let last = statuses.pop();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(last, Some(429));
    let throttled = get("/").answer();
    let policy = throttled.header("ratelimit-policy").unwrap_or_default();
    assert!(policy.contains("q=6"), "the cleared bucket: {policy}");
    assert_eq!(get("/vip").status(), 200);
}
