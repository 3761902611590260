//! Floods below `accept()`, made for real in network namespaces: each raises its own state in time and
//! no other, people get in throughout, and what only looks like a flood raises nothing.

use crate::harness::{
    Folder,
    edge::{ADMIN_TOKEN, command},
    metrics::Metrics,
    namespaces::{EDGE, Namespaces, events, namespaces_or_skip},
    process::Process,
    tools::{run, said, succeed},
    wait_until,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What is promised: from the first packet of a flood to the log line that tells of it.
const IN_TIME: Duration = Duration::from_secs(3);
/// A flood lasts no longer.
const LONGEST: &str = "6";

const YAML: &str = r#"
listeners:
  - { address: "[::]:8080", redirect_to: https }
  - { address: "[::]:8081" }
admin: { address: 127.0.0.1:9090, token_file: secrets/admin.token }
upstreams: { app: { endpoints: [127.0.0.1:9] } }
routes: [{ name: app, path: /, upstream: app }]
rules: [{ name: under-fire, when: 'pressure.syn_flood && !pressure.ack_flood', then: deny }]
connections: { per_client: off, rate_per_client: off, total: 4000 }
"#;

/// One flood at a time: each takes what a processor has.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `hping3`, bounded in number and time, and behind everybody else for the processor: a real flood comes
/// from other machines.
struct Flood {
    began: OffsetDateTime,
    hping: Child,
}

impl Flood {
    fn begin(net: &Namespaces, arguments: &str) -> Self {
        let mut command = net.at_peer("nice");
        command.args(["-n", "10", "timeout", LONGEST, "hping3", "-q"]);
        command.args(arguments.split(' ')).arg(EDGE);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let began = OffsetDateTime::now_utc();
        let hping = command.spawn().expect("hping3 runs; run `make test`");
        Self { began, hping }
    }

    fn is_over(&mut self) -> bool {
        self.hping.try_wait().unwrap().is_some()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.hping.kill();
        let _ = self.hping.wait();
    }
}

/// Somebody connects from the other side.
fn visitor(net: &Namespaces) -> Command {
    let mut curl = net.at_peer("curl");
    curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]);
    curl.args(["--max-time", "10"]);
    curl
}

/// Somebody is answered with this status.
fn visit(net: &Namespaces, port: u16) -> String {
    let mut curl = visitor(net);
    succeed(curl.arg(format!("http://{EDGE}:{port}/")))
        .trim()
        .to_owned()
}

/// The states that were raised so far.
fn raised(process: &Process) -> BTreeSet<String> {
    let events = events(process, "pressure raised");
    let state = |event: &Value| event["state"].as_str().unwrap().to_owned();
    events.iter().map(state).collect()
}

/// How long after `began` this line was written.
fn after(began: OffsetDateTime, event: &Value) -> Duration {
    let written = event["timestamp"].as_str().unwrap();
    let written = OffsetDateTime::parse(written, &Rfc3339).unwrap();
    (written - began).unsigned_abs()
}

/// Floods with these arguments of hping3, while people come. The line that told of it.
fn flood(net: &Namespaces, process: &Process, arguments: &str, state: &str) -> Value {
    assert_eq!(visit(net, 8080), "308");
    let mut flood = Flood::begin(net, arguments);
    let mut visits = 0;
    while !flood.is_over() {
        assert_eq!(
            visit(net, 8080),
            "308",
            "after {visits} visits of the flood"
        );
        visits += 1;
    }
    assert!(visits >= 3, "{visits}");
    let told = events(process, "pressure raised");
    let only = BTreeSet::from([state.to_owned()]);
    assert_eq!(raised(process), only, "{told:#?}");
    let took = after(flood.began, &told[0]);
    println!(
        "{state}: raised after {took:?}, {visits} visits: {}",
        told[0]
    );
    assert!(took <= IN_TIME, "{state} took {took:?}");
    let confidence = told[0]["confidence"].as_f64().unwrap();
    assert!((0.5..=1.0).contains(&confidence), "{confidence}");
    told[0].clone()
}

fn ask(net: &Namespaces, path: &str) -> String {
    let mut curl = net.at_edge("curl");
    curl.args(["-s", "-H", &format!("authorization: Bearer {ADMIN_TOKEN}")]);
    succeed(curl.arg(format!("http://127.0.0.1:9090{path}")))
}

#[test]
fn a_syn_flood_is_raised_shown_and_used_by_a_rule_and_keeps_nobody_out() {
    let _turn = alone();
    let Some(net) = namespaces_or_skip("a SYN flood") else {
        return;
    };
    let folder = Folder::new();
    let process = net.serve(&folder, YAML);
    assert_eq!(visit(&net, 8081), "502", "the upstream is not there");
    let told = flood(
        &net,
        &process,
        "-S -p 8080 --flood --rand-source -c 400000",
        "syn_flood",
    );
    assert_eq!(told["forged_sources"], true);
    assert!(
        told["advice"].as_str().unwrap().contains("do not ban"),
        "{told}"
    );
    assert!(
        told["figures"].as_str().unwrap().contains("cookies_sent="),
        "{told}"
    );
    // It is raised still, for a while.
    assert_eq!(visit(&net, 8081), "403", "the rule bites");
    let metrics = Metrics::parse(&ask(&net, "/metrics"));
    let state = &[("state", "syn_flood")];
    assert!((metrics.sum("rempart_pressure", state) - 1.0).abs() < 1e-9);
    assert!((metrics.sum("rempart_pressure", &[]) - 1.0).abs() < 1e-9);
    assert!((metrics.sum("rempart_pressure_raised_total", &[]) - 1.0).abs() < 1e-9);
    let shown: Value = serde_json::from_str(&ask(&net, "/api/pressure")).unwrap();
    let shown = &shown["states"]["syn_flood"];
    assert_eq!(shown["raised"], true, "{shown}");
    assert_eq!(
        shown["finding"]["confidence"], told["confidence"],
        "{shown}"
    );
    assert!(
        shown["finding"]["figures"]["cookies_sent"].is_f64(),
        "{shown}"
    );
}

#[test]
fn a_slow_syn_flood_is_seen_by_what_it_leaves_half_open() {
    let _turn = alone();
    let Some(net) = namespaces_or_skip("a slow SYN flood") else {
        return;
    };
    let process = net.serve(&Folder::new(), YAML);
    let told = flood(
        &net,
        &process,
        "-S -p 8080 -i u2000 --rand-source -c 2400",
        "slow_syn_flood",
    );
    assert_eq!(told["forged_sources"], true, "{told}");
    assert!(
        told["figures"].as_str().unwrap().contains("half_open="),
        "{told}"
    );
}

#[test]
fn an_ack_flood_is_told_from_resets_of_our_own() {
    let _turn = alone();
    let Some(net) = namespaces_or_skip("an ACK flood") else {
        return;
    };
    let process = net.serve(&Folder::new(), YAML);
    flood(
        &net,
        &process,
        "-A -p 8080 --flood --rand-source -c 400000",
        "ack_flood",
    );
}

#[test]
fn what_reflectors_send_is_seen() {
    let _turn = alone();
    let Some(net) = namespaces_or_skip("UDP amplification") else {
        return;
    };
    let process = net.serve(&Folder::new(), YAML);
    flood(
        &net,
        &process,
        "--udp -s 123 -k -p 40000 -d 440 --flood -c 400000",
        "udp_amplification",
    );
}

#[test]
fn connections_are_held_to_what_is_written_for_a_flood_while_it_lasts() {
    let _turn = alone();
    let Some(net) = namespaces_or_skip("reactions") else {
        return;
    };
    let pressed =
        "total: 4000, under_pressure: { while: [udp_amplification], rate_per_client: 2/h }";
    let yaml = YAML.replace("total: 4000", pressed);
    let process = net.serve(
        &Folder::new(),
        &format!("{yaml}pressure: {{ quiet: 1s }}\n"),
    );
    let is_served = || {
        run(visitor(&net).arg(format!("http://{EDGE}:8080/")))
            .status
            .success()
    };
    for _ in 0..5 {
        assert!(is_served());
    }
    let mut flood = Flood::begin(&net, "--udp -s 53 -k -p 40000 --flood -c 400000");
    wait_until("the flood to be raised", 10, || {
        !raised(&process).is_empty()
    });
    let during: Vec<bool> = (0..5).map(|_| is_served()).collect();
    assert_eq!(during, [true, true, false, false, false]);
    wait_until("the end of the flood", 30, || flood.is_over());
    wait_until("it to be lowered", 30, || {
        !events(&process, "pressure lowered").is_empty()
    });
    for _ in 0..5 {
        assert!(is_served());
    }
    assert_eq!(raised(&process).len(), 1);
}

/// So many requests at once, each over a connection of its own; all are answered.
fn crowd(net: &Namespaces, many: u32) -> Command {
    let mut curl = net.at_peer("curl");
    curl.args(["-s", "-Z", "--parallel-immediate", "--parallel-max", "200"]);
    curl.args(["--connect-timeout", "20", "-H", "connection: close"]);
    curl.args(["-o", "/dev/null", "-w", "%{http_code}\n"]);
    curl.arg(format!("http://{EDGE}:8080/[1-{many}]"));
    curl
}

fn served(said: &str) -> usize {
    said.lines().filter(|line| *line == "308").count()
}

#[test]
fn a_stall_of_our_own_is_no_attack() {
    let _turn = alone();
    let Some(net) = namespaces_or_skip("an accept stall") else {
        return;
    };
    // A queue that is small enough to fill.
    succeed(net.at_edge("sysctl").args(["-w", "net.core.somaxconn=64"]));
    let process = net.serve(&Folder::new(), YAML);
    assert_eq!(visit(&net, 8080), "308");
    let began = OffsetDateTime::now_utc();
    process.signal("STOP");
    let mut crowd = crowd(&net, 200);
    let crowd = crowd.stdout(Stdio::piped()).stderr(Stdio::null());
    let crowd = crowd.spawn().unwrap();
    // The kernel completes connections for nobody until its queue is full; clients ask again. A stall of
    // less than two seconds is a blip.
    let stopped = Instant::now();
    wait_until("the queue to overflow", 20, || {
        let said = succeed(net.at_edge("nstat").args(["-asz", "TcpExtListenOverflows"]));
        let count = said
            .split_whitespace()
            .find_map(|word| word.parse::<u64>().ok());
        count.is_some_and(|count| count > 250) && stopped.elapsed() > Duration::from_millis(2500)
    });
    process.signal("CONT");
    let crowd = crowd.wait_with_output().unwrap();
    assert_eq!(served(&String::from_utf8_lossy(&crowd.stdout)), 200);
    wait_until("the stall to be told", 10, || !raised(&process).is_empty());
    let told = events(&process, "pressure raised");
    assert_eq!(
        raised(&process),
        BTreeSet::from(["accept_stall".to_owned()])
    );
    println!(
        "accept_stall: {:?} after its begin: {}",
        after(began, &told[0]),
        told[0]
    );
    assert_eq!(told[0]["forged_sources"], false);
    assert!(told[0]["advice"].as_str().unwrap().contains("no attack"));
}

#[test]
fn a_crowd_of_people_raises_nothing() {
    let _turn = alone();
    let Some(net) = namespaces_or_skip("a crowd") else {
        return;
    };
    let process = net.serve(&Folder::new(), YAML);
    let began = Instant::now();
    let mut visits = 0;
    // Long enough for anything that is seen to be raised.
    while visits < 4000 || began.elapsed() < IN_TIME * 2 {
        assert_eq!(served(&succeed(&mut crowd(&net, 1000))), 1000);
        visits += 1000;
    }
    let rate = f64::from(visits) / began.elapsed().as_secs_f64();
    println!("a crowd: {visits} connections, {rate:.0} a second");
    assert_eq!(raised(&process), BTreeSet::new());
}

#[test]
fn the_host_is_judged_and_left_alone() {
    let _turn = alone();
    let Some(net) = namespaces_or_skip("check --host") else {
        return;
    };
    let cookies = |value: &str| {
        let setting = format!("net.ipv4.tcp_syncookies={value}");
        succeed(net.at_edge("sysctl").args(["-w", &setting]));
        let mut check = net.at_edge(command().get_program());
        let output = run(check.args(["check", "--host"]));
        (output.status.code(), said(&output))
    };
    let (off, said) = cookies("0");
    assert_eq!(off, Some(1), "{said}");
    assert!(
        said.contains("net.ipv4.tcp_syncookies is 0, better 1"),
        "{said}"
    );
    assert!(
        said.contains("\n    net.ipv4.tcp_syncookies = 1\n"),
        "{said}"
    );
    let (_, said) = cookies("1");
    assert!(!said.contains("tcp_syncookies"), "{said}");
    let now = succeed(
        net.at_edge("sysctl")
            .args(["-n", "net.ipv4.tcp_syncookies"]),
    );
    assert_eq!(now.trim(), "1");
}
