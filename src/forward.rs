//! From a request that may pass to the upstream's answer: which route, which endpoint, what it is told.
//!
//! [`host`] and [`path`] give a request one spelling and [`route`] finds its route. [`body`] waits until
//! it is complete enough, [`bulkhead`] gives it a slot, [`upstream`] picks an [`endpoint`], [`peer`] says
//! how to reach it, [`headers`] what it sees of the request, [`retry`] what happens when it fails. In the
//! background `discovery` resolves names and `health` asks after endpoints. Deciding whether a request
//! may pass at all is not done here.

mod balance;
pub mod body;
pub mod bulkhead;
mod discovery;
pub mod endpoint;
pub mod headers;
mod health;
pub mod host;
pub mod path;
pub mod peer;
mod pool;
pub mod retry;
pub mod route;
#[cfg(test)]
mod story;
pub mod target;
#[cfg(test)]
pub(crate) mod testing;
pub mod upstream;

pub use body::ReadAhead;
pub use bulkhead::{Bulkheads, Permit, Refused, RouteNames};
pub use endpoint::Outcome;
pub use retry::{Failure, Stage};
pub use route::Router;
pub use upstream::{NoEndpoint, Picked, Tries, Upstreams};
