//! The guard: a small process that holds the rights to the kernel's filter, and drops what proxies
//! ask it to.
//!
//! Proxies speak to it over a Unix socket (`protocol`, `client`). It serves them in turns, with a bound
//! on whatever one of them may ask (`server`, `session`), and drops the union of what they banned
//! (`ledger`).

pub mod client;
mod ledger;
pub mod protocol;
mod server;
mod session;

#[cfg(test)]
mod tests;

pub use client::Client;
pub use protocol::{Change, Hello, Report};
pub use server::Server;
