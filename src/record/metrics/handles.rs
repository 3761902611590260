//! Counters that are found without hashing label texts: resolved on first use, then shared by all
//! workers without a lock. What they count and under which names is [`super`]'s.

use arc_swap::ArcSwap;
use prometheus::IntCounter;
use std::{collections::HashMap, sync::Arc};

/// Counters of one family by a small number. Its owner bounds the numbers.
#[derive(Debug, Default)]
pub(super) struct Cells(ArcSwap<Vec<(u32, IntCounter)>>);

impl Cells {
    /// Adds one to the counter of `key`, which `make` finds the first time. Two threads that meet
    /// there get the same counter, since families give one counter for the same labels.
    pub(super) fn inc(&self, key: u32, make: impl FnOnce() -> IntCounter) {
        let cells = self.0.load();
        let found = cells.binary_search_by_key(&key, |cell| cell.0);
        if let Some((_, counter)) = found.ok().and_then(|at| cells.get(at)) {
            counter.inc();
            return;
        }
        let counter = make();
        counter.inc();
        self.0.rcu(|cells| {
            let mut cells = Vec::clone(cells);
            if let Err(at) = cells.binary_search_by_key(&key, |cell| cell.0) {
                cells.insert(at, (key, counter.clone()));
            }
            cells
        });
    }
}

/// Counters whose labels are words of this program.
#[derive(Debug)]
pub(super) struct Words<const N: usize>(ArcSwap<Vec<Counted<N>>>);

/// Labels and their counter.
type Counted<const N: usize> = ([&'static str; N], IntCounter);

impl<const N: usize> Default for Words<N> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<const N: usize> Words<N> {
    pub(super) fn inc(&self, labels: [&'static str; N], make: impl FnOnce() -> IntCounter) {
        let known = self.0.load();
        if let Some((_, counter)) = known.iter().find(|(known, _)| *known == labels) {
            counter.inc();
            return;
        }
        let counter = make();
        counter.inc();
        self.0.rcu(|known| {
            let mut known = Vec::clone(known);
            if !known.iter().any(|(known, _)| *known == labels) {
                known.push((labels, counter.clone()));
            }
            known
        });
    }
}

/// Handles by a name of the configuration. Names are kept after a reload dropped them, as their
/// counters are: what operators write is the bound.
#[derive(Debug)]
pub(super) struct Names<T>(ArcSwap<HashMap<Box<str>, Arc<T>>>);

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<T> Names<T> {
    /// Lends the handle of `name` to `then`, making it the first time.
    pub(super) fn with<R>(
        &self,
        name: &str,
        make: impl FnOnce() -> T,
        then: impl FnOnce(&T) -> R,
    ) -> R {
        if let Some(handle) = self.0.load().get(name) {
            return then(handle);
        }
        then(&self.share(name, make))
    }

    /// The handle of `name`, to be kept.
    pub(super) fn share(&self, name: &str, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(handle) = self.0.load().get(name) {
            return Arc::clone(handle);
        }
        let new = Arc::new(make());
        let mut kept = Arc::clone(&new);
        self.0.rcu(|names| {
            let mut names = HashMap::clone(names);
            kept = Arc::clone(names.entry(name.into()).or_insert_with(|| Arc::clone(&new)));
            names
        });
        kept
    }
}
