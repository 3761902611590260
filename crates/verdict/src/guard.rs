//! One small trait, one file a kind of guard. A guard returns what it found; it never replies, logs,
//! counts or bans, and knows nothing of other guards: [`crate::policy`] weighs what they say.

pub mod concurrency;
pub mod list;
pub mod rate;
pub mod rule;

use crate::{
    Nanos,
    decision::{Action, Reason},
    expression::Lists,
    facts::Facts,
};
use concurrency::Slot;
use std::time::Duration;

/// Something that judges requests.
pub trait Guard {
    /// What there is to say of this request. Allocates nothing.
    fn judge(&self, case: &Case<'_>) -> Judgement;
}

/// What is put before a guard.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub facts: &'a Facts<'a>,
    pub now: Nanos,
    /// The lists that a condition may ask.
    pub lists: &'a dyn Lists,
}

/// What a guard says; the default is nothing at all.
#[derive(Debug, Default)]
pub struct Judgement {
    /// What should happen, and why.
    pub found: Option<(Action, Reason)>,
    /// The state of the token bucket that was asked.
    pub level: Option<Level>,
    /// The place in flight that was taken.
    pub slot: Option<Slot>,
}

impl Judgement {
    fn found(action: Action, reason: Reason) -> Self {
        Self {
            found: Some((action, reason)),
            ..Self::default()
        }
    }
}

/// How full a token bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Whole tokens left.
    pub remaining: u32,
    /// Until it is full again.
    pub reset: Duration,
    /// Whether it is the larger one of clients with a clearance.
    pub cleared: bool,
}
