//! Floods that never reach `accept()`, told from what the kernel counts.
//!
//! ```text
//! Snapshot, Snapshot -> Window (rates) -> a detector a state -> Finding -> Monitor -> Transition
//! ```
//!
//! Each detector is a small function in a file of its own: it looks at the rates of one window and says
//! what it sees, how sure it is and what that rests on. The [`Monitor`] says when a state is raised and
//! when it is lowered. Reading the counters, and doing something about a flood, is left to others.
//!
//! The counters are those of a network namespace: what other programs in it do is counted as well. A
//! counter that this kernel or container lacks is `None`, and what rests on it is never found.

mod accept_stall;
mod ack_flood;
mod monitor;
mod slow_syn_flood;
mod syn_flood;
mod udp_amplification;
mod window;

pub use monitor::{Monitor, Standing, Transition};
pub use window::Window;

use crate::Nanos;
use arrayvec::ArrayVec;
use std::time::Duration;

/// What the network can do to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Connections are begun and never completed, more than the kernel has room for.
    SynFlood,
    /// The same, slowly enough to stay within that room and fill it.
    SlowSynFlood,
    /// Completed connections wait for us in vain: our own fault, not an attack.
    AcceptStall,
    /// Segments that belong to no connection.
    AckFlood,
    /// Datagrams that nobody asked for, as reflectors send them.
    UdpAmplification,
}

impl State {
    pub const ALL: [Self; 5] = [
        Self::SynFlood,
        Self::SlowSynFlood,
        Self::AcceptStall,
        Self::AckFlood,
        Self::UdpAmplification,
    ];

    /// As in rules, metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SynFlood => "syn_flood",
            Self::SlowSynFlood => "slow_syn_flood",
            Self::AcceptStall => "accept_stall",
            Self::AckFlood => "ack_flood",
            Self::UdpAmplification => "udp_amplification",
        }
    }

    fn find(self, window: &Window<'_>, thresholds: &Thresholds) -> Option<Finding> {
        match self {
            Self::SynFlood => syn_flood::find(window, &thresholds.syn_flood),
            Self::SlowSynFlood => slow_syn_flood::find(window, thresholds),
            Self::AcceptStall => accept_stall::find(window, &thresholds.accept_stall),
            Self::AckFlood => ack_flood::find(window, &thresholds.ack_flood),
            Self::UdpAmplification => {
                udp_amplification::find(window, &thresholds.udp_amplification)
            }
        }
    }
}

/// A set of states; the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States(u8);

impl States {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(0b1_1111);

    #[must_use]
    pub const fn of(state: State) -> Self {
        Self(1 << state as u8)
    }

    #[must_use]
    pub const fn with(self, state: State) -> Self {
        Self(self.0 | Self::of(state).0)
    }

    #[must_use]
    pub const fn without(self, state: State) -> Self {
        Self(self.0 & !Self::of(state).0)
    }

    /// Whether any state is in both.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// For an atomic; [`Self::from_bits`] is the way back.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }

    pub fn iter(self) -> impl Iterator<Item = State> {
        State::ALL
            .into_iter()
            .filter(move |state| self.meets(Self::of(*state)))
    }
}

impl FromIterator<State> for States {
    fn from_iter<I: IntoIterator<Item = State>>(states: I) -> Self {
        states.into_iter().fold(Self::NONE, Self::with)
    }
}

/// What the kernel has counted so far, in the network namespace; `None` where it does not say. Names
/// are Linux's, of `/proc/net/netstat` and `/proc/net/snmp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// `SyncookiesSent`
    pub cookies_sent: Option<u64>,
    /// `SyncookiesRecv`
    pub cookies_received: Option<u64>,
    /// `ListenOverflows`: a connection found no place in the queue for `accept()`.
    pub listen_overflows: Option<u64>,
    /// `ListenDrops`: those, and SYNs that were dropped for any other reason.
    pub listen_drops: Option<u64>,
    /// `TCPReqQFullDrop`: SYNs dropped since too many were half open, and cookies are off.
    pub syn_drops: Option<u64>,
    /// `TCPSynRetrans`: SYNs of ours, and answers to SYNs of others, that had to be sent again.
    pub syn_retransmits: Option<u64>,
    /// `PassiveOpens`: connections that others completed.
    pub passive_opens: Option<u64>,
    /// `ActiveOpens`: connections that we began.
    pub active_opens: Option<u64>,
    /// `OutRsts`
    pub resets_sent: Option<u64>,
    /// `TCPAbortOnData`, `TCPAbortOnClose` and the like: connections that were ended by a reset.
    pub aborts: Option<u64>,
    /// `NoPorts` of both families: datagrams to a port where nobody listens.
    pub udp_no_ports: Option<u64>,
    /// `RcvbufErrors` of both families: datagrams that found a full buffer.
    pub udp_overflows: Option<u64>,
}

/// Connections that are half open at our own ports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HalfOpen {
    pub count: u64,
    /// Of those, the ones that were answered twice by now: they came one to three seconds ago. What is
    /// left of a flood that is over is older, and clients that mean to connect do not wait so long.
    pub unanswered: u64,
    /// Whether there are more, which were not counted.
    pub at_least: bool,
    /// How evenly they are spread over /24s (/48s), from 0 (one network) to 1 (a network each).
    pub spread: f64,
}

/// What a filter in the driver saw come from one of the UDP ports that floods are reflected from, in
/// about a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reflected {
    /// 0: later parts of datagrams, which name no port.
    pub port: u16,
    /// Packets a second.
    pub packets: f64,
    /// Bytes of a packet, on average.
    pub size: f64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    pub at: Nanos,
    pub counters: Counters,
    /// Of the port that sends most; `None` where no filter counts.
    pub reflected: Option<Reflected>,
    /// Asked for only on suspicion ([`Window::is_suspicious`]); none older than a window.
    pub half_open: Option<HalfOpen>,
}

/// How sure a finding is, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub state: State,
    /// From 0 to 1.
    pub confidence: f64,
    /// What the confidence rests on, in words.
    pub because: &'static str,
    /// Whether the sources are likely forged: whoever bans them bans bystanders.
    pub forged: bool,
    /// What was measured. Rates are a second's.
    pub figures: Figures,
}

/// Named figures.
pub type Figures = ArrayVec<(&'static str, f64), 6>;

/// When something is a flood. Rates are a second's.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// How long nothing must be seen of a state until it is lowered.
    pub quiet: Duration,
    pub syn_flood: SynFlood,
    pub slow_syn_flood: SlowSynFlood,
    pub accept_stall: AcceptStall,
    pub ack_flood: AckFlood,
    pub udp_amplification: UdpAmplification,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SynFlood {
    /// SYN cookies sent, or SYNs dropped where cookies are off.
    pub syns: f64,
    /// The share of cookies that come back, below which it is no crowd of people.
    pub answered: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SlowSynFlood {
    /// Half-open connections.
    pub half_open: f64,
    /// The seconds that an average one would be half open (their number by the rate of completed
    /// ones), above which it is no slow network.
    pub seconds: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AcceptStall {
    /// Connections that found the queue for `accept()` full.
    pub overflows: f64,
    /// The share of cookies that come back, above which those who wait are people.
    pub answered: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AckFlood {
    /// Resets in answer to segments that belong to no connection.
    pub resets: f64,
    /// So many of them for each connection that is opened.
    pub per_connection: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UdpAmplification {
    /// Datagrams to ports where nobody listens.
    pub unasked: f64,
    /// Datagrams lost to full buffers.
    pub lost: f64,
    /// Large packets from one port that floods are reflected from.
    pub reflected: f64,
}

/// See docs/decisions/pressure.md for the measurements behind these.
impl Default for Thresholds {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(30),
            syn_flood: SynFlood {
                syns: 100.0,
                answered: 0.2,
            },
            slow_syn_flood: SlowSynFlood {
                half_open: 256.0,
                seconds: 5.0,
            },
            accept_stall: AcceptStall {
                overflows: 10.0,
                answered: 0.8,
            },
            ack_flood: AckFlood {
                resets: 1000.0,
                per_connection: 5.0,
            },
            udp_amplification: UdpAmplification {
                unasked: 1000.0,
                lost: 100.0,
                reflected: 500.0,
            },
        }
    }
}

/// Where half-open sources are spread more evenly than this, they are forged.
const FORGED_SPREAD: f64 = 0.8;

#[cfg(test)]
mod tests;
