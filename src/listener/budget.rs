//! What one client may take of connections before it costs a handshake: open ones, new ones a
//! second, and the total of all clients. Shared by all workers; refusing is left to the accept loop.
//!
//! The table is bounded. An entry that owes nothing (no open connection, bucket full) is worth
//! nothing and goes first; of the others goes the one that owes the least of a few that are looked
//! at, and never one with an open connection, of which there are at most `total`.

use crate::config::model::{Connections, Rate};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use verdict::{Nanos, prefix::Prefix};

/// A power of two: the shard is picked by the hash's low bits.
const SHARDS: usize = 64;
/// Clients remembered by each shard without an open connection: 128 Ki in all, about 8 MiB.
const REMEMBERED: usize = 2048;
/// Entries that are looked at to find the one to forget.
const SAMPLE: usize = 8;

/// Connections of all clients.
#[derive(Debug)]
pub struct Budget {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    open: AtomicU32,
}

#[derive(Debug, Default)]
struct Shard {
    index: HashMap<Prefix, usize>,
    clients: Vec<Client>,
    /// Where the next search for an entry to forget begins.
    hand: usize,
}

#[derive(Debug)]
struct Client {
    prefix: Prefix,
    open: u32,
    /// The theoretical arrival time of GCRA: the bucket is full from then on.
    arrival: Nanos,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    PerClient,
    Rate,
    Total,
}

impl Refusal {
    /// The label in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PerClient => "per_client",
            Self::Rate => "rate",
            Self::Total => "total",
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            open: AtomicU32::new(0),
        }
    }
}

impl Budget {
    /// Takes a place among all connections.
    ///
    /// # Errors
    /// When `total` are open.
    pub fn enter(self: &Arc<Self>, total: NonZeroU32) -> Result<Place, Refusal> {
        let before = self.open.fetch_add(1, Relaxed);
        // Made first: dropping it gives the place back.
        let place = Place {
            budget: Arc::clone(self),
            client: None,
        };
        if before >= total.get() {
            return Err(Refusal::Total);
        }
        Ok(place)
    }

    /// Open connections of all clients.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// Clients in the table.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().clients.len())
            .sum()
    }

    fn shard(&self, client: Prefix) -> Option<&Mutex<Shard>> {
        let hash = usize::try_from(self.hasher.hash_one(client) & 0xffff).unwrap_or(0);
        self.shards.get(hash % SHARDS)
    }
}

/// One connection's place in the budget, given back on drop.
#[derive(Debug)]
pub struct Place {
    budget: Arc<Budget>,
    client: Option<Prefix>,
}

impl Place {
    /// Counts the connection as this client's, if its own limits allow one more.
    ///
    /// # Errors
    /// When the client has too many open, or opened too many of late.
    pub fn claim(
        &mut self,
        client: Prefix,
        limits: &Connections,
        now: Nanos,
    ) -> Result<(), Refusal> {
        if limits.per_client.is_none() && limits.rate_per_client.is_none() {
            return Ok(());
        }
        let Some(shard) = self.budget.shard(client) else {
            return Ok(());
        };
        shard.lock().claim(client, limits, now)?;
        self.client = Some(client);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.budget.open.fetch_sub(1, Relaxed);
        let Some(client) = self.client else { return };
        if let Some(shard) = self.budget.shard(client) {
            shard.lock().release(client, crate::clock::now());
        }
    }
}

impl Shard {
    fn claim(&mut self, client: Prefix, limits: &Connections, now: Nanos) -> Result<(), Refusal> {
        let entry = self.entry(client, now);
        let Some(entry) = entry else { return Ok(()) };
        if limits
            .per_client
            .is_some_and(|maximum| entry.open >= maximum.get())
        {
            return Err(Refusal::PerClient);
        }
        if let Some(rate) = limits.rate_per_client {
            entry.arrival = take(entry.arrival, rate, now).ok_or(Refusal::Rate)?;
        }
        entry.open = entry.open.saturating_add(1);
        Ok(())
    }

    fn release(&mut self, client: Prefix, now: Nanos) {
        let Some(&at) = self.index.get(&client) else {
            return;
        };
        let Some(entry) = self.clients.get_mut(at) else {
            return;
        };
        entry.open = entry.open.saturating_sub(1);
        if entry.open == 0 && entry.arrival <= now {
            self.forget(at);
        }
    }

    /// The client's entry, made if there is none.
    fn entry(&mut self, client: Prefix, now: Nanos) -> Option<&mut Client> {
        if let Some(&at) = self.index.get(&client) {
            return self.clients.get_mut(at);
        }
        if self.clients.len() >= REMEMBERED
            && let Some(at) = self.least()
        {
            self.forget(at);
        }
        self.index.insert(client, self.clients.len());
        self.clients.push(Client {
            prefix: client,
            open: 0,
            arrival: now,
        });
        self.clients.last_mut()
    }

    /// The entry without open connections that owes the least, of the next few at the hand; if all of
    /// those have some, none: then the table grows, by no more than there are open connections.
    fn least(&mut self) -> Option<usize> {
        let length = self.clients.len();
        let start = self.hand.checked_rem(length)?;
        self.hand = start.saturating_add(SAMPLE);
        (start..start.saturating_add(SAMPLE))
            .filter_map(|at| at.checked_rem(length))
            .filter_map(|at| Some((at, self.clients.get(at)?)))
            .filter(|(_, client)| client.open == 0)
            .min_by_key(|(_, client)| client.arrival)
            .map(|(at, _)| at)
    }

    fn forget(&mut self, at: usize) {
        if at >= self.clients.len() {
            return;
        }
        let gone = self.clients.swap_remove(at);
        self.index.remove(&gone.prefix);
        if let Some(moved) = self.clients.get(at) {
            self.index.insert(moved.prefix, at);
        }
    }
}

/// GCRA: the new theoretical arrival time when one more fits into `rate` with a burst of as many,
/// `None` when it doesn't.
fn take(arrival: Nanos, rate: Rate, now: Nanos) -> Option<Nanos> {
    let interval = rate.period / rate.amount.get();
    let next = arrival.max(now).after(interval);
    let burst: Duration = rate.period.max(interval);
    (next.since(now) <= burst).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{ClientTimeouts, Handshakes, Http1Limits, Http2Limits};
    use std::net::{IpAddr, Ipv4Addr};
    use verdict::prefix::PrefixLengths;

    fn limits(per_client: Option<u32>, rate: Option<u32>) -> Connections {
        Connections {
            per_client: per_client.and_then(NonZeroU32::new),
            rate_per_client: rate.and_then(NonZeroU32::new).map(|amount| Rate {
                amount,
                period: Duration::from_secs(1),
            }),
            total: NonZeroU32::new(1_000_000).unwrap(),
            handshakes: Handshakes::default(),
            http1: Http1Limits::default(),
            http2: Http2Limits::default(),
            timeouts: ClientTimeouts {
                handshake: Duration::from_secs(5),
                headers: Duration::from_secs(10),
                idle: Duration::from_secs(60),
                body_minimum_rate: 1024,
                response_minimum_rate: 1024,
                request: Duration::from_secs(600),
                stream_idle: Duration::from_secs(300),
            },
        }
    }

    fn client(number: u32) -> Prefix {
        Prefix::of(IpAddr::V4(Ipv4Addr::from(number)), PrefixLengths::CLIENT)
    }

    fn connect(
        budget: &Arc<Budget>,
        who: u32,
        limits: &Connections,
        now: Nanos,
    ) -> Result<Place, Refusal> {
        let mut place = budget.enter(limits.total)?;
        place.claim(client(who), limits, now)?;
        Ok(place)
    }

    #[test]
    fn a_client_gets_its_connections_and_no_more_until_one_ends() {
        let budget = Arc::new(Budget::default());
        let limits = limits(Some(2), None);
        let one = connect(&budget, 1, &limits, Nanos(0)).unwrap();
        let _two = connect(&budget, 1, &limits, Nanos(0)).unwrap();
        assert_eq!(
            connect(&budget, 1, &limits, Nanos(0)).unwrap_err(),
            Refusal::PerClient
        );
        connect(&budget, 2, &limits, Nanos(0)).expect("another client is not concerned");
        assert_eq!(budget.open(), 2, "what was refused holds nothing");
        drop(one);
        connect(&budget, 1, &limits, Nanos(0)).unwrap();
    }

    #[test]
    fn the_total_holds_for_all_clients() {
        let budget = Arc::new(Budget::default());
        let total = NonZeroU32::new(2).unwrap();
        let places: Vec<_> = (0..2).map(|_| budget.enter(total).unwrap()).collect();
        assert_eq!(budget.enter(total).unwrap_err(), Refusal::Total);
        drop(places);
        assert_eq!(budget.open(), 0);
        budget.enter(total).unwrap();
    }

    #[test]
    fn the_rate_is_a_bucket_that_fills_again() {
        let budget = Arc::new(Budget::default());
        let limits = limits(None, Some(20));
        // A dropped place reads the real clock, which must not have come this far.
        let start = crate::clock::now().after(Duration::from_secs(3600));
        for _ in 0..20 {
            connect(&budget, 1, &limits, start).unwrap();
        }
        assert_eq!(
            connect(&budget, 1, &limits, start).unwrap_err(),
            Refusal::Rate
        );
        let later = start.after(Duration::from_millis(50));
        connect(&budget, 1, &limits, later).unwrap();
        assert_eq!(
            connect(&budget, 1, &limits, later).unwrap_err(),
            Refusal::Rate
        );
    }

    #[test]
    fn a_flood_of_clients_neither_grows_the_table_nor_frees_who_is_over() {
        let budget = Arc::new(Budget::default());
        let limits = limits(Some(64), Some(20));
        let start = crate::clock::now().after(Duration::from_secs(3600));
        for _ in 0..20 {
            connect(&budget, 1, &limits, start).unwrap();
        }
        let _open = connect(&budget, 2, &limits, start).unwrap();
        for other in 0..500_000 {
            connect(&budget, 1000 + other, &limits, start).unwrap();
        }
        assert!(
            budget.tracked() <= SHARDS * REMEMBERED,
            "{}",
            budget.tracked()
        );
        assert_eq!(
            connect(&budget, 1, &limits, start).unwrap_err(),
            Refusal::Rate
        );
        let shard = budget.shard(client(2)).unwrap().lock();
        assert!(shard.index.contains_key(&client(2)), "an open one is kept");
    }

    #[test]
    fn a_client_that_owes_nothing_leaves_nothing_behind() {
        let budget = Arc::new(Budget::default());
        let limits = limits(Some(1), None);
        drop(connect(&budget, 1, &limits, Nanos(0)).unwrap());
        assert_eq!(budget.tracked(), 0);
    }
}
