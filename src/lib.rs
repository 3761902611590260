//! The life of a request. Each stage is a door: what comes out of it is a plain value that the next
//! one takes, and nothing flows back up.
//!
//! ```text
//! accept -> tls -> identify -> decide -> challenge | refuse | forward -> record
//! ```
//!
//! | stage | file | takes | gives |
//! |---|---|---|---|
//! | accept, tls | [`listener`] | a socket | a [`connection::Connection`] and decrypted bytes |
//! | identify | [`identify`] | headers | the client's address and user |
//! | decide | [`decide`] | facts | a decision, carried out |
//! | challenge | [`challenge`] | a suspicion | a page, or a clearance |
//! | forward | [`forward`] | a request | the upstream's answer |
//! | record | [`record`] | what happened | a log line and metrics |
//!
//! [`pressure`] watches what never becomes a connection.
//! [`proxy`] is where pingora calls the stages in turn; [`config`] is what they all read;
//! [`server`] starts and stops everything.

pub mod admin;
pub mod bans;
pub mod challenge;
pub mod clock;
pub mod config;
pub mod connection;
pub mod decide;
pub mod demo;
pub mod edge;
pub mod exchange;
pub mod forward;
#[doc(hidden)]
pub mod fuzzing;
pub mod generation;
pub mod guard;
pub mod host;
pub mod identify;
pub mod listener;
pub mod logs;
pub mod pressure;
pub mod proxy;
pub mod record;
pub mod reply;
pub mod report;
pub mod server;
