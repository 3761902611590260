//! The guard: a small process that holds the rights to the kernel's filter, and drops what proxies
//! ask it to.
//!
//! Proxies speak to it over a Unix socket (`protocol`, `client`). It serves them in turns, with a bound
//! on whatever one of them may ask (`server`, `session`), and drops the union of what they banned
//! (`ledger`).

//! It starts with rights, opens the filter, and drops what it no longer needs before it hears of any
//! client.

pub mod client;
mod ledger;
pub mod protocol;
mod reflections;
mod server;
mod session;
mod surroundings;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use protocol::{Change, Hello, Report};
pub use server::Server;

use crate::{
    filter::{self, Wanted},
    rights,
};
use ipnet::IpNet;
use nix::{
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{Gid, Group, chown},
};
use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};
use tracing::info;

/// Where proxies speak to it.
#[derive(Clone, Debug)]
pub enum Door {
    /// A socket for several; those who may come are its owner's and this group's.
    Socket {
        path: PathBuf,
        group: Option<String>,
    },
    /// One, over standard input, whose end ends the guard.
    Stdin,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub door: Door,
    /// Without interfaces: those of the default routes, else all that are up.
    pub wanted: Wanted,
    /// Never dropped, besides what the host needs to live.
    pub protected: Vec<IpNet>,
    /// Drops reflected floods while they last.
    pub drop_reflected: bool,
    /// Who to be once the filter is open.
    pub user: String,
}

/// Guards until SIGTERM, SIGINT or the end of standard input. Call it before there are other threads.
pub fn run(options: Options) -> io::Result<()> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut wanted = options.wanted;
    if wanted.interfaces.is_empty() {
        wanted.interfaces = surroundings::interfaces()?;
    }
    let proxy = match &options.door {
        Door::Socket { .. } => None,
        Door::Stdin => Some(standard_input()?),
    };
    let (filter, notes) = filter::open(&wanted)?;
    let listener = match &options.door {
        Door::Socket { path, group } => Some(listen(path, group.as_deref())?),
        Door::Stdin => None,
    };
    let backend = filter.backend();
    rights::become_user(&options.user, backend)?;
    for note in &notes {
        info!(note, "a better backend was not taken");
    }
    info!(%backend, interfaces = ?filter.interfaces(), capacity = filter.capacity(), "guarding");
    let mut server = Server::new(filter, notes, options.protected)?;
    server.protect_surroundings(surroundings::networks)?;
    if options.drop_reflected {
        server.drop_reflected();
    }
    if let Some(listener) = listener {
        server.listen(listener)?;
    }
    if let Some(proxy) = proxy {
        server.serve(proxy)?;
    }
    let ended = server.run(stop.as_fd());
    if let Door::Socket { path, .. } = &options.door {
        // Another user's folder may hold it: then it stays, and the next guard replaces it.
        let _ = fs::remove_file(path);
    }
    info!("the guard ends, and with it all bans in the kernel");
    ended
}

fn standard_input() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let why =
        "standard input is no Unix socket: `--stdin` is for a proxy that starts its own guard";
    let wrong = |error: io::Error| io::Error::new(error.kind(), why);
    stream.peer_addr().map_err(wrong)?;
    Ok(stream)
}

/// Listens on a path, for its owner and group. What a guard that was killed left there goes.
fn listen(path: &Path, group: Option<&str>) -> io::Result<UnixListener> {
    let failed = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("can't listen on {}: {error}", path.display()),
        )
    };
    let group = group.map(gid).transpose()?;
    if path.exists() {
        if !fs::metadata(path).map_err(failed)?.file_type().is_socket() {
            let why = "something that is no socket is there";
            return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, why)));
        }
        if UnixStream::connect(path).is_ok() {
            let why = format!("another guard listens on {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
        }
        fs::remove_file(path).map_err(failed)?;
    }
    // Nobody gets in between its making and its mode.
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(mask);
    let listener = bound.map_err(failed)?;
    if let Some(group) = group {
        chown(path, None, Some(group)).map_err(|error| {
            let why = format!(
                "can't give {} to its group (CAP_CHOWN): {error}",
                path.display()
            );
            io::Error::new(io::Error::from(error).kind(), why)
        })?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

/// A group by its name, or its number where no file names it.
fn gid(name: &str) -> io::Result<Gid> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    let why = || io::Error::new(io::ErrorKind::NotFound, format!("there is no group {name}"));
    Ok(Group::from_name(name)?.ok_or_else(why)?.gid)
}
