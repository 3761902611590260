//! Listeners over real sockets: a file a story.

mod budgets;
mod deadlines;
mod deaths;
mod inherited;
mod protocols;
mod proxied;
mod tls;
