//! Abuse of HTTP/2, TLS and HTTP/1 by the project's own attack client (load-tests/attack): in every
//! case the attackers' connections are closed, at a bounded cost, counted, without noise; and every
//! request of the innocents who ask meanwhile is answered.

use crate::harness::{
    Edge, Upstream,
    attack::{Innocents, Usage, all, attack},
    upstream::{answer, drain},
};
use rempart_attack::{Attack, Summary};
use std::time::{Duration, Instant};

/// What `/large` answers.
static LARGE: [u8; 16 * 1024 * 1024] = [0; 16 * 1024 * 1024];
/// Bytes of memory by which the edge may grow in a story.
const MEMORY: u64 = 96 * 1024 * 1024;
/// Bytes of the log by which a story may make it grow.
const LOG: usize = 20_000;

/// Deadlines of a second or two: attackers must run into them while the story lasts, and innocents on a
/// busy machine must not.
const DEADLINES: &str = "handshake: 2s, headers: 2s, idle: 3s, request: 4s, stream_idle: 4s, body_minimum_rate: 64KiB/s";

struct Scene {
    edge: Edge,
    _upstream: Upstream,
    innocents: Option<Innocents>,
    answered: [usize; 2],
    began: Instant,
    usage: Usage,
    refused: f64,
    log: usize,
}

impl Scene {
    /// An edge with tight deadlines and this besides under `connections`, and innocents at work.
    #[track_caller]
    fn open(more: &str) -> Self {
        let upstream = Upstream::start(|request, stream| {
            if request.target == "/large" {
                answer(stream, 200, &LARGE)?;
            } else {
                drain(request, stream)?;
                answer(stream, 200, b"fine")?;
            }
            Ok(true)
        });
        let edge = Edge::start(&format!(
            "connections: {{ {more}timeouts: {{ {DEADLINES} }} }}\n\
             upstreams: {{ app: {{ endpoints: [{}], ejection: {{ failures: 0 }} }} }}\n\
             routes: [{{ name: app, path: /, upstream: app }}]\n\
             access_log: off\n",
            upstream.address
        ));
        let innocents = Innocents::start(&edge);
        let mut scene = Self {
            usage: Usage {
                cpu: Duration::ZERO,
                memory: 0,
            },
            refused: refused(&edge, &[]),
            log: edge.log().len(),
            answered: innocents.answered(),
            innocents: Some(innocents),
            began: Instant::now(),
            edge,
            _upstream: upstream,
        };
        scene.usage = scene.used();
        scene
    }

    fn used(&mut self) -> Usage {
        Usage::of(self.edge.process())
    }

    /// The attack is over: what must be true of every one.
    #[track_caller]
    fn close(mut self) {
        let innocents = self.innocents.take().unwrap();
        let answered = innocents.all_were_served(self.answered);
        assert!(self.edge.process().ended().is_none(), "the edge has ended");
        let now = self.used();
        let grown = now.memory.saturating_sub(self.usage.memory);
        let cpu = now.cpu.saturating_sub(self.usage.cpu);
        eprintln!(
            "{:?}: innocents {answered:?}, edge used {cpu:?}, grew {} KiB to {} KiB",
            self.began.elapsed(),
            grown / 1024,
            now.memory / 1024
        );
        assert!(grown < MEMORY, "grew by {grown} bytes");
        let log = self.edge.log();
        assert!(!log.contains("panic"), "{log}");
        let noise = log.len() - self.log;
        assert!(noise < LOG, "{noise} bytes more in the log:\n{log}");
    }

    /// As many refusals as this were counted since the scene began.
    #[track_caller]
    fn refusals_are_counted(&self, reason: &str, at_least: usize) {
        let labels = [("reason", reason)];
        let labels: &[(&str, &str)] = if reason.is_empty() { &[] } else { &labels };
        #[allow(clippy::cast_precision_loss)]
        let at_least = at_least as f64;
        // A connection is counted when it is gone, which a client can notice a moment earlier.
        crate::harness::wait_until(&format!("{at_least} refusals ({reason})"), 15, || {
            refused(&self.edge, labels) - self.refused >= at_least
        });
    }
}

fn refused(edge: &Edge, labels: &[(&str, &str)]) -> f64 {
    edge.metric("rempart_connections_refused_total", labels)
}

/// Everything that the attack opened, the edge closed.
#[track_caller]
fn is_over(summary: &Summary) {
    eprintln!("{}", serde_json::to_string(summary).unwrap());
    assert_eq!(summary.still_open, 0, "{summary:#?}");
    assert_eq!(summary.ended_by_server(), summary.opened, "{summary:#?}");
    assert!(summary.opened > 0);
}

/// How a flood of HTTP/2 frames must be answered: GOAWAY with one of these, on every connection.
#[track_caller]
fn was_told(summary: &Summary, codes: &[&str]) {
    let told: usize = codes
        .iter()
        .filter_map(|code| summary.goaway.get(*code))
        .sum();
    assert_eq!(told, summary.opened, "{codes:?} expected: {summary:#?}");
}

/// Floods, one after another, each from its own network; every one is to be cut off by GOAWAY.
fn floods(kinds: &[(&str, &[&str])]) {
    let mut scene = Scene::open("");
    let mut connections = 0;
    for (number, (kind, codes)) in (10_u8..).zip(kinds) {
        let before = scene.used().cpu;
        // Three at once; who is cut off comes again from the next address.
        let flood = Attack {
            total: 30,
            ..attack(&scene.edge, kind, number)
        };
        let summary = rempart_attack::run(flood).unwrap();
        let cpu = scene.used().cpu.saturating_sub(before);
        is_over(&summary);
        was_told(&summary, codes);
        connections += summary.opened;
        eprintln!(
            "{kind}: the edge used {cpu:?}, the attack {} ms",
            summary.cpu_ms
        );
        // Generous: an unoptimised build on a busy machine, and the innocents' part is in it.
        assert!(cpu < Duration::from_secs(3), "{kind} cost the edge {cpu:?}");
    }
    scene.refusals_are_counted("h2_abuse", 3);
    // For abuse, or for the error that the RFC names.
    scene.refusals_are_counted("", connections);
    scene.close();
}

const CALM: &[&str] = &["ENHANCE_YOUR_CALM"];
/// Where the RFC names an error for what was sent, that one will do.
const STREAM: &[&str] = &["ENHANCE_YOUR_CALM", "PROTOCOL_ERROR", "STREAM_CLOSED"];
const WINDOW: &[&str] = &["ENHANCE_YOUR_CALM", "PROTOCOL_ERROR", "FLOW_CONTROL_ERROR"];
const SIZE: &[&str] = &["ENHANCE_YOUR_CALM", "FRAME_SIZE_ERROR", "PROTOCOL_ERROR"];
const BLOCK: &[&str] = &["ENHANCE_YOUR_CALM", "PROTOCOL_ERROR", "COMPRESSION_ERROR"];

#[test]
fn streams_begun_and_undone() {
    floods(&[
        ("rapid-reset", CALM),
        ("made-you-reset:window-zero", WINDOW),
        ("made-you-reset:window-overflow", WINDOW),
        ("made-you-reset:data-after-end", STREAM),
        ("made-you-reset:headers-after-end", STREAM),
        ("made-you-reset:priority-self", STREAM),
        ("made-you-reset:priority-length", SIZE),
        ("malformed-streams", STREAM),
        ("many-streams", CALM),
        ("connect-flood", CALM),
    ]);
}

#[test]
fn header_blocks_without_end() {
    floods(&[
        ("continuation-flood:filled", BLOCK),
        ("continuation-flood:empty", BLOCK),
        ("huge-header-list", BLOCK),
        ("hpack-bomb", BLOCK),
        ("empty-headers:names", BLOCK),
        ("empty-headers:blocks", BLOCK),
    ]);
}

#[test]
fn frames_that_only_cost() {
    floods(&[
        ("settings-flood:empty", CALM),
        ("settings-flood:entries", CALM),
        ("ping-flood", CALM),
        ("priority-flood", CALM),
        ("window-flood", CALM),
        ("empty-data", CALM),
        ("unknown-frames", CALM),
    ]);
}

#[test]
fn http2_held_by_doing_little() {
    let mut scene = Scene::open("");
    let kinds = [
        "window-stall",
        "window-dribble",
        "slow-upload",
        "stuck-frame:headers",
        "stuck-frame:data",
        "stuck-frame:header-block",
        "no-preface",
        "no-request",
    ];
    let attacks: Vec<Attack> = (40_u8..)
        .zip(kinds)
        .map(|(number, kind)| Attack {
            path: "/large".into(),
            ..attack(&scene.edge, kind, number)
        })
        .collect();
    let before = scene.used().cpu;
    let summaries = all(attacks);
    let cpu = scene.used().cpu.saturating_sub(before);
    summaries.iter().for_each(is_over);
    for taker in &summaries[..2] {
        assert!(taker.answers > 0, "nothing was held: {taker:#?}");
    }
    assert!(cpu < Duration::from_secs(8), "{cpu:?}");
    let begun = &summaries[..6];
    let connections = begun.iter().map(|summary| summary.opened).sum();
    scene.refusals_are_counted("", connections);
    // What began something and did not end it, each way of it: three times a frame or a header block
    // that stopped. No preface and no request are unused connections.
    scene.refusals_are_counted("timeout", 6);
    scene.refusals_are_counted("slow_reader", 1);
    scene.refusals_are_counted("slow_body", 1);
    scene.close();
}

#[test]
fn handshakes_that_do_not_come_about() {
    let scene = Scene::open("");
    let attacks: Vec<Attack> = (60_u8..)
        .zip([
            "silent",
            "drip",
            "half-hello",
            "half-handshake",
            "garbage",
            "huge-hello:length",
            "huge-hello:fragments",
        ])
        .map(|(number, kind)| Attack {
            connections: 20,
            total: 20,
            ..attack(&scene.edge, kind, number)
        })
        .collect();
    let summaries = all(attacks);
    summaries.iter().for_each(is_over);
    // The first four wait for the deadline.
    scene.refusals_are_counted("timeout", 80);
    scene.refusals_are_counted("", 140);
    scene.close();
}

#[test]
fn a_flood_of_handshakes() {
    let flood = |scene: &Scene, number| {
        let flood = Attack {
            connections: 64,
            total: 100_000,
            rate: None,
            duration: Duration::from_secs(4),
            ..attack(&scene.edge, "handshake-flood", number)
        };
        let summary = rempart_attack::run(flood).unwrap();
        eprintln!("{}", serde_json::to_string(&summary).unwrap());
        // Some get through, whatever the budget.
        assert!(summary.done > 0, "{summary:#?}");
        #[allow(clippy::cast_precision_loss)]
        let a_second = summary.done as f64 / summary.seconds;
        (summary, a_second)
    };
    // Each worker with a hundredth of its time for those it does not know.
    let scene = Scene::open("handshakes: { cpu: 1%, waiting: 8 }, ");
    // A busy machine may leave the attack too little time to be one: it goes on until it bites.
    for number in (80..88).step_by(2) {
        let free = Scene::open("handshakes: { cpu: off }, ");
        let (_, unbounded) = flood(&free, number);
        free.close();
        let (summary, bounded) = flood(&scene, number + 1);
        let refused = summary.ended_by_server();
        if refused > 0 && bounded * 3.0 < unbounded {
            scene.refusals_are_counted("handshake_budget", 1);
            scene.refusals_are_counted("", refused);
            return scene.close();
        }
    }
    panic!("the budget bounds nothing");
}

#[test]
fn http1_at_its_slowest() {
    let scene = Scene::open("");
    let attacks: Vec<Attack> = (90_u8..)
        .zip(["slow-headers", "slow-body", "slow-read", "idle-hoard"])
        .map(|(number, kind)| Attack {
            connections: 20,
            total: 20,
            path: if kind == "slow-read" { "/large" } else { "/" }.into(),
            ..attack(&scene.edge, kind, number)
        })
        .collect();
    let summaries = all(attacks);
    summaries.iter().for_each(is_over);
    for taker in &summaries[2..] {
        assert!(taker.bytes_received > 0, "nothing was held: {taker:#?}");
    }
    // An idle connection that is closed is nothing refused.
    scene.refusals_are_counted("", 60);
    scene.refusals_are_counted("timeout", 20);
    scene.refusals_are_counted("slow_body", 20);
    scene.refusals_are_counted("slow_reader", 20);
    scene.close();
}

#[test]
fn who_goes_on_is_banned() {
    let scene = Scene::open("http2: { abuse: { points: 100, strikes: 3, ban: 1m } }, ");
    let again = Attack {
        connections: 1,
        total: 12,
        sources: Some("127.100.0.1".parse().unwrap()),
        ..attack(&scene.edge, "rapid-reset", 100)
    };
    let summary = rempart_attack::run(again).unwrap();
    is_over(&summary);
    assert_eq!(summary.opened, 12);
    // Three strikes; the others did not come as far as a handshake.
    assert_eq!(summary.goaway.values().sum::<usize>(), 3, "{summary:#?}");
    scene.refusals_are_counted("banned", 9);
    scene.close();
}
