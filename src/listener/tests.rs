//! Listeners over real sockets: a file a story.

mod budgets;
mod deadlines;
mod deaths;
mod http2;
mod inherited;
mod protocols;
mod proxied;
mod tls;
