//! The access log: fields, bounds, files.

use super::*;
use crate::record::{self, metrics::Metrics};
use serde_json::{Value, json};
use std::{
    io::Write,
    net::{Ipv6Addr, SocketAddr},
    time::{Duration, UNIX_EPOCH},
};
use verdict::{
    decision::{Action, Finding, Mode, Reason, Source},
    prefix::{Prefix, PrefixLengths},
};

fn server() -> Server {
    Server::new("edge-1")
}

fn finding(name: &str, action: Action, mode: Mode) -> Finding {
    Finding {
        source: Source::Rule,
        name: name.into(),
        action,
        mode,
        reason: Reason::Matched,
    }
}

fn record(route: &record::metrics::RouteMetrics) -> Record<'_> {
    let ip = "2001:db8:1:2::7".parse().unwrap();
    Record {
        time: UNIX_EPOCH + Duration::from_millis(1_791_000_000_042),
        request_id: "0199a0f0-0000-7000-8000-000000000001",
        client: record::Client {
            ip,
            network: Prefix::of(ip, PrefixLengths::NETWORK),
            ja4: "t13d1516h2_8daaf6152771_b186095e22b6",
            port: 51234,
        },
        user: record::User::default(),
        listener: "[::]:8443",
        destination: SocketAddr::from((Ipv6Addr::LOCALHOST, 8443)),
        tls: Some(record::Tls {
            version: "1.3",
            sni: "app.example.com",
        }),
        request: record::Request {
            method: "GET",
            host: b"app.example.com",
            path: b"/a",
            protocol: "HTTP/2",
            bytes: 0,
        },
        response: record::Response {
            status: 200,
            bytes: 1024,
        },
        route,
        upstream: None,
        decision: record::Outcome {
            action: Action::Allow,
            finding: None,
            observed: &[],
        },
        error: None,
        duration: Duration::from_micros(12_345),
    }
}

fn line(record: &Record<'_>) -> Value {
    let mut out = Vec::new();
    line::write(&mut out, record, &server());
    assert!(!out.contains(&b'\n'));
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn a_line_has_the_fields_of_the_contract() {
    let metrics = Metrics::new();
    let route = metrics.route("app");
    let decided = finding("probes", Action::Deny, Mode::Enforce);
    let shadow = [finding("new", Action::Throttle, Mode::Shadow)];
    let mut full = record(&route);
    full.user = record::User {
        id: "alice",
        session: "s-1",
    };
    full.upstream = Some(record::Upstream {
        name: "app",
        endpoint: Some("10.0.0.1:3000".parse().unwrap()),
        took: Duration::from_micros(3_500),
    });
    full.decision = record::Outcome {
        action: Action::Deny,
        finding: Some(&decided),
        observed: &shadow,
    };
    full.error = Some(record::Error {
        code: "upstream_timeout",
        text: "no answer in 30 s",
    });
    assert_eq!(
        line(&full),
        json!({
            "time": "2026-10-03T04:00:00.042Z",
            "request_id": "0199a0f0-0000-7000-8000-000000000001",
            "client": {
                "ip": "2001:db8:1:2::7", "network": "2001:db8:1::/48",
                "ja4": "t13d1516h2_8daaf6152771_b186095e22b6", "port": 51234
            },
            "user": { "id": "alice", "session": "s-1" },
            "listener": "[::]:8443",
            "destination": "[::1]:8443",
            "tls": { "version": "1.3", "sni": "app.example.com" },
            "request": {
                "method": "GET", "host": "app.example.com", "path": "/a",
                "protocol": "HTTP/2", "bytes": 0
            },
            "response": { "status": 200, "bytes": 1024 },
            "route": "app",
            "upstream": { "name": "app", "endpoint": "10.0.0.1:3000", "ms": 3.5 },
            "decision": {
                "action": "deny", "mode": "enforce", "source": "rule", "name": "probes",
                "reason": "matched",
                "observed": [{
                    "action": "throttle", "mode": "shadow", "source": "rule", "name": "new",
                    "reason": "matched"
                }]
            },
            "error": { "code": "upstream_timeout", "text": "no answer in 30 s" },
            "duration_ms": 12.345,
            "server": { "id": "edge-1", "version": env!("CARGO_PKG_VERSION") }
        })
    );
}

#[test]
fn absent_values_are_left_out() {
    let metrics = Metrics::new();
    let route = metrics.route(record::metrics::NO_ROUTE);
    let mut bare = record(&route);
    bare.tls = None;
    bare.client.ja4 = "";
    let line = line(&bare);
    for absent in ["user", "tls", "route", "upstream", "error"] {
        assert!(line.get(absent).is_none(), "{absent}");
    }
    assert!(line["client"].get("ja4").is_none());
    assert_eq!(
        line["decision"],
        json!({ "action": "allow", "mode": "enforce" })
    );
}

#[test]
fn a_shadow_finding_shows_as_if_it_bit() {
    let metrics = Metrics::new();
    let route = metrics.route("app");
    let one = [finding("probes", Action::Deny, Mode::Shadow)];
    let mut shadowed = record(&route);
    shadowed.decision.observed = &one;
    assert_eq!(
        line(&shadowed)["decision"],
        json!({
            "action": "deny", "mode": "shadow", "source": "rule", "name": "probes",
            "reason": "matched"
        })
    );
    let several = [
        finding("mild", Action::Throttle, Mode::Shadow),
        finding("hard", Action::Drop, Mode::Shadow),
    ];
    shadowed.decision.observed = &several;
    let decision = &line(&shadowed)["decision"];
    assert_eq!(decision["name"], "hard");
    assert_eq!(decision["observed"].as_array().unwrap().len(), 2);
}

#[test]
fn a_clients_bytes_are_made_safe_and_cut() {
    let metrics = Metrics::new();
    let route = metrics.route("app");
    let mut hostile = record(&route);
    let path = [b"/\xff\"\n\x1b[2J".as_slice(), &[b'a'; 5000]].concat();
    // The cut falls inside of a letter.
    let host = "é".repeat(3000);
    let host = [b"h", host.as_bytes()].concat();
    hostile.request.path = &path;
    hostile.request.host = &host;
    let mut out = Vec::new();
    line::write(&mut out, &hostile, &server());
    assert!(out.iter().all(|byte| *byte >= b' '), "control characters");
    let line: Value = serde_json::from_slice(&out).unwrap();
    let path = line["request"]["path"].as_str().unwrap();
    assert!(path.starts_with("/\u{fffd}\"\n\u{1b}[2Jaaa"), "{path}");
    assert!(path.ends_with("a…"));
    assert!(path.len() < 2060, "{}", path.len());
    let host = line["request"]["host"].as_str().unwrap();
    assert!(host.ends_with("é\u{fffd}…"), "{host}");
}

#[test]
fn times_are_utc_with_milliseconds() {
    let metrics = Metrics::new();
    let route = metrics.route("app");
    for (milliseconds, expected) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (4_102_444_800_001, "2100-01-01T00:00:00.001Z"),
    ] {
        let mut at = record(&route);
        at.time = UNIX_EPOCH + Duration::from_millis(milliseconds);
        assert_eq!(line(&at)["time"], expected);
    }
}

#[test]
fn lines_reach_the_file_and_follow_a_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let metrics = Arc::new(Metrics::new());
    let destination = model::AccessLog::File(path.clone());
    let recorder = record::Recorder::start(&destination, Arc::clone(&metrics)).unwrap();
    let route = metrics.route("app");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..250).for_each(|_| recorder.record(&record(&route))));
        }
    });
    recorder.access_log().flush();
    let rotated = folder.path().join("access.log.1");
    std::fs::rename(&path, &rotated).unwrap();
    recorder.access_log().reopen().unwrap();
    recorder.access_log().flush();
    recorder.record(&record(&route));
    // Nothing is lost at the end either.
    drop(recorder);
    let lines = |path| {
        let text = std::fs::read_to_string(path).unwrap();
        let parsed = text.lines().map(serde_json::from_str::<Value>);
        parsed.collect::<Result<Vec<_>, _>>().unwrap().len()
    };
    assert_eq!(lines(&rotated), 1000);
    assert_eq!(lines(&path), 1);
    assert_eq!(metrics.access_log_dropped().get(), 0);
}

#[test]
fn a_new_destination_that_cannot_be_opened_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let destination = model::AccessLog::File(path.clone());
    let log = AccessLog::start(&destination, Metrics::new().access_log_dropped()).unwrap();
    let nowhere = model::AccessLog::File(folder.path().join("missing/access.log"));
    assert!(log.redirect(&nowhere).is_err());
    let metrics = Metrics::new();
    log.write(&record(&metrics.route("app")), &server());
    log.redirect(&model::AccessLog::Off).unwrap();
    log.write(&record(&metrics.route("app")), &server());
    log.stop();
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
}

/// Takes nothing until it is let go, as a pipe does that nobody reads.
struct Stuck {
    entered: mpsc::SyncSender<()>,
    release: mpsc::Receiver<()>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.try_send(());
        let _ = self.release.recv();
        self.written.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_destination_that_blocks_costs_lines_and_never_a_worker() {
    let metrics = Metrics::new();
    let route = metrics.route("app");
    let (entered, is_entered) = mpsc::sync_channel(1);
    let (let_go, release) = mpsc::sync_channel::<()>(0);
    let written = Arc::new(Mutex::new(Vec::new()));
    let sink = Sink::Test(Box::new(Stuck {
        entered,
        release,
        written: Arc::clone(&written),
    }));
    let dropped = metrics.access_log_dropped();
    let log = AccessLog::start_with(&model::AccessLog::Stdout, sink, dropped.clone()).unwrap();
    log.write(&record(&route), &server());
    is_entered.recv().unwrap();
    // The writer is stuck now; a buffer of one mebibyte fills and no call waits.
    let lines = 10_000;
    for _ in 0..lines {
        log.write(&record(&route), &server());
    }
    let lost = dropped.get();
    assert!(lost > lines / 2, "{lost}");
    drop(let_go);
    log.stop();
    let kept = String::from_utf8_lossy(&written.lock()).lines().count();
    assert_eq!(u64::try_from(kept).unwrap() + lost, lines + 1);
    assert!(written.lock().len() < BUFFER_LIMIT + 8192);
}

/// Fails in the middle of the first line, like a disk that is full for a moment.
struct Full {
    first: bool,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.first && !self.written.lock().is_empty() {
            self.first = false;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let some = if self.first { 10 } else { bytes.len() };
        self.written.lock().extend_from_slice(&bytes[..some]);
        Ok(some)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn after_a_full_disk_lines_are_whole_again() {
    let metrics = Metrics::new();
    let route = metrics.route("app");
    let written = Arc::new(Mutex::new(Vec::new()));
    let sink = Sink::Test(Box::new(Full {
        first: true,
        written: Arc::clone(&written),
    }));
    let dropped = metrics.access_log_dropped();
    let log = AccessLog::start_with(&model::AccessLog::Stdout, sink, dropped.clone()).unwrap();
    log.write(&record(&route), &server());
    log.flush();
    assert_eq!(dropped.get(), 1);
    log.write(&record(&route), &server());
    log.stop();
    let text = String::from_utf8(written.lock().clone()).unwrap();
    let (torn, whole) = text.split_once('\n').unwrap();
    assert_eq!(torn.len(), 10);
    serde_json::from_str::<Value>(whole).unwrap();
}
