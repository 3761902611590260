//! What is known of addresses that claimed to be a crawler, in shards, each behind a short lock.
//!
//! Verified ones have a place of their own: a flood of strangers under a crawler's name pushes out
//! other strangers, never a crawler. They are looked up again after a day, while they keep their
//! standing for another: only an answer of the DNS takes it from them, never the lack of one. Of the
//! others a network has few places, so that none pushes out what is known of the rest.

use super::{Mask, lookup::Found};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    net::IpAddr,
    time::Duration,
};
use verdict::{
    Nanos,
    prefix::{Prefix, PrefixLengths},
};

const SHARDS: usize = 16;
/// Verified addresses of each shard: 16 384 in all, about 2 MiB.
const MOST: usize = 1024;
/// Networks of others in each shard, and addresses of each: about 5 MiB when all are full.
const MOST_NETWORKS: usize = 512;
const MOST_OF_NETWORK: usize = 16;
/// Until it is looked up again, and until it is forgotten if that leads to no answer.
const FRESH: Duration = Duration::from_secs(24 * 3600);
const VERIFIED: Duration = Duration::from_secs(48 * 3600);
const OTHER: Duration = Duration::from_secs(3600);
const FAILED: Duration = Duration::from_secs(60);
/// Longer than a lookup takes: until then nobody begins another.
const PENDING: Duration = Duration::from_secs(10);

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Verified(Mask),
    /// It was verified, and is to be looked up again.
    Stale(Mask),
    /// It is none, or nobody knows for now.
    Other,
}

#[derive(Debug, Default)]
pub struct Table {
    hasher: RandomState,
    /// By address.
    verified: [Mutex<Verified>; SHARDS],
    /// By network.
    others: [Mutex<Others>; SHARDS],
}

/// Over the bound the oldest goes.
#[derive(Debug, Default)]
struct Verified {
    entries: HashMap<IpAddr, Entry>,
    /// In the order in which they came; each address once.
    order: VecDeque<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mask: Mask,
    fresh: Nanos,
    end: Nanos,
}

impl Verified {
    fn get(&mut self, ip: IpAddr, now: Nanos) -> Option<&mut Entry> {
        self.entries.get_mut(&ip).filter(|entry| now < entry.end)
    }

    fn put(&mut self, ip: IpAddr, entry: Entry) {
        if self.entries.insert(ip, entry).is_some() {
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

/// Addresses with their end; over the bounds the oldest of the network goes, or the oldest network.
#[derive(Debug, Default)]
struct Others {
    networks: HashMap<Prefix, Vec<(IpAddr, Nanos)>>,
    /// In the order in which they came; each network once.
    order: VecDeque<Prefix>,
}

impl Others {
    fn knows(&self, network: Prefix, ip: IpAddr, now: Nanos) -> bool {
        let known = self.networks.get(&network);
        known.is_some_and(|known| known.iter().any(|(of, end)| *of == ip && now < *end))
    }

    fn put(&mut self, network: Prefix, ip: IpAddr, end: Nanos) {
        if let Some(known) = self.networks.get_mut(&network) {
            known.retain(|(of, _)| *of != ip);
            if known.len() >= MOST_OF_NETWORK {
                known.remove(0);
            }
            known.push((ip, end));
            return;
        }
        self.networks.insert(network, vec![(ip, end)]);
        self.order.push_back(network);
        if self.order.len() > MOST_NETWORKS
            && let Some(oldest) = self.order.pop_front()
        {
            self.networks.remove(&oldest);
        }
    }
}

impl Table {
    fn shard<'a, T>(&self, shards: &'a [Mutex<T>; SHARDS], key: impl Hash) -> &'a Mutex<T> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        let [first, ..] = shards;
        shards.get(hash).unwrap_or(first)
    }

    fn verified(&self, ip: IpAddr) -> &Mutex<Verified> {
        self.shard(&self.verified, ip)
    }

    fn others(&self, network: Prefix) -> &Mutex<Others> {
        self.shard(&self.others, network)
    }

    /// What is known; `None` when it is to be looked up.
    #[must_use]
    pub fn get(&self, ip: IpAddr, now: Nanos) -> Option<Known> {
        if let Some(entry) = self.verified(ip).lock().get(ip, now) {
            let is_fresh = now < entry.fresh;
            let known = if is_fresh {
                Known::Verified
            } else {
                Known::Stale
            };
            return Some(known(entry.mask));
        }
        let network = network_of(ip);
        let others = self.others(network).lock();
        others.knows(network, ip, now).then_some(Known::Other)
    }

    /// Whether the caller is the one to look it up.
    #[must_use]
    pub fn begin(&self, ip: IpAddr, now: Nanos) -> bool {
        if let Some(entry) = self.verified(ip).lock().get(ip, now) {
            let begins = now >= entry.fresh;
            if begins {
                entry.fresh = now.after(PENDING);
            }
            return begins;
        }
        let network = network_of(ip);
        let mut others = self.others(network).lock();
        let begins = !others.knows(network, ip, now);
        if begins {
            others.put(network, ip, now.after(PENDING));
        }
        begins
    }

    pub fn learn(&self, ip: IpAddr, found: Found, now: Nanos) {
        let mut verified = self.verified(ip).lock();
        let lasts = match found {
            Found::Verified(mask) => {
                let entry = Entry {
                    mask,
                    fresh: now.after(FRESH),
                    end: now.after(VERIFIED),
                };
                verified.put(ip, entry);
                return;
            }
            Found::Other => {
                if let Some(entry) = verified.get(ip, now) {
                    entry.end = now;
                }
                OTHER
            }
            Found::Failed => {
                if let Some(entry) = verified.get(ip, now) {
                    entry.fresh = now.after(FAILED);
                    return;
                }
                FAILED
            }
        };
        drop(verified);
        let network = network_of(ip);
        let mut others = self.others(network).lock();
        others.put(network, ip, now.after(lasts));
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        let verified = self.verified.iter().map(|shard| shard.lock().entries.len());
        let others = self.others.iter().map(|shard| {
            let shard = shard.lock();
            assert_eq!(shard.networks.len(), shard.order.len());
            shard.networks.values().map(Vec::len).sum::<usize>()
        });
        verified.chain(others).sum()
    }
}

fn network_of(ip: IpAddr) -> Prefix {
    Prefix::of(ip, PrefixLengths::NETWORK)
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
        assert_eq!(table.get(a, at(86_401)), Some(Known::Stale(5)));
        assert_eq!(table.get(a, at(2 * 86_400)), Some(Known::Stale(5)));
        assert_eq!(table.get(a, at(2 * 86_400 + 1)), None);
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
    fn a_crawler_keeps_its_standing_while_it_is_looked_up_again() {
        let table = Table::default();
        let ip = address(1);
        table.learn(ip, Found::Verified(5), at(0));
        assert!(!table.begin(ip, at(86_399)));
        assert!(table.begin(ip, at(86_400)));
        assert!(!table.begin(ip, at(86_401)), "one lookup an address");
        assert_eq!(table.get(ip, at(86_401)), Some(Known::Verified(5)));
        // No answer changes nothing, and is asked for again in a minute.
        table.learn(ip, Found::Failed, at(86_402));
        assert_eq!(table.get(ip, at(86_402)), Some(Known::Verified(5)));
        assert!(!table.begin(ip, at(86_461)));
        assert!(table.begin(ip, at(86_462)));
        table.learn(ip, Found::Verified(1), at(86_463));
        assert_eq!(table.get(ip, at(86_463 + 86_399)), Some(Known::Verified(1)));
        // Without any answer it ends after two days; with another answer at once.
        for second in (86_463 + 86_400)..(86_463 + 2 * 86_400) {
            if table.begin(ip, at(second)) {
                table.learn(ip, Found::Failed, at(second));
            }
        }
        assert_eq!(table.get(ip, at(86_463 + 2 * 86_400)), None);
        table.learn(ip, Found::Verified(1), at(300_000));
        table.learn(ip, Found::Other, at(300_001));
        assert_eq!(table.get(ip, at(300_001)), Some(Known::Other));
    }

    #[test]
    fn a_network_of_strangers_pushes_out_its_own_alone() {
        let table = Table::default();
        let stranger: IpAddr = "2001:db8:1::1".parse().unwrap();
        table.learn(stranger, Found::Other, at(0));
        for n in 0..100_000_u128 {
            let ip = IpAddr::V6(((0x2001_0db8_0002_u128 << 80) | n).into());
            assert!(table.begin(ip, at(0)));
            table.learn(ip, Found::Other, at(0));
        }
        assert_eq!(table.len(), MOST_OF_NETWORK + 1);
        assert_eq!(table.get(stranger, at(1)), Some(Known::Other));
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
        let most = SHARDS * MOST_NETWORKS * MOST_OF_NETWORK + 1;
        assert!(table.len() <= most, "{}", table.len());
        assert_eq!(table.get(crawler, at(1)), Some(Known::Verified(1)));
        assert_eq!(table.get(address(99_999), at(1)), Some(Known::Other));
    }
}
