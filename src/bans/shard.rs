//! One part of the table of banned clients, behind one lock: entries by client, and the order in
//! which they end.

use super::{Ban, Entries, Entry, LONGEST};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use verdict::{Nanos, prefix::Prefix};

/// Names of guards that a shard keeps shared; they come from the configuration.
const SHARED_SOURCES: usize = 64;
/// Forgotten entries that one new ban clears away, so that each is cleared once and no ban takes
/// long.
const CLEARED_AT_ONCE: usize = 4;

#[derive(Debug)]
pub(super) struct Shard {
    capacity: usize,
    pub(super) entries: Entries,
    /// The same entries by their end. The first ended longest ago, or ends soonest.
    ends: BTreeSet<(Nanos, Prefix)>,
    sources: Vec<Arc<str>>,
}

impl Shard {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            entries: Entries::new(),
            ends: BTreeSet::new(),
            sources: Vec::new(),
        }
    }

    pub(super) fn hit(&self, client: Prefix, now: Nanos) -> Option<Nanos> {
        self.entries.get(&client)?.hit(now)
    }

    /// Places or prolongs a ban. Returns its end, and how many bans in force made room.
    pub(super) fn offend(
        &mut self,
        client: Prefix,
        base: Duration,
        source: &str,
        now: Nanos,
    ) -> (Nanos, u64) {
        let mut offences = 1;
        if let Some(known) = self.entries.get_mut(&client) {
            if known.is_in_force(now) {
                let until = known.until.max(now.after(base));
                self.ends.remove(&(known.until, client));
                self.ends.insert((until, client));
                known.until = until;
                return (until, 0);
            }
            if now < known.forgotten() {
                offences = known.offences.saturating_add(1);
            }
        }
        let length = grown(base, offences);
        let entry = Entry {
            until: now.after(length),
            since: now,
            length,
            offences,
            source: self.shared(source),
            comment: None,
            hits: AtomicU64::new(0),
        };
        let until = entry.until;
        (until, self.insert(client, entry, now))
    }

    /// Puts an entry in place of what the client had. Returns how many bans in force made room.
    pub(super) fn insert(&mut self, client: Prefix, entry: Entry, now: Nanos) -> u64 {
        self.take(client);
        for _ in 0..CLEARED_AT_ONCE {
            let first = self.ends.first().map(|(_, client)| *client);
            let first = first.filter(|client| {
                let entry = self.entries.get(client);
                entry.is_some_and(|entry| entry.forgotten() <= now)
            });
            let Some(forgotten) = first else { break };
            self.take(forgotten);
        }
        let mut evicted = 0;
        while self.entries.len() >= self.capacity {
            let Some((until, soonest)) = self.ends.first().copied() else {
                break;
            };
            self.take(soonest);
            evicted += u64::from(now < until);
        }
        self.ends.insert((entry.until, client));
        self.entries.insert(client, entry);
        evicted
    }

    /// Removes what `gone` says. Returns how many bans of those were in force.
    pub(super) fn remove(&mut self, now: Nanos, gone: impl Fn(Prefix) -> bool) -> usize {
        let clients: Vec<_> = self.entries.keys().copied().filter(|c| gone(*c)).collect();
        let taken = clients.into_iter().filter_map(|client| self.take(client));
        taken.filter(|entry| entry.is_in_force(now)).count()
    }

    pub(super) fn list(&self, now: Nanos, into: &mut Vec<Ban>) {
        into.extend(self.in_force(now).filter_map(|client| {
            let entry = self.entries.get(&client)?;
            Some(entry.show(client))
        }));
    }

    pub(super) fn count(&self, now: Nanos) -> u64 {
        self.in_force(now).count() as u64
    }

    fn in_force(&self, now: Nanos) -> impl Iterator<Item = Prefix> {
        let latest_first = self.ends.iter().rev();
        latest_first
            .take_while(move |(until, _)| now < *until)
            .map(|(_, client)| *client)
    }

    fn take(&mut self, client: Prefix) -> Option<Entry> {
        let entry = self.entries.remove(&client)?;
        self.ends.remove(&(entry.until, client));
        Some(entry)
    }

    /// One text for all bans of a guard.
    fn shared(&mut self, source: &str) -> Arc<str> {
        if let Some(known) = self.sources.iter().find(|known| ***known == *source) {
            return Arc::clone(known);
        }
        let new: Arc<str> = source.into();
        if self.sources.len() >= SHARED_SOURCES {
            // Left from configurations of the past.
            self.sources.clear();
        }
        self.sources.push(Arc::clone(&new));
        new
    }
}

/// `base` for the first offence, twice as long for each further one, up to a day.
fn grown(base: Duration, offences: u32) -> Duration {
    let doublings = offences.saturating_sub(1).min(31);
    let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(LONGEST.max(base))
}
