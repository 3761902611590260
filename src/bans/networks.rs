//! Bans of networks wider than a client. There are few, placed by operators, and every look-up
//! passes here: it costs one hash for each prefix length in use, and no lock.

use super::{
    AddError, MAX_NETWORKS,
    carried::Record,
    followers::{Change, Followers},
};
use arc_swap::ArcSwap;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use verdict::{
    Nanos,
    prefix::{Prefix, PrefixLengths},
};

#[derive(Debug, Default)]
pub(super) struct Networks(ArcSwap<Table>);

#[derive(Clone, Debug, Default)]
struct Table {
    entries: HashMap<Prefix, Arc<Entry>>,
    /// Lengths in use, of both families.
    ipv4: Vec<u8>,
    ipv6: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    /// On top of those of the record.
    hits: AtomicU64,
}

impl Entry {
    fn is_in_force(&self, now: Nanos) -> bool {
        now < self.record.until
    }

    fn record(&self) -> Record {
        let hits = self.hits.load(Ordering::Relaxed);
        Record {
            hits: self.record.hits.saturating_add(hits),
            ..self.record.clone()
        }
    }
}

impl Networks {
    /// Counts hits and says when the last ban in force ends.
    pub(super) fn hit(&self, client: Prefix, now: Nanos) -> Option<Nanos> {
        let table = self.0.load();
        let lengths = if client.address().is_ipv4() {
            &table.ipv4
        } else {
            &table.ipv6
        };
        let ends = lengths.iter().filter_map(|length| {
            let lengths = PrefixLengths {
                ipv4: *length,
                ipv6: *length,
            };
            let network = Prefix::of(client.address(), lengths);
            let entry = table.entries.get(&network)?;
            entry.is_in_force(now).then(|| {
                entry.hits.fetch_add(1, Ordering::Relaxed);
                entry.record.until
            })
        });
        ends.max()
    }

    /// Puts all of them in, or none. The caller sees to it that tables change one at a time.
    pub(super) fn insert(
        &self,
        records: Vec<Record>,
        followers: &Followers,
        now: Nanos,
    ) -> Result<(), AddError> {
        let mut entries = self.0.load().entries.clone();
        entries.retain(|_, entry| entry.is_in_force(now));
        let told = records.clone();
        for record in records {
            let entry = Entry {
                hits: AtomicU64::new(0),
                record,
            };
            entries.insert(entry.record.prefix, Arc::new(entry));
        }
        if entries.len() > MAX_NETWORKS {
            return Err(AddError::Full);
        }
        self.0.store(Arc::new(Table::new(entries)));
        for record in told {
            followers.tell(|| Change::Placed(record));
        }
        Ok(())
    }

    /// Removes what `gone` says. Returns how many bans of those were in force.
    pub(super) fn remove(
        &self,
        gone: impl Fn(Prefix) -> bool,
        followers: &Followers,
        now: Nanos,
    ) -> usize {
        let mut entries = self.0.load().entries.clone();
        let before = entries.len();
        let mut in_force = 0;
        let mut removed = Vec::new();
        entries.retain(|network, entry| {
            let gone = gone(*network);
            in_force += usize::from(gone && entry.is_in_force(now));
            if gone {
                removed.push(*network);
            }
            !gone
        });
        if entries.len() != before {
            self.0.store(Arc::new(Table::new(entries)));
        }
        for network in removed {
            followers.tell(|| Change::Removed(network));
        }
        in_force
    }

    /// Every ban, those that ended and still stand here included.
    pub(super) fn records(&self) -> Vec<Record> {
        let table = self.0.load();
        table.entries.values().map(|entry| entry.record()).collect()
    }

    pub(super) fn count(&self, now: Nanos) -> (u64, u64) {
        let table = self.0.load();
        let in_force = table.entries.values();
        let in_force = in_force.filter(|entry| entry.is_in_force(now));
        in_force.fold((0, 0), |(all, direct), entry| {
            (all + 1, direct + u64::from(entry.record.direct))
        })
    }
}

impl Table {
    fn new(entries: HashMap<Prefix, Arc<Entry>>) -> Self {
        let lengths = |ipv4: bool| {
            let family = entries.keys().filter(|n| n.address().is_ipv4() == ipv4);
            let mut lengths: Vec<_> = family.map(|network| network.length()).collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths
        };
        Self {
            ipv4: lengths(true),
            ipv6: lengths(false),
            entries,
        }
    }
}
