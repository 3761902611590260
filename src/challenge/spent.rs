//! Which tickets were answered already, until they would expire anyway.
//!
//! Two bounded tables, in each of which the oldest entry makes room for the newest: one of tickets that
//! were solved, whose entries cost their clients a solved challenge, and one of tickets whose answers
//! cost nothing, such as wrong guesses. Nobody can push a solved ticket out by guessing. By pushing
//! out a guess, which takes as many guesses as the table holds within the life of a ticket, one more
//! guess at that ticket is won.

use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};

/// Of each table: about 4 MiB when full, and over 200 answers a second for as long as a ticket lives.
const MAX_SPENT: usize = 65_536;

/// Shared by all workers, and kept over a reload.
#[derive(Debug, Default)]
pub struct Spent(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    solved: Table,
    failed: Table,
}

#[derive(Debug, Default)]
struct Table {
    known: HashSet<[u8; 16]>,
    /// In the order in which they were answered, with the Unix millisecond of their end.
    order: VecDeque<([u8; 16], u64)>,
}

impl Spent {
    /// Marks a ticket as solved; false when it was answered before, rightly or wrongly. Times are Unix
    /// milliseconds.
    #[must_use]
    pub fn insert(&self, id: [u8; 16], expires: u64, now: u64) -> bool {
        let mut tables = self.0.lock();
        if tables.failed.knows(&id) {
            return false;
        }
        tables.solved.insert(id, expires, now)
    }

    /// A ticket that [`Self::fail`] marked before its answer was looked at, turned out to be solved: it
    /// stays marked whatever others fail.
    pub fn keep(&self, id: [u8; 16], expires: u64, now: u64) {
        let _ = self.0.lock().solved.insert(id, expires, now);
    }

    /// Marks a ticket as spent by an answer that cost nothing (a wrong guess); false when it was
    /// answered before.
    pub fn fail(&self, id: [u8; 16], expires: u64, now: u64) -> bool {
        let mut tables = self.0.lock();
        if tables.solved.knows(&id) {
            return false;
        }
        tables.failed.insert(id, expires, now)
    }

    /// Whether a ticket was answered, rightly or wrongly.
    #[must_use]
    pub fn is_spent(&self, id: &[u8; 16]) -> bool {
        let tables = self.0.lock();
        tables.solved.knows(id) || tables.failed.knows(id)
    }
}

impl Table {
    fn knows(&self, id: &[u8; 16]) -> bool {
        self.known.contains(id)
    }

    fn insert(&mut self, id: [u8; 16], expires: u64, now: u64) -> bool {
        while let Some((oldest, end)) = self.order.front().copied()
            && end <= now
        {
            self.order.pop_front();
            self.known.remove(&oldest);
        }
        if !self.known.insert(id) {
            return false;
        }
        self.order.push_back((id, expires));
        if self.order.len() > MAX_SPENT
            && let Some((oldest, _)) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> [u8; 16] {
        u128::from(n).to_be_bytes()
    }

    /// How many are solved, and how many failed.
    fn lengths(spent: &Spent) -> (usize, usize) {
        let tables = spent.0.lock();
        let length = |table: &Table| {
            assert_eq!(table.known.len(), table.order.len());
            table.known.len()
        };
        (length(&tables.solved), length(&tables.failed))
    }

    #[test]
    fn a_challenge_is_solved_once() {
        let spent = Spent::default();
        assert!(!spent.is_spent(&id(1)));
        assert!(spent.insert(id(1), 100, 0));
        assert!(!spent.insert(id(1), 100, 1));
        assert!(!spent.insert(id(1), 100, 99));
        assert!(!spent.fail(id(1), 100, 99));
        assert!(spent.is_spent(&id(1)) && !spent.is_spent(&id(2)));
        assert!(spent.insert(id(2), 100, 99));
    }

    #[test]
    fn a_wrong_guess_spends_the_ticket() {
        let spent = Spent::default();
        assert!(spent.fail(id(1), 100, 0));
        assert!(!spent.fail(id(1), 100, 1));
        assert!(!spent.insert(id(1), 100, 2), "the right answer comes late");
        assert!(spent.is_spent(&id(1)));
    }

    #[test]
    fn the_expired_are_forgotten() {
        let spent = Spent::default();
        for n in 0..1000 {
            assert!(spent.insert(id(n), 100 + n, 0));
            assert!(spent.fail(id(1000 + n), 100 + n, 0));
        }
        assert!(spent.insert(id(5000), 9999, 599));
        assert!(spent.fail(id(5001), 9999, 799));
        assert_eq!(lengths(&spent), (501, 301));
    }

    #[test]
    fn a_flood_stays_in_its_bound() {
        let spent = Spent::default();
        for n in 0..200_000 {
            assert!(spent.insert(id(n), 1000, 0));
        }
        assert_eq!(lengths(&spent), (MAX_SPENT, 0));
        assert!(!spent.insert(id(199_999), 1000, 0));
        assert!(!spent.insert(id(200_000 - MAX_SPENT as u64), 1000, 0));
    }

    #[test]
    fn guessing_pushes_no_solved_ticket_out() {
        let spent = Spent::default();
        assert!(spent.insert(id(0), 1000, 0));
        for n in 1..200_000 {
            spent.fail(id(n), 1000, 0);
        }
        assert_eq!(lengths(&spent), (1, MAX_SPENT));
        assert!(!spent.insert(id(0), 1000, 999), "CVE-2025-24369");
        assert!(spent.is_spent(&id(0)) && spent.is_spent(&id(199_999)));
    }
}
