//! Bans of networks wider than a client. There are few, placed by operators, and every look-up
//! passes here: it costs one hash for each prefix length in use, and no lock.

use super::{AddError, Ban, Entry, MAX_NETWORKS};
use arc_swap::ArcSwap;
use std::{collections::HashMap, sync::Arc};
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

impl Networks {
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
            table.entries.get(&network)?.hit(now)
        });
        ends.max()
    }

    /// The caller sees to it that tables change one at a time.
    pub(super) fn insert(&self, network: Prefix, entry: Entry, now: Nanos) -> Result<(), AddError> {
        let mut entries = self.0.load().entries.clone();
        entries.retain(|_, entry| entry.is_in_force(now));
        entries.remove(&network);
        if entries.len() >= MAX_NETWORKS {
            return Err(AddError::Full);
        }
        entries.insert(network, Arc::new(entry));
        self.0.store(Arc::new(Table::new(entries)));
        Ok(())
    }

    /// Removes what `gone` says. Returns how many bans of those were in force.
    pub(super) fn remove(&self, now: Nanos, gone: impl Fn(Prefix) -> bool) -> usize {
        let mut entries = self.0.load().entries.clone();
        let before = entries.len();
        let mut in_force = 0;
        entries.retain(|network, entry| {
            let gone = gone(*network);
            in_force += usize::from(gone && entry.is_in_force(now));
            !gone
        });
        if entries.len() != before {
            self.0.store(Arc::new(Table::new(entries)));
        }
        in_force
    }

    pub(super) fn list(&self, now: Nanos) -> Vec<Ban> {
        let table = self.0.load();
        let entries = table.entries.iter();
        entries
            .filter(|(_, entry)| entry.is_in_force(now))
            .map(|(network, entry)| entry.show(*network))
            .collect()
    }

    /// Every entry, those that ended and still stand here included.
    pub(super) fn each(&self, mut see: impl FnMut(Prefix, &Entry)) {
        for (network, entry) in &self.0.load().entries {
            see(*network, entry);
        }
    }

    pub(super) fn count(&self, now: Nanos) -> u64 {
        let table = self.0.load();
        let in_force = table.entries.values();
        in_force.filter(|entry| entry.is_in_force(now)).count() as u64
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
