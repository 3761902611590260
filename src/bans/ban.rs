//! What goes into the table and comes out of it: a ban as a guard or an operator asks for it, why it
//! was not placed, and one in force as operators see it.

use super::{Because, Kind, MAX_COMMENT, MAX_NETWORKS, Reason, WIDEST};
use ipnet::IpNet;
use std::{sync::Arc, time::Duration};
use verdict::Nanos;

/// On whose behalf a ban falls.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    pub kind: Kind,
    /// Of the guard, in the configuration.
    pub name: &'a str,
    /// See [`Ban::direct`].
    pub direct: bool,
}

impl By<'_> {
    /// What a client did to an HTTP/2 connection of its own.
    pub const H2_ABUSE: Self = Self {
        kind: Kind::H2Abuse,
        name: "h2_abuse",
        direct: true,
    };
}

/// A ban in force, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub network: IpNet,
    pub reason: Reason,
    pub comment: Option<Arc<str>>,
    /// Since it was placed, in whole seconds.
    pub age: Duration,
    pub until: Nanos,
    pub offences: u32,
    /// Connections and requests that it refused here.
    pub hits: u64,
    /// The client connected to this process itself, or an operator banned it: the kernel may drop its
    /// packets. Where a proxy spoke for the client, its address sends none here.
    pub direct: bool,
}

/// A ban that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub network: IpNet,
    pub duration: Duration,
    pub reason: Reason,
    pub comment: Option<Arc<str>>,
    /// See [`Ban::direct`].
    pub direct: bool,
}

/// Why an operator's ban was not placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddError {
    /// It would hit this network.
    Protected(IpNet, Because),
    /// Wider than /8 in IPv4 or /16 in IPv6.
    TooWide,
    /// No time at all, or more than a year.
    Duration,
    /// More than 256 bytes.
    Comment,
    /// 10,000 networks are banned already.
    Full,
    /// More clients at once than the table has places.
    TooMany(usize),
}

impl std::fmt::Display for AddError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Protected(network, why) => write!(f, "it would hit {network}, which is {why}"),
            Self::TooWide => write!(
                f,
                "it is too wide: at the most /{} in IPv4 and /{} in IPv6",
                WIDEST.ipv4, WIDEST.ipv6
            ),
            Self::Duration => {
                f.write_str("its duration must be more than zero, at the most a year")
            }
            Self::Comment => write!(f, "its comment is longer than {MAX_COMMENT} bytes"),
            Self::Full => write!(
                f,
                "there is room for {MAX_NETWORKS} networks wider than a client and no more; a list \
                 with `then: drop`, named in `bans.feeds`, holds any number"
            ),
            Self::TooMany(capacity) => write!(
                f,
                "there is room for {capacity} clients and no more (`bans.capacity`)"
            ),
        }
    }
}

impl std::error::Error for AddError {}
