//! Bans on their way to the process that takes over from this one: times are relative, since each
//! process counts from its own start. Memories of bans that ended come along, so that a repeated
//! offence still grows. How they travel is left to the server.

use super::{Bans, Entry, client_or_wider, widest};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use verdict::Nanos;

/// A ban, or the memory of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    pub network: IpNet,
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Box<str>>,
    /// Milliseconds that it goes on; 0 for a memory.
    pub remaining: u64,
    /// Milliseconds after its end until the offence is forgotten.
    pub remembered: u64,
    pub offences: u32,
}

impl Carried {
    fn of(network: IpNet, entry: &Entry, now: Nanos) -> Option<Self> {
        let forgotten = entry.forgotten();
        (now < forgotten).then(|| Self {
            network,
            source: entry.source.as_ref().into(),
            comment: entry.comment.clone(),
            remaining: milliseconds(entry.until.since(now)),
            remembered: milliseconds(forgotten.since(entry.until.max(now))),
            offences: entry.offences,
        })
    }

    fn entry(&self, now: Nanos) -> Entry {
        let remembered = Duration::from_millis(self.remembered);
        Entry {
            until: now.after(Duration::from_millis(self.remaining)),
            since: now,
            // What counts of it from now on is how long the offence is remembered.
            length: remembered / super::MEMORY,
            offences: self.offences,
            source: self.source.as_str().into(),
            comment: self.comment.clone(),
            hits: AtomicU64::new(0),
        }
    }
}

/// At least one for any time at all: a ban must not turn into a memory by rounding.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Bans {
    /// All bans in force and memories; as many as the table holds at the most.
    #[must_use]
    pub fn carry(&self, now: Nanos) -> Vec<Carried> {
        let mut all = Vec::new();
        self.networks.each(|prefix, entry| {
            all.extend(Carried::of(super::net_of(prefix), entry, now));
        });
        for shard in &self.shards {
            let shard = shard.read();
            let entries = shard.entries.iter();
            all.extend(
                entries
                    .filter_map(|(prefix, entry)| Carried::of(super::net_of(*prefix), entry, now)),
            );
        }
        all
    }

    /// Takes these over. Those that hit what is protected now are left out; one narrower than a
    /// client is widened to the client. Returns how many bans are in force by them.
    pub fn take_over(&self, carried: &[Carried], now: Nanos) -> usize {
        let _changing = self.changing.lock();
        let settings = self.settings.load();
        let mut in_force = 0;
        for ban in carried {
            let prefix = client_or_wider(ban.network, settings.clients);
            if settings.protected.hit_by(prefix).is_some() {
                continue;
            }
            let entry = ban.entry(now);
            let until = entry.until;
            if prefix.length() < widest(prefix, settings.clients) {
                if now >= until || self.networks.insert(prefix, entry, now).is_err() {
                    continue;
                }
            } else if let Some(shard) = self.shard(prefix) {
                let evicted = shard.write().insert(prefix, entry, now);
                self.evicted.fetch_add(evicted, Ordering::Relaxed);
            }
            in_force += usize::from(now < until);
            self.last_end.fetch_max(until.0, Ordering::Relaxed);
        }
        in_force
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verdict::prefix::{Prefix, PrefixLengths};

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    fn client(address: &str) -> Prefix {
        Prefix::of(address.parse().unwrap(), PrefixLengths::CLIENT)
    }

    /// Over the wire and into a process whose clock has just begun.
    fn successor(bans: &Bans, now: Nanos, protected: &[IpNet]) -> Bans {
        let text = serde_json::to_string(&bans.carry(now)).unwrap();
        let carried: Vec<Carried> = serde_json::from_str(&text).unwrap();
        let new = Bans::default();
        new.configure(protected, PrefixLengths::CLIENT, at(0));
        new.take_over(&carried, at(0));
        new
    }

    #[test]
    fn bans_go_on_for_the_rest_of_their_time() {
        let old = Bans::default();
        old.ban(client("203.0.113.7"), MINUTE, "per-login", at(1000));
        old.ban(client("2001:db8::1"), 2 * MINUTE, "h2", at(1000));
        let network = "198.51.100.0/24".parse().unwrap();
        old.add(network, MINUTE, Some("scanners"), at(1000))
            .unwrap();
        let new = successor(&old, at(1040), &[]);
        assert_eq!(new.until(client("203.0.113.7"), at(0)), Some(at(20)));
        assert_eq!(new.until(client("2001:db8::2"), at(0)), Some(at(80)));
        assert_eq!(new.until(client("198.51.100.9"), at(0)), Some(at(20)));
        assert_eq!(new.until(client("203.0.113.8"), at(0)), None);
        let listed = new.list(9, at(0)).0;
        let told: Vec<_> = listed
            .iter()
            .map(|ban| {
                (
                    ban.network.to_string(),
                    &*ban.source,
                    ban.comment.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("198.51.100.0/24".to_owned(), "admin", Some("scanners")),
                ("203.0.113.7/32".to_owned(), "per-login", None),
                ("2001:db8::/64".to_owned(), "h2", None),
            ]
        );
        assert_eq!(new.until(client("203.0.113.7"), at(20)), None);
    }

    #[test]
    fn offences_are_remembered_exactly_as_long() {
        let bad = client("203.0.113.7");
        // Ended at 1060, remembered until 1660: 30 s before that, the next one doubles.
        let old = Bans::default();
        old.ban(bad, MINUTE, "x", at(1000));
        let new = successor(&old, at(1600), &[]);
        assert_eq!(new.count(at(0)), 0);
        assert_eq!(new.ban(bad, MINUTE, "x", at(30)), 2 * MINUTE);
        let new = successor(&old, at(1600), &[]);
        assert_eq!(new.ban(bad, MINUTE, "x", at(61)), MINUTE);
        assert!(old.carry(at(1660)).is_empty(), "forgotten");
    }

    #[test]
    fn what_is_protected_now_is_left_out() {
        let old = Bans::default();
        old.ban(client("203.0.113.7"), MINUTE, "x", at(0));
        old.ban(client("203.0.114.7"), MINUTE, "x", at(0));
        let new = successor(&old, at(1), &["203.0.113.0/24".parse().unwrap()]);
        assert_eq!(new.until(client("203.0.113.7"), at(0)), None);
        assert_eq!(new.count(at(0)), 1);
    }

    #[test]
    fn a_whole_table_goes_over() {
        let old = Bans::default();
        for number in 0..50_000_u32 {
            let address = std::net::Ipv4Addr::from(0x0b00_0000 + number);
            let client = Prefix::of(address.into(), PrefixLengths::CLIENT);
            old.ban(client, MINUTE, "flood", at(5));
        }
        assert_eq!(successor(&old, at(6), &[]).count(at(0)), 50_000);
    }
}
