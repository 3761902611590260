//! Two network namespaces with a cable between them: one for the edge, one for who visits or attacks
//! it. Nothing sent in there leaves; both go when their owner does.

use super::{
    edge::{Folder, command, message},
    process::Process,
    tools::{run, said, succeed},
    wait_until,
};
use serde_json::Value;
use std::{
    io::{self, Write as _},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// The edge's address; behind it, everything is routed to the other side.
pub const EDGE: &str = "10.77.0.1";
const PEER: &str = "10.77.0.2";

pub struct Namespaces {
    edge: String,
    peer: String,
}

/// Where this is set, what can't be run for want of rights is a failure, as in CI.
const REQUIRED: &str = "REMPART_REQUIRE_KERNEL";

/// Says that a story is skipped, past the capture of tests, so that skipped ones can be counted:
/// `skipped: ...`.
#[track_caller]
pub fn skip(story: &str, why: &str) {
    assert!(
        std::env::var_os(REQUIRED).is_none(),
        "{story}: no network namespaces here ({why}), and {REQUIRED} is set"
    );
    let _ = writeln!(
        io::stderr(),
        "skipped: {story}: no network namespaces here ({why})"
    );
}

/// `None`, and a line that says so, where this host allows no namespaces.
pub fn namespaces_or_skip(story: &str) -> Option<Namespaces> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = |side| format!("rempart-{}-{number}-{side}", std::process::id());
    let made = Namespaces {
        edge: name("edge"),
        peer: name("peer"),
    };
    // A missing `ip` is a failure like that of any other tool.
    let added = run(Command::new("ip").args(["netns", "add", &made.edge]));
    if !added.status.success() {
        skip(story, said(&added).trim());
        return None;
    }
    made.connect();
    Some(made)
}

impl Namespaces {
    fn connect(&self) {
        let Self { edge, peer } = self;
        let ip = |arguments: &str| {
            let arguments = arguments.replace("EDGE", edge).replace("PEER", peer);
            succeed(Command::new("ip").args(arguments.split(' ')));
        };
        ip("netns add PEER");
        ip("link add edge0 netns EDGE type veth peer name peer0 netns PEER");
        ip(&format!("-n EDGE addr add {EDGE}/24 dev edge0"));
        ip(&format!("-n PEER addr add {PEER}/24 dev peer0"));
        for device in [
            "EDGE link set lo",
            "EDGE link set edge0",
            "PEER link set lo",
            "PEER link set peer0",
        ] {
            ip(&format!("-n {device} up"));
        }
        ip(&format!("-n EDGE route add default via {PEER}"));
    }

    /// A command on the edge's side.
    pub fn at_edge(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        within(&self.edge, program)
    }

    /// A command on the other side.
    pub fn at_peer(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        within(&self.peer, program)
    }

    /// A `rempart run` on the edge's side, once it serves. Its addresses are free: nobody else is there.
    #[track_caller]
    pub fn serve(&self, folder: &Folder, yaml: &str) -> Process {
        folder.write("rempart.yaml", yaml);
        let mut rempart = self.at_edge(command().get_program());
        rempart.env_remove("REMPART_LOG");
        rempart.args(["run", "--workers", "1", "--config"]);
        let process = Process::start(rempart.arg(folder.path("rempart.yaml")));
        wait_until("rempart serving", 30, || {
            !events(&process, "serving").is_empty()
        });
        process
    }
}

fn within(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// What a process said of itself under this message.
pub fn events(process: &Process, name: &str) -> Vec<Value> {
    let lines = process.stderr();
    lines
        .iter()
        .filter_map(|line| message(line, name))
        .collect()
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.edge, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
