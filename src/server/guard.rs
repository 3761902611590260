//! The process that speaks to the kernel for this one: started at the start, handed over at an upgrade,
//! or somebody else's, behind a socket.

use super::program::Program;
use crate::{
    bans::below::Guard,
    config::{
        Config,
        model::{Kernel, KernelBackend, KernelPorts},
    },
};
use std::{
    collections::BTreeSet,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
};
use tracing::{info, warn};

/// The guard that a configuration asks for; `None` where it asks for none, or there can be none, which
/// is said. `handed`: that of the process before.
pub fn find(
    config: &Config,
    handed: Option<UnixStream>,
    program: Option<&Program>,
) -> Option<Guard> {
    match config.bans.kernel.as_ref()? {
        Kernel::Shared(path) => Some(Guard::Shared(path.clone())),
        Kernel::Own { .. } if handed.is_some() => handed.map(Guard::Own),
        Kernel::Own {
            backend,
            interfaces,
            ports,
        } => {
            let mut command = Command::new(program?.path());
            command.args(["guard", "--stdin", "--backend", word(*backend)]);
            for interface in interfaces {
                command.args(["--interface", interface]);
            }
            for port in ports_of(config, *ports) {
                command.args(["--port", &port]);
            }
            match start(command) {
                Ok(stream) => Some(Guard::Own(stream)),
                Err(error) => {
                    warn!(%error, "no guard could be started: bans are enforced in user space alone");
                    None
                }
            }
        }
    }
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

/// It ends when nobody holds the other end of its standard input any more.
fn start(mut command: Command) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = command
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()?;
    let pid = child.id();
    info!(pid, "a guard was started");
    // Nobody else would: it is a child of this process alone.
    std::thread::Builder::new()
        .name("guard".into())
        .spawn(move || child.wait())?;
    Ok(ours)
}
