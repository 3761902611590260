//! The load tests of load-tests/, each run for real by k6, with its thresholds.

use crate::harness::{
    Edge, Nginx,
    edge::{Folder, HEAD},
    tools,
};
use std::process::Command;

/// An edge that takes k6's word for its clients, as the scripts' README asks.
fn edge(upstream: &Nginx) -> Edge {
    let folder = Folder::new();
    crate::identity::write_api_keys(
        &folder,
        &[("greedy-key", "greedy"), ("polite-key", "polite")],
    );
    let yaml = format!(
        "{HEAD}clients: {{ trusted_proxies: [127.0.0.0/8] }}\n\
         connections: {{ per_client: off, rate_per_client: off }}\n\
         identity: {{ api_keys: {{ header: x-api-key, file: secrets/api-keys.yaml }} }}\n\
         upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         limits:\n\
         \x20 per-ip: {{ key: [client.ip], rate: 20/s, burst: 20, over: throttle, all: true }}\n\
         \x20 per-user: {{ key: [user.id], rate: 10/s, burst: 10, over: throttle, all: true }}\n",
        upstream.address
    );
    Edge::in_folder(folder, &yaml)
}

/// k6 against this edge, trusting its authority.
pub fn k6(edge: &Edge, script: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = tools::k6(script, environment);
    command
        .arg("--env")
        .arg(format!("BASE_URL=https://localhost:{}", edge.tls().port()))
        .env("SSL_CERT_FILE", edge.ca());
    command
}

// The rates and latencies below leave room for a machine with two busy cores.

#[test]
fn normal_load_is_served() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let environment = [("DURATION", "4s"), ("RATE", "40"), ("P95_MS", "3000")];
    tools::succeed(&mut k6(&edge, "normal.js", &environment));
    assert!(
        upstream.requests().len() >= 150,
        "{}",
        upstream.requests().len()
    );
}

#[test]
fn one_client_over_its_limit_harms_nobody_else() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let environment = [
        ("DURATION", "4s"),
        ("GREEDY_RATE", "60"),
        ("P95_MS", "3000"),
    ];
    tools::succeed(&mut k6(&edge, "over-limit.js", &environment));
    assert!(edge.metric("rempart_requests_total", &[("status", "429")]) >= 1.0);
}

#[test]
fn a_user_over_theirs_harms_nobody_else() {
    let upstream = Nginx::start();
    let edge = edge(&upstream);
    let environment = [
        ("DURATION", "4s"),
        ("GREEDY_RATE", "40"),
        ("API_KEYS", "greedy-key,polite-key"),
    ];
    tools::succeed(&mut k6(&edge, "users.js", &environment));
    let labels = [("name", "per-user"), ("action", "throttle")];
    assert!(edge.metric("rempart_decisions_total", &labels) >= 1.0);
}
