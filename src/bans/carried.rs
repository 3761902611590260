//! Bans at rest and on their way: into lists, into the state file, to the kernel, and to the process
//! that takes over from this one. Between processes times are relative, since each counts from its
//! own start. Memories of bans that ended come along, so that a repeated offence still grows. How they
//! travel is left to others.

use super::{Bans, MEMORY, client_or_wider, key::Key, net_of, seconds, widest};
use crate::bans::reason::{Kind, Reason};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use verdict::{
    Nanos,
    prefix::{Prefix, PrefixLengths},
};

/// All there is to know of one ban, or of the memory of one, by this process's clock.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) prefix: Prefix,
    pub(super) until: Nanos,
    /// Seconds, negative before this process's clock began.
    pub(super) since: i32,
    /// Milliseconds.
    pub(super) length: u32,
    pub(super) offences: u32,
    /// By number, of [`super::reason::Reasons`].
    pub(super) reason: u16,
    /// The client itself was met, or an operator said so: not a proxy that spoke for the client.
    pub(super) direct: bool,
    pub(super) hits: u64,
    pub(super) comment: Option<Arc<str>>,
}

impl Record {
    /// Of no ban at all.
    pub(super) fn nobody() -> Self {
        Self {
            prefix: Prefix::of(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PrefixLengths::CLIENT),
            until: Nanos(0),
            since: 0,
            length: 0,
            offences: 0,
            reason: 0,
            direct: false,
            hits: 0,
            comment: None,
        }
    }

    pub(super) fn forgotten(&self) -> Nanos {
        let length = Duration::from_millis(self.length.into());
        self.until.after(length.saturating_mul(MEMORY))
    }

    pub(super) fn age(&self, now: Nanos) -> Duration {
        let age = i64::from(seconds(now)).saturating_sub(self.since.into());
        Duration::from_secs(age.try_into().unwrap_or(0))
    }
}

/// A ban, or the memory of one, as one process tells another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    pub network: IpNet,
    /// A [`Reason`] in words.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Box<str>>,
    /// Milliseconds that it goes on; 0 for a memory.
    pub remaining: u64,
    /// Milliseconds after its end until the offence is forgotten.
    pub remembered: u64,
    /// Seconds since it was placed.
    pub age: u64,
    pub offences: u32,
    pub hits: u64,
    /// See [`super::Ban::direct`].
    pub direct: bool,
}

/// At least one for any time at all: a ban must not turn into a memory by rounding.
pub(super) fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

fn long(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Bans {
    /// All bans in force and memories, in parts: as many at once as one part of the table holds.
    pub fn carry<E>(
        &self,
        now: Nanos,
        mut see: impl FnMut(Vec<Carried>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each_part(|records| {
            let carried = records
                .iter()
                .filter_map(|record| self.carried(record, now));
            see(carried.collect())
        })
    }

    /// `None`: forgotten.
    pub(super) fn carried(&self, record: &Record, now: Nanos) -> Option<Carried> {
        let forgotten = record.forgotten();
        (now < forgotten).then(|| Carried {
            network: net_of(record.prefix),
            source: self.reasons.get(record.reason).to_string(),
            comment: record.comment.as_deref().map(Into::into),
            remaining: long(record.until.since(now)),
            remembered: long(forgotten.since(record.until.max(now))),
            age: record.age(now).as_secs(),
            offences: record.offences,
            hits: record.hits,
            direct: record.direct,
        })
    }

    /// Takes these over. Those that hit what is protected now are left out; one narrower than a
    /// client is widened to the client. Returns how many bans are in force by them.
    pub fn take_over(&self, carried: &[Carried], now: Nanos) -> usize {
        let _changing = self.changing.lock();
        let settings = self.settings.load();
        let mut in_force = 0;
        let mut networks = Vec::new();
        for ban in carried {
            let prefix = client_or_wider(ban.network, settings.clients);
            if settings.protected.is_hit_by(prefix) {
                continue;
            }
            let record = self.record(prefix, ban, now);
            let until = record.until;
            if prefix.length() < widest(prefix, settings.clients) {
                if now >= until {
                    continue;
                }
                networks.push(record);
            } else {
                let evicted = self
                    .shard(Key::of(prefix))
                    .map(|(shard, _)| shard.write().insert(&record, &self.followers, now));
                self.evicted
                    .fetch_add(evicted.unwrap_or(0), Ordering::Relaxed);
            }
            in_force += usize::from(now < until);
            self.last_end.fetch_max(until.0, Ordering::Relaxed);
        }
        let wide = networks.len();
        if wide > 0
            && self
                .networks
                .insert(networks, &self.followers, now)
                .is_err()
        {
            in_force = in_force.saturating_sub(wide);
        }
        in_force
    }

    fn record(&self, prefix: Prefix, ban: &Carried, now: Nanos) -> Record {
        let reason = Reason::parse(&ban.source);
        let reason = reason.unwrap_or_else(|| Reason::new(Kind::Other, ""));
        let age = i64::try_from(ban.age).unwrap_or(i64::MAX);
        let since = i64::from(seconds(now)).saturating_sub(age);
        let longest = u64::try_from(super::LONGEST_ADDED.as_millis()).unwrap_or(u64::MAX);
        Record {
            prefix,
            until: now.after(Duration::from_millis(ban.remaining.min(longest))),
            since: i32::try_from(since).unwrap_or(i32::MIN),
            // What counts of it from now on is how long the offence is remembered.
            length: u32::try_from(ban.remembered / u64::from(MEMORY)).unwrap_or(u32::MAX),
            offences: ban.offences,
            reason: self.reasons.number(reason.kind, &reason.name),
            direct: ban.direct,
            hits: ban.hits,
            comment: ban
                .comment
                .as_deref()
                .filter(|comment| comment.len() <= super::MAX_COMMENT)
                .map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bans::{Because, By};

    const MINUTE: Duration = Duration::from_secs(60);

    const LOGIN: By<'_> = By {
        kind: Kind::Limit,
        name: "per-login",
        direct: true,
    };

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    fn client(address: &str) -> Prefix {
        Prefix::of(address.parse().unwrap(), PrefixLengths::CLIENT)
    }

    /// Over the wire and into a process whose clock has just begun.
    fn successor(bans: &Bans, now: Nanos, protected: &[IpNet]) -> Bans {
        let new = Bans::default();
        let never: Vec<_> = protected.iter().map(|net| (*net, Because::Never)).collect();
        new.configure(&never, PrefixLengths::CLIENT, at(0));
        bans.carry(now, |part| {
            let text = serde_json::to_string(&part)?;
            let carried: Vec<Carried> = serde_json::from_str(&text)?;
            new.take_over(&carried, at(0));
            Ok::<_, serde_json::Error>(())
        })
        .unwrap();
        new
    }

    #[test]
    fn bans_go_on_for_the_rest_of_their_time() {
        let old = Bans::default();
        old.ban(client("203.0.113.7"), MINUTE, LOGIN, at(1000));
        old.ban(client("2001:db8::1"), 2 * MINUTE, By::H2_ABUSE, at(1000));
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
                    ban.reason.to_string(),
                    ban.comment.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (
                    "198.51.100.0/24".to_owned(),
                    "admin".to_owned(),
                    Some("scanners")
                ),
                (
                    "203.0.113.7/32".to_owned(),
                    "limit:per-login".to_owned(),
                    None
                ),
                ("2001:db8::/64".to_owned(), "h2_abuse".to_owned(), None),
            ]
        );
        let ages = listed.iter().map(|ban| ban.age.as_secs());
        assert_eq!(ages.collect::<Vec<_>>(), [40, 40, 40]);
        assert_eq!(new.until(client("203.0.113.7"), at(20)), None);
    }

    #[test]
    fn offences_are_remembered_exactly_as_long() {
        let bad = client("203.0.113.7");
        // Ended at 1060, remembered until 1660: 30 s before that, the next one doubles.
        let old = Bans::default();
        old.ban(bad, MINUTE, LOGIN, at(1000));
        let new = successor(&old, at(1600), &[]);
        assert_eq!(new.count(at(0)), 0);
        assert_eq!(new.ban(bad, MINUTE, LOGIN, at(30)), 2 * MINUTE);
        let new = successor(&old, at(1600), &[]);
        assert_eq!(new.ban(bad, MINUTE, LOGIN, at(61)), MINUTE);
        let none = old.carry(
            at(1660),
            |part| if part.is_empty() { Ok(()) } else { Err(part) },
        );
        assert_eq!(none, Ok(()), "forgotten");
    }

    #[test]
    fn what_is_protected_now_is_left_out() {
        let old = Bans::default();
        old.ban(client("203.0.113.7"), MINUTE, LOGIN, at(0));
        old.ban(client("203.0.114.7"), MINUTE, LOGIN, at(0));
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
            old.ban(client, MINUTE, LOGIN, at(5));
        }
        assert_eq!(successor(&old, at(6), &[]).count(at(0)), 50_000);
    }
}
