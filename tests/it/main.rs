//! The integration binary: the built `rempart` against real peers. A file a story.

// A test says what went wrong by panicking; clippy's leave for tests ends at their helpers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod admin;
mod alerts;
mod attacks;
mod bans;
mod basics;
mod budgets;
mod bulkhead;
mod captcha;
mod challenge;
mod clearance;
mod cli;
mod config;
mod crawlers;
mod demo;
mod desync;
mod docs;
mod examples;
mod fingerprint;
mod forward;
mod guard;
mod handshakes;
mod harness;
mod hostile;
mod identity;
mod limits;
mod load;
mod manners;
mod page;
mod pressure;
mod proxy_protocol;
mod reload;
mod replay;
mod shutdown;
mod slow;
mod strictness;
mod systemd;
mod third_party;
mod tls_audit;
mod upgrade;
