//! One part of the table of banned clients, behind one lock. Made small, for a million of them: slots
//! stand in one vector without gaps, a hash table of their numbers finds them, and a heap of their
//! numbers keeps the order in which they end. Each slot knows its place in the heap, so that nothing
//! is searched for and nothing stale is kept.

use super::{
    LONGEST, MEMORY,
    carried::{Record, milliseconds},
    followers::{Change, Followers},
    key::Key,
};
use hashbrown::HashTable;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use verdict::{
    Nanos,
    prefix::{Prefix, PrefixLengths},
};

/// Forgotten entries that one new ban clears away, so that each is cleared once and no ban takes
/// long.
const CLEARED_AT_ONCE: usize = 4;
/// Past so many slots there is room for all at once. What is not used of it takes no memory, while
/// each further move would leave what was there before behind.
const FEW: usize = 1024;

/// Records that are read at once, while nobody is banned.
const PART: usize = 1000;

#[derive(Debug)]
pub(super) struct Shard {
    capacity: usize,
    lengths: PrefixLengths,
    hasher: RandomState,
    /// Numbers of slots, by their keys.
    index: HashTable<u32>,
    slots: Vec<Slot>,
    /// Numbers of slots, a binary heap by their end. The first ended longest ago, or ends soonest.
    ends: Vec<u32>,
    /// Few bans have one.
    comments: HashMap<Key, Arc<str>>,
}

/// One ban or the memory of one.
#[derive(Debug)]
struct Slot {
    key: Key,
    until: Nanos,
    since: i32,
    /// Milliseconds.
    length: u32,
    hits: AtomicU32,
    /// Where its number stands in `ends`.
    place: u32,
    /// Bans so far that were not forgotten in between.
    offences: u16,
    reason: u16,
    direct: bool,
}

impl Slot {
    fn is_in_force(&self, now: Nanos) -> bool {
        now < self.until
    }

    /// When the offence no longer counts.
    fn forgotten(&self) -> Nanos {
        let length = Duration::from_millis(self.length.into());
        self.until.after(length.saturating_mul(MEMORY))
    }
}

/// On whose behalf a ban falls.
#[derive(Clone, Copy, Debug)]
pub(super) struct On {
    pub(super) reason: u16,
    pub(super) direct: bool,
}

impl Shard {
    pub(super) fn new(capacity: usize, hasher: RandomState) -> Self {
        Self {
            capacity: capacity.max(1),
            lengths: PrefixLengths::CLIENT,
            hasher,
            index: HashTable::new(),
            slots: Vec::new(),
            ends: Vec::new(),
            comments: HashMap::new(),
        }
    }

    /// What a client is from now on; there must be nobody of another kind.
    pub(super) fn know(&mut self, lengths: PrefixLengths) {
        self.lengths = lengths;
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns how many bans in force made room.
    pub(super) fn resize(&mut self, capacity: usize, followers: &Followers, now: Nanos) -> u64 {
        self.capacity = capacity.max(1);
        self.make_room(self.capacity, followers, now)
    }

    /// Counts a hit and says when the ban ends, if one is in force.
    pub(super) fn hit(&self, key: Key, hash: u64, now: Nanos) -> Option<Nanos> {
        let slot = self.slot(self.find(key, hash)?)?;
        slot.is_in_force(now).then(|| {
            // No more than the counter holds: it stays there rather than beginning anew.
            if slot.hits.load(Ordering::Relaxed) < u32::MAX {
                slot.hits.fetch_add(1, Ordering::Relaxed);
            }
            slot.until
        })
    }

    /// Places or prolongs a ban. Returns its end, and how many bans in force made room.
    pub(super) fn offend(
        &mut self,
        key: Key,
        base: Duration,
        on: On,
        followers: &Followers,
        now: Nanos,
    ) -> (Nanos, u64) {
        let hash = self.hash(key);
        let mut offences = 1;
        if let Some(at) = self.find(key, hash)
            && let Some(known) = self.slots.get_mut(at as usize)
        {
            if known.is_in_force(now) {
                let until = known.until.max(now.after(base));
                let direct = known.direct || on.direct;
                if (until, direct) != (known.until, known.direct) {
                    known.until = until;
                    known.direct = direct;
                    let place = known.place as usize;
                    self.sink(place);
                    followers.tell(|| Change::Placed(self.record(at)));
                }
                return (until, 0);
            }
            if now < known.forgotten() {
                offences = u32::from(known.offences).saturating_add(1);
            }
        }
        let length = grown(base, offences);
        let record = Record {
            prefix: key.prefix(self.lengths),
            until: now.after(length),
            since: super::seconds(now),
            length: milliseconds(length),
            offences,
            reason: on.reason,
            direct: on.direct,
            hits: 0,
            comment: None,
        };
        let until = record.until;
        (until, self.insert(&record, followers, now))
    }

    /// Puts a ban, or the memory of one, in place of what the client had. Returns how many bans in
    /// force made room.
    pub(super) fn insert(&mut self, record: &Record, followers: &Followers, now: Nanos) -> u64 {
        let key = Key::of(record.prefix);
        if let Some(at) = self.find(key, self.hash(key)) {
            self.take(at);
        }
        for _ in 0..CLEARED_AT_ONCE {
            let first = self.ends.first().copied();
            let forgotten = |at: &u32| self.slot(*at).is_some_and(|slot| slot.forgotten() <= now);
            let Some(at) = first.filter(forgotten) else {
                break;
            };
            self.take(at);
        }
        let evicted = self.make_room(self.capacity.saturating_sub(1), followers, now);
        self.push(key, record);
        followers.tell(|| Change::Placed(record.clone()));
        evicted
    }

    /// Removes what `gone` says. Returns how many bans of those were in force.
    pub(super) fn remove(
        &mut self,
        gone: &impl Fn(Prefix) -> bool,
        followers: &Followers,
        now: Nanos,
    ) -> usize {
        let lengths = self.lengths;
        let keys = self.slots.iter().map(|slot| slot.key);
        let keys: Vec<_> = keys.filter(|key| gone(key.prefix(lengths))).collect();
        let mut in_force = 0;
        for key in keys {
            in_force += usize::from(self.forget(key, followers, now));
        }
        in_force
    }

    /// Removes one. Whether it was in force.
    pub(super) fn forget(&mut self, key: Key, followers: &Followers, now: Nanos) -> bool {
        let Some(until) = self.find(key, self.hash(key)).and_then(|at| self.take(at)) else {
            return false;
        };
        followers.tell(|| Change::Removed(key.prefix(self.lengths)));
        now < until
    }

    /// Some of what is here, memories included: the last that stand before `end`, and where the next
    /// are to end. From the last to the first, since it is the last that moves when another one goes:
    /// so nothing that stays is missed between two calls.
    pub(super) fn records_before(&self, end: usize) -> (Vec<Record>, usize) {
        let end = end.min(self.slots.len());
        let start = end.saturating_sub(PART);
        let numbers = (start..end).filter_map(|at| u32::try_from(at).ok());
        (numbers.map(|at| self.record(at)).collect(), start)
    }

    /// When each ban in force was placed, and whose it is.
    pub(super) fn in_force(&self, now: Nanos) -> impl Iterator<Item = (i32, Key)> {
        let slots = self.slots.iter();
        slots
            .filter(move |slot| slot.is_in_force(now))
            .map(|slot| (slot.since, slot.key))
    }

    pub(super) fn get(&self, key: Key) -> Option<Record> {
        self.find(key, self.hash(key)).map(|at| self.record(at))
    }

    pub(super) fn count(&self, now: Nanos) -> (u64, u64) {
        let in_force = self.slots.iter().filter(|slot| slot.is_in_force(now));
        in_force.fold((0, 0), |(all, direct), slot| {
            (all + 1, direct + u64::from(slot.direct))
        })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.slots.len(), self.ends.len());
        assert_eq!(self.slots.len(), self.index.len());
        self.slots.len()
    }

    /// Whether each number stands where its slot says, and none ends before the one above it.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        let end = |place: usize| self.slots[self.ends[place] as usize].until;
        (0..self.ends.len()).all(|place| {
            let slot = &self.slots[self.ends[place] as usize];
            slot.place as usize == place
                && (place == 0 || end((place - 1) / 2) <= end(place))
                && self.find(slot.key, self.hash(slot.key)) == Some(self.ends[place])
        })
    }

    fn hash(&self, key: Key) -> u64 {
        self.hasher.hash_one(key.number())
    }

    fn find(&self, key: Key, hash: u64) -> Option<u32> {
        let is = |at: &u32| self.slot(*at).is_some_and(|slot| slot.key == key);
        self.index.find(hash, is).copied()
    }

    fn slot(&self, at: u32) -> Option<&Slot> {
        self.slots.get(at as usize)
    }

    /// The slot as a record; of a number that is none, an ended one of nobody.
    fn record(&self, at: u32) -> Record {
        let Some(slot) = self.slot(at) else {
            return Record::nobody();
        };
        Record {
            prefix: slot.key.prefix(self.lengths),
            until: slot.until,
            since: slot.since,
            length: slot.length,
            offences: slot.offences.into(),
            reason: slot.reason,
            direct: slot.direct,
            hits: slot.hits.load(Ordering::Relaxed).into(),
            comment: self.comments.get(&slot.key).cloned(),
        }
    }

    fn make_room(&mut self, most: usize, followers: &Followers, now: Nanos) -> u64 {
        let mut evicted = 0;
        while self.slots.len() > most {
            let Some(key) = self.ends.first().and_then(|at| self.slot(*at)) else {
                break;
            };
            let key = key.key;
            evicted += u64::from(self.forget(key, followers, now));
        }
        evicted
    }

    fn make_space(&mut self) {
        let more = self.capacity.saturating_sub(self.slots.len());
        self.slots.reserve_exact(more);
        self.ends.reserve_exact(more);
        self.index.reserve(more, again(&self.slots, &self.hasher));
    }

    fn push(&mut self, key: Key, record: &Record) {
        if self.slots.len() == self.slots.capacity() && self.slots.len() >= FEW {
            self.make_space();
        }
        let (Ok(at), Ok(place)) = (
            u32::try_from(self.slots.len()),
            u32::try_from(self.ends.len()),
        ) else {
            return;
        };
        self.slots.push(Slot {
            key,
            until: record.until,
            since: record.since,
            length: record.length,
            hits: AtomicU32::new(u32::try_from(record.hits).unwrap_or(u32::MAX)),
            place,
            offences: u16::try_from(record.offences).unwrap_or(u16::MAX),
            reason: record.reason,
            direct: record.direct,
        });
        self.ends.push(at);
        self.rise(place as usize);
        let hash = self.hash(key);
        self.index
            .insert_unique(hash, at, again(&self.slots, &self.hasher));
        if let Some(comment) = &record.comment {
            self.comments.insert(key, Arc::clone(comment));
        }
    }

    /// Takes a slot out, and says when its ban ends.
    fn take(&mut self, at: u32) -> Option<Nanos> {
        let slot = self.slot(at)?;
        let (key, until, place) = (slot.key, slot.until, slot.place as usize);
        if let Ok(entry) = self.index.find_entry(self.hash(key), |other| *other == at) {
            entry.remove();
        }
        if !self.comments.is_empty() {
            self.comments.remove(&key);
        }
        // The heap's last takes its place there.
        self.ends.swap_remove(place);
        if place < self.ends.len() {
            self.settle(place);
            self.sink(place);
            self.rise(place);
        }
        // The last of the slots takes its number.
        self.slots.swap_remove(at as usize);
        if let Some(moved) = self.slot(at) {
            let (key, place) = (moved.key, moved.place as usize);
            let was = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
            let hash = self.hash(key);
            if let Some(number) = self.index.find_mut(hash, |other| *other == was) {
                *number = at;
            }
            if let Some(number) = self.ends.get_mut(place) {
                *number = at;
            }
        }
        Some(until)
    }

    fn end(&self, place: usize) -> Option<Nanos> {
        self.slot(*self.ends.get(place)?).map(|slot| slot.until)
    }

    /// Tells the slot at a place of the heap that it stands there.
    fn settle(&mut self, place: usize) {
        if let Some(at) = self.ends.get(place)
            && let Some(slot) = self.slots.get_mut(*at as usize)
        {
            slot.place = u32::try_from(place).unwrap_or(u32::MAX);
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.ends.swap(one, other);
        self.settle(one);
        self.settle(other);
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let above = (place - 1) / 2;
            if self.end(above) <= self.end(place) {
                break;
            }
            self.swap(above, place);
            place = above;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let left = place.saturating_mul(2).saturating_add(1);
            let below = [left, left.saturating_add(1)];
            let soonest = below
                .into_iter()
                .filter_map(|below| Some((self.end(below)?, below)))
                .min();
            match soonest {
                Some((end, below)) if Some(end) < self.end(place) => {
                    self.swap(place, below);
                    place = below;
                }
                _ => break,
            }
        }
    }
}

/// The hashes of slots that are known by their numbers, for an index that moves.
fn again<'a>(slots: &'a [Slot], hasher: &'a RandomState) -> impl Fn(&u32) -> u64 + 'a {
    |at| {
        let slot = slots.get(*at as usize);
        slot.map_or(0, |slot| hasher.hash_one(slot.key.number()))
    }
}

/// `base` for the first offence, twice as long for each further one, up to a day.
fn grown(base: Duration, offences: u32) -> Duration {
    let doublings = offences.saturating_sub(1).min(31);
    let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(LONGEST.max(base))
}
