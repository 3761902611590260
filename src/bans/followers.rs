//! Those who are told of every change to the table, in the order in which it changed: the state file
//! and the kernel. Whoever changes the table never waits for them. Each has a bounded queue; when it
//! overflows, all in it is let go, and the follower reads the whole table anew.

use super::carried::Record;
use parking_lot::{Condvar, Mutex};
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use verdict::prefix::Prefix;

/// Changes that wait; past them a full statement is cheaper.
const WAITING: usize = 65_536;

/// What became of one ban.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// Placed, or changed: this is all of it.
    Placed(Record),
    Removed(Prefix),
}

/// What one follower has not heard yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: Vec<Change>,
    overflowed: bool,
    woken: bool,
    closed: bool,
}

/// What a follower took from its queue.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) changes: Vec<Change>,
    /// Some were lost: the table itself is the answer.
    pub(super) overflowed: bool,
    /// Somebody woke the follower.
    pub(super) woken: bool,
    /// There will be no more.
    pub(super) closed: bool,
}

impl Queue {
    /// To be called under the lock of the table's part that changed: that keeps the order.
    fn push(&self, change: &Change) {
        let mut waiting = self.waiting.lock();
        if waiting.overflowed {
            return;
        }
        if waiting.changes.len() >= WAITING {
            waiting.changes = Vec::new();
            waiting.overflowed = true;
        } else {
            waiting.changes.push(change.clone());
        }
        drop(waiting);
        self.woken.notify_one();
    }

    /// Waits until there is something, somebody wakes the follower, or so long.
    pub(super) fn take(&self, longest: Duration) -> Heard {
        let deadline = Instant::now() + longest;
        let mut waiting = self.waiting.lock();
        while waiting.changes.is_empty() && !waiting.overflowed && !waiting.closed && !waiting.woken
        {
            if self.woken.wait_until(&mut waiting, deadline).timed_out() {
                break;
            }
        }
        Heard {
            woken: std::mem::take(&mut waiting.woken),
            changes: std::mem::take(&mut waiting.changes),
            overflowed: std::mem::take(&mut waiting.overflowed),
            closed: waiting.closed,
        }
    }

    pub(super) fn overflow(&self) {
        let mut waiting = self.waiting.lock();
        waiting.changes = Vec::new();
        waiting.overflowed = true;
        drop(waiting);
        self.woken.notify_one();
    }

    pub(super) fn wake(&self) {
        self.waiting.lock().woken = true;
        self.woken.notify_one();
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.woken.notify_one();
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Followers {
    state: OnceLock<Arc<Queue>>,
    kernel: OnceLock<Arc<Queue>>,
}

impl Followers {
    /// The state file's queue, from now on.
    pub(super) fn state(&self) -> Arc<Queue> {
        Arc::clone(self.state.get_or_init(Arc::default))
    }

    /// The kernel's queue, from now on.
    pub(super) fn kernel(&self) -> Arc<Queue> {
        Arc::clone(self.kernel.get_or_init(Arc::default))
    }

    /// Who is protected, or what is fed, has changed: the kernel is told everything anew.
    pub(super) fn reconsider(&self) {
        if let Some(queue) = self.kernel.get() {
            queue.overflow();
        }
    }

    /// `change` is made only when there is somebody to tell.
    pub(super) fn tell(&self, change: impl FnOnce() -> Change) {
        let (state, kernel) = (self.state.get(), self.kernel.get());
        if state.is_none() && kernel.is_none() {
            return;
        }
        let change = change();
        for queue in [state, kernel].into_iter().flatten() {
            queue.push(&change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verdict::prefix::PrefixLengths;

    fn removed(number: u32) -> Change {
        let address = std::net::Ipv4Addr::from(number);
        Change::Removed(Prefix::of(address.into(), PrefixLengths::CLIENT))
    }

    #[test]
    fn changes_come_in_their_order() {
        let followers = Followers::default();
        followers.tell(|| unreachable!("nobody listens"));
        let queue = followers.state();
        for number in 0..3 {
            followers.tell(|| removed(number));
        }
        let heard = queue.take(Duration::ZERO);
        assert_eq!(heard.changes, [removed(0), removed(1), removed(2)]);
        assert!(!heard.overflowed && !heard.closed);
        queue.close();
        let heard = queue.take(Duration::from_secs(60));
        assert!(heard.closed && heard.changes.is_empty());
    }

    #[test]
    fn a_queue_that_overflows_is_emptied_and_says_so() {
        let followers = Followers::default();
        let queue = followers.kernel();
        for number in 0..200_000 {
            followers.tell(|| removed(number));
        }
        assert!(queue.waiting.lock().changes.is_empty());
        let heard = queue.take(Duration::ZERO);
        assert!(heard.overflowed && heard.changes.is_empty());
        followers.tell(|| removed(7));
        let heard = queue.take(Duration::ZERO);
        assert!(!heard.overflowed);
        assert_eq!(heard.changes, [removed(7)]);
    }
}
