//! Listeners over real sockets: a file a story.

mod budgets;
mod deadlines;
mod protocols;
mod proxied;
mod tls;
