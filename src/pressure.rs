//! Floods that never reach `accept()`: what is raised now, for whoever decides by it.
//!
//! A thread of its own ([`watch`]) reads the kernel's counters, since a slow `/proc` must keep nobody
//! waiting; what they mean is `verdict`'s to say. Who asks whether something is raised pays one relaxed
//! load. Nothing here acts: rules, limits and `connections.under_pressure` do, where they are written.

mod log;
mod watch;

pub use log::advice;
pub use watch::watch;

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use verdict::{
    Nanos,
    pressure::{HalfOpen, Standing, State, States},
};

/// What is raised. Shared by all workers.
#[derive(Debug, Default)]
pub struct Pressure {
    raised: AtomicU8,
    view: Mutex<View>,
}

/// What an operator is shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub standings: Vec<(State, Standing)>,
    /// Events a second, of the last second.
    pub rates: Vec<(&'static str, f64)>,
    pub half_open: Option<HalfOpen>,
    /// When the counters were last read; `None`: they are not.
    pub read: Option<Nanos>,
}

impl Pressure {
    /// What is raised now.
    #[must_use]
    pub fn states(&self) -> States {
        States::from_bits(self.raised.load(Relaxed))
    }

    #[must_use]
    pub fn view(&self) -> View {
        self.view.lock().clone()
    }

    fn set(&self, raised: States, view: View) {
        self.raised.store(raised.bits(), Relaxed);
        *self.view.lock() = view;
    }

    #[cfg(test)]
    pub fn raise(&self, raised: States) {
        self.raised.store(raised.bits(), Relaxed);
    }
}
