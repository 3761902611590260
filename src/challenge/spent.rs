//! Which challenges were solved already, until they would expire anyway. Bounded: an entry costs its
//! client a solved challenge, and over the bound the oldest is forgotten.

use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};

/// About 4 MiB when full; over 200 solved challenges a second for as long as one lives.
const MAX_SPENT: usize = 65_536;

#[derive(Debug, Default)]
pub struct Spent(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    known: HashSet<[u8; 16]>,
    /// In the order in which they were solved, with the Unix second of their end.
    order: VecDeque<([u8; 16], u64)>,
}

impl Spent {
    /// Marks a challenge as solved; false when it was before.
    #[must_use]
    pub fn insert(&self, id: [u8; 16], expires: u64, now: u64) -> bool {
        let mut table = self.0.lock();
        while let Some((oldest, end)) = table.order.front().copied()
            && (end <= now || table.order.len() >= MAX_SPENT)
        {
            table.order.pop_front();
            table.known.remove(&oldest);
        }
        if !table.known.insert(id) {
            return false;
        }
        table.order.push_back((id, expires));
        true
    }

    /// Whether a challenge was solved; it may be forgotten once it has expired.
    #[must_use]
    pub fn contains(&self, id: [u8; 16]) -> bool {
        self.0.lock().known.contains(&id)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let table = self.0.lock();
        assert_eq!(table.known.len(), table.order.len());
        table.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> [u8; 16] {
        u128::from(n).to_be_bytes()
    }

    #[test]
    fn a_challenge_is_solved_once() {
        let spent = Spent::default();
        assert!(spent.insert(id(1), 100, 0));
        assert!(!spent.insert(id(1), 100, 1));
        assert!(!spent.insert(id(1), 100, 99));
        assert!(spent.insert(id(2), 100, 99));
    }

    #[test]
    fn the_expired_are_forgotten() {
        let spent = Spent::default();
        for n in 0..1000 {
            assert!(spent.insert(id(n), 100 + n, 0));
        }
        assert!(spent.insert(id(5000), 9999, 599));
        assert_eq!(spent.len(), 501);
    }

    #[test]
    fn a_flood_stays_in_its_bound() {
        let spent = Spent::default();
        for n in 0..200_000 {
            assert!(spent.insert(id(n), 1000, 0));
        }
        assert_eq!(spent.len(), MAX_SPENT);
        assert!(!spent.insert(id(199_999), 1000, 0));
    }
}
