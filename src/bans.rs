//! The ban table: the truth of who is banned, until when and why. Enforcing is the listener's, the
//! proxy's and, for bans of clients that were met directly, the kernel's, which is told from here
//! ([`below`]). Bans outlive the process in a file ([`state`]).
//!
//! Bounded: when a shard is full, the ban that ends soonest makes room. A ban that ended stays as
//! the memory of an offence for a while, so that a repeated one grows; it is the first to go.

mod ban;
pub mod below;
mod carried;
mod feeds;
mod followers;
mod key;
mod listing;
mod networks;
pub mod plain;
mod protected;
mod reason;
mod shard;
pub mod state;

pub use ban::{AddError, Ban, By, Wanted};
pub use carried::Carried;
pub use feeds::Feed;
pub use protected::Because;
pub use reason::{Kind, Reason};

use arc_swap::ArcSwap;
use carried::Record;
use followers::Followers;
use ipnet::IpNet;
use key::Key;
use networks::Networks;
use parking_lot::{Mutex, RwLock};
use protected::Protected;
use reason::Reasons;
use shard::{On, Shard};
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use verdict::{
    Nanos,
    prefix::{Prefix, PrefixLengths},
};

/// Bans, and memories of them, of single clients, where nothing else is configured.
pub const CAPACITY: usize = 200_000;
const SHARDS: usize = 16;
/// Bans of networks wider than a client: only operators place them.
const MAX_NETWORKS: usize = 10_000;
/// What repeated bans grow to (a longer one that is asked for stands).
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// An offence is forgotten this many times the ban's length after its end.
const MEMORY: u32 = 10;
/// What `admin` may ask for.
const LONGEST_ADDED: Duration = Duration::from_secs(365 * 24 * 3600);
/// Bytes of a comment.
const MAX_COMMENT: usize = 256;
/// Widest networks that may be banned: more would be a good part of the Internet.
const WIDEST: PrefixLengths = PrefixLengths { ipv4: 8, ipv6: 16 };

/// Who is banned, until when and why. Bounded; shared by all workers.
#[derive(Debug)]
pub struct Bans {
    /// The last end of any ban there ever was: past it nobody is banned, and nothing is looked up.
    last_end: AtomicU64,
    shards: Vec<RwLock<Shard>>,
    hasher: RandomState,
    networks: Networks,
    reasons: Reasons,
    followers: Followers,
    settings: ArcSwap<Settings>,
    feeds: ArcSwap<Vec<Feed>>,
    evicted: AtomicU64,
    /// One change of settings at a time.
    changing: Mutex<()>,
}

#[derive(Debug)]
struct Settings {
    protected: Protected,
    clients: PrefixLengths,
}

impl Default for Bans {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Bans {
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let hasher = RandomState::new();
        let shard = || RwLock::new(Shard::new(capacity / SHARDS, hasher.clone()));
        Self {
            last_end: AtomicU64::new(0),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            networks: Networks::default(),
            reasons: Reasons::default(),
            followers: Followers::default(),
            settings: ArcSwap::from_pointee(Settings {
                protected: Protected::default(),
                clients: PrefixLengths::CLIENT,
            }),
            feeds: ArcSwap::default(),
            evicted: AtomicU64::new(0),
            changing: Mutex::new(()),
            hasher,
        }
    }

    /// When the ban of this client ends; `None`: it is not banned. Asked for every new connection
    /// and request; counts a hit.
    #[must_use]
    pub fn until(&self, client: Prefix, now: Nanos) -> Option<Nanos> {
        if now.0 >= self.last_end.load(Ordering::Relaxed) {
            return None;
        }
        let key = Key::of(client);
        let (shard, hash) = self.shard(key)?;
        let own = shard.read().hit(key, hash, now);
        own.max(self.networks.hit(client, now))
    }

    /// Bans a client on behalf of a guard. Repeated bans double, up to a day; offences are forgotten
    /// ten times as long after the last ban as it was long. A client that is banned already stays so,
    /// for `base` at the least, and its offence does not count twice.
    ///
    /// Returns how long it is banned from now on; zero for protected clients, which are not.
    pub fn ban(&self, client: Prefix, base: Duration, by: By<'_>, now: Nanos) -> Duration {
        let key = Key::of(client);
        let Some((shard, _)) = self.shard(key) else {
            return Duration::ZERO;
        };
        let on = On {
            reason: self.reasons.number(by.kind, by.name),
            direct: by.direct,
        };
        let until = {
            let mut shard = shard.write();
            // Read under the lock, so that a change of settings that clears the shards either sees
            // this ban or is seen by it.
            let settings = self.settings.load();
            let strange = client.length() != widest(client, settings.clients);
            if strange || settings.protected.is_hit_by(client) {
                return Duration::ZERO;
            }
            let (until, evicted) = shard.offend(key, base, on, &self.followers, now);
            self.evicted.fetch_add(evicted, Ordering::Relaxed);
            until
        };
        self.last_end.fetch_max(until.0, Ordering::Relaxed);
        until.since(now)
    }

    /// Bans a network on an operator's behalf, in place of a ban it may have. One narrower than a
    /// client is widened to the client; returns what was banned.
    ///
    /// # Errors
    /// Says why not; nothing has changed then.
    pub fn add(
        &self,
        network: IpNet,
        duration: Duration,
        comment: Option<&str>,
        now: Nanos,
    ) -> Result<IpNet, AddError> {
        let wanted = Wanted {
            network,
            duration,
            reason: Reason::new(Kind::Admin, ""),
            comment: comment
                .filter(|comment| !comment.is_empty())
                .map(Into::into),
            direct: true,
        };
        let banned = client_or_wider(network, self.settings.load().clients);
        match self.import(std::slice::from_ref(&wanted), now) {
            Ok(()) => Ok(net_of(banned)),
            Err(errors) => Err(errors
                .into_iter()
                .next()
                .map_or(AddError::Full, |(_, why)| why)),
        }
    }

    /// Places all of these bans in place of those that their networks may have, or none.
    ///
    /// # Errors
    /// All that can't be placed, by their index, with why.
    pub fn import(&self, wanted: &[Wanted], now: Nanos) -> Result<(), Vec<(usize, AddError)>> {
        let _changing = self.changing.lock();
        let settings = self.settings.load();
        let mut errors = Vec::new();
        let (mut clients, mut networks) = (Vec::new(), Vec::new());
        for (index, ban) in wanted.iter().enumerate() {
            match self.wanted(ban, &settings, now) {
                Ok(record) if record.prefix.length() < widest(record.prefix, settings.clients) => {
                    networks.push(record);
                }
                Ok(record) => clients.push(record),
                Err(error) => errors.push((index, error)),
            }
        }
        let capacity = self
            .shards
            .first()
            .map_or(0, |shard| shard.read().capacity())
            * SHARDS;
        if clients.len() > capacity {
            errors.push((capacity, AddError::TooMany(capacity)));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let last = clients.iter().chain(&networks).map(|record| record.until);
        let last = last.max().unwrap_or(Nanos(0));
        if !networks.is_empty() {
            let placed = self.networks.insert(networks, &self.followers, now);
            placed.map_err(|error| vec![(0, error)])?;
        }
        for record in clients {
            let Some((shard, _)) = self.shard(Key::of(record.prefix)) else {
                continue;
            };
            let evicted = shard.write().insert(&record, &self.followers, now);
            self.evicted.fetch_add(evicted, Ordering::Relaxed);
        }
        self.last_end.fetch_max(last.0, Ordering::Relaxed);
        Ok(())
    }

    fn wanted(&self, ban: &Wanted, settings: &Settings, now: Nanos) -> Result<Record, AddError> {
        if ban.duration.is_zero() || ban.duration > LONGEST_ADDED {
            return Err(AddError::Duration);
        }
        if ban
            .comment
            .as_ref()
            .is_some_and(|it| it.len() > MAX_COMMENT)
        {
            return Err(AddError::Comment);
        }
        let prefix = client_or_wider(ban.network, settings.clients);
        if prefix.length() < widest(prefix, WIDEST) {
            return Err(AddError::TooWide);
        }
        if let Some((network, why)) = settings.protected.hit_by(prefix) {
            return Err(AddError::Protected(network, why));
        }
        Ok(Record {
            prefix,
            until: now.after(ban.duration),
            since: seconds(now),
            length: carried::milliseconds(ban.duration),
            offences: 1,
            reason: self.reasons.number(ban.reason.kind, &ban.reason.name),
            direct: ban.direct,
            hits: 0,
            comment: ban.comment.clone(),
        })
    }

    /// Ends the ban of a network and all bans within it, and forgets their offences. Returns how
    /// many bans were in force.
    pub fn remove(&self, network: IpNet, now: Nanos) -> usize {
        let _changing = self.changing.lock();
        let clients = self.settings.load().clients;
        let cut = client_or_wider(network, clients);
        if cut.length() == widest(cut, clients) {
            let key = Key::of(cut);
            let shard = self.shard(key);
            let gone = shard.map(|(shard, _)| shard.write().forget(key, &self.followers, now));
            return usize::from(gone.unwrap_or(false));
        }
        let within = net_of(cut);
        self.remove_where(now, |prefix| within.contains(&net_of(prefix)))
    }

    /// Bans that made room for others before they ended.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Takes over from a configuration: who is never banned, and what counts as one client. Bans that
    /// hit the protected end. Where what counts as a client changes, all bans of clients end, since
    /// nobody is known by those prefixes any longer; a network that is less than a client then is
    /// widened to one.
    pub fn configure(&self, protected: &[(IpNet, Because)], clients: PrefixLengths, now: Nanos) {
        let _changing = self.changing.lock();
        let before = self.settings.swap(Arc::new(Settings {
            protected: Protected::new(protected),
            clients,
        }));
        let settings = self.settings.load();
        let moved = before.clients != clients;
        if moved {
            self.know(clients, now);
        }
        if moved || before.protected != settings.protected {
            self.remove_where(now, |prefix| settings.protected.is_hit_by(prefix));
            self.followers.reconsider();
        }
    }

    fn know(&self, clients: PrefixLengths, now: Nanos) {
        for shard in &self.shards {
            let mut shard = shard.write();
            shard.remove(&|_| true, &self.followers, now);
            shard.know(clients);
        }
        let is_client = |prefix: Prefix| prefix.length() >= widest(prefix, clients);
        let mut records = self.networks.records();
        records.retain(|record| is_client(record.prefix) && now < record.until);
        self.networks.remove(is_client, &self.followers, now);
        // Of several within one client the longest stays.
        records.sort_by_key(|record| record.until);
        for mut record in records {
            record.prefix = client_or_wider(net_of(record.prefix), clients);
            if let Some((shard, _)) = self.shard(Key::of(record.prefix)) {
                let evicted = shard.write().insert(&record, &self.followers, now);
                self.evicted.fetch_add(evicted, Ordering::Relaxed);
            }
        }
    }

    /// How many clients the table holds from now on.
    pub fn resize(&self, capacity: usize, now: Nanos) {
        for shard in &self.shards {
            let evicted = shard
                .write()
                .resize(capacity / SHARDS, &self.followers, now);
            self.evicted.fetch_add(evicted, Ordering::Relaxed);
        }
    }

    fn remove_where(&self, now: Nanos, gone: impl Fn(Prefix) -> bool) -> usize {
        let shards = self.shards.iter();
        let clients: usize = shards
            .map(|shard| shard.write().remove(&gone, &self.followers, now))
            .sum();
        clients.saturating_add(self.networks.remove(&gone, &self.followers, now))
    }

    /// The part of the table that a client belongs to, and its hash there.
    fn shard(&self, key: Key) -> Option<(&RwLock<Shard>, u64)> {
        let hash = self.hasher.hash_one(key.number());
        // Other bits than the hash table of the part goes by.
        let at = usize::try_from((hash >> 32) % SHARDS as u64).ok()?;
        Some((self.shards.get(at)?, hash))
    }
}

/// IPv4-mapped IPv6 networks as IPv4, host bits cleared.
fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.network().to_ipv4_mapped()
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = ipnet::Ipv4Net::new(v4, length)
    {
        return v4.into();
    }
    network.trunc()
}

/// `network`, widened to a client where it is narrower than one.
fn client_or_wider(network: IpNet, clients: PrefixLengths) -> Prefix {
    let network = canonical(network);
    let length = network.prefix_len();
    let lengths = PrefixLengths {
        ipv4: length.min(clients.ipv4),
        ipv6: length.min(clients.ipv6),
    };
    Prefix::of(network.addr(), lengths)
}

/// The length in `lengths` for the family of `prefix`.
fn widest(prefix: Prefix, lengths: PrefixLengths) -> u8 {
    if prefix.address().is_ipv4() {
        lengths.ipv4
    } else {
        lengths.ipv6
    }
}

fn net_of(prefix: Prefix) -> IpNet {
    // A prefix's length always fits its family.
    IpNet::new(prefix.address(), prefix.length()).unwrap_or_else(|_| prefix.address().into())
}

/// Whole seconds of this process's clock.
fn seconds(now: Nanos) -> i32 {
    i32::try_from(now.0 / 1_000_000_000).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
