//! SIGQUIT: a new process takes over, and nobody outside can tell.

use crate::{
    bulkhead::{Gate, ask},
    harness::{
        Edge, Nginx, Upstream,
        edge::{self, Folder, HEAD},
        raw, tools, wait_for, wait_until,
    },
};
use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// A process that took over. It ends with its owner.
pub struct Successor(pub u64);

impl Successor {
    /// The one that has said so after `earlier` others.
    #[track_caller]
    pub fn of(edge: &Edge, earlier: usize) -> Self {
        wait_for("a process that took over", 30, || {
            let log = edge.log();
            let mut served = log.lines().filter_map(|l| edge::message(l, "serving"));
            let served = served.nth(earlier + 1)?;
            let mut taken = log.lines().filter_map(|l| edge::message(l, "taken over"));
            taken.nth(earlier)?;
            Some(Self(served["pid"].as_u64().unwrap()))
        })
    }

    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.0);
        let status = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(status.success(), "{kill}");
    }

    /// Not only a name in the table of processes: nobody may have asked for its end yet.
    fn runs(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.0))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[track_caller]
    pub fn wait(&self) {
        wait_until("the end of the process that took over", 30, || !self.runs());
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.runs() {
            let kill = format!("kill -KILL {}", self.0);
            let _ = Command::new("sh").args(["-c", &kill]).status();
        }
    }
}

fn site(address: std::net::SocketAddr, more: &str) -> String {
    format!(
        "upstreams: {{ app: {{ endpoints: [{address}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         connections: {{ per_client: off, rate_per_client: off }}\n\
         shutdown: {{ grace: 30s }}\n{more}"
    )
}

const UPGRADES: &str = "rempart_upgrades_total";

#[test]
fn not_one_request_of_a_load_fails() {
    let upstream = Nginx::start();
    let trusted = "clients: { trusted_proxies: [127.0.0.0/8] }\n";
    let mut edge = Edge::start(&site(upstream.address, trusted));
    let environment = [("DURATION", "8s"), ("RATE", "30")];
    let mut k6 = crate::load::k6(&edge, "reload.js", &environment);
    let load = std::thread::spawn(move || tools::succeed(&mut k6));
    let more = || {
        let before = upstream.requests().len();
        wait_until("load", 30, || upstream.requests().len() > before + 40);
    };
    more();
    edge.signal("QUIT");
    let second = Successor::of(&edge, 0);
    // Idle connections are told to go, so it leaves long before the grace is over.
    assert!(edge.process().wait(25).success());
    assert!(edge.metric(UPGRADES, &[("result", "taken")]) >= 1.0);
    more();
    // One that took over hands over as well.
    second.signal("QUIT");
    let third = Successor::of(&edge, 1);
    assert_ne!(second.0, third.0);
    second.wait();
    load.join().expect("every request is served");
    assert_eq!(edge.get("/").status(), 200);
    assert_eq!(edge.admin_get("/readyz").status(), 200);
    third.signal("TERM");
    third.wait();
    assert!(raw::connect("127.0.0.1", edge.tls()).is_err());
}

#[test]
fn not_one_connection_is_refused_or_reset() {
    let upstream = Nginx::start();
    let mut edge = Edge::start(&site(upstream.address, ""));
    let address = edge.plain();
    let (served, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    // Nobody tries again here, as browsers and k6 would: each connection is opened, asks once, and
    // must be answered.
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (served, stop) = (Arc::clone(&served), Arc::clone(&stop));
            std::thread::spawn(move || -> std::io::Result<()> {
                let get = b"GET / HTTP/1.1\r\nhost: app.example.com\r\nconnection: close\r\n\r\n";
                while !stop.load(Ordering::SeqCst) {
                    let mut client = raw::connect("127.0.0.1", address)?;
                    assert_eq!(raw::exchange(&mut client, get)?.status, 200);
                    served.fetch_add(1, Ordering::SeqCst);
                }
                Ok(())
            })
        })
        .collect();
    let more = || {
        let before = served.load(Ordering::SeqCst);
        wait_until("connections", 30, || {
            served.load(Ordering::SeqCst) > before + 200
                || clients.iter().any(std::thread::JoinHandle::is_finished)
        });
    };
    more();
    edge.signal("QUIT");
    let mut current = Successor::of(&edge, 0);
    for earlier in 1..4 {
        more();
        current.signal("QUIT");
        let next = Successor::of(&edge, earlier);
        current.wait();
        current = next;
    }
    more();
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap().expect("every connection is served");
    }
    assert!(edge.process().wait(25).success());
}

#[test]
fn a_request_under_way_is_finished_by_the_old_and_new_ones_go_to_the_new() {
    let gate = Gate::new();
    let mut edge = Edge::start(&site(gate.address(), ""));
    let held = ask(&edge, "127.0.0.1", "/held");
    gate.wait_for_held(1);
    edge.signal("QUIT");
    let new = Successor::of(&edge, 0);
    wait_until("draining", 15, || edge.log().contains("draining"));
    for _ in 0..20 {
        assert_eq!(edge.get("/else").status(), 200);
    }
    assert_eq!(
        edge.admin_get("/readyz").status(),
        200,
        "it is not draining"
    );
    assert!(edge.process().ended().is_none(), "a request is still open");
    // A supervisor that ends all ends the new one; the old one drains as it did.
    edge.signal("TERM");
    wait_until("the signal is heard", 15, || {
        edge.log().contains("which it does already")
    });
    assert!(!edge.log().contains("asked again"));
    assert!(edge.process().ended().is_none(), "the request is open");
    gate.open();
    assert_eq!(held.join().unwrap(), 200);
    assert!(edge.process().wait(25).success());
    assert!(new.runs());
}

#[test]
fn the_death_of_the_new_one_is_the_end_of_the_old() {
    let gate = Gate::new();
    // The gate stays shut for 25 s, and the grace is longer.
    let mut edge = Edge::start(&site(gate.address(), ""));
    let held = ask(&edge, "127.0.0.1", "/held");
    gate.wait_for_held(1);
    edge.signal("QUIT");
    let new = Successor::of(&edge, 0);
    wait_until("draining", 15, || edge.log().contains("draining"));
    assert!(edge.process().ended().is_none(), "a request is open");
    new.signal("KILL");
    let status = edge.process().wait(15);
    assert_eq!(status.code(), Some(1));
    let log = edge.log();
    assert!(log.contains("nobody accepts connections"), "{log}");
    assert!(log.contains("signal: 9"), "{log}");
    assert_ne!(held.join().unwrap(), 200);
}

#[test]
fn the_new_one_may_end_when_it_is_asked_to() {
    let gate = Gate::new();
    let mut edge = Edge::start(&site(gate.address(), ""));
    let held = ask(&edge, "127.0.0.1", "/held");
    gate.wait_for_held(1);
    edge.signal("QUIT");
    let new = Successor::of(&edge, 0);
    wait_until("draining", 15, || edge.log().contains("draining"));
    new.signal("TERM");
    new.wait();
    wait_until("the end is seen", 15, || {
        edge.log().contains("has ended as it was asked to")
    });
    gate.open();
    assert_eq!(held.join().unwrap(), 200);
    assert!(edge.process().wait(25).success());
}

#[test]
fn a_broken_configuration_leaves_the_old_process_serving() {
    let upstream = Upstream::named("app");
    let mut edge = Edge::start(&site(upstream.address, ""));
    let good = fs::read_to_string(edge.folder.path("rempart.yaml")).unwrap();
    let mut kept = edge.connect("127.0.0.1");
    let get = b"GET / HTTP/1.1\r\nhost: app.example.com\r\n\r\n";
    assert_eq!(raw::exchange(&mut kept, get).unwrap().status, 200);
    edge.folder.write("rempart.yaml", "listeners: nonsense\n");
    edge.signal("QUIT");
    wait_until("a failed upgrade", 30, || {
        edge.metric(UPGRADES, &[("result", "failed")]) >= 1.0
    });
    let log = edge.log();
    assert!(log.contains("did not take over"), "{log}");
    assert!(log.contains("exit status: 1"), "{log}");
    assert!(edge.process().ended().is_none());
    assert_eq!(raw::exchange(&mut kept, get).unwrap().status, 200);
    assert_eq!(edge.get("/").status(), 200);
    assert_eq!(edge.admin_get("/readyz").status(), 200);
    // And the next one is taken.
    edge.folder.write("rempart.yaml", &good);
    edge.signal("QUIT");
    let _new = Successor::of(&edge, 0);
    assert!(edge.process().wait(25).success());
    assert_eq!(edge.get("/").status(), 200);
}

#[test]
fn bans_go_on() {
    let upstream = Upstream::named("app");
    let limit = "limits: { once: { key: [client.ip], rate: 1/h, burst: 1, over: { ban: 10m }, all: true } }\n";
    let mut edge = Edge::start(&site(upstream.address, limit));
    let status = |source: &str| edge.get("/").from(source).send().status;
    assert_eq!(status("127.0.0.8"), 200);
    wait_until("a ban", 15, || status("127.0.0.8") == 0);
    edge.signal("QUIT");
    let _new = Successor::of(&edge, 0);
    assert!(edge.process().wait(25).success());
    assert_eq!(edge.get("/").from("127.0.0.8").send().status, 0);
    assert_eq!(edge.get("/").from("127.0.0.9").send().status, 200);
    let listed = edge.api("/api/bans").answer().text();
    assert!(
        listed.contains("127.0.0.8") && listed.contains("once"),
        "{listed}"
    );
}

#[test]
fn listeners_come_and_go_with_the_configuration() {
    let upstream = Upstream::named("app");
    let mut edge = Edge::start(&site(upstream.address, ""));
    let yaml = fs::read_to_string(edge.folder.path("rempart.yaml")).unwrap();
    // The redirecting listener goes, one on another address comes.
    let changed = yaml.replace(
        "{ address: 127.0.0.1:0, redirect_to: https }",
        "{ address: 127.0.0.9:0 }",
    );
    assert_ne!(changed, yaml);
    let gone = edge.redirect();
    edge.folder.write("rempart.yaml", &changed);
    edge.signal("QUIT");
    let _new = Successor::of(&edge, 0);
    assert!(edge.process().wait(25).success());
    assert_eq!(edge.get("/").status(), 200);
    assert!(raw::connect("127.0.0.1", gone).is_err());
    let log = edge.log();
    let mut listening = log.lines().filter_map(|l| edge::message(l, "listening"));
    let new = listening.find_map(|line| {
        let address = line["address"].as_str()?;
        address
            .starts_with("127.0.0.9:")
            .then(|| address.parse().unwrap())
    });
    let mut client = raw::connect("127.0.0.1", new.unwrap()).unwrap();
    let get = b"GET / HTTP/1.1\r\nhost: app.example.com\r\n\r\n";
    assert_eq!(raw::exchange(&mut client, get).unwrap().status, 200);
}

/// A `rempart` of its own, whose file can be replaced.
fn of_its_own(yaml: &str) -> (Edge, std::path::PathBuf) {
    let folder = Folder::new();
    let program = folder.path("rempart");
    fs::copy(env!("CARGO_BIN_EXE_rempart"), &program).unwrap();
    folder.write("rempart.yaml", &format!("{HEAD}{yaml}"));
    let file = folder.path("rempart.yaml");
    let mut command = Command::new(&program);
    command.env_remove("REMPART_LOG");
    (Edge::started(folder, &file, &mut command), program)
}

fn replace(program: &Path, copy: impl FnOnce(&Path)) {
    let new = program.with_extension("new");
    copy(&new);
    fs::rename(new, program).unwrap();
}

#[test]
fn a_replaced_file_is_the_one_that_is_started() {
    let upstream = Upstream::named("app");
    let (mut edge, program) = of_its_own(&site(upstream.address, ""));
    replace(&program, |new| {
        fs::copy(env!("CARGO_BIN_EXE_rempart"), new).unwrap();
    });
    edge.signal("QUIT");
    let new = Successor::of(&edge, 0);
    assert!(edge.process().wait(25).success());
    assert_eq!(edge.get("/").status(), 200);
    let runs = fs::read_link(format!("/proc/{}/exe", new.0)).unwrap();
    assert_eq!(runs, program, "and it was not deleted");
}

#[test]
fn a_working_folder_that_is_gone_is_no_obstacle() {
    let upstream = Upstream::named("app");
    let folder = Folder::new();
    folder.write(
        "rempart.yaml",
        &format!("{HEAD}{}", site(upstream.address, "")),
    );
    let (file, gone) = (folder.path("rempart.yaml"), folder.path("gone"));
    fs::create_dir(&gone).unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "cd \"$0\" && rmdir \"$0\" && exec \"$@\""])
        .args([gone.as_path(), Path::new(env!("CARGO_BIN_EXE_rempart"))])
        .env_remove("REMPART_LOG");
    let mut edge = Edge::started(folder, &file, &mut command);
    assert!(!gone.exists());
    assert_eq!(edge.get("/").status(), 200);
    edge.signal("QUIT");
    let _new = Successor::of(&edge, 0);
    assert!(edge.process().wait(25).success());
    assert_eq!(edge.get("/").status(), 200);
}

#[test]
fn one_at_a_time_and_never_against_the_end() {
    let upstream = Upstream::named("app");
    let (mut edge, program) = of_its_own(&site(upstream.address, ""));
    // Never gets anywhere, and says who it is.
    let marker = edge.folder.path("started");
    let script = format!("#!/bin/sh\necho $$ >>{}\nexec sleep 50\n", marker.display());
    replace(&program, |new| {
        use std::os::unix::fs::PermissionsExt;
        fs::write(new, script).unwrap();
        fs::set_permissions(new, fs::Permissions::from_mode(0o755)).unwrap();
    });
    edge.signal("QUIT");
    let started = wait_for("the new process", 20, || {
        let text = fs::read_to_string(&marker).ok()?;
        text.lines().next().map(ToOwned::to_owned)
    });
    edge.signal("QUIT");
    wait_until("the second is ignored", 15, || {
        edge.log().contains("SIGQUIT is ignored")
    });
    assert_eq!(edge.get("/").status(), 200);
    edge.signal("TERM");
    assert!(edge.process().wait(25).success());
    assert_eq!(fs::read_to_string(&marker).unwrap().lines().count(), 1);
    // It did not outlive the one that gave up on it.
    assert!(!Path::new(&format!("/proc/{started}")).exists());
}

#[test]
fn a_variable_that_is_not_for_people_is_refused() {
    let mut command = edge::command();
    command
        .env("REMPART_HANDOVER", "stdin")
        .stdin(std::process::Stdio::null())
        .args(["run", "--config", "/nonexistent"]);
    let output = tools::run(&mut command);
    assert_eq!(output.status.code(), Some(1));
    let said = tools::said(&output);
    assert!(said.contains("REMPART_HANDOVER"), "{said}");
}
