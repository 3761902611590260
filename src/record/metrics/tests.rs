//! The metrics: names, labels, and that every alert and panel finds its own.

use super::*;
use rempart_kernel::filter::Reflector;
use verdict::{decision::Reason, policy::LimitUsage};

/// The value of the series that starts with `series`.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn finding(name: &str, mode: Mode) -> Finding {
    Finding {
        source: Source::Limit,
        name: name.into(),
        action: Action::Ban(Duration::from_secs(600)),
        mode,
        reason: Reason::OverRate {
            wait: Duration::from_secs(1),
        },
    }
}

#[test]
fn requests_are_counted_by_route_action_and_status() {
    let metrics = Metrics::new();
    let app = metrics.route("app");
    let millisecond = Duration::from_millis(1);
    app.request(Action::Allow, 200, millisecond);
    app.request(Action::Allow, 200, millisecond);
    app.request(Action::Throttle, 429, millisecond);
    // After a reload, the same name counts on.
    metrics
        .route("app")
        .request(Action::Allow, 200, millisecond);
    metrics
        .route(NO_ROUTE)
        .request(Action::Deny, 0, millisecond);
    // A status that can't be makes no new series.
    app.request(Action::Allow, 60_000, millisecond);
    let text = metrics.render();
    let requests = |labels: &str| value(&text, &format!("rempart_requests_total{{{labels}}}"));
    assert_eq!(
        requests(r#"action="allow",route="app",status="200""#),
        Some(3.0)
    );
    assert_eq!(
        requests(r#"action="throttle",route="app",status="429""#),
        Some(1.0)
    );
    assert_eq!(
        requests(r#"action="deny",route="none",status="0""#),
        Some(1.0)
    );
    assert_eq!(
        requests(r#"action="allow",route="app",status="0""#),
        Some(1.0)
    );
    assert_eq!(
        value(
            &text,
            r#"rempart_request_duration_seconds_count{route="app"}"#
        ),
        Some(5.0)
    );
}

#[test]
fn findings_are_counted_by_name_and_mode() {
    let metrics = Metrics::new();
    metrics.decision(&finding("per-login", Mode::Enforce));
    metrics.decision(&finding("per-login", Mode::Shadow));
    metrics.decision(&finding("per-login", Mode::Shadow));
    metrics.decision(&finding("per-ip", Mode::Enforce));
    let text = metrics.render();
    let decisions = |name: &str, mode: &str| {
        value(
            &text,
            &format!(
                "rempart_decisions_total{{action=\"ban\",mode=\"{mode}\",name=\"{name}\",source=\"limit\"}}"
            ),
        )
    };
    assert_eq!(decisions("per-login", "enforce"), Some(1.0));
    assert_eq!(decisions("per-login", "shadow"), Some(2.0));
    assert_eq!(decisions("per-ip", "enforce"), Some(1.0));
    assert_eq!(decisions("per-ip", "shadow"), None);
}

#[test]
fn workers_share_counters_that_they_meet_at_once() {
    let metrics = Metrics::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for status in 200..300 {
                    metrics
                        .route("app")
                        .request(Action::Allow, status, Duration::ZERO);
                    metrics.connection_refused("rate");
                    metrics.upstream("app").request(UpstreamResult::Timeout);
                }
            });
        }
    });
    let text = metrics.render();
    let each = text
        .lines()
        .filter(|line| line.starts_with("rempart_requests_total{"));
    assert_eq!(each.clone().count(), 100);
    assert!(each.clone().all(|line| line.ends_with(" 4")), "{text}");
    assert_eq!(
        value(&text, r#"rempart_connections_refused_total{reason="rate"}"#),
        Some(400.0)
    );
    assert_eq!(
        value(
            &text,
            r#"rempart_upstream_requests_total{result="timeout",upstream="app"}"#
        ),
        Some(400.0)
    );
}

#[test]
fn connections_and_reloads_are_gauges_of_the_present() {
    let metrics = Metrics::new();
    metrics.connection_opened("[::]:8443");
    metrics.connection_opened("[::]:8443");
    metrics.connection_closed("[::]:8443");
    metrics.reload(true, 1_700_000_000);
    metrics.reload(false, 1_800_000_000);
    let text = metrics.render();
    let is = |series: &str, expected: f64| assert_eq!(value(&text, series), Some(expected));
    is(r#"rempart_connections{listener="[::]:8443"}"#, 1.0);
    is("rempart_config_last_reload_successful", 0.0);
    is(
        "rempart_config_last_reload_success_timestamp_seconds",
        1_700_000_000.0,
    );
    is(r#"rempart_config_reloads_total{result="taken"}"#, 1.0);
    is(r#"rempart_config_reloads_total{result="refused"}"#, 1.0);
}

struct Tables;

impl Sources for Tables {
    fn limits(&self) -> Vec<(Arc<str>, LimitUsage)> {
        let usage = LimitUsage {
            tracked: 7,
            evicted: 3,
        };
        vec![("per-ip".into(), usage)]
    }
    fn endpoints(&self) -> Vec<EndpointCount> {
        let count = |state, count| EndpointCount {
            upstream: "app".into(),
            state,
            count,
        };
        vec![count("healthy", 2), count("unhealthy", 0)]
    }
    fn bans(&self) -> Vec<(&'static str, u64)> {
        vec![("process", 5)]
    }
    fn kernel(&self) -> Option<KernelFigures> {
        Some(KernelFigures {
            backend: "nftables",
            dropped_packets: 12,
            dropped_bytes: 600,
            refused: 1,
            reflectors: vec![Reflector {
                port: 123,
                packets: 7,
                bytes: 3080,
                dropped: 5,
            }],
        })
    }
    fn certificates(&self) -> Vec<CertificateExpiry> {
        vec![CertificateExpiry {
            listener: "[::]:8443".into(),
            name: "app.example.com".into(),
            not_after: 1_900_000_000,
        }]
    }
}

#[test]
fn tables_are_read_at_the_scrape() {
    let metrics = Metrics::new();
    metrics.read_from(Box::new(Tables));
    let _first = metrics.render();
    let text = metrics.render();
    let is = |series: &str, expected: f64| assert_eq!(value(&text, series), Some(expected));
    is(r#"rempart_tracked_keys{limit="per-ip"}"#, 7.0);
    is(r#"rempart_evicted_keys_total{limit="per-ip"}"#, 3.0);
    is(
        r#"rempart_upstream_endpoints{state="healthy",upstream="app"}"#,
        2.0,
    );
    is(
        r#"rempart_upstream_endpoints{state="unhealthy",upstream="app"}"#,
        0.0,
    );
    is(r#"rempart_bans{backend="process"}"#, 5.0);
    is(r#"rempart_kernel_backend{backend="nftables"}"#, 1.0);
    is(r#"rempart_kernel_backend{backend="user_space"}"#, 0.0);
    is("rempart_kernel_dropped_packets_total", 12.0);
    is("rempart_kernel_dropped_bytes_total", 600.0);
    is("rempart_kernel_refused_bans_total", 1.0);
    is(r#"rempart_reflector_packets_total{port="123"}"#, 7.0);
    is(r#"rempart_reflector_bytes_total{port="123"}"#, 3080.0);
    is(
        r#"rempart_reflector_dropped_packets_total{port="123"}"#,
        5.0,
    );
    assert!(value(&text, "process_resident_memory_bytes") > Some(1e6));
    assert!(value(&text, "process_max_fds") > Some(1.0));
}

#[test]
fn one_decision_in_sixteen_is_timed() {
    let sampled = (0..160).filter(|_| Metrics::decision_is_sampled()).count();
    assert_eq!(sampled, 10);
}

/// Metrics of which each family has at least one series.
fn exercised() -> Metrics {
    let metrics = Metrics::new();
    metrics.read_from(Box::new(Tables));
    let millisecond = Duration::from_millis(1);
    metrics
        .route("app")
        .request(Action::Allow, 200, millisecond);
    metrics.upstream("app").request(UpstreamResult::Ok);
    metrics.decision(&finding("per-login", Mode::Enforce));
    metrics.decision_took(Duration::from_nanos(300));
    metrics.connection_opened("[::]:8443");
    metrics.connection_refused("rate");
    metrics.h2_abuse("ping");
    metrics.handshake("full");
    metrics.challenge("proof_of_work", "solved");
    metrics.challenge_solved("proof_of_work", Duration::from_millis(300));
    metrics.clearance("good");
    metrics.challenge_provider("turnstile", "ok");
    metrics.crawler_lookup("verified");
    metrics.crawler_request();
    metrics.ban_placed("per-login");
    metrics.reload(true, 1_700_000_000);
    metrics.pressure().rate("listen_overflows", 1.5);
    metrics
}

const ALERTS: &str = include_str!("../../../conf/alerts.yaml");
const DASHBOARD: &str = include_str!("../../../conf/dashboard.json");
const RUNBOOK: &str = include_str!("../../../docs/tasks/alerts.md");

/// Words that are metric names of this process, by their beginning.
fn names(text: &str) -> std::collections::BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("rempart_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn alerts_and_dashboard_name_what_there_is_and_all_of_it() {
    let text = exercised().render();
    let exported: std::collections::BTreeSet<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let dashboard = dashboard.to_string();
    let (alerts, dashboard) = (names(ALERTS), names(&dashboard));
    assert!(alerts.len() > 10 && dashboard.len() > 20);
    for used in alerts.union(&dashboard) {
        assert!(exported.contains(used), "{used} does not exist");
    }
    for name in exported {
        let part = ["_sum", "_count"].iter().any(|end| name.ends_with(end));
        assert!(part || dashboard.contains(name), "{name} has no panel");
    }
}

#[test]
fn each_alert_has_its_runbook() {
    let values = |key: &str| {
        let lines = ALERTS.lines().filter_map(move |line| {
            let (before, value) = line.split_once(key)?;
            before.trim().is_empty().then_some(value.trim())
        });
        lines.collect::<Vec<_>>()
    };
    let runbooks = values("runbook:");
    assert!(runbooks.len() > 10);
    assert_eq!(runbooks.len(), values("- alert:").len());
    for runbook in runbooks {
        let heading = runbook.strip_prefix("docs/tasks/alerts.md#").unwrap();
        let found = RUNBOOK
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .any(|line| line.to_lowercase() == heading);
        assert!(found, "{runbook}");
    }
}

/// Runs promtool (of the package `prometheus`), which must have nothing to say.
fn promtool(arguments: &[&str], input: &str) {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/conf"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian: prometheus)");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    assert_eq!(errors, "", "{arguments:?}");
}

#[test]
fn promtool_agrees() {
    promtool(&["check", "metrics"], &exercised().render());
    promtool(&["check", "rules", "alerts.yaml"], "");
    promtool(&["test", "rules", "alerts.test.yaml"], "");
}
