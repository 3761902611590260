//! Listeners over real sockets: a file a story.

mod budgets;
mod deadlines;
mod http2;
mod protocols;
mod proxied;
mod tls;
