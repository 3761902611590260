//! What a connection meets before its handshake: bans, lists, the budgets of its client and of all,
//! and the end of the file descriptors. Whoever has nothing to do with it is served throughout.

use crate::harness::{
    Edge, Nginx,
    edge::rempart,
    raw::{self, Tls},
    wait_until,
};
use std::{
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    process::Command,
};

const REFUSED: &str = "rempart_connections_refused_total";

fn start(yaml: &str) -> (Nginx, Edge) {
    let upstream = Nginx::start();
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n{yaml}",
        upstream.address
    ));
    (upstream, edge)
}

/// A client that has done nothing wrong, on a connection of its own.
struct Innocent(Tls);

impl Innocent {
    fn new(edge: &Edge) -> Self {
        Self(edge.connect("127.0.99.1"))
    }

    #[track_caller]
    fn is_served(&mut self) {
        let request = b"GET / HTTP/1.1\r\nhost: app.example.com\r\n\r\n";
        assert_eq!(raw::exchange(&mut self.0, request).unwrap().status, 200);
    }
}

/// Connects; true if the connection is reset without a byte, false if it stays open for a while.
fn is_reset(source: &str, to: SocketAddr) -> bool {
    match raw::connect(source, to) {
        Ok(mut tcp) => ends_by_reset(&mut tcp),
        // On its way to us, connecting can be what notices.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) => panic!("{error}"),
    }
}

fn ends_by_reset(tcp: &mut TcpStream) -> bool {
    match tcp.read(&mut [0; 64]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        other => panic!("neither open nor reset: {other:?}"),
    }
}

#[track_caller]
fn refused(edge: &Edge, reason: &str) -> f64 {
    edge.metric(REFUSED, &[("reason", reason)])
}

/// As far as they were accepted: each worker takes its own when it comes to it.
fn open_connections(edge: &Edge) -> f64 {
    edge.metric("rempart_connections", &[])
}

#[test]
fn what_may_not_connect_is_reset_before_a_handshake_and_counted_by_reason() {
    let (_upstream, edge) = start(
        "connections: { per_client: 3, rate_per_client: 10/h, total: 1000, timeouts: { handshake: 60s } }\n\
         lists: { bad: { networks: [127.0.4.0/24], then: drop } }\n",
    );
    let mut innocent = Innocent::new(&edge);
    innocent.is_served();
    let handshakes = edge.metric("rempart_tls_handshakes_total", &[]);

    let admin = format!("http://{}", edge.admin());
    let token = edge.folder.path("secrets/admin.token");
    let mut ban = vec!["bans", "add", "127.0.3.1", "--for", "1h"];
    ban.extend(["--admin", &admin, "--token-file", token.to_str().unwrap()]);
    let output = rempart(&ban);
    assert!(output.status.success(), "{output:?}");
    assert!(is_reset("127.0.3.1", edge.tls()), "banned");
    innocent.is_served();

    assert!(is_reset("127.0.4.7", edge.tls()), "listed");
    innocent.is_served();

    // Three are held without a word; the fourth is one too many.
    let held: Vec<_> = (0..3)
        .map(|_| raw::connect("127.0.5.1", edge.tls()).unwrap())
        .collect();
    wait_until("four open ones", 15, || open_connections(&edge) >= 4.0);
    assert!(is_reset("127.0.5.1", edge.tls()), "per_client");
    innocent.is_served();

    // Ten an hour, each of which is gone before the next.
    wait_until("the rate", 15, || {
        let connected = raw::connect("127.0.6.1", edge.tls());
        drop(connected);
        refused(&edge, "rate") >= 1.0
    });
    assert!(is_reset("127.0.6.1", edge.tls()), "rate");
    innocent.is_served();

    assert!(refused(&edge, "banned") >= 1.0);
    assert!(refused(&edge, "listed") >= 1.0);
    assert!(refused(&edge, "per_client") >= 1.0);
    assert!(refused(&edge, "rate") >= 2.0);
    let spent = edge.metrics();
    let good = ["full", "resumed"].map(|result| {
        let labels = [("result", result)];
        spent.sum("rempart_tls_handshakes_total", &labels)
    });
    assert!(
        good.iter().sum::<f64>() - handshakes < 0.5,
        "no handshake was completed for any of them"
    );
    drop(held);
}

#[test]
fn the_total_is_reset_too_and_who_is_in_stays_in() {
    let (_upstream, edge) = start(
        "connections: { per_client: off, rate_per_client: off, total: 6, timeouts: { handshake: 60s } }\n",
    );
    let mut innocent = Innocent::new(&edge);
    innocent.is_served();
    let held: Vec<_> = (1..=5)
        .map(|n| raw::connect(&format!("127.0.7.{n}"), edge.tls()).unwrap())
        .collect();
    wait_until("six open ones", 15, || open_connections(&edge) >= 6.0);
    assert!(is_reset("127.0.7.6", edge.tls()));
    innocent.is_served();
    assert!(refused(&edge, "total") >= 1.0);
    drop(held);
    wait_until("a place", 15, || {
        edge.get("/").from("127.0.7.7").send().status == 200
    });
}

#[test]
fn a_flood_of_banned_clients_is_counted_and_holds_nobody_up() {
    const EACH: u32 = 1500;
    let (_upstream, edge) = start("lists: { bad: { networks: [127.16.0.0/12], then: drop } }\n");
    let mut innocent = Innocent::new(&edge);
    innocent.is_served();
    let address = edge.tls();
    let said = edge.log().lines().count();
    let floods: Vec<_> = (16..18)
        .map(|network| {
            std::thread::spawn(move || {
                (0..EACH)
                    .filter(|nth| {
                        let source = format!("127.{network}.{}.{}", nth / 250, nth % 250 + 1);
                        is_reset(&source, address)
                    })
                    .count()
            })
        })
        .collect();
    let mut served = 0;
    while !floods.iter().all(std::thread::JoinHandle::is_finished) {
        // One that is there already, and one that comes.
        innocent.is_served();
        assert_eq!(edge.get("/").from("127.0.99.2").status(), 200);
        served += 1;
    }
    assert!(served > 0);
    let reset: usize = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    assert_eq!(reset, 2 * EACH as usize, "every one of them");
    assert!((refused(&edge, "listed") - f64::from(2 * EACH)).abs() < 0.5);
    assert_eq!(edge.log().lines().count(), said, "nobody fills the log");
}

#[test]
fn without_file_descriptors_new_connections_are_reset_and_open_ones_served() {
    let (_upstream, mut edge) = start(
        "connections: { per_client: off, rate_per_client: off, timeouts: { handshake: 60s } }\n",
    );
    let mut innocent = Innocent::new(&edge);
    // Its connection to the upstream is open from now on.
    innocent.is_served();
    let process = edge.process().id();
    let open = || {
        let folder = format!("/proc/{process}/fd");
        std::fs::read_dir(folder).unwrap().count()
    };
    let limit = |descriptors: usize| {
        let status = Command::new("prlimit")
            .args(["--pid", &process.to_string()])
            .arg(format!("--nofile={descriptors}:"))
            .status();
        assert!(status.unwrap().success());
    };
    let room = 16;
    limit(open() + room);
    // More than there is room for. Each either stays open, or is reset, which connecting can notice.
    let held: Vec<_> = (0..4 * room)
        .map(|n| raw::connect(&format!("127.0.8.{}", n + 1), edge.tls()))
        .collect();
    assert!(
        is_reset("127.0.8.200", edge.tls()),
        "refused instead of left waiting"
    );
    for _ in 0..20 {
        innocent.is_served();
    }
    drop(held);
    limit(4096);
    wait_until("room again", 15, || {
        edge.get("/").from("127.0.99.2").send().status == 200
    });
    assert!(refused(&edge, "no_descriptors") >= 1.0);
    let complaints = edge
        .log()
        .lines()
        .filter(|line| line.contains("no file descriptors"))
        .count();
    assert!((1..=3).contains(&complaints), "{}", edge.log());
}
