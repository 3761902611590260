//! How a decision is made: facts and a time go in, a decision comes out.
//!
//! ```text
//! Facts + Nanos -> Policy::decide -> Decision { action, finding, quota, slots }
//! ```
//!
//! - [`facts`] is what is known of a request; [`prefix`] is what counts as one client.
//! - [`policy`] is what the operator wrote, already free of mistakes; it owns the guards.
//! - [`engine`] asks them in order and weighs what they found.
//! - [`guard`] holds one file a kind of guard: each returns a finding and acts on nothing.
//! - [`decision`] is the ladder of actions and the reason for the rung that was picked.
//! - [`abuse`] scores what a peer does to a connection.
//! - [`bucket`] and [`key_table`] count what attackers choose, within a bound.
//! - [`pressure`] tells floods below `accept()` from what the kernel counts.
//! - [`risk`] says which challenge a visitor is to have, and [`effort`] how hard the work in it is.
//! - [`expression`] compiles CEL; [`ticket`], [`proof_of_work`] and [`clearance`] are the challenge's
//!   arithmetic, under a [`seal`].
//!
//! Nothing here reads a clock, a socket or a file: time is an argument.

pub mod abuse;
pub mod bucket;
pub mod clearance;
pub mod decision;
pub mod effort;
pub mod engine;
pub mod expression;
pub mod facts;
pub mod guard;
mod key;
pub mod key_table;
pub mod policy;
pub mod prefix;
pub mod pressure;
pub mod proof_of_work;
pub mod replay;
pub mod risk;
pub mod seal;
pub mod ticket;

/// Nanoseconds since an origin that the caller picks once and keeps (monotonic).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// This time plus `duration`, at the most the end of time.
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
