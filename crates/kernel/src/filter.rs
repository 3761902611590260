//! What drops the packets of banned sources in the kernel: one trait, a file for each backend.
//!
//! A filter holds what it is told and forgets it all when it is dropped. Who asked for a ban, and for
//! how long the union of several askers holds, is the guard's ledger.

pub mod memory;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{fmt, io};

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock that the kernel's side reads.
pub type Nanos = u64;

/// Where packets of banned sources are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Backend {
    /// In the driver, before the kernel has made anything of the packet.
    Xdp,
    /// In a hook of `nf_tables`, before connection tracking.
    Nftables,
}

impl Backend {
    /// As the configuration and the metrics spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Nftables => "nftables",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A network, host bits zero, whose packets are dropped until a time; without one, until unbanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    pub network: IpNet,
    pub until: Option<Nanos>,
}

/// What was dropped for bans so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub packets: u64,
    pub bytes: u64,
}

/// What came from a UDP port that floods are reflected from, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reflector {
    pub port: u16,
    pub packets: u64,
    pub bytes: u64,
    /// Packets among them that were dropped.
    pub dropped: u64,
}

/// Drops packets by their source, below the sockets.
///
/// A packet is dropped if a banned network holds its source and no protected network does.
pub trait Filter {
    fn backend(&self) -> Backend;

    /// Where it is attached; empty when it sees every interface.
    fn interfaces(&self) -> Vec<String>;

    /// How many bans there is room for.
    fn capacity(&self) -> u32;

    /// Bans, or changes until when. Gives those that found no room and are not in force.
    fn ban(&mut self, bans: &[Ban]) -> io::Result<Vec<IpNet>>;

    /// Lets go of exactly these networks; those that are not banned are passed over.
    fn unban(&mut self, networks: &[IpNet]) -> io::Result<()>;

    /// Replaces what is never dropped.
    fn protect(&mut self, networks: &[IpNet]) -> io::Result<()>;

    /// Packets dropped for each of these bans since it was placed; 0 for one that is not.
    fn hits(&mut self, networks: &[IpNet]) -> io::Result<Vec<u64>>;

    fn totals(&mut self) -> io::Result<Totals>;

    /// Counts by port; empty where the backend cannot count them.
    fn reflectors(&mut self) -> io::Result<Vec<Reflector>>;
}
