//! The admin interface: health, metrics, bans and the configuration in force.

use crate::harness::{
    Edge, Upstream,
    edge::{ADMIN_TOKEN, rempart},
    file,
    tools::{promtool, said},
    wait_until,
};
use std::{collections::HashSet, io::Write, process::Stdio};

fn edge(upstream: &Upstream) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         limits: {{ per-ip: {{ key: [client.ip], rate: 50/s, burst: 100, over: throttle, all: true }} }}\n\
         rules: [{{ name: no, when: 'request.path == \"/no\"', then: deny }}]\n",
        upstream.address
    ))
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    edge.get("/").status();
    edge.get("/no").status();
    let _ = edge
        .get("/")
        .with(&["--tlsv1.1", "--tls-max", "1.1"])
        .send();
    edge.signal("HUP");
    wait_until("the reload", 10, || edge.reloads() >= 1.0);
    let text = edge.admin_get("/metrics").answer().text();
    let mut check = promtool(&["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool; run `make test`");
    check
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = check.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{text}", said(&output));
    let metrics = edge.metrics();
    for name in [
        "rempart_requests_total",
        "rempart_decisions_total",
        "rempart_request_duration_seconds_count",
        "rempart_decision_duration_seconds_count",
        "rempart_connections",
        "rempart_tls_handshakes_total",
        "rempart_upstream_requests_total",
        "rempart_upstream_endpoints",
        "rempart_tracked_keys",
        "rempart_evicted_keys_total",
        "rempart_bans",
        "rempart_config_reloads_total",
        "rempart_build_info",
    ] {
        assert!(metrics.has(name), "{name} in\n{text}");
    }
}

/// The words of `docs/PAGE` in backquotes.
fn documented(page: &str) -> HashSet<String> {
    let text = std::fs::read_to_string(file("docs").join(page)).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .flat_map(|words| words.split([',', ' ', '{', '}', '[', ']', ':', '.']))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    edge.signal("HUP");
    wait_until("the reload", 10, || edge.reloads() >= 1.0);
    let text = edge.admin_get("/metrics").answer().text();
    let words = documented("metrics.md");
    let names = |prefix: &'static str| {
        text.lines()
            .filter_map(move |line| line.strip_prefix(prefix)?.split(' ').next())
            .filter(|name| name.starts_with("rempart_"))
    };
    assert!(names("# TYPE ").count() > 10, "{text}");
    for name in names("# TYPE ") {
        assert!(words.contains(name), "{name} is not in docs/metrics.md");
    }
    // What has labels shows only once it has counted something: those are known by other tests.
    let seldom = [
        "rempart_connections_refused_total",
        "rempart_h2_abuse_total",
        "rempart_decisions_total",
        "rempart_upstream_requests_total",
        "rempart_challenges_total",
        "rempart_challenge_solve_seconds",
        "rempart_challenge_provider_total",
        "rempart_clearances_total",
        "rempart_crawler_lookups_total",
        "rempart_bans_placed_total",
        "rempart_pressure_rate",
        "rempart_kernel_backend",
        "rempart_reflector_packets_total",
        "rempart_reflector_bytes_total",
        "rempart_reflector_dropped_packets_total",
        "rempart_requests_total",
        "rempart_request_duration_seconds",
        "rempart_tls_handshakes_total",
        "rempart_connections",
    ];
    for word in &words {
        if word.starts_with("rempart_") && !seldom.contains(&word.as_str()) {
            assert!(
                names("# TYPE ").any(|name| name == word),
                "{word} is in docs/metrics.md alone"
            );
        }
    }
}

#[test]
fn every_option_is_documented() {
    fn keys(value: &serde_json::Value, chosen: bool, found: &mut HashSet<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    // Under these, keys are names that the operator chose.
                    let names = ["upstreams", "limits", "lists"].contains(&key.as_str());
                    if !chosen {
                        found.insert(key.clone());
                    }
                    keys(value, names && !chosen, found);
                }
            }
            serde_json::Value::Array(items) => {
                for item in items {
                    keys(item, false, found);
                }
            }
            _ => {}
        }
    }
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    // The configuration in force is shown with all defaults filled in.
    let answer = edge.api("/api/config").answer().json();
    let mut found = HashSet::new();
    keys(answer.get("config").unwrap_or(&answer), false, &mut found);
    assert!(found.len() > 30, "{found:?}");
    let words = documented("configuration.md");
    let missing: Vec<_> = found.iter().filter(|key| !words.contains(*key)).collect();
    assert!(
        missing.is_empty(),
        "not in docs/configuration.md: {missing:?}"
    );
}

#[test]
fn labels_never_come_from_clients() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    edge.get("/marker-of-a-client?marker-of-a-client")
        .header("user-agent", "marker-of-a-client")
        .header("host", "marker-of-a-client.example.com")
        .method("MARKER")
        .send();
    let text = edge.admin_get("/metrics").answer().text();
    assert!(!text.to_lowercase().contains("marker"), "{text}");
}

#[test]
fn health_is_open_and_the_api_is_not() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(edge.admin_get(path).status(), 200, "{path}");
    }
    for path in ["/api/bans", "/api/config"] {
        assert_eq!(edge.admin_get(path).status(), 401, "{path}");
        let wrong = edge.admin_get(path).header("authorization", "Bearer wrong");
        assert_eq!(wrong.status(), 401, "{path}");
        assert_eq!(edge.api(path).status(), 200, "{path}");
    }
    assert_eq!(edge.admin_get("/nowhere").status(), 404);
    // The admin interface is not reachable through the front door.
    assert_eq!(edge.get("/metrics").answer().text(), "app");
}

#[test]
fn the_configuration_is_shown_without_its_secrets() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    let answer = edge.api("/api/config").answer();
    let text = answer.text();
    assert!(text.contains("per-ip"), "{text}");
    assert!(text.contains(&upstream.address.to_string()), "{text}");
    assert!(!text.contains(ADMIN_TOKEN), "{text}");
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    answer.json();
}

/// `rempart bans …` against this edge.
fn bans(edge: &Edge, arguments: &[&str]) -> std::process::Output {
    let admin = format!("http://{}", edge.admin());
    let token = edge
        .folder
        .path("secrets/admin.token")
        .display()
        .to_string();
    let mut all = vec!["bans"];
    all.extend(arguments);
    all.extend(["--admin", &admin, "--token-file", &token]);
    rempart(&all)
}

#[test]
fn bans_are_added_listed_and_removed() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    let reaches = |source: &str| edge.get("/").from(source).send().status;
    assert_eq!(reaches("127.0.0.8"), 200);

    let output = bans(&edge, &["add", "127.0.0.8", "--for", "10m"]);
    assert!(output.status.success(), "{}", said(&output));
    wait_until("the ban", 5, || reaches("127.0.0.8") == 0);
    assert_eq!(reaches("127.0.0.9"), 200);
    assert!(said(&bans(&edge, &["list"])).contains("127.0.0.8"));
    assert!(edge.api("/api/bans").answer().text().contains("127.0.0.8"));

    let output = bans(&edge, &["remove", "127.0.0.8"]);
    assert!(output.status.success(), "{}", said(&output));
    wait_until("the end of the ban", 5, || reaches("127.0.0.8") == 200);
    assert!(!said(&bans(&edge, &["list"])).contains("127.0.0.8"));

    // Removing what is not there is a no; nonsense is one too.
    assert_eq!(bans(&edge, &["remove", "127.0.0.8"]).status.code(), Some(1));
    assert_ne!(bans(&edge, &["add", "nonsense"]).status.code(), Some(0));
}

#[test]
fn a_whole_network_can_be_banned() {
    let upstream = Upstream::named("app");
    let edge = edge(&upstream);
    let output = bans(&edge, &["add", "127.0.5.0/24", "--for", "10m"]);
    assert!(output.status.success(), "{}", said(&output));
    wait_until("the ban", 5, || {
        edge.get("/").from("127.0.5.200").send().status == 0
    });
    assert_eq!(edge.get("/").from("127.0.6.1").status(), 200);
}

#[test]
fn promtool_is_the_real_one() {
    // So that the checks above can't pass for want of a checker.
    let output = promtool(&["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            child
                .stdin
                .take()
                .unwrap()
                .write_all(b"not a metric at all {\n")?;
            child.wait_with_output()
        })
        .expect("promtool; run `make test`");
    assert!(!output.status.success());
}
