//! What one client may take of connections before it costs a handshake: open ones, new ones a
//! second, and the total of all clients. Shared by all workers; refusing is left to the accept loop.
//!
//! When few places are left of the total, a client may hold fewer the fewer there are, down to one:
//! so the last quarter is not for whoever came first with many addresses. Its second half is for
//! clients that behaved of late alone: however many addresses come and keep silent, those still find a
//! place. And since whoever has an IPv6 network has thousands of addresses, no /48 holds more than an
//! eighth of the total (or than one client may).
//!
//! The table is bounded. An entry that owes nothing (no open connection, bucket full) is worth
//! nothing and goes first; of the others goes the one that owes the least of a few that are looked
//! at, and never one with an open connection, of which there are at most `total`.

use crate::config::model::{Connections, Rate, UnderPressure};
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
use verdict::{
    Nanos,
    prefix::{Prefix, PrefixLengths},
};

/// A power of two: the shard is picked by the hash's low bits.
const SHARDS: usize = 64;
/// Clients remembered by each shard without an open connection: 128 Ki in all, about 8 MiB.
const REMEMBERED: usize = 2048;
/// Entries that are looked at to find the one to forget.
const SAMPLE: usize = 8;
/// What one site holds of an IPv6 address, at the most (RFC 6177), is this part of the total.
const SITE: PrefixLengths = PrefixLengths { ipv4: 0, ipv6: 48 };
const SITES_PART: u32 = 8;
/// The part of the total that is left when clients begin to hold fewer.
const SCARCE_PART: u32 = 4;
/// The part of the total that only clients of good conduct get.
const RESERVED_PART: u32 = 8;
/// The same where they come first (`connections.under_pressure.known_first`).
const RESERVED_FIRST: u32 = 2;

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
    /// The same of strikes: none are held against the client from then on.
    struck: Nanos,
}

impl Client {
    /// When nothing is held against the client any more.
    fn clear(&self) -> Nanos {
        self.arrival.max(self.struck)
    }
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
            site: None,
        };
        if before >= total.get() {
            return Err(Refusal::Total);
        }
        Ok(place)
    }

    /// Holds a strike against a client, for a connection that had to be ended because of what came
    /// over it. True: `allowed` of them are held, and the client has used them up. One is
    /// forgotten every `period / allowed`, so that all are after `period`.
    pub fn strike(
        &self,
        client: Prefix,
        allowed: NonZeroU32,
        period: Duration,
        now: Nanos,
    ) -> bool {
        let interval = period / allowed.get();
        let Some(shard) = self.shard(client) else {
            return false;
        };
        let mut shard = shard.lock();
        let Some(entry) = shard.entry(client, now) else {
            return false;
        };
        // No debt beyond the period: whoever goes on is not held for longer.
        let struck = entry.struck.max(now).after(interval).min(now.after(period));
        entry.struck = struck;
        struck.since(now).saturating_add(interval) > period
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

    fn claim(
        &self,
        client: Prefix,
        maximum: Option<u32>,
        rate: Option<Rate>,
        now: Nanos,
    ) -> Result<(), Refusal> {
        match self.shard(client) {
            Some(shard) => shard.lock().claim(client, maximum, rate, now),
            None => Ok(()),
        }
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
    site: Option<Prefix>,
}

impl Place {
    /// Counts the connection as this client's, if its own limits, or those `pressed` upon it, allow one
    /// more. `is_good` says whether it behaved of late; it is asked only when places are scarce.
    ///
    /// # Errors
    /// When the client has too many open, or opened too many of late, or what is left is not for it.
    pub fn claim(
        &mut self,
        client: Prefix,
        limits: &Connections,
        pressed: Option<&UnderPressure>,
        is_good: impl FnOnce() -> bool,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let known_first = pressed.is_some_and(|pressed| pressed.known_first);
        let tighter = pressed.and_then(|pressed| pressed.rate_per_client);
        let rate = tighter.or(limits.rate_per_client);
        let left = left_for(is_good, limits.total, self.budget.open(), known_first);
        if left.places == 0 {
            return Err(Refusal::Total);
        }
        if let Some(maximum) = limits.per_client {
            if let Some(site) = site(client) {
                let part = limits.total.get() / SITES_PART;
                self.budget
                    .claim(site, Some(part.max(maximum.get())), None, now)?;
                self.site = Some(site);
            }
            let maximum = left.share(maximum);
            self.budget.claim(client, Some(maximum), rate, now)?;
        } else if rate.is_some() {
            self.budget.claim(client, None, rate, now)?;
        } else {
            return Ok(());
        }
        self.client = Some(client);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.budget.open.fetch_sub(1, Relaxed);
        for client in [self.client, self.site].into_iter().flatten() {
            if let Some(shard) = self.budget.shard(client) {
                shard.lock().release(client, crate::clock::now());
            }
        }
    }
}

/// The network of an IPv6 client's site, when clients are narrower than that.
fn site(client: Prefix) -> Option<Prefix> {
    let narrower = client.address().is_ipv6() && client.length() > SITE.ipv6;
    narrower.then(|| Prefix::of(client.address(), SITE))
}

/// Places that are left for a client, the one it asks for among them.
#[derive(Clone, Copy, Debug)]
struct Left {
    places: u32,
    /// Below so many it may hold fewer the fewer there are.
    scarce: u32,
}

/// What is left of the total for a client while `open` connections are, its own new one among them.
fn left_for(
    is_good: impl FnOnce() -> bool,
    total: NonZeroU32,
    open: u32,
    known_first: bool,
) -> Left {
    let places = total.get().saturating_sub(open).saturating_add(1);
    let scarce = total.get().div_ceil(SCARCE_PART);
    // Where strangers hold fewer and fewer, above what they do not get at all.
    let stretch = scarce.saturating_sub(total.get() / RESERVED_PART);
    let reserved = total.get()
        / if known_first {
            RESERVED_FIRST
        } else {
            RESERVED_PART
        };
    if places >= reserved.saturating_add(stretch) || is_good() {
        return Left { places, scarce };
    }
    Left {
        places: places.saturating_sub(reserved),
        scarce: stretch,
    }
}

impl Left {
    /// How many connections a client may hold of its `maximum`.
    fn share(self, maximum: NonZeroU32) -> u32 {
        if self.places >= self.scarce {
            return maximum.get();
        }
        let share = u64::from(maximum.get()) * u64::from(self.places);
        let share = share.checked_div(self.scarce.into()).unwrap_or(0);
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }
}

impl Shard {
    fn claim(
        &mut self,
        client: Prefix,
        maximum: Option<u32>,
        rate: Option<Rate>,
        now: Nanos,
    ) -> Result<(), Refusal> {
        let entry = self.entry(client, now);
        let Some(entry) = entry else { return Ok(()) };
        if maximum.is_some_and(|maximum| entry.open >= maximum) {
            return Err(Refusal::PerClient);
        }
        if let Some(rate) = rate {
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
        if entry.open == 0 && entry.clear() <= now {
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
            struck: now,
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
            .min_by_key(|(_, client)| client.clear())
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
mod tests;
