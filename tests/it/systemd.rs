//! What a supervisor says to a process and hears from it: sockets that are passed, readiness,
//! reloads, the watchdog, and who is to be supervised after a hand-over.

use crate::{
    harness::{
        Edge, Upstream,
        edge::{self, Folder},
        raw, tools,
    },
    upgrade::Successor,
};
use std::{collections::BTreeSet, net::SocketAddr, os::unix::net::UnixDatagram, time::Duration};

fn yaml(upstream: &Upstream, listeners: &str) -> String {
    format!(
        "listeners: [{listeners}]\n\
         admin: {{ address: 127.0.0.1:0, token_file: secrets/admin.token }}\n\
         connections: {{ per_client: off, rate_per_client: off }}\n\
         upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n",
        upstream.address
    )
}

/// Listens where a supervisor does.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn new(folder: &Folder) -> Self {
        let socket = UnixDatagram::bind(folder.path("notify")).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self(socket)
    }

    /// The next message that is no sign of life.
    #[track_caller]
    fn hears(&self) -> String {
        loop {
            let message = self.next();
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    /// Throws away what was said so far.
    fn forget(&self) {
        self.0.set_nonblocking(true).unwrap();
        while self.0.recv(&mut [0; 512]).is_ok() {}
        self.0.set_nonblocking(false).unwrap();
    }

    #[track_caller]
    fn next(&self) -> String {
        let mut message = [0; 512];
        let length = self.0.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).unwrap()
    }
}

#[test]
fn it_says_how_it_is() {
    let upstream = Upstream::named("app");
    let folder = Folder::new();
    let supervisor = Supervisor::new(&folder);
    folder.write("rempart.yaml", &yaml(&upstream, "{ address: 127.0.0.1:0 }"));
    let file = folder.path("rempart.yaml");
    let mut command = edge::command();
    command
        .env("NOTIFY_SOCKET", folder.path("notify"))
        .env("WATCHDOG_USEC", "1500000");
    let mut edge = Edge::started(folder, &file, &mut command);
    let ready = supervisor.hears();
    assert!(
        ready.starts_with("READY=1\nSTATUS=serving 1 listeners"),
        "{ready}"
    );
    for _ in 0..3 {
        assert_eq!(supervisor.next(), "WATCHDOG=1");
    }
    edge.signal("HUP");
    let reloading = supervisor.hears();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert!(supervisor.hears().starts_with("READY=1\n"));

    edge.signal("QUIT");
    assert!(supervisor.hears().starts_with("RELOADING=1\n"));
    // The new one is ready, and the old one says who it is: in whichever order.
    let both: BTreeSet<String> = [supervisor.hears(), supervisor.hears()].into();
    let new = Successor::of(&edge, 0);
    assert!(
        both.contains(&format!("MAINPID={}\nREADY=1", new.0)),
        "{both:?}"
    );
    let serving = "READY=1\nSTATUS=serving";
    assert!(
        both.iter().any(|said| said.starts_with(serving)),
        "{both:?}"
    );
    // The old one ends without a word: it is not the one that is supervised.
    assert!(edge.process().wait(25).success());
    supervisor.forget();
    assert_eq!(supervisor.next(), "WATCHDOG=1", "of the new one");
    new.signal("TERM");
    assert_eq!(supervisor.hears(), "STOPPING=1\nSTATUS=draining");
    new.wait();
}

/// Starts with sockets for these addresses; `PASSED-N` in the configuration is the N-th of them.
fn activated(yaml: &str, addresses: &str) -> Edge {
    let folder = Folder::new();
    folder.write("rempart.yaml", yaml);
    let file = folder.path("rempart.yaml");
    let mut command = tools::python("activate.py");
    command.arg(addresses).arg(&file);
    command.arg(env!("CARGO_BIN_EXE_rempart"));
    Edge::started(folder, &file, &mut command)
}

fn served(address: SocketAddr) -> bool {
    raw::connect("127.0.0.1", address).is_ok_and(|mut client| {
        let get = b"GET / HTTP/1.1\r\nhost: app.example.com\r\nconnection: close\r\n\r\n";
        raw::exchange(&mut client, get).is_ok_and(|answer| answer.status == 200)
    })
}

#[test]
fn sockets_that_are_passed_are_served_and_go_on_to_the_next_process() {
    let upstream = Upstream::named("app");
    let listeners = "{ address: 127.0.0.1:0 }, { address: 'PASSED-0' }";
    let mut edge = activated(&yaml(&upstream, listeners), "127.0.0.1:0,127.0.0.1:0");
    let log = edge.log();
    let passed = log.lines().filter_map(|l| edge::message(l, "passed"));
    let passed: Vec<SocketAddr> = passed
        .map(|line| line["address"].as_str().unwrap().parse().unwrap())
        .collect();
    let [passed, unknown] = passed[..] else {
        panic!("{passed:?}");
    };
    let bound = edge.listener(0);
    let mut inherited = log.lines().filter_map(|l| edge::message(l, "listening"));
    let inherited = inherited.find(|line| line["inherited"] == 1).unwrap();
    assert_eq!(inherited["address"], passed.to_string());
    let mut warnings = log.lines().filter(|line| line.contains("LISTEN_FDS"));
    let warning = warnings.next().expect("a warning");
    assert!(warning.contains(&unknown.to_string()), "{warning}");
    assert!(warnings.next().is_none());
    for _ in 0..20 {
        assert!(served(passed) && served(bound));
    }
    assert!(raw::connect("127.0.0.1", unknown).is_err(), "closed");
    edge.signal("QUIT");
    let new = Successor::of(&edge, 0);
    assert!(edge.process().wait(25).success());
    for _ in 0..20 {
        assert!(served(passed) && served(bound));
    }
    // No copy of a socket has stayed anywhere: it would take connections that nobody answers.
    new.signal("TERM");
    new.wait();
    for address in [passed, bound] {
        assert!(raw::connect("127.0.0.1", address).is_err());
    }
}

#[test]
fn sockets_meant_for_another_process_are_left_alone() {
    let upstream = Upstream::named("app");
    let folder = Folder::new();
    folder.write("rempart.yaml", &yaml(&upstream, "{ address: 127.0.0.1:0 }"));
    let file = folder.path("rempart.yaml");
    let mut command = edge::command();
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let edge = Edge::started(folder, &file, &mut command);
    assert!(served(edge.listener(0)));
    assert!(!edge.log().contains("LISTEN_FDS"));
}
