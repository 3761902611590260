//! A bounded, concurrent store from keys that attackers choose to theoretical arrival times.
//!
//! It owns what is kept, for how long, and what is forgotten first. What an arrival time means
//! belongs to [`crate::bucket`]; what a key is made of belongs to [`crate::key`].
//!
//! - A key is a 64-bit hash under keys drawn at random for each table, so nobody can aim at a set or
//!   at another client's entry. Two keys share an entry with a chance of 2^-64.
//! - An entry is 16 bytes: the hash, and its arrival time. Each key may stand in one of two sets of
//!   eight entries and goes to the emptier one; at [`KeyTable::new`]'s bound that leaves sets of
//!   which none is full.
//! - An entry whose time has passed equals no entry: its place is free, without any sweeping.
//! - When both sets are full of live entries, the least indebted one goes, and is counted. A client
//!   that is over its limit is the most indebted there is: floods of new keys pass it by.
//! - The memory is asked for zeroed, so pages that no key has touched cost nothing.

use crate::Nanos;
use parking_lot::Mutex;
use siphasher::sip::SipHasher13;
use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// Entries a set.
const WAYS: usize = 8;
/// Locks a table, at most.
const MOST_SHARDS: usize = 64;
/// Keys a shard at least, if there is more than one: so many that the allocator asks the system for
/// the shard's memory instead of clearing some that it has.
const KEYS_PER_SHARD: usize = 8192;
/// Sets that are looked at to count the live keys; smaller tables are counted exactly.
const SAMPLE: usize = 8192;
/// More keys than this are not set aside, whatever is asked for (7 GiB).
const MOST_KEYS: u32 = 1 << 28;

/// Hash, then arrival time in nanoseconds. Plain numbers, so that a zeroed allocation makes them.
type Entry = [u64; 2];
type Set = [Entry; WAYS];

/// A key of one table: its hash under that table's random keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub(crate) u64);

/// The random keys of a table; a new table after a resize keeps them.
#[derive(Clone, Copy)]
pub(crate) struct Seed(u64, u64);

impl Seed {
    /// From the operating system's randomness, by way of the standard library's hash keys.
    pub(crate) fn random() -> Self {
        let random = RandomState::new();
        Self(random.hash_one(0_u64), random.hash_one(1_u64))
    }

    /// SipHash-1-3 under these keys.
    pub(crate) fn hasher(self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(secret)")
    }
}

/// One lock and what it guards, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    sets: Mutex<Vec<Set>>,
}

/// A bounded map from [`KeyHash`] to the theoretical arrival time.
#[derive(Debug)]
pub struct KeyTable {
    shards: Box<[Shard]>,
    shard_count: u32,
    sets_per_shard: u32,
    seed: Seed,
    max_keys: u32,
    evicted: AtomicU64,
}

impl KeyTable {
    /// A table that holds `max_keys` live keys without forgetting one, in at most
    /// `27 * max_keys + 20 KiB` bytes. It may hold up to two thirds more keys in that memory.
    #[must_use]
    pub fn new(max_keys: u32) -> Self {
        Self::with_seed(max_keys, Seed::random())
    }

    fn with_seed(max_keys: u32, seed: Seed) -> Self {
        let keys = usize::try_from(max_keys.clamp(1, MOST_KEYS)).unwrap_or(usize::MAX);
        let shards = (keys / KEYS_PER_SHARD).clamp(1, MOST_SHARDS);
        // Three fifths full at the bound, and a little more room for the smallest tables, where
        // chance is coarse.
        let sets = (keys.saturating_mul(5) / 3 / WAYS + 8).div_ceil(shards);
        Self {
            shard_count: u32::try_from(shards).unwrap_or(u32::MAX),
            shards: (0..shards)
                .map(|_| Shard {
                    sets: Mutex::new(vec![[[0; 2]; WAYS]; sets]),
                })
                .collect(),
            sets_per_shard: u32::try_from(sets).unwrap_or(u32::MAX),
            seed,
            max_keys,
            evicted: AtomicU64::new(0),
        }
    }

    /// A table for another bound with the same entries. What another thread writes to `self` in the
    /// meantime may be missed. Entries that find no place are forgotten, the least indebted first.
    #[must_use]
    pub fn resized(&self, max_keys: u32) -> Self {
        let new = Self::with_seed(max_keys, self.seed);
        for shard in &self.shards {
            let sets = shard.sets.lock();
            for &[hash, arrival] in sets.iter().flatten() {
                if arrival > 0 {
                    // Every entry counts as live here: no time is known. A dead one that takes a
                    // place has the smallest arrival time and is the first to lose it again.
                    new.update(KeyHash(hash), Nanos(0), |_| ((), Some(Nanos(arrival))));
                }
            }
        }
        new.evicted
            .store(self.evicted.load(Ordering::Relaxed), Ordering::Relaxed);
        new
    }

    /// The bound that the table was made for.
    #[must_use]
    pub fn max_keys(&self) -> u32 {
        self.max_keys
    }

    /// The random keys to hash keys of this table with.
    pub(crate) fn seed(&self) -> Seed {
        self.seed
    }

    /// The key of anything that can be hashed, for tables of one kind of keys.
    #[must_use]
    pub fn key(&self, of: &impl Hash) -> KeyHash {
        let mut hasher = self.seed.hasher();
        of.hash(&mut hasher);
        KeyHash(hasher.finish())
    }

    /// Shows `update` the key's arrival time (`None` when it is not after `now`) and stores the one
    /// that it returns, if any. Other threads see the time before or after, never one between.
    pub fn update<T>(
        &self,
        key: KeyHash,
        now: Nanos,
        update: impl FnOnce(Option<Nanos>) -> (T, Option<Nanos>),
    ) -> T {
        let (shard, first, second) = self.place(key);
        let Some(shard) = self.shards.get(shard) else {
            return update(None).0;
        };
        let mut sets = shard.sets.lock();
        for at in [first, second] {
            let entry = sets
                .get_mut(at)
                .and_then(|set| set.iter_mut().find(|entry| entry[0] == key.0));
            if let Some(entry) = entry {
                let known = (entry[1] > now.0).then_some(Nanos(entry[1]));
                let (value, arrival) = update(known);
                entry[1] = arrival.map_or(entry[1], |arrival| arrival.0);
                return value;
            }
        }
        let (value, arrival) = update(None);
        if let Some(arrival) = arrival.filter(|arrival| *arrival > now)
            && insert(&mut sets, [first, second], [key.0, arrival.0], now)
        {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        value
    }

    /// How many keys are live, by looking at no more than a fixed number of sets: exact for small
    /// tables, within one per cent or so for large ones. Holds each lock for microseconds.
    #[must_use]
    pub fn tracked(&self, now: Nanos) -> u64 {
        let per_shard = usize::try_from(self.sets_per_shard).unwrap_or(usize::MAX);
        let step = (per_shard.saturating_mul(self.shards.len()) / SAMPLE).max(1);
        let (mut live, mut seen) = (0_u64, 0_u64);
        for shard in &self.shards {
            for set in shard.sets.lock().iter().step_by(step) {
                live += set
                    .iter()
                    .map(|entry| u64::from(entry[1] > now.0))
                    .sum::<u64>();
                seen += 1;
            }
        }
        let sets = u64::from(self.sets_per_shard) * self.shards.len() as u64;
        let scaled = u128::from(live) * u128::from(sets) / u128::from(seen.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// How many live entries were forgotten for want of room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// The shard of a key, and its two sets in it, which differ. Each is picked by other bits.
    fn place(&self, key: KeyHash) -> (usize, usize, usize) {
        let shard = scale(key.0 >> 32, self.shard_count);
        let first = scale(key.0, self.sets_per_shard);
        let step = scale(key.0 >> 26, self.sets_per_shard - 1);
        let second = first + step + 1;
        let second = if second >= self.sets_per_shard {
            second - self.sets_per_shard
        } else {
            second
        };
        (shard as usize, first as usize, second as usize)
    }
}

/// Spreads the low 32 of random bits over `0..range` by the leading ones among them.
fn scale(bits: u64, range: u32) -> u32 {
    (((bits & 0xffff_ffff) * u64::from(range)) >> 32) as u32
}

/// Puts a new entry where nobody misses what was there; says whether a live one had to go.
fn insert(sets: &mut [Set], places: [usize; 2], entry: Entry, now: Nanos) -> bool {
    let mut most_free = 0;
    let mut free = None;
    let mut least = u64::MAX;
    let mut victim = None;
    for at in places {
        let Some(set) = sets.get(at) else { continue };
        let mut free_here = 0;
        let mut free_way = 0;
        for (way, slot) in set.iter().enumerate() {
            if slot[1] <= now.0 {
                free_here += 1;
                free_way = way;
            } else if slot[1] < least {
                least = slot[1];
                victim = Some((at, way));
            }
        }
        if free_here > most_free {
            most_free = free_here;
            free = Some((at, free_way));
        }
    }
    let Some((at, way)) = free.or(victim) else {
        return false;
    };
    if let Some(slot) = sets.get_mut(at).and_then(|set| set.get_mut(way)) {
        *slot = entry;
    }
    free.is_none()
}

#[cfg(test)]
mod tests;
