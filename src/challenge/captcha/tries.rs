//! How often a client and its network may do something: be wrong, ask for another captcha, pass by a
//! question. Each is a token bucket (GCRA) in a table of bounded size that attackers can't aim at
//! ([`KeyTable`]). Unlike in `verdict`'s buckets, looking takes nothing: what is counted is only known
//! once an answer was looked at.
//!
//! A network's bound need not lock out who did nothing ([`Allowance::forbearing`]): one bad neighbour would
//! lock out all others.

use crate::challenge::Visit;
use std::{sync::Arc, time::Duration};
use verdict::{
    Nanos,
    key_table::{KeyHash, KeyTable},
};

/// Clients that are kept account of: 1.8 MB when that many came.
const MAX_CLIENTS: u32 = 65_536;
const MAX_NETWORKS: u32 = 32_768;

/// Buckets of one size, by client and by network.
#[derive(Debug)]
pub struct Tries {
    clients: Buckets,
    networks: Buckets,
    forbearing: bool,
}

/// How many a client and a network may have at once, and in how long that many come anew.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    pub client: u32,
    pub network: u32,
    pub period: Duration,
    /// Whether a client none of whose own is counted still has one when its network has none left.
    pub forbearing: bool,
}

impl Tries {
    /// What was counted goes on from `previous`.
    #[must_use]
    pub fn new(allowance: Allowance, previous: Option<&Self>) -> Self {
        let Allowance {
            client,
            network,
            period,
            forbearing,
        } = allowance;
        let table = |of: Option<&Buckets>, keys| {
            of.map_or_else(|| Arc::new(KeyTable::new(keys)), |of| Arc::clone(&of.table))
        };
        Self {
            forbearing,
            clients: Buckets::new(
                table(previous.map(|previous| &previous.clients), MAX_CLIENTS),
                client,
                period,
            ),
            networks: Buckets::new(
                table(previous.map(|previous| &previous.networks), MAX_NETWORKS),
                network,
                period,
            ),
        }
    }

    /// How long until the visitor has one left; `None` when it has.
    #[must_use]
    pub fn wait(&self, visit: &Visit<'_>) -> Option<Duration> {
        let now = time(visit);
        let own = self.clients.table.key(&visit.client);
        let network = || {
            let wait = self
                .networks
                .wait(self.networks.table.key(&visit.network), now)?;
            if !self.forbearing {
                return Some(wait);
            }
            let clean = self.clients.clean(own, now)?;
            Some(wait.min(clean))
        };
        self.clients.wait(own, now).or_else(network)
    }

    /// Counts one.
    pub fn count(&self, visit: &Visit<'_>) {
        let now = time(visit);
        self.clients
            .count(self.clients.table.key(&visit.client), now);
        self.networks
            .count(self.networks.table.key(&visit.network), now);
    }

    /// Takes back one that [`Self::count`] counted.
    pub fn give_back(&self, visit: &Visit<'_>) {
        let now = time(visit);
        self.clients
            .give_back(self.clients.table.key(&visit.client), now);
        self.networks
            .give_back(self.networks.table.key(&visit.network), now);
    }

    /// Counts one if there is one left.
    ///
    /// # Errors
    /// How long until there is.
    pub fn take(&self, visit: &Visit<'_>) -> Result<(), Duration> {
        if let Some(wait) = self.wait(visit) {
            return Err(wait);
        }
        self.count(visit);
        Ok(())
    }
}

/// The tables want times that only grow; these may be set back with the clock, which costs a visitor
/// at most one period.
fn time(visit: &Visit<'_>) -> Nanos {
    Nanos(visit.now.saturating_mul(1_000_000))
}

#[derive(Debug)]
struct Buckets {
    table: Arc<KeyTable>,
    /// Nanoseconds in which one comes anew.
    interval: u64,
    /// Of an empty bucket, in nanoseconds until it is full.
    capacity: u64,
}

impl Buckets {
    fn new(table: Arc<KeyTable>, amount: u32, period: Duration) -> Self {
        let amount = u64::from(amount.max(1));
        let interval = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX) / amount;
        Self {
            table,
            interval,
            capacity: interval.saturating_mul(amount),
        }
    }

    fn debt(&self, arrival: Option<Nanos>, now: Nanos) -> u64 {
        let debt = arrival.map_or(0, |arrival| arrival.0.saturating_sub(now.0));
        debt.min(self.capacity)
    }

    fn wait(&self, key: KeyHash, now: Nanos) -> Option<Duration> {
        let debt = self
            .table
            .update(key, now, |arrival| (self.debt(arrival, now), None));
        let tolerance = self.capacity.saturating_sub(self.interval);
        debt.checked_sub(tolerance)
            .filter(|over| *over > 0)
            .map(Duration::from_nanos)
    }

    /// How long until nothing is counted of it; `None` when nothing is.
    fn clean(&self, key: KeyHash, now: Nanos) -> Option<Duration> {
        let debt = self
            .table
            .update(key, now, |arrival| (self.debt(arrival, now), None));
        Some(Duration::from_nanos(debt)).filter(|debt| !debt.is_zero())
    }

    fn give_back(&self, key: KeyHash, now: Nanos) {
        self.table.update(key, now, |arrival| {
            let debt = self.debt(arrival, now).saturating_sub(self.interval);
            ((), Some(Nanos(now.0.saturating_add(debt))))
        });
    }

    fn count(&self, key: KeyHash, now: Nanos) {
        self.table.update(key, now, |arrival| {
            let debt = self.debt(arrival, now).saturating_add(self.interval);
            let arrival = now.0.saturating_add(debt.min(self.capacity));
            ((), Some(Nanos(arrival)))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge::tests::{network, visit};

    const MINUTES: u64 = 60_000;

    fn tries() -> Tries {
        let allowance = Allowance {
            client: 10,
            network: 100,
            period: Duration::from_secs(600),
            forbearing: false,
        };
        Tries::new(allowance, None)
    }

    #[test]
    fn ten_are_let_through_and_one_a_minute_after() {
        let tries = tries();
        for _ in 0..10 {
            assert_eq!(tries.take(&visit()), Ok(()));
        }
        let wait = tries.take(&visit()).unwrap_err();
        assert_eq!(wait, Duration::from_secs(60));
        // Asking again and again makes it no longer.
        for _ in 0..1000 {
            assert_eq!(tries.wait(&visit()), Some(wait));
        }
        let later = Visit {
            now: visit().now + MINUTES,
            ..visit()
        };
        assert_eq!(tries.take(&later), Ok(()));
        assert!(tries.take(&later).is_err());
        // Another client of the same network has its own.
        let neighbour = Visit {
            client: network("192.0.2.8"),
            ..visit()
        };
        assert_eq!(tries.take(&neighbour), Ok(()));
    }

    #[test]
    fn a_network_has_a_bound_for_all_its_clients() {
        let tries = tries();
        let client = |n: u32| Visit {
            client: network(&format!("198.51.100.{n}")),
            ..visit()
        };
        for n in 0..100 {
            assert_eq!(tries.take(&client(n)), Ok(()), "{n}");
        }
        assert!(tries.take(&client(200)).is_err());
        let elsewhere = Visit {
            network: network("203.0.113.1"),
            ..client(200)
        };
        assert_eq!(tries.take(&elsewhere), Ok(()));
    }

    #[test]
    fn bad_neighbours_lock_nobody_out_who_did_nothing() {
        let tries = Tries {
            forbearing: true,
            ..tries()
        };
        let client = |n: u32, now: u64| Visit {
            client: network(&format!("198.51.100.{n}")),
            now: visit().now + now,
            ..visit()
        };
        for n in 0..100 {
            assert_eq!(tries.take(&client(n / 10, 0)), Ok(()), "{n}");
        }
        // Who was wrong a little shares the network's bound: 6 s until there is one left for all.
        tries.count(&client(50, 0));
        let wait = tries.take(&client(50, 0)).unwrap_err();
        assert_eq!(wait, Duration::from_secs(6));
        // Who did nothing has one, and then waits like the others.
        assert_eq!(tries.take(&client(51, 0)), Ok(()));
        assert!(tries.take(&client(51, 0)).is_err());
        // However bad the network is, what is one's own is over after a minute.
        for _ in 0..1000 {
            tries.count(&client(7, MINUTES));
        }
        assert_eq!(tries.take(&client(51, MINUTES)), Ok(()));
        assert!(tries.take(&client(7, MINUTES)).is_err());
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out_for_long() {
        let tries = tries();
        let day = 24 * 60 * MINUTES;
        let tomorrow = Visit {
            now: visit().now + day,
            ..visit()
        };
        for _ in 0..10 {
            assert_eq!(tries.take(&tomorrow), Ok(()));
        }
        assert_eq!(tries.wait(&visit()), Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_is_given_back_does_not_count() {
        let tries = tries();
        for _ in 0..1000 {
            assert_eq!(tries.take(&visit()), Ok(()));
            tries.give_back(&visit());
        }
        tries.give_back(&visit());
        let taken = (0..20).filter(|_| tries.take(&visit()).is_ok()).count();
        assert_eq!(taken, 10, "nobody gets more than there are");
    }

    #[test]
    fn a_reload_forgets_nothing() {
        let before = tries();
        for _ in 0..10 {
            before.count(&visit());
        }
        let allowance = Allowance {
            client: 20,
            network: 200,
            period: Duration::from_secs(600),
            forbearing: false,
        };
        let after = Tries::new(allowance, Some(&before));
        assert!(after.wait(&visit()).is_some());
    }
}
