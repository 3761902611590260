//! Whether a peer moves the bytes of its streams fast enough, over the time that was spent waiting
//! for it. One [`Account`] a stream and direction; a [`Purse`] shares what some streams earn above
//! their need among the others: a client with many streams moves them one after the other.

use std::time::Duration;
use verdict::Nanos;

/// Streams that a client is asked to keep moving at once: more of them wait at its leisure.
const ABREAST: u64 = 8;

/// What is asked of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Bytes a second; 0: any progress will do.
    rate: u64,
    /// Nanoseconds of waiting that are free at first, and the most that can be saved up.
    grace: u64,
}

impl Terms {
    #[must_use]
    pub fn new(rate: u64, grace: Duration) -> Self {
        Self {
            rate,
            grace: nanos(grace),
        }
    }

    /// The waiting that `bytes` pay for while `waiting` streams are waited for: one of them, at the
    /// least, is what moves.
    fn pay(self, bytes: u32, waiting: u32) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        match u64::from(bytes)
            .saturating_mul(SECOND)
            .checked_div(self.rate)
        {
            Some(pay) if u64::from(waiting) > ABREAST => {
                pay.saturating_mul(u64::from(waiting)) / ABREAST
            }
            Some(pay) => pay,
            None => self.grace,
        }
    }
}

/// As many nanoseconds as fit.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How long a peer may still be waited for.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    allowance: u64,
    since: Option<Nanos>,
}

impl Account {
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self::of(terms.grace)
    }

    /// With this many nanoseconds of waiting.
    #[must_use]
    pub fn of(allowance: u64) -> Self {
        Self {
            allowance,
            since: None,
        }
    }

    /// The peer holds all that can be saved up.
    #[must_use]
    pub fn is_full(&self, terms: Terms) -> bool {
        self.allowance >= terms.grace
    }

    /// Half of what it is at first.
    #[must_use]
    pub fn half(terms: Terms) -> Self {
        Self::of(terms.grace / 2)
    }

    #[must_use]
    pub fn waits(&self) -> bool {
        self.since.is_some()
    }

    /// The peer is waited for from now on: when its allowance will be used up.
    pub fn wait(&mut self, now: Nanos) -> Nanos {
        let since = *self.since.get_or_insert(now);
        Nanos(since.0.saturating_add(self.allowance))
    }

    /// The peer is waited for no more.
    pub fn stop(&mut self, now: Nanos) {
        if let Some(since) = self.since.take() {
            let waited = now.0.saturating_sub(since.0);
            self.allowance = self.allowance.saturating_sub(waited);
        }
    }

    /// When the allowance is used up; `None` while the peer is not waited for.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        let since = self.since?;
        Some(Nanos(since.0.saturating_add(self.allowance)))
    }

    /// `bytes` moved, while `others` are waited for; what this one has no need of goes to the purse,
    /// for them.
    pub fn earn(&mut self, bytes: u32, others: u32, terms: Terms, purse: &mut Purse) {
        let pay = terms.pay(bytes, others.saturating_add(1));
        let need = terms.grace.saturating_sub(self.allowance);
        self.allowance = self.allowance.saturating_add(pay.min(need));
        purse.put(pay.saturating_sub(need), others, terms);
    }

    /// The allowance is used up: takes another from the purse. False when there is too little in it.
    pub fn borrow(&mut self, now: Nanos, terms: Terms, purse: &mut Purse) -> bool {
        let taken = purse.held.min(terms.grace);
        if taken == 0 || taken < terms.grace / 4 {
            return false;
        }
        purse.held = purse.held.saturating_sub(taken);
        self.stop(now);
        self.allowance = self.allowance.saturating_add(taken);
        self.since = Some(now);
        true
    }
}

/// What streams have earned above their need while others waited. Nothing is saved for later: it
/// holds one grace for each that waits at the most, and nothing once none does.
#[derive(Debug, Default)]
pub struct Purse {
    held: u64,
}

impl Purse {
    fn put(&mut self, pay: u64, others: u32, terms: Terms) {
        let most = terms.grace.saturating_mul(u64::from(others));
        if self.held < most {
            self.held = self.held.saturating_add(pay).min(most);
        }
    }

    pub fn empty(&mut self) {
        self.held = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn terms() -> Terms {
        Terms::new(1000, Duration::from_secs(5))
    }

    /// Lets `streams` streams wait for a hundred seconds while `bytes` a second move on the first
    /// `moving` of them; how many are left.
    fn left(streams: usize, moving: usize, bytes: u32) -> usize {
        let terms = terms();
        let mut purse = Purse::default();
        let mut accounts: Vec<Account> = (0..streams).map(|_| Account::new(terms)).collect();
        let mut gone = Vec::new();
        for second in 0..100 {
            let now = Nanos(second * SECOND);
            accounts.retain_mut(|account| {
                let late = account.deadline().is_some_and(|deadline| deadline < now);
                let kept = !late || account.borrow(now, terms, &mut purse);
                if !kept {
                    gone.push(second);
                }
                kept
            });
            let others = u32::try_from(accounts.len()).unwrap().saturating_sub(1);
            for (at, account) in accounts.iter_mut().enumerate() {
                if at < moving {
                    account.stop(now);
                    account.earn(bytes, others, terms, &mut purse);
                }
                account.wait(now);
            }
        }
        assert!(gone.iter().all(|second| *second >= 5), "the grace is given");
        accounts.len()
    }

    #[test]
    fn each_pays_for_itself() {
        assert_eq!(left(3, 3, 1000), 3);
        assert_eq!(left(3, 3, 900), 0);
        assert_eq!(left(3, 0, 0), 0);
    }

    #[test]
    fn one_that_moves_fast_pays_for_those_behind_it() {
        assert_eq!(left(6, 1, 10_000), 6);
        // No more than it earns.
        assert_eq!(left(6, 1, 1000), 1);
    }

    #[test]
    fn many_streams_ask_no_more_than_eight() {
        assert_eq!(left(100, 1, 9_000), 100);
        assert!(left(100, 1, 4_000) < 100);
    }

    #[test]
    fn nothing_is_saved_for_a_pause() {
        let terms = terms();
        let (mut account, mut purse) = (Account::new(terms), Purse::default());
        account.earn(1_000_000, 0, terms, &mut purse);
        assert_eq!(account.wait(Nanos(0)), Nanos(5 * SECOND));
        assert!(!account.borrow(Nanos(5 * SECOND), terms, &mut purse));
    }

    #[test]
    fn without_a_rate_any_progress_will_do() {
        let terms = Terms::new(0, Duration::from_secs(5));
        let mut account = Account::new(terms);
        let mut purse = Purse::default();
        for second in 0..1000 {
            let now = Nanos(second * 4 * SECOND);
            account.stop(now);
            account.earn(1, 0, terms, &mut purse);
            assert!(account.wait(now) > now);
        }
    }
}
