//! What is known of addresses that claimed to be a crawler, in shards, each behind a short lock.
//!
//! Verified ones have a place of their own: a flood of strangers under a crawler's name pushes out
//! other strangers, never a crawler.

use super::{Mask, lookup::Found};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    net::IpAddr,
    time::Duration,
};
use verdict::Nanos;

const SHARDS: usize = 16;
/// Of each kind in each shard: 16 384 in all, about 2 MiB.
const MOST: usize = 1024;
const VERIFIED: Duration = Duration::from_secs(24 * 3600);
const OTHER: Duration = Duration::from_secs(3600);
const FAILED: Duration = Duration::from_secs(60);
/// Longer than a lookup takes: until then nobody begins another.
const PENDING: Duration = Duration::from_secs(10);

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Verified(Mask),
    /// It is none, or nobody knows for now.
    Other,
}

#[derive(Debug, Default)]
pub struct Table {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    verified: Bounded<Mask>,
    others: Bounded<()>,
}

/// Entries with their end; over the bound the oldest goes.
#[derive(Debug)]
struct Bounded<T> {
    entries: HashMap<IpAddr, (T, Nanos)>,
    /// In the order in which they came; each address once.
    order: VecDeque<IpAddr>,
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T: Copy> Bounded<T> {
    fn get(&self, ip: IpAddr, now: Nanos) -> Option<T> {
        let (value, end) = self.entries.get(&ip)?;
        (now < *end).then_some(*value)
    }

    fn put(&mut self, ip: IpAddr, value: T, end: Nanos) {
        if self.entries.insert(ip, (value, end)).is_some() {
            return;
        }
        self.order.push_back(ip);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }
}

impl Table {
    fn shard(&self, ip: IpAddr) -> &Mutex<Shard> {
        let hash = usize::try_from(self.hasher.hash_one(ip) % SHARDS as u64).unwrap_or(0);
        let [first, ..] = &self.shards;
        self.shards.get(hash).unwrap_or(first)
    }

    /// What is known; `None` when it is to be looked up.
    #[must_use]
    pub fn get(&self, ip: IpAddr, now: Nanos) -> Option<Known> {
        let shard = self.shard(ip).lock();
        if let Some(mask) = shard.verified.get(ip, now) {
            return Some(Known::Verified(mask));
        }
        shard.others.get(ip, now).map(|()| Known::Other)
    }

    /// Whether the caller is the one to look it up.
    #[must_use]
    pub fn begin(&self, ip: IpAddr, now: Nanos) -> bool {
        let mut shard = self.shard(ip).lock();
        if shard.verified.get(ip, now).is_some() || shard.others.get(ip, now).is_some() {
            return false;
        }
        shard.others.put(ip, (), now.after(PENDING));
        true
    }

    pub fn learn(&self, ip: IpAddr, found: Found, now: Nanos) {
        let mut shard = self.shard(ip).lock();
        match found {
            Found::Verified(mask) => shard.verified.put(ip, mask, now.after(VERIFIED)),
            Found::Other => shard.others.put(ip, (), now.after(OTHER)),
            Found::Failed => shard.others.put(ip, (), now.after(FAILED)),
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        let shards = self.shards.iter().map(|shard| {
            let shard = shard.lock();
            assert_eq!(shard.others.entries.len(), shard.others.order.len());
            shard.verified.entries.len() + shard.others.entries.len()
        });
        shards.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_was_found_is_kept_for_its_time() {
        let table = Table::default();
        let [a, b, c] = [address(1), address(2), address(3)];
        for ip in [a, b, c] {
            assert_eq!(table.get(ip, at(0)), None);
            assert!(table.begin(ip, at(0)));
            assert!(!table.begin(ip, at(1)), "one lookup an address");
            assert_eq!(table.get(ip, at(1)), Some(Known::Other));
        }
        table.learn(a, Found::Verified(5), at(1));
        table.learn(b, Found::Other, at(1));
        table.learn(c, Found::Failed, at(1));
        assert_eq!(table.get(a, at(86_400)), Some(Known::Verified(5)));
        assert_eq!(table.get(a, at(86_401)), None);
        assert_eq!(table.get(b, at(3600)), Some(Known::Other));
        assert_eq!(table.get(b, at(3601)), None);
        assert_eq!(table.get(c, at(60)), Some(Known::Other));
        assert_eq!(table.get(c, at(61)), None);
    }

    #[test]
    fn a_lookup_that_never_ends_is_begun_again() {
        let table = Table::default();
        assert!(table.begin(address(1), at(0)));
        assert!(!table.begin(address(1), at(9)));
        assert!(table.begin(address(1), at(10)));
    }

    #[test]
    fn a_flood_of_strangers_stays_in_its_bound_and_pushes_out_no_crawler() {
        let table = Table::default();
        let crawler = address(u32::MAX);
        table.learn(crawler, Found::Verified(1), at(0));
        for n in 0..100_000 {
            assert!(table.begin(address(n), at(0)));
            table.learn(address(n), Found::Other, at(0));
        }
        assert!(table.len() <= SHARDS * MOST + 1, "{}", table.len());
        assert_eq!(table.get(crawler, at(1)), Some(Known::Verified(1)));
        assert_eq!(table.get(address(99_999), at(1)), Some(Known::Other));
    }
}
