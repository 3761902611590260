//! The kernel's help: what it counts, which tells of floods that never reach `accept()`, and what it
//! drops for us below the sockets.
//!
//! Linux alone. What the figures mean is `verdict`'s to say; who is banned, and until when, is the
//! proxy's ban table.

pub mod counters;
pub mod filter;
pub mod guard;
pub mod half_open;
pub mod host;
pub mod rights;
