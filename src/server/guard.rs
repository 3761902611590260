//! The process that speaks to the kernel for this one: started at the start, handed over at an upgrade,
//! or somebody else's, behind a socket. And the rights that this one gives up for it: first all but
//! that to bind low ports, while there is a single thread; that one too when the sockets are bound.

use super::program::Program;
use crate::{
    bans::below::Guard,
    config::{
        Config,
        model::{Kernel, KernelBackend, KernelPorts},
    },
};
use rempart_kernel::{filter::Backend, rights};
use std::{
    collections::BTreeSet,
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    thread,
};
use tracing::{error, info, warn};

/// Room in the kernel besides `bans.capacity`: networks of operators, and what feeds grow to.
const BESIDES: usize = 10_000;
const FEEDS: usize = 100_000;
/// What a guard takes.
const MOST: usize = 4_000_000;
/// What is of one process alone, or would be taken for the guard's.
const NOT_INHERITED: [&str; 7] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    super::handover::VARIABLE,
];

/// The guard that a configuration asks for; `None` where it asks for none, or there can be none, which
/// is said. `handed`: that of the process before. The rights that only a guard needs are gone
/// afterwards.
pub fn find(
    config: &Config,
    handed: Option<UnixStream>,
    program: Option<&Program>,
) -> Option<Guard> {
    let kernel = config.bans.kernel.as_ref()?;
    let started = match kernel {
        Kernel::Own { backend, .. } if handed.is_none() => match may(*backend) {
            Ok(()) => program.map(|program| start(command(program, config, kernel))),
            Err(lacking) => {
                warn!(
                    "bans are enforced in user space alone: this process lacks {lacking}. Start it \
                     as root, or give it these (under systemd `AmbientCapabilities=` and \
                     `CapabilityBoundingSet=`), or run `rempart guard --socket PATH` beside it and \
                     name that with `bans.kernel.guard`"
                );
                None
            }
        },
        _ => None,
    };
    reduce();
    match (kernel, started) {
        (Kernel::Shared(path), _) => Some(Guard::Shared(path.clone())),
        (Kernel::Own { .. }, Some(Ok((stream, child)))) => {
            await_end(child);
            Some(Guard::Own(stream))
        }
        (Kernel::Own { .. }, Some(Err(error))) => {
            warn!(%error, "no guard could be started: bans are enforced in user space alone");
            None
        }
        (Kernel::Own { .. }, None) => handed.map(Guard::Own),
    }
}

/// What no thread of this process needs any more once its sockets are bound.
pub fn give_up_the_rest(config: &Config) {
    if config.bans.kernel.is_some()
        && let Err(error) = rights::drop_all()
    {
        error!(%error, "this process keeps rights that it has no use for");
    }
}

/// Whether a guard could open a backend, or what it lacks.
fn may(backend: KernelBackend) -> Result<(), String> {
    let backend = match backend {
        KernelBackend::Xdp => Backend::Xdp,
        // The one that needs less.
        KernelBackend::Auto | KernelBackend::Nftables => Backend::Nftables,
    };
    match rights::missing_for(backend).as_slice() {
        [] => Ok(()),
        lacking => Err(lacking.join(", ")),
    }
}

/// All capabilities but that to bind low ports, and the ways to get one back: threads that are started
/// before the rest goes have no other either.
fn reduce() {
    if let Err(error) = rights::drop_all_but_low_ports() {
        error!(%error, "this process keeps rights that only a guard needs");
    }
}

fn command(program: &Program, config: &Config, kernel: &Kernel) -> Command {
    let mut command = Command::new(program.path());
    command.args(["guard", "--stdin"]);
    if let Kernel::Own {
        backend,
        interfaces,
        ports,
        drop_reflected,
    } = kernel
    {
        command.args(["--backend", word(*backend)]);
        for interface in interfaces {
            command.args(["--interface", interface]);
        }
        for port in ports_of(config, *ports) {
            command.args(["--port", &port]);
        }
        if *drop_reflected {
            command.arg("--drop-reflected");
        }
    }
    let feeds = if config.bans.feeds.is_empty() {
        0
    } else {
        FEEDS
    };
    let capacity = config.bans.capacity as usize + BESIDES + feeds;
    command.args(["--capacity", &capacity.min(MOST).to_string()]);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    command
}

fn word(backend: KernelBackend) -> &'static str {
    match backend {
        KernelBackend::Auto => "auto",
        KernelBackend::Xdp => "xdp",
        KernelBackend::Nftables => "nftables",
    }
}

/// A listener whose port the system picks has none yet: all are meant then.
fn ports_of(config: &Config, ports: KernelPorts) -> Vec<String> {
    let listeners = config.listeners.iter();
    let known: BTreeSet<u16> = listeners.map(|listener| listener.address.port()).collect();
    if ports == KernelPorts::All || known.contains(&0) {
        return vec!["all".to_owned()];
    }
    known.iter().map(ToString::to_string).collect()
}

/// It ends when nobody holds the other end of its standard input any more; signals of a terminal are
/// not for it.
fn start(mut command: Command) -> io::Result<(UnixStream, Child)> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = command
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()?;
    info!(pid = child.id(), "a guard was started");
    Ok((ours, child))
}

/// Nobody else would: it is a child of this process alone.
fn await_end(mut child: Child) {
    let waiting = thread::Builder::new()
        .name("guard".into())
        .spawn(move || child.wait());
    if let Err(error) = waiting {
        warn!(%error, "the guard's end will not be awaited");
    }
}
