//! What all workers share for as long as the process lives: the generation in force, the bans, the
//! record.

use crate::{
    bans::{Bans, below::Below},
    config::model,
    generation::Generation,
    listener::conduct::Conduct,
    pressure::Pressure,
    record::Recorder,
};
use arc_swap::ArcSwap;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, Ordering},
};

/// Shared by every worker.
#[derive(Debug)]
pub struct Edge {
    pub generation: ArcSwap<Generation>,
    /// The configuration of that same generation, for the stages that need nothing else.
    pub config: model::Current,
    pub bans: Arc<Bans>,
    /// What drops their packets in the kernel, once that is begun; never where it is not configured.
    pub below: Arc<OnceLock<Below>>,
    pub recorder: Arc<Recorder>,
    /// Clients that behaved of late: they come first when handshakes are more than a worker can do.
    pub conduct: Arc<Conduct>,
    /// What the network does to this host.
    pub pressure: Arc<Pressure>,
    /// Requests that are being held on purpose (delays and tarpits).
    pub held: Held,
}

/// Bounds how many requests are held at once, so that those we hold can't wear us out.
#[derive(Debug, Default)]
pub struct Held(AtomicU32);

/// Past this many, what would be held is refused at once.
const HELD_AT_MOST: u32 = 4096;

impl Held {
    /// A place among the held, given back on drop; `None` when there is none left.
    pub fn enter(&self) -> Option<HeldPlace<'_>> {
        if self.0.fetch_add(1, Ordering::Relaxed) < HELD_AT_MOST {
            Some(HeldPlace(&self.0))
        } else {
            self.0.fetch_sub(1, Ordering::Relaxed);
            None
        }
    }
}

/// One held request.
#[derive(Debug)]
pub struct HeldPlace<'a>(&'a AtomicU32);

impl Drop for HeldPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
