//! Which clients behaved of late: a bounded table of prefixes that needs no lock. It is asked when a
//! worker has more handshakes to do than it may (see [`super::admission`]); what counts as behaving is
//! told by the record of a request.
//!
//! Only good conduct writes into it, so that no number of bad clients can push a good one out.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use verdict::{
    Nanos,
    prefix::{Prefix, PrefixLengths},
};

/// How long good conduct is remembered.
const REMEMBERED: Duration = Duration::from_secs(30 * 60);
/// How often a connection that goes on behaving renews it.
const RENEWED: Duration = Duration::from_secs(10 * 60);
/// With its ways: 64 Ki clients, 512 KiB.
const SETS: usize = 1 << 14;
/// Places for a client in its set.
const WAYS: usize = 4;
/// Sets that the clients of one site are spread over: it can push out those in these alone.
const SETS_OF_A_SITE: usize = 32;

/// Who can have all addresses of it as easily as one: a client in IPv4, a /48 in IPv6.
pub const SITE: PrefixLengths = PrefixLengths {
    ipv4: PrefixLengths::CLIENT.ipv4,
    ipv6: PrefixLengths::NETWORK.ipv6,
};

/// Clients of good conduct.
#[derive(Debug)]
pub struct Conduct {
    hasher: RandomState,
    /// Each place: a fingerprint of the prefix above, the second it was marked in below, counted from
    /// 1; zero is free.
    sets: Box<[[AtomicU64; WAYS]]>,
}

/// How the client of one connection has behaved over it: the second it was last marked in, counted
/// from 1, or [`SPOILT`].
#[derive(Debug, Default)]
pub struct Standing(AtomicU32);

const SPOILT: u32 = u32::MAX;

impl Standing {
    /// Whether a good sign would change anything now: neither marked of late nor spoilt. Costs next to
    /// nothing, for every request.
    #[must_use]
    pub fn is_open(&self, now: Nanos) -> bool {
        match self.0.load(Relaxed) {
            0 => true,
            SPOILT => false,
            marked => passed(marked, now) >= RENEWED,
        }
    }
}

impl Default for Conduct {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            sets: (0..SETS).map(|_| Default::default()).collect(),
        }
    }
}

impl Conduct {
    /// The client showed good conduct over this connection.
    pub fn good(&self, client: Prefix, standing: &Standing, now: Nanos) {
        if standing.is_open(now) {
            standing.0.store(second(now), Relaxed);
            self.mark(client, now);
        }
    }

    /// The client showed bad conduct over this connection: it counts as unknown from now on, and this
    /// connection can't make up for it.
    pub fn bad(&self, client: Prefix, standing: &Standing) {
        standing.0.store(SPOILT, Relaxed);
        // Each time: another connection may have earned it again meanwhile.
        self.forget(client);
    }

    /// Whether the client behaved in the last half hour.
    #[must_use]
    pub fn is_good(&self, client: Prefix, now: Nanos) -> bool {
        let (fingerprint, set) = self.find(client);
        set.iter().any(|place| {
            let (known, marked) = split(place.load(Relaxed));
            known == fingerprint && is_remembered(marked, now)
        })
    }

    /// Takes the client's good conduct away.
    pub fn forget(&self, client: Prefix) {
        let (fingerprint, set) = self.find(client);
        for place in set {
            let value = place.load(Relaxed);
            if split(value).0 == fingerprint {
                // If it changed meanwhile, it is somebody else's, or fresh.
                let _ = place.compare_exchange(value, 0, Relaxed, Relaxed);
            }
        }
    }

    fn mark(&self, client: Prefix, now: Nanos) {
        let (fingerprint, set) = self.find(client);
        // Its own place, or the one that was marked longest ago.
        let place = set.iter().min_by_key(|place| {
            let (known, marked) = split(place.load(Relaxed));
            (known != fingerprint || marked == 0, marked)
        });
        if let Some(place) = place {
            let value = u64::from(fingerprint) << 32 | u64::from(second(now));
            place.store(value, Relaxed);
        }
    }

    fn find(&self, client: Prefix) -> (u32, &[AtomicU64]) {
        let (fingerprint, within) = split(self.hasher.hash_one(client));
        let site = Prefix::of(client.address(), SITE);
        let (_, first) = split(self.hasher.hash_one(site));
        let index = |part| usize::try_from(part).unwrap_or(0);
        // Of bits that the fingerprint does not have, also where the site is the client itself: it would
        // tell less of the clients that share a set.
        let at = index(first).wrapping_add(index(within >> 16) % SETS_OF_A_SITE) % SETS;
        let set = self.sets.get(at).map_or(&[][..], |set| &set[..]);
        (fingerprint, set)
    }
}

/// The upper half and the lower.
#[allow(clippy::cast_possible_truncation)] // halves
fn split(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

/// Seconds of the clock, counted from 1.
fn second(now: Nanos) -> u32 {
    let seconds = now.since(Nanos(0)).as_secs().saturating_add(1);
    u32::try_from(seconds).unwrap_or(SPOILT - 1).min(SPOILT - 1)
}

fn passed(marked: u32, now: Nanos) -> Duration {
    Duration::from_secs(second(now).saturating_sub(marked).into())
}

fn is_remembered(marked: u32, now: Nanos) -> bool {
    marked != 0 && passed(marked, now) < REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn client(number: u32) -> Prefix {
        Prefix::of(IpAddr::V4(Ipv4Addr::from(number)), PrefixLengths::CLIENT)
    }

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn good_conduct_lasts_half_an_hour_and_is_renewed() {
        let conduct = Conduct::default();
        let standing = Standing::default();
        assert!(!conduct.is_good(client(1), at(0)));
        conduct.good(client(1), &standing, at(0));
        assert!(conduct.is_good(client(1), at(0)));
        assert!(!conduct.is_good(client(2), at(0)));
        assert!(conduct.is_good(client(1), at(1799)));
        assert!(!conduct.is_good(client(1), at(1800)));
        // At most once in ten minutes.
        assert!(!standing.is_open(at(599)));
        conduct.good(client(1), &standing, at(599));
        assert!(!conduct.is_good(client(1), at(1800)));
        conduct.good(client(1), &standing, at(600));
        assert!(conduct.is_good(client(1), at(2399)));
    }

    #[test]
    fn bad_conduct_takes_it_away_and_spoils_the_connection() {
        let conduct = Conduct::default();
        let (one, other) = (Standing::default(), Standing::default());
        conduct.good(client(1), &one, at(0));
        conduct.bad(client(1), &one);
        assert!(!conduct.is_good(client(1), at(0)));
        conduct.good(client(1), &one, at(5000));
        assert!(!conduct.is_good(client(1), at(5000)), "spoilt for good");
        conduct.good(client(1), &other, at(5000));
        assert!(conduct.is_good(client(1), at(5000)), "a new connection can");
        conduct.bad(client(1), &one);
        assert!(!conduct.is_good(client(1), at(5000)), "the first goes on");
    }

    #[test]
    fn a_flood_of_bad_clients_pushes_nobody_out() {
        let conduct = Conduct::default();
        let good = |number| conduct.good(client(number), &Standing::default(), at(1));
        (0..10_000).for_each(good);
        let known = || {
            (0..10_000)
                .filter(|number| conduct.is_good(client(*number), at(2)))
                .count()
        };
        let before = known();
        // A set has room for four: few of so many have to share one with four others.
        assert!(before > 9_900, "{before}");
        for bad in 1_000_000..1_200_000 {
            conduct.bad(client(bad), &Standing::default());
            assert!(!conduct.is_good(client(bad), at(2)));
        }
        assert_eq!(known(), before);
    }

    #[test]
    fn one_site_of_ipv6_pushes_few_others_out() {
        let conduct = Conduct::default();
        let of = |site: u16, client: u16| {
            let ip = Ipv6Addr::new(0x2001, 0xdb8, site, client, 0, 0, 0, 1);
            Prefix::of(ip.into(), PrefixLengths::CLIENT)
        };
        let good = |prefix, second| conduct.good(prefix, &Standing::default(), at(second));
        let others = || {
            (0..10_000)
                .map(client)
                .chain((1..1000).map(|site| of(site, 7)))
        };
        others().for_each(|prefix| good(prefix, 1));
        let known = || {
            others()
                .filter(|prefix| conduct.is_good(*prefix, at(3)))
                .count()
        };
        let before = known();
        assert!(before > 10_800, "{before}");
        for number in 0..=u16::MAX {
            good(of(0, number), 2);
        }
        let after = known();
        // 32 of 16,384 sets are one in 512.
        assert!(before - after < 110, "{before}, then {after}");
        let its_own = (0..=u16::MAX).filter(|number| conduct.is_good(of(0, *number), at(3)));
        assert!((64..=128).contains(&its_own.count()));
    }

    #[test]
    fn a_full_set_forgets_who_was_marked_longest_ago() {
        let conduct = Conduct::default();
        let mut same: Vec<Prefix> = Vec::new();
        let set = |prefix| conduct.find(prefix).1.as_ptr();
        for number in 0.. {
            let next = client(number);
            if same.first().is_none_or(|first| set(*first) == set(next)) {
                same.push(next);
            }
            if same.len() == WAYS + 1 {
                break;
            }
        }
        for (second, prefix) in same.iter().enumerate() {
            conduct.good(*prefix, &Standing::default(), at(second as u64));
        }
        assert!(!conduct.is_good(same[0], at(10)));
        assert!(same[1..].iter().all(|p| conduct.is_good(*p, at(10))));
    }
}
