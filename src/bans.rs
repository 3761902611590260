//! The ban table: the truth of who is banned, until when and why. The kernel behind it comes with a
//! later issue; enforcing is the listener's and the proxy's.
//!
//! Bounded: when a shard is full, the ban that ends soonest makes room. A ban that ended stays as
//! the memory of an offence for a while, so that a repeated one grows; it is the first to go.

mod carried;
mod networks;
mod shard;

pub use carried::Carried;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use networks::Networks;
use parking_lot::{Mutex, RwLock};
use shard::Shard;
use std::{
    collections::HashMap,
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

/// Bans, and memories of them, of single clients; about 350 bytes each.
const CAPACITY: usize = 200_000;
const SHARDS: usize = 16;
/// Bans of networks wider than a client: only operators place them.
const MAX_NETWORKS: usize = 1024;
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

/// The source of bans that an operator placed.
pub const ADMIN: &str = "admin";

/// Who is banned, until when and why. Bounded; shared by all workers.
#[derive(Debug)]
pub struct Bans {
    /// The last end of any ban there ever was: past it nobody is banned, and nothing is looked up.
    last_end: AtomicU64,
    shards: Vec<RwLock<Shard>>,
    hasher: RandomState,
    networks: Networks,
    settings: ArcSwap<Settings>,
    evicted: AtomicU64,
    /// One change of settings at a time.
    changing: Mutex<()>,
}

#[derive(Debug)]
struct Settings {
    protected: Protected,
    clients: PrefixLengths,
}

/// One ban or the memory of one.
#[derive(Debug)]
pub(crate) struct Entry {
    until: Nanos,
    since: Nanos,
    length: Duration,
    /// Bans so far that were not forgotten in between.
    offences: u32,
    source: Arc<str>,
    comment: Option<Box<str>>,
    hits: AtomicU64,
}

/// A ban in force, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub network: IpNet,
    /// The name of the guard that placed it, or [`ADMIN`].
    pub source: Arc<str>,
    pub comment: Option<Box<str>>,
    pub since: Nanos,
    pub until: Nanos,
    pub offences: u32,
    /// Connections and requests that it refused.
    pub hits: u64,
}

/// Why an operator's ban was not placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddError {
    /// It would hit this network, which is a trusted proxy or allowed by a list.
    Protected(IpNet),
    /// Wider than /8 in IPv4 or /16 in IPv6.
    TooWide,
    /// No time at all, or more than a year.
    Duration,
    /// More than 256 bytes.
    Comment,
    /// 1,024 networks are banned already.
    Full,
}

impl std::fmt::Display for AddError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Protected(network) => write!(
                f,
                "it would hit {network}, which is a trusted proxy or allowed by a list"
            ),
            Self::TooWide => write!(
                f,
                "it is too wide: at the most /{} in IPv4 and /{} in IPv6",
                WIDEST.ipv4, WIDEST.ipv6
            ),
            Self::Duration => {
                f.write_str("its duration must be more than zero, at the most a year")
            }
            Self::Comment => write!(f, "its comment is longer than {MAX_COMMENT} bytes"),
            Self::Full => write!(f, "{MAX_NETWORKS} networks are banned already"),
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
    fn with_capacity(capacity: usize) -> Self {
        let shard = || RwLock::new(Shard::new(capacity / SHARDS));
        Self {
            last_end: AtomicU64::new(0),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            hasher: RandomState::new(),
            networks: Networks::default(),
            settings: ArcSwap::from_pointee(Settings {
                protected: Protected::default(),
                clients: PrefixLengths::CLIENT,
            }),
            evicted: AtomicU64::new(0),
            changing: Mutex::new(()),
        }
    }

    /// When the ban of this client ends; `None`: it is not banned. Asked for every new connection
    /// and request; counts a hit.
    #[must_use]
    pub fn until(&self, client: Prefix, now: Nanos) -> Option<Nanos> {
        if now.0 >= self.last_end.load(Ordering::Relaxed) {
            return None;
        }
        let own = self.shard(client)?.read().hit(client, now);
        own.max(self.networks.hit(client, now))
    }

    /// Bans a client on behalf of the guard `source`. Repeated bans double, up to a day; offences
    /// are forgotten ten times as long after the last ban as it was long. A client that is banned
    /// already stays so, for `base` at the least, and its offence does not count twice.
    ///
    /// Returns how long it is banned from now on; zero for protected clients, which are not.
    pub fn ban(&self, client: Prefix, base: Duration, source: &str, now: Nanos) -> Duration {
        let Some(shard) = self.shard(client) else {
            return Duration::ZERO;
        };
        let until = {
            let mut shard = shard.write();
            // Read under the lock, so that a change of settings that clears the shards either sees
            // this ban or is seen by it.
            if self.settings.load().protected.hit_by(client).is_some() {
                return Duration::ZERO;
            }
            let (until, evicted) = shard.offend(client, base, source, now);
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
        if duration.is_zero() || duration > LONGEST_ADDED {
            return Err(AddError::Duration);
        }
        if comment.is_some_and(|comment| comment.len() > MAX_COMMENT) {
            return Err(AddError::Comment);
        }
        let _changing = self.changing.lock();
        let settings = self.settings.load();
        let prefix = client_or_wider(network, settings.clients);
        if prefix.length() < widest(prefix, WIDEST) {
            return Err(AddError::TooWide);
        }
        if let Some(protected) = settings.protected.hit_by(prefix) {
            return Err(AddError::Protected(protected));
        }
        let until = now.after(duration);
        let entry = Entry {
            until,
            since: now,
            length: duration,
            offences: 1,
            source: ADMIN.into(),
            comment: comment
                .filter(|comment| !comment.is_empty())
                .map(Into::into),
            hits: AtomicU64::new(0),
        };
        if prefix.length() < widest(prefix, settings.clients) {
            self.networks.insert(prefix, entry, now)?;
        } else if let Some(shard) = self.shard(prefix) {
            let evicted = shard.write().insert(prefix, entry, now);
            self.evicted.fetch_add(evicted, Ordering::Relaxed);
        }
        self.last_end.fetch_max(until.0, Ordering::Relaxed);
        Ok(net_of(prefix))
    }

    /// Ends the ban of a network and all bans within it, and forgets their offences. Returns how
    /// many bans were in force.
    pub fn remove(&self, network: IpNet, now: Nanos) -> usize {
        let _changing = self.changing.lock();
        let cut = client_or_wider(network, self.settings.load().clients);
        let within = net_of(cut);
        self.remove_where(now, |prefix| within.contains(&net_of(prefix)))
    }

    /// Networks wider than `network` whose ban covers it, so that removing its own does not free it.
    #[must_use]
    pub fn covering(&self, network: IpNet, now: Nanos) -> Vec<IpNet> {
        let mut bans = self.networks.list(now);
        bans.retain(|ban| ban.network != network && ban.network.contains(&network));
        bans.into_iter().map(|ban| ban.network).collect()
    }

    /// The bans in force, the last placed first, and how many there are beyond `limit`.
    #[must_use]
    pub fn list(&self, limit: usize, now: Nanos) -> (Vec<Ban>, usize) {
        let mut bans = self.networks.list(now);
        for shard in &self.shards {
            shard.read().list(now, &mut bans);
        }
        bans.sort_by_key(|ban| (std::cmp::Reverse(ban.since), ban.network));
        let beyond = bans.len().saturating_sub(limit);
        bans.truncate(limit);
        (bans, beyond)
    }

    /// Bans in force.
    #[must_use]
    pub fn count(&self, now: Nanos) -> u64 {
        let shards = self.shards.iter().map(|shard| shard.read().count(now));
        shards.sum::<u64>().saturating_add(self.networks.count(now))
    }

    /// Bans that made room for others before they ended.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Takes over from a configuration: who is never banned (trusted proxies and lists that allow),
    /// and what counts as one client. Bans that hit the protected end. Where what counts as a client
    /// changes, all bans of clients end, since nobody is known by those prefixes any longer.
    pub fn configure(&self, protected: &[IpNet], clients: PrefixLengths, now: Nanos) {
        let _changing = self.changing.lock();
        let before = self.settings.swap(Arc::new(Settings {
            protected: Protected::new(protected),
            clients,
        }));
        let settings = self.settings.load();
        let moved = before.clients != clients;
        self.remove_where(now, |prefix| {
            settings.protected.hit_by(prefix).is_some()
                || moved && prefix.length() >= widest(prefix, before.clients)
        });
    }

    fn remove_where(&self, now: Nanos, gone: impl Fn(Prefix) -> bool) -> usize {
        let shards = self.shards.iter();
        let clients: usize = shards.map(|shard| shard.write().remove(now, &gone)).sum();
        clients.saturating_add(self.networks.remove(now, &gone))
    }

    fn shard(&self, client: Prefix) -> Option<&RwLock<Shard>> {
        let hash = self.hasher.hash_one(client);
        let at = usize::try_from(hash % SHARDS as u64).ok()?;
        self.shards.get(at)
    }
}

impl Entry {
    fn is_in_force(&self, now: Nanos) -> bool {
        now < self.until
    }

    /// When the offence no longer counts.
    fn forgotten(&self) -> Nanos {
        self.until.after(self.length.saturating_mul(MEMORY))
    }

    /// Counts a hit and says when the ban ends, while it is in force.
    fn hit(&self, now: Nanos) -> Option<Nanos> {
        self.is_in_force(now).then(|| {
            self.hits.fetch_add(1, Ordering::Relaxed);
            self.until
        })
    }

    fn show(&self, prefix: Prefix) -> Ban {
        Ban {
            network: net_of(prefix),
            source: Arc::clone(&self.source),
            comment: self.comment.clone(),
            since: self.since,
            until: self.until,
            offences: self.offences,
            hits: self.hits.load(Ordering::Relaxed),
        }
    }
}

/// Networks that no ban may hit, merged and sorted, so that a look-up is a binary search.
#[derive(Debug, Default)]
struct Protected(Vec<IpNet>);

impl Protected {
    fn new(networks: &[IpNet]) -> Self {
        let canonical: Vec<_> = networks.iter().map(|network| canonical(*network)).collect();
        let mut merged = IpNet::aggregate(&canonical);
        merged.sort_by_key(IpNet::network);
        Self(merged)
    }

    /// A protected network that shares an address with `prefix`.
    fn hit_by(&self, prefix: Prefix) -> Option<IpNet> {
        let banned = net_of(prefix);
        // They are disjoint: only the last that starts at or before the ban's end can touch it.
        let after = self
            .0
            .partition_point(|network| network.network() <= banned.broadcast());
        let network = self.0.get(after.checked_sub(1)?)?;
        (network.broadcast() >= banned.network()).then_some(*network)
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

/// Entries by prefix, as both tables keep them.
type Entries = HashMap<Prefix, Entry>;

#[cfg(test)]
mod tests;
