//! How much may be kept of what challenged visitors post: keeping bodies must not cost more than
//! refusing them. Who gets no share is told to send the form again.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use verdict::prefix::Prefix;

/// Bytes a second, and at once, for all clients together.
const RATE: u64 = 4 * 1024 * 1024;
/// The same for one client, so that none can use up what all share.
const CLIENT_RATE: u64 = 64 * 1024;
const CLIENT_BURST: u64 = 512 * 1024;
/// Being read at this moment.
const IN_FLIGHT: usize = 16 * 1024 * 1024;
/// Clients that share a slot share its rate.
const SLOTS: usize = 1024;
/// What reading even the smallest body counts for.
const LEAST: usize = 1024;
/// The part of its length that a body counts for which comes back.
const AGAIN: usize = 4;

/// Counts what is kept.
#[derive(Debug)]
pub struct Budget {
    all: Bucket,
    clients: Box<[Bucket]>,
    /// Nobody can find out who shares a slot.
    hasher: RandomState,
    in_flight: AtomicUsize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            all: Bucket::default(),
            clients: (0..SLOTS).map(|_| Bucket::default()).collect(),
            hasher: RandomState::new(),
            in_flight: AtomicUsize::new(0),
        }
    }
}

/// Room for one body; given back on drop.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        let in_flight = &self.budget.in_flight;
        in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Budget {
    /// Room for a body of this length, at `now` (milliseconds).
    pub fn share(this: &Arc<Self>, client: Prefix, length: usize, now: u64) -> Option<Share> {
        Self::share_at(this, client, length, length, now)
    }

    /// Room for one that was kept and comes back. A climb brings it back twice, or more often when answers
    /// are wrong: it counts for less than keeping it did, but takes as much room.
    pub fn share_again(this: &Arc<Self>, client: Prefix, length: usize, now: u64) -> Option<Share> {
        Self::share_at(this, client, length, length / AGAIN, now)
    }

    fn share_at(
        this: &Arc<Self>,
        client: Prefix,
        length: usize,
        cost: usize,
        now: u64,
    ) -> Option<Share> {
        let bytes = length.max(LEAST);
        let cost = u64::try_from(cost.max(LEAST)).ok()?;
        let slot = usize::try_from(this.hasher.hash_one(client)).unwrap_or_default();
        let slot = this.clients.get(slot.checked_rem(SLOTS)?)?;
        if !slot.take(cost, now, CLIENT_RATE, CLIENT_BURST) || !this.all.take(cost, now, RATE, RATE)
        {
            return None;
        }
        let share = Share {
            budget: Arc::clone(this),
            bytes,
        };
        let before = this.in_flight.fetch_add(bytes, Ordering::Relaxed);
        (before <= IN_FLIGHT).then_some(share)
    }
}

/// A bucket as the time at which it will be full again, in microseconds.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    fn take(&self, cost: u64, now: u64, rate: u64, burst: u64) -> bool {
        let time = |bytes: u64| {
            let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
            u64::try_from(micros).unwrap_or(u64::MAX)
        };
        let now = now.saturating_mul(1000);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| {
                let full = full.max(now).saturating_add(time(cost));
                (full.saturating_sub(now) <= time(burst)).then_some(full)
            });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verdict::prefix::PrefixLengths;

    const NOW: u64 = 1_700_000_000_000;
    const BODY: usize = 32 * 1024;

    fn client(number: u32) -> Prefix {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
        Prefix::of(address.into(), PrefixLengths::CLIENT)
    }

    #[test]
    fn one_client_gets_a_burst_and_then_its_rate() {
        let budget = Arc::new(Budget::default());
        let taken = |now| {
            (0..1000)
                .take_while(|_| Budget::share(&budget, client(1), BODY, now).is_some())
                .count()
        };
        assert_eq!(taken(NOW), 16);
        assert_eq!(taken(NOW), 0);
        assert_eq!(taken(NOW + 500), 1);
        // Others are not in its way.
        assert!((2..20).any(|number| Budget::share(&budget, client(number), BODY, NOW).is_some()));
    }

    #[test]
    fn the_largest_body_climbs_in_one_go() {
        let budget = Arc::new(Budget::default());
        let (body, form) = (256 * 1024, 352 * 1024);
        assert!(Budget::share(&budget, client(1), body, NOW).is_some());
        for _ in 0..2 {
            assert!(Budget::share_again(&budget, client(1), form, NOW).is_some());
        }
        // Coming back again and again ends too.
        let taken = (0..100).filter(|_| {
            let share = Budget::share_again(&budget, client(1), form, NOW);
            share.is_some()
        });
        assert!(taken.count() < 2);
        let held = Budget::share_again(&budget, client(2), form, NOW).unwrap();
        assert_eq!(held.bytes, form);
    }

    #[test]
    fn all_clients_together_get_the_rate() {
        let budget = Arc::new(Budget::default());
        let taken = |from: u32, now| {
            (from..from + 1000)
                .filter(|number| Budget::share(&budget, client(*number), BODY, now).is_some())
                .count()
        };
        assert_eq!(taken(0, NOW), 128);
        assert_eq!(taken(1000, NOW), 0);
        assert_eq!(taken(2000, NOW + 250), 32);
    }

    #[test]
    fn what_is_being_read_is_bounded_and_given_back() {
        let budget = Arc::new(Budget::default());
        let large = 256 * 1024;
        let mut held = Vec::new();
        // A second between them: the rate is not what ends this.
        for number in 0..200 {
            let now = NOW + u64::from(number) * 1000;
            held.extend(Budget::share(&budget, client(number), large, now));
        }
        assert_eq!(held.len(), IN_FLIGHT / large + 1);
        let later = NOW + 1_000_000;
        assert!(Budget::share(&budget, client(500), large, later).is_none());
        drop(held);
        assert!(
            (501..520).any(|number| Budget::share(&budget, client(number), large, later).is_some())
        );
        assert_eq!(budget.in_flight.load(Ordering::Relaxed), 0);
    }
}
