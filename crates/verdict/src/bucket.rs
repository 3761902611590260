//! Token buckets: the GCRA of the `governor` crate over our [`KeyTable`], with time as an argument.
//!
//! GCRA keeps one number a key, the theoretical arrival time: when the bucket is full again. Its
//! distance from now is the key's debt. Governor reasons in debts here: its clock stands still at
//! zero, and the store turns arrival times into debts and back at the `now` of each request. So one
//! limiter serves all threads, and no time comes from anywhere but the caller.

use crate::{
    Nanos,
    key_table::{KeyHash, KeyTable},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos as Debt,
    state::StateStore,
};
use std::{
    cell::Cell,
    hash::{Hash, Hasher},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

/// The longest time any bucket may take to fill: 146 years. Keeps all sums within 64 bits.
const LONGEST_FILL: u64 = u64::MAX / 4;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds a token, at least 1.
    interval: u64,
    burst: NonZeroU32,
}

impl Rate {
    /// `amount` tokens every `period`, `burst` at once. The time a token takes is rounded up to
    /// whole nanoseconds, so never more than asked for is admitted. A burst that would take over
    /// 146 years to fill is cut to that.
    #[must_use]
    pub fn new(amount: NonZeroU32, period: Duration, burst: NonZeroU32) -> Self {
        let interval = period.as_nanos().div_ceil(u128::from(amount.get()));
        let interval = u64::try_from(interval)
            .unwrap_or(u64::MAX)
            .clamp(1, LONGEST_FILL);
        let most = u32::try_from(LONGEST_FILL / interval).unwrap_or(u32::MAX);
        Self {
            interval,
            burst: NonZeroU32::new(most).map_or(burst, |most| burst.min(most)),
        }
    }

    /// The debt at which a bucket is empty.
    fn capacity(self) -> u64 {
        self.interval * u64::from(self.burst.get())
    }

    /// The debt above which a request does not conform.
    fn tolerance(self) -> u64 {
        self.capacity() - self.interval
    }
}

/// What came of taking a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether a token was taken.
    pub admitted: bool,
    /// When admitted: how long until the request conforms, zero unless the bucket lets requests
    /// queue. When not: how long until a token can be taken.
    pub wait: Duration,
    /// Whole tokens left.
    pub remaining: u32,
    /// Until the bucket is full again.
    pub reset: Duration,
}

/// A family of token buckets, one a key, all of the same rate.
#[derive(Debug)]
pub struct Bucket {
    limiter: RateLimiter<Probe, Store, Still, NoOpMiddleware<Debt>>,
    table: Arc<KeyTable>,
    rate: Rate,
}

impl Bucket {
    /// Buckets whose state is in `table`, which may come from another bucket of another rate: a debt
    /// is then at most that of an empty bucket here. A request that finds no token may take one in
    /// advance if it will be there within `queue`.
    #[must_use]
    pub fn new(rate: Rate, queue: Duration, table: Arc<KeyTable>) -> Self {
        let queue = u64::try_from(queue.as_nanos())
            .unwrap_or(u64::MAX)
            .min(LONGEST_FILL);
        let quota = Quota::with_period(Duration::from_nanos(rate.interval))
            .unwrap_or(Quota::per_second(NonZeroU32::MIN))
            .allow_burst(rate.burst);
        let store = Store {
            table: Arc::clone(&table),
            queue,
            most: rate.capacity().saturating_add(queue),
        };
        Self {
            limiter: RateLimiter::new(quota, store, Still),
            table,
            rate,
        }
    }

    /// Takes a token for `key` (hashed for this bucket's table) if there is one.
    #[must_use]
    pub fn take(&self, key: KeyHash, now: Nanos) -> Taken {
        let probe = Probe {
            key,
            now,
            before: Cell::new(0),
            after: Cell::new(0),
        };
        let refused = self.limiter.check_key(&probe).err();
        let debt = probe.after.get();
        let left = self.rate.capacity().saturating_sub(debt) / self.rate.interval;
        Taken {
            admitted: refused.is_none(),
            wait: match refused {
                Some(until) => until.wait_time_from(Still.now()),
                None => {
                    Duration::from_nanos(probe.before.get().saturating_sub(self.rate.tolerance()))
                }
            },
            remaining: u32::try_from(left).unwrap_or(u32::MAX),
            reset: Duration::from_nanos(debt),
        }
    }

    /// Where the state is kept.
    #[must_use]
    pub fn table(&self) -> &Arc<KeyTable> {
        &self.table
    }
}

/// Governor's clock: it stands at zero, since debts are relative to now.
#[derive(Debug, Clone, Copy)]
struct Still;

impl Clock for Still {
    type Instant = Debt;

    fn now(&self) -> Debt {
        Debt::new(0)
    }
}

/// A key, the time at which it is asked for, and what was found and left there.
#[derive(Clone, Debug)]
struct Probe {
    key: KeyHash,
    now: Nanos,
    before: Cell<u64>,
    after: Cell<u64>,
}

impl PartialEq for Probe {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Probe {}

impl Hash for Probe {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// Debts for governor, arrival times for the table.
#[derive(Debug)]
struct Store {
    table: Arc<KeyTable>,
    /// Debt that governor is not told of, which admits requests that much ahead of their token.
    queue: u64,
    /// No debt is larger in this bucket; a larger one is from before its rate was changed.
    most: u64,
}

impl StateStore for Store {
    type Key = Probe;

    fn measure_and_replace<T, F, E>(&self, probe: &Probe, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Debt>) -> Result<(T, Debt), E>,
    {
        self.table.update(probe.key, probe.now, |arrival| {
            let known = arrival.map_or(0, |arrival| arrival.0.saturating_sub(probe.now.0));
            let debt = known.min(self.most);
            probe.before.set(debt);
            let told = Debt::new(debt.saturating_sub(self.queue));
            let (value, after) = match decide(Some(told)) {
                Ok((value, next)) => {
                    let added = next.duration_since(told).as_u64();
                    (Ok(value), debt.saturating_add(added))
                }
                Err(refusal) => (Err(refusal), debt),
            };
            probe.after.set(after);
            let arrival = Nanos(probe.now.0.saturating_add(after));
            (value, (after != known).then_some(arrival))
        })
    }
}

#[cfg(test)]
mod tests;
