//! From one process to the next without refusing a connection. On SIGQUIT the old one starts the
//! binary again, as it was started itself, and hands it the listening sockets over a pair of Unix
//! sockets, one end of which is the new one's standard input:
//!
//! ```text
//! old                                new
//!  | -- hello, listening sockets ---> |   loads the configuration, resolves names
//!  | <---- prepared ----------------- |
//!  | -- bans -----------------------> |   opens what the old one had not, starts its workers
//!  | <---- ready -------------------- |
//!  drains                             serves
//! ```
//!
//! Both accept on the same queues in between, so nothing that is established is ever reset. Until
//! `ready`, whatever goes wrong ends the new process alone.
//!
//! [`give`] is the old one's side, [`take`] the new one's, [`wire`] what both speak. When to begin
//! and what follows is left to the server.

pub mod give;
pub mod take;
mod wire;

pub use give::{Offer, Upgrade};
pub use take::Predecessor;

use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, time::Duration};

/// Tells a process that it takes over from another, and where the other listens: `stdin`.
pub const VARIABLE: &str = "REMPART_HANDOVER";
/// How long the new process may take from its start to its word that it is ready.
pub const LONGEST: Duration = Duration::from_secs(60);
/// Of what is said. A process that does not know it refuses.
const VERSION: u32 = 2;
/// Bans a message.
const BANS_AT_ONCE: usize = 1000;

const PREPARED: &[u8] = b"prepared";
const READY: &[u8] = b"ready";

/// What the old process says first; the sockets follow in this order.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    version: u32,
    listeners: Vec<Handed>,
    /// The admin listener's address as configured; its socket comes after those.
    admin: Option<SocketAddr>,
    /// Whether the stream to a guard comes last.
    guard: bool,
}

/// What every version's hello says.
#[derive(Debug, Deserialize)]
struct Spoken {
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Handed {
    /// As configured.
    address: SocketAddr,
    sockets: usize,
}

#[cfg(test)]
mod tests;
