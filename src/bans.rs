//! The ban table: the truth of who is banned, until when and why. Enforcing is the listener's, the
//! proxy's and, for bans of clients that were met directly, the kernel's, which is told from here
//! ([`below`]). Bans outlive the process in a file ([`state`]).
//!
//! Bounded: when a shard is full, the ban that ends soonest makes room. A ban that ended stays as
//! the memory of an offence for a while, so that a repeated one grows; it is the first to go.

pub mod below;
mod carried;
mod feeds;
mod followers;
mod key;
mod networks;
pub mod plain;
mod protected;
mod reason;
mod shard;
pub mod state;

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
    cmp::Reverse,
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

/// On whose behalf a ban falls.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    pub kind: Kind,
    /// Of the guard, in the configuration.
    pub name: &'a str,
    /// See [`Ban::direct`].
    pub direct: bool,
}

impl By<'_> {
    /// What a client did to an HTTP/2 connection of its own.
    pub const H2_ABUSE: Self = Self {
        kind: Kind::H2Abuse,
        name: "h2_abuse",
        direct: true,
    };
}

/// A ban in force, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub network: IpNet,
    pub reason: Reason,
    pub comment: Option<Arc<str>>,
    /// Since it was placed, in whole seconds.
    pub age: Duration,
    pub until: Nanos,
    pub offences: u32,
    /// Connections and requests that it refused here.
    pub hits: u64,
    /// The client connected to this process itself, or an operator banned it: the kernel may drop its
    /// packets. Where a proxy spoke for the client, its address sends none here.
    pub direct: bool,
}

/// A ban that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub network: IpNet,
    pub duration: Duration,
    pub reason: Reason,
    pub comment: Option<Arc<str>>,
    /// See [`Ban::direct`].
    pub direct: bool,
}

/// Why an operator's ban was not placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddError {
    /// It would hit this network.
    Protected(IpNet, Because),
    /// Wider than /8 in IPv4 or /16 in IPv6.
    TooWide,
    /// No time at all, or more than a year.
    Duration,
    /// More than 256 bytes.
    Comment,
    /// 10,000 networks are banned already.
    Full,
    /// More clients at once than the table has places.
    TooMany(usize),
}

impl std::fmt::Display for AddError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Protected(network, why) => write!(f, "it would hit {network}, which is {why}"),
            Self::TooWide => write!(
                f,
                "it is too wide: at the most /{} in IPv4 and /{} in IPv6",
                WIDEST.ipv4, WIDEST.ipv6
            ),
            Self::Duration => {
                f.write_str("its duration must be more than zero, at the most a year")
            }
            Self::Comment => write!(f, "its comment is longer than {MAX_COMMENT} bytes"),
            Self::Full => write!(
                f,
                "there is room for {MAX_NETWORKS} networks wider than a client and no more; a list \
                 with `then: drop`, named in `bans.feeds`, holds any number"
            ),
            Self::TooMany(capacity) => write!(
                f,
                "there is room for {capacity} clients and no more (`bans.capacity`)"
            ),
        }
    }
}

impl std::error::Error for AddError {}

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

    /// Networks wider than `network` whose ban covers it, so that removing its own does not free it.
    #[must_use]
    pub fn covering(&self, network: IpNet, now: Nanos) -> Vec<IpNet> {
        let in_force = self.networks.records().into_iter();
        let networks = in_force.filter(|record| now < record.until);
        let mut networks: Vec<_> = networks.map(|record| net_of(record.prefix)).collect();
        networks.retain(|wider| *wider != network && wider.contains(&network));
        networks
    }

    /// The bans in force, the last placed first, and how many there are beyond `limit`.
    #[must_use]
    pub fn list(&self, limit: usize, now: Nanos) -> (Vec<Ban>, usize) {
        let mut total = 0_usize;
        let networks = self.networks.records().into_iter();
        let mut newest: Vec<_> = networks
            .filter(|record| now < record.until)
            .map(|record| (Reverse(record.since), net_of(record.prefix), record))
            .collect();
        total = total.saturating_add(newest.len());
        newest.sort_by_key(|(since, network, _)| (*since, *network));
        newest.truncate(limit);
        for shard in &self.shards {
            let shard = shard.read();
            let mut of_shard: Vec<_> = shard
                .in_force(now)
                .map(|(since, key)| (Reverse(since), key))
                .collect();
            total = total.saturating_add(of_shard.len());
            if of_shard.len() > limit && limit > 0 {
                of_shard.select_nth_unstable(limit - 1);
            }
            of_shard.truncate(limit);
            let records = of_shard.into_iter().filter_map(|(_, key)| shard.get(key));
            let records =
                records.map(|record| (Reverse(record.since), net_of(record.prefix), record));
            newest.extend(records);
        }
        newest.sort_by_key(|(since, network, _)| (*since, *network));
        newest.truncate(limit);
        let beyond = total.saturating_sub(newest.len());
        let bans = newest.iter().map(|(_, _, record)| self.show(record, now));
        (bans.collect(), beyond)
    }

    fn show(&self, record: &Record, now: Nanos) -> Ban {
        Ban {
            network: net_of(record.prefix),
            reason: self.reasons.get(record.reason),
            comment: record.comment.clone(),
            age: record.age(now),
            until: record.until,
            offences: record.offences,
            hits: record.hits,
            direct: record.direct,
        }
    }

    /// All bans in force, in parts, in no order.
    pub fn each_ban<E>(
        &self,
        now: Nanos,
        mut see: impl FnMut(Vec<Ban>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each_part(|records| {
            let in_force = records.iter().filter(|record| now < record.until);
            see(in_force.map(|record| self.show(record, now)).collect())
        })
    }

    /// Everything, memories included, in parts. No lock is held while `see` runs, and none for long:
    /// what changes meanwhile may be seen or not, and once more; followers are told of it besides.
    fn each_part<E>(&self, mut see: impl FnMut(Vec<Record>) -> Result<(), E>) -> Result<(), E> {
        see(self.networks.records())?;
        for shard in &self.shards {
            let mut end = usize::MAX;
            while end > 0 {
                let (records, start) = shard.read().records_before(end);
                end = start;
                see(records)?;
            }
        }
        Ok(())
    }

    /// Bans in force.
    #[must_use]
    pub fn count(&self, now: Nanos) -> u64 {
        self.counts(now).0
    }

    /// Bans in force, and those of them that are [direct](Ban::direct).
    #[must_use]
    pub fn counts(&self, now: Nanos) -> (u64, u64) {
        let shards = self.shards.iter().map(|shard| shard.read().count(now));
        let all = shards.chain([self.networks.count(now)]);
        all.fold((0, 0), |(all, direct), (more, of_those)| {
            (all + more, direct + of_those)
        })
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
mod tests;
