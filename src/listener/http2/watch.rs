//! A connection's ledger where its two ends meet: the stream below the h2 crate writes into it, the
//! loop above reads from it. Both run on one thread, a turn at a time.

use super::ledger::Ledger;
use parking_lot::{Mutex, MutexGuard};
use tokio::{task::AbortHandle, time::Instant};
use verdict::Nanos;

/// The ledger of one connection, and its clock.
#[derive(Debug)]
pub struct Watch {
    origin: Instant,
    ledger: Mutex<Ledger<AbortHandle>>,
}

impl Watch {
    /// Begins now.
    #[must_use]
    pub fn new(ledger: impl FnOnce(Nanos) -> Ledger<AbortHandle>) -> Self {
        Self {
            origin: Instant::now(),
            ledger: Mutex::new(ledger(Nanos(0))),
        }
    }

    /// Time since the connection began.
    #[must_use]
    pub fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// A time of this clock; `None` when it is never.
    #[must_use]
    pub fn instant(&self, time: Nanos) -> Option<Instant> {
        self.origin
            .checked_add(std::time::Duration::from_nanos(time.0))
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger<AbortHandle>> {
        self.ledger.lock()
    }

    /// The client has sent these bytes.
    pub fn received(&self, bytes: &[u8]) {
        let now = self.now();
        self.ledger().received(bytes, now);
    }

    /// Nothing can be read.
    pub fn starves(&self) {
        self.ledger().starves(|| self.now());
    }

    /// We have sent these bytes.
    pub fn sent(&self, bytes: &[u8]) {
        let now = self.now();
        self.ledger().sent(bytes, now);
    }

    /// The connection ends for abuse: nothing more of it is read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ledger().abuse().is_some()
    }
}
