//! The integration binary: the built `rempart` against real peers. A file a story.

mod admin;
mod alerts;
mod basics;
mod bulkhead;
mod challenge;
mod cli;
mod config;
mod examples;
mod forward;
mod harness;
mod hostile;
mod identity;
mod limits;
mod load;
mod proxy_protocol;
mod reload;
mod shutdown;
