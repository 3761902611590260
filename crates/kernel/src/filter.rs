//! What drops the packets of banned sources in the kernel: one trait, a file for each backend.
//!
//! A filter holds what it is told and forgets it all when it is dropped. Who asked for a ban, and for
//! how long the union of several askers holds, is the guard's ledger.

pub mod memory;
pub mod nftables;
pub mod xdp;

use crate::rights;
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

/// The destination ports that bans cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// TCP and UDP to these.
    Only(Vec<u16>),
    /// All that a source sends, whatever its protocol.
    All,
}

/// Networks that a filter can protect.
pub const MAX_PROTECTED: u32 = 65_536;

/// UDP ports that floods are reflected from: those of US-CERT's alert TA14-017A and what was reported
/// since. At most 31, each below 65536: their place here is their number in the kernel.
pub const REFLECTOR_PORTS: &[u16] = &[
    17,    // quote of the day
    19,    // character generator
    53,    // DNS
    69,    // TFTP
    111,   // portmapper
    123,   // NTP
    137,   // NetBIOS name service
    161,   // SNMP
    389,   // CLDAP
    427,   // SLP
    520,   // RIPv1
    623,   // IPMI
    1434,  // SQL Server browser
    1900,  // SSDP
    3283,  // Apple Remote Desktop
    3389,  // Remote Desktop
    3478,  // STUN
    3702,  // WS-Discovery
    5093,  // Sentinel
    5353,  // multicast DNS
    5683,  // CoAP
    6881,  // BitTorrent
    10001, // Ubiquiti discovery
    11211, // memcached
    27015, // Steam
    27960, // Quake
    30718, // Lantronix
    33848, // Jenkins
    37810, // Dahua discovery
];

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

/// What came from a UDP port that floods are reflected from, so far. Port 0 stands for fragments, which
/// name no port.
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

    /// An error when it has lost its place and drops nothing any more.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }

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

    /// Drops what comes from these ports of `REFLECTOR_PORTS` (0: fragments of UDP), and from no
    /// others, unless it is from a protected network or a connected socket here asked for it.
    fn drop_reflected(&mut self, ports: &[u16]) -> io::Result<()>;
}

/// Which backend to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that can be had.
    #[default]
    Auto,
    Only(Backend),
}

/// What to open.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub choice: Choice,
    /// For XDP.
    pub interfaces: Vec<String>,
    pub ports: Ports,
    pub capacity: u32,
}

/// Opens the best backend that was wanted and can be had, by trying; gives what was wrong with those
/// that are better.
pub fn open(wanted: &Wanted) -> io::Result<(Box<dyn Filter>, Vec<String>)> {
    let mut notes = Vec::new();
    for backend in [Backend::Xdp, Backend::Nftables] {
        if wanted.choice != Choice::Auto && wanted.choice != Choice::Only(backend) {
            continue;
        }
        let Wanted {
            interfaces,
            ports,
            capacity,
            ..
        } = wanted;
        let opened = match backend {
            Backend::Xdp if interfaces.is_empty() => Err(io::Error::other(
                "there is no interface to attach to: name one",
            )),
            Backend::Xdp => xdp::Xdp::attach(interfaces, ports, *capacity).map(boxed),
            Backend::Nftables => nftables::Nftables::attach(ports, *capacity).map(boxed),
        };
        match opened {
            Ok(filter) => return Ok((filter, notes)),
            Err(error) => notes.push(explain(backend, &error)),
        }
    }
    Err(io::Error::other(notes.join("; ")))
}

fn boxed(filter: impl Filter + 'static) -> Box<dyn Filter> {
    Box::new(filter)
}

/// Why a backend was not taken, and what to do about it.
fn explain(backend: Backend, error: &io::Error) -> String {
    match rights::missing_for(backend) {
        missing if !missing.is_empty() => format!(
            "{backend}: needs {}: add them to the container, run as root, or use a shared guard",
            missing.join(" and ")
        ),
        _ => match error.kind() {
            io::ErrorKind::Unsupported => format!("{backend}: {error}: it has no such mode"),
            io::ErrorKind::ResourceBusy => format!("{backend}: {error}: another program is there"),
            _ => format!("{backend}: {error}"),
        },
    }
}
