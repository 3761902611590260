//! Requests in flight a key, given back when the slot is dropped.

use super::{Case, Guard, Judgement};
use crate::{
    decision::{Action, Reason, Rung},
    key,
    key_table::{KeyHash, Seed},
    policy::KeyPart,
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

/// Locks a table. A power of two.
const SHARDS: u64 = 16;

/// How many requests of each key are in flight. A key without any has no entry.
///
/// At most `max_keys` keys are counted at a time (more keys than connections and their streams can't
/// be). A request of yet another key passes uncounted: whoever fills the table with keys must not
/// shut everyone else out. That is counted instead.
#[derive(Debug)]
pub(crate) struct InFlight {
    shards: Box<[Shard]>,
    seed: Seed,
    /// May change at a reload.
    max_keys: AtomicU32,
    keys: AtomicU64,
    uncounted: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    counts: Mutex<HashMap<u64, u32, BuildHasherDefault<Hashed>>>,
}

/// One request in flight; dropping it gives the slot back.
#[derive(Debug)]
pub struct Slot {
    table: Arc<InFlight>,
    key: KeyHash,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.table.leave(self.key);
    }
}

impl InFlight {
    pub(crate) fn new(max_keys: u32) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            seed: Seed::random(),
            max_keys: AtomicU32::new(max_keys),
            keys: AtomicU64::new(0),
            uncounted: AtomicU64::new(0),
        }
    }

    /// Changes the bound. What is in flight stays counted, even if it is more.
    pub(crate) fn set_max_keys(&self, max_keys: u32) {
        self.max_keys.store(max_keys, Ordering::Relaxed);
    }

    /// Keys with requests in flight.
    pub(crate) fn tracked(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    /// Requests that passed uncounted because the table was full.
    pub(crate) fn uncounted(&self) -> u64 {
        self.uncounted.load(Ordering::Relaxed)
    }

    /// Counts a request of `key` in, unless `max` are in flight already and `strict`. Says how many
    /// were before it.
    fn enter(self: &Arc<Self>, key: KeyHash, max: NonZeroU32, strict: bool) -> (Option<Slot>, u32) {
        let Some(shard) = self.shard(key) else {
            return (None, 0);
        };
        let before = match shard.counts.lock().entry(key.0) {
            Entry::Occupied(mut entry) => {
                let before = *entry.get();
                if strict && before >= max.get() {
                    return (None, before);
                }
                *entry.get_mut() = before.saturating_add(1);
                before
            }
            Entry::Vacant(entry) => {
                let most = u64::from(self.max_keys.load(Ordering::Relaxed));
                // Shards race for the last place, so there may be one key too many for each.
                if self.keys.load(Ordering::Relaxed) >= most {
                    self.uncounted.fetch_add(1, Ordering::Relaxed);
                    return (None, 0);
                }
                self.keys.fetch_add(1, Ordering::Relaxed);
                entry.insert(1);
                0
            }
        };
        let slot = Slot {
            table: Arc::clone(self),
            key,
        };
        (Some(slot), before)
    }

    fn leave(&self, key: KeyHash) {
        let Some(shard) = self.shard(key) else { return };
        if let Entry::Occupied(mut entry) = shard.counts.lock().entry(key.0) {
            if *entry.get() > 1 {
                *entry.get_mut() -= 1;
            } else {
                entry.remove();
                self.keys.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn shard(&self, key: KeyHash) -> Option<&Shard> {
        // Middle bits: the map itself uses those at both ends.
        self.shards.get(((key.0 >> 32) % SHARDS) as usize)
    }
}

/// The keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A limit on requests in flight. Over it, an action that lets the request go on (`delay`, or
/// `challenge` once it was solved) counts it in nevertheless; others do not. `Delay(None)` throttles:
/// nobody knows when a request in flight will end.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    pub(crate) key: Vec<KeyPart>,
    pub(crate) max: NonZeroU32,
    /// For clients with a clearance of this rung or a higher one, where it is more. All requests of a
    /// key are counted together, whoever is cleared.
    pub(crate) cleared: Option<(Rung, NonZeroU32)>,
    pub(crate) over: Action,
    pub(crate) table: Arc<InFlight>,
}

impl Guard for ConcurrencyLimit {
    fn judge(&self, case: &Case<'_>) -> Judgement {
        let Some(key) = key::hash(&self.key, case.facts, self.table.seed) else {
            return Judgement::default();
        };
        let over = match self.over {
            Action::Delay(None) => Action::Throttle,
            over => over,
        };
        let max = match self.cleared {
            Some((rung, more)) if case.facts.clearance >= Some(rung) => more,
            _ => self.max,
        };
        let (slot, in_flight) = self.table.enter(key, max, over.refuses());
        Judgement {
            found: (in_flight >= max.get())
                .then_some((over, Reason::OverConcurrency { in_flight })),
            level: None,
            slot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NonZeroU32 = NonZeroU32::new(2).unwrap();

    fn enter(table: &Arc<InFlight>, key: u64) -> Option<Slot> {
        table.enter(KeyHash(key), TWO, true).0
    }

    #[test]
    fn a_slot_is_given_back_on_drop() {
        let table = Arc::new(InFlight::new(10));
        let first = enter(&table, 1).unwrap();
        let _second = enter(&table, 1).unwrap();
        assert!(table.enter(KeyHash(1), TWO, true).0.is_none());
        assert_eq!(table.enter(KeyHash(1), TWO, true).1, 2);
        assert!(enter(&table, 2).is_some(), "another key");
        drop(first);
        assert!(enter(&table, 1).is_some());
    }

    #[test]
    fn a_key_without_requests_has_no_entry() {
        let table = Arc::new(InFlight::new(1_000));
        let slots: Vec<_> = (0..1_000).map(|key| enter(&table, key).unwrap()).collect();
        assert_eq!(table.tracked(), 1_000);
        drop(slots);
        assert_eq!(table.tracked(), 0);
        assert!(
            table
                .shards
                .iter()
                .all(|shard| shard.counts.lock().is_empty())
        );
    }

    #[test]
    fn a_full_table_lets_new_keys_pass_uncounted_and_keeps_the_old() {
        let table = Arc::new(InFlight::new(2));
        let _slots = [enter(&table, 1), enter(&table, 1), enter(&table, 2)];
        for key in 3..100 {
            assert!(matches!(table.enter(KeyHash(key), TWO, true), (None, 0)));
        }
        assert_eq!((table.tracked(), table.uncounted()), (2, 97));
        assert!(enter(&table, 1).is_none(), "still over its limit");
    }

    #[test]
    fn one_that_may_go_on_is_counted_in() {
        let table = Arc::new(InFlight::new(10));
        let _slots: Vec<_> = (0..5)
            .map(|before| {
                let (slot, seen) = table.enter(KeyHash(1), TWO, false);
                assert_eq!(seen, before);
                slot.unwrap()
            })
            .collect();
        assert_eq!(table.enter(KeyHash(1), TWO, true).1, 5);
    }

    #[test]
    fn threads_never_exceed_the_limit_or_leak() {
        let table = Arc::new(InFlight::new(10));
        let running = AtomicU32::new(0);
        let admitted = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        if let Some(slot) = enter(&table, 7) {
                            admitted.fetch_add(1, Ordering::Relaxed);
                            assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
                            running.fetch_sub(1, Ordering::SeqCst);
                            drop(slot);
                        }
                    }
                });
            }
        });
        assert!(admitted.into_inner() > 0);
        assert_eq!(table.tracked(), 0);
    }

    #[test]
    fn slots_may_go_anywhere() {
        fn anywhere<T: Send + Sync + 'static>() {}
        anywhere::<Slot>();
    }
}
