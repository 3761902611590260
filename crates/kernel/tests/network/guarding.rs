//! The guard as a process of its own: what it gives up, what it protects, and that nothing of it stays
//! in the kernel, however it ends.

use crate::{
    Story,
    field::{COVERED, Field, INTERFACE, until},
};
use libtest_mimic::Failed;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rempart_kernel::{
    filter::{Backend, Choice, Ports, Wanted},
    guard::{self, Change, Client, Door, Options},
};
use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::PermissionsExt, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, ExitCode, ExitStatus, Stdio},
};

const ROLE: &str = "REMPART_TEST_GUARD";

/// This program is the guard, when a test started it as such.
pub fn as_guard() -> Option<ExitCode> {
    let role = std::env::var(ROLE).ok()?;
    let (backend, path) = role.split_once(' ')?;
    let options = Options {
        door: match path {
            "-" => Door::Stdin,
            path => Door::Socket {
                path: PathBuf::from(path),
                group: None,
            },
        },
        wanted: Wanted {
            choice: Choice::Only(if backend == "xdp" {
                Backend::Xdp
            } else {
                Backend::Nftables
            }),
            interfaces: vec![INTERFACE.into()],
            ports: Ports::Only(vec![COVERED]),
            capacity: 1000,
        },
        protected: vec!["203.0.113.0/24".parse().ok()?],
        drop_reflected: false,
        user: "nobody".into(),
    };
    Some(match guard::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the guard of a test: {error}");
            ExitCode::FAILURE
        }
    })
}

pub fn stories() -> Vec<Story> {
    vec![
        ("guarding::xdp::gives_up_its_rights".into(), || {
            gives_up_its_rights(Backend::Xdp)
        }),
        ("guarding::nftables::gives_up_its_rights".into(), || {
            gives_up_its_rights(Backend::Nftables)
        }),
        ("guarding::xdp::ends_cleanly".into(), || {
            ends(Backend::Xdp, Signal::SIGTERM)
        }),
        ("guarding::nftables::ends_cleanly".into(), || {
            ends(Backend::Nftables, Signal::SIGTERM)
        }),
        ("guarding::xdp::leaves_nothing_when_killed".into(), || {
            ends(Backend::Xdp, Signal::SIGKILL)
        }),
        (
            "guarding::nftables::leaves_nothing_when_killed".into(),
            || ends(Backend::Nftables, Signal::SIGKILL),
        ),
        (
            "guarding::protects_whatever_it_is_told".into(),
            protects_whatever_it_is_told,
        ),
        (
            "guarding::says_which_rights_are_missing".into(),
            says_which_rights_are_missing,
        ),
        (
            "guarding::a_private_guard_ends_with_its_proxy".into(),
            ends_with_its_proxy,
        ),
    ]
}

/// A guard on a field's host.
struct Guard {
    field: Field,
    child: Child,
    folder: tempfile::TempDir,
}

impl Guard {
    fn start(backend: Backend) -> Self {
        let (field, folder) = (Field::new(), tempfile::tempdir().unwrap());
        let path = folder.path().join("guard.sock");
        let child = command(&field, backend, path.to_str().unwrap())
            .spawn()
            .unwrap();
        Self {
            field,
            child,
            folder,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("guard.sock")
    }

    fn client(&mut self) -> Client {
        let mut client = None;
        until("the guard listens", || {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "the guard has ended"
            );
            client = Client::connect(&self.path()).ok();
            client.is_some()
        });
        client.unwrap()
    }

    /// The guard's own process: `ip netns exec` becomes it.
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        kill(self.pid(), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(field: &Field, backend: Backend, path: &str) -> std::process::Command {
    let mut command = field.command(std::env::current_exe().unwrap().as_os_str());
    command.env(ROLE, format!("{backend} {path}"));
    command
}

fn ban(network: &str) -> Change {
    Change::Ban {
        network: network.parse().unwrap(),
        remaining: None,
    }
}

fn gives_up_its_rights(backend: Backend) -> Result<(), Failed> {
    let mut guard = Guard::start(backend);
    let mut client = guard.client();
    assert_eq!(client.hello().backend, backend);
    let status = fs::read_to_string(format!("/proc/{}/status", guard.pid()))?;
    let line = |name: &str| {
        let found = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        found
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let kept = match backend {
        Backend::Xdp => "0000000000000000",
        // CAP_NET_ADMIN is the twelfth.
        Backend::Nftables => "0000000000001000",
    };
    assert_eq!(line("CapEff:"), [kept]);
    assert_eq!(line("CapPrm:"), [kept]);
    for set in ["CapInh:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(line("NoNewPrivs:"), ["1"]);
    assert!(
        !line("Uid:").contains(&"0".to_owned()),
        "{:?}",
        line("Uid:")
    );
    assert!(
        !line("Gid:").contains(&"0".to_owned()),
        "{:?}",
        line("Gid:")
    );
    assert!(line("Groups:").is_empty());
    assert_eq!(
        fs::metadata(guard.path())?.permissions().mode() & 0o777,
        0o660
    );
    // And still it can ban.
    client.send(&[
        ban("192.0.2.7/32"),
        ban("192.0.4.0/24"),
        ban("2001:db8:7::/64"),
    ])?;
    assert_eq!(client.report(&[])?.entries, 3);
    for source in ["192.0.2.7", "192.0.4.1", "2001:db8:7::1"] {
        assert!(
            !guard.field.arrives(source.parse().unwrap(), COVERED),
            "{source}"
        );
    }
    let report = client.report(&["192.0.2.7/32".parse().unwrap()])?;
    assert_eq!((report.packets, report.hits), (3, vec![1]));
    client.send(&[Change::Unban {
        network: "192.0.2.7/32".parse().unwrap(),
    }])?;
    client.report(&[])?;
    assert!(guard.field.arrives("192.0.2.7".parse().unwrap(), COVERED));
    Ok(())
}

fn ends(backend: Backend, signal: Signal) -> Result<(), Failed> {
    let mut guard = Guard::start(backend);
    let mut client = guard.client();
    client.send(&[ban("192.0.2.7/32")])?;
    client.report(&[])?;
    let there = |field: &Field| match backend {
        Backend::Xdp => field.interface().contains("xdp"),
        Backend::Nftables => field.tables().contains("rempart"),
    };
    assert!(there(&guard.field));
    assert!(!guard.field.arrives("192.0.2.7".parse().unwrap(), COVERED));
    let status = guard.end(signal);
    assert_eq!(status.success(), signal == Signal::SIGTERM, "{status}");
    until("the kernel has let go of it", || !there(&guard.field));
    assert!(guard.field.arrives("192.0.2.7".parse().unwrap(), COVERED));
    Ok(())
}

fn protects_whatever_it_is_told() -> Result<(), Failed> {
    let mut guard = Guard::start(Backend::Xdp);
    let mut client = guard.client();
    client.send(&[ban("0.0.0.0/1"), ban("128.0.0.0/1"), ban("203.0.113.9/32")])?;
    client.report(&[])?;
    // The marker of the field is banned by this: it is protected for the test to go on.
    client.send(&[Change::Protect {
        networks: vec!["198.18.0.2/32".parse().unwrap()],
    }])?;
    client.report(&[])?;
    assert!(!guard.field.arrives("192.0.2.7".parse().unwrap(), COVERED));
    assert!(guard.field.arrives("203.0.113.9".parse().unwrap(), COVERED));
    // Another client's protection holds against this one's bans.
    let mut other = guard.client();
    other.send(&[Change::Protect {
        networks: vec!["192.0.2.7/32".parse().unwrap()],
    }])?;
    other.report(&[])?;
    client.send(&[ban("192.0.2.7/32")])?;
    client.report(&[])?;
    assert!(guard.field.arrives("192.0.2.7".parse().unwrap(), COVERED));
    assert!(!guard.field.arrives("192.0.2.8".parse().unwrap(), COVERED));
    Ok(())
}

fn ends_with_its_proxy() -> Result<(), Failed> {
    let field = Field::new();
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = command(&field, Backend::Xdp, "-")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let mut client = Client::over(ours)?;
    client.send(&[ban("192.0.2.7/32")])?;
    client.report(&[])?;
    assert!(!field.arrives("192.0.2.7".parse().unwrap(), COVERED));
    drop(client);
    assert!(child.wait()?.success());
    assert!(field.arrives("192.0.2.7".parse().unwrap(), COVERED));
    Ok(())
}

fn says_which_rights_are_missing() -> Result<(), Failed> {
    let field = Field::new();
    for (backend, rights, missing) in [
        (
            Backend::Xdp,
            "-all",
            "xdp: needs CAP_BPF and CAP_NET_ADMIN and CAP_PERFMON: add them",
        ),
        (
            Backend::Xdp,
            "-all,+net_admin,+bpf",
            "xdp: needs CAP_PERFMON: add them",
        ),
        (
            Backend::Nftables,
            "-all,+bpf",
            "nftables: needs CAP_NET_ADMIN: add them",
        ),
    ] {
        let done = field
            .command("setpriv".as_ref())
            .args(["--bounding-set", rights, "--inh-caps", "-all", "--"])
            .arg(std::env::current_exe()?)
            .env(ROLE, format!("{backend} -"))
            .output()?;
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            !done.status.success() && said.contains(missing),
            "{rights}: {said}"
        );
    }
    Ok(())
}
