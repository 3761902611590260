//! Capabilities: which a backend needs, and how a process gives up those it has.
//!
//! They belong to threads: what is dropped here is dropped of the calling thread and of those it
//! starts later. Call it before there are others.

use crate::filter::Backend;
use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::{
    sys::prctl,
    unistd::{User, geteuid, setgid, setgroups, setuid},
};
use std::io;

/// What opening a backend needs and this thread lacks. `CAP_SYS_ADMIN` stands for all but the network's.
#[must_use]
pub fn missing_for(backend: Backend) -> Vec<&'static str> {
    let Ok(held) = caps::read(None, CapSet::Effective) else {
        return Vec::new();
    };
    let needed: &[_] = match backend {
        Backend::Xdp => &[
            (Capability::CAP_BPF, "CAP_BPF"),
            (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
            (Capability::CAP_PERFMON, "CAP_PERFMON"),
        ],
        Backend::Nftables => &[(Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN")],
    };
    let stands_for = |capability| {
        capability != Capability::CAP_NET_ADMIN && held.contains(&Capability::CAP_SYS_ADMIN)
    };
    needed
        .iter()
        .filter(|(capability, _)| !held.contains(capability) && !stands_for(*capability))
        .map(|(_, name)| *name)
        .collect()
}

/// Gives up every capability, and the ways to get one back.
pub fn drop_all() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    keep(&CapsHashSet::new())
}

/// The same, but for the right to bind low ports.
pub fn drop_all_but_low_ports() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    keep(&CapsHashSet::from([Capability::CAP_NET_BIND_SERVICE]))
}

/// Becomes a user, who keeps what an open backend needs: nothing for XDP, whose maps are open;
/// `CAP_NET_ADMIN` for nftables, which checks it with every message. Who is not root stays who he is.
pub fn become_user(name: &str, backend: Backend) -> io::Result<()> {
    let kept = match backend {
        Backend::Xdp => CapsHashSet::new(),
        Backend::Nftables => CapsHashSet::from([Capability::CAP_NET_ADMIN]),
    };
    prctl::set_no_new_privs()?;
    if geteuid().is_root() {
        let user = User::from_name(name)?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no user {name}"))
        })?;
        clear_bounding()?;
        prctl::set_keepcaps(!kept.is_empty())?;
        setgroups(&[])
            .and_then(|()| setgid(user.gid))
            .and_then(|()| setuid(user.uid))
            .map_err(|error| {
                let why = format!("can't become {name} (CAP_SETUID, CAP_SETGID): {error}");
                io::Error::new(io::Error::from(error).kind(), why)
            })?;
    }
    keep(&kept)
}

/// Keeps these alone. They can't be passed on to a program that is started.
fn keep(kept: &CapsHashSet) -> io::Result<()> {
    clear_bounding()?;
    let held = caps::read(None, CapSet::Permitted).map_err(|error| failed(&error))?;
    let kept: CapsHashSet = held.intersection(kept).copied().collect();
    caps::clear(None, CapSet::Ambient).map_err(|error| failed(&error))?;
    caps::set(None, CapSet::Effective, &kept).map_err(|error| failed(&error))?;
    caps::set(None, CapSet::Permitted, &kept).map_err(|error| failed(&error))?;
    caps::clear(None, CapSet::Inheritable).map_err(|error| failed(&error))
}

/// The set that limits what a program that is started could get; may be changed with `CAP_SETPCAP`.
fn clear_bounding() -> io::Result<()> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)
        .map_err(|error| failed(&error))?
    {
        caps::clear(None, CapSet::Bounding).map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn failed(error: &CapsError) -> io::Error {
    io::Error::other(format!("capabilities: {error}"))
}
