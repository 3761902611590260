//! What was found out about tokens lately, so that a signature is not verified at every request.
//!
//! Set-associative, like a processor's cache: a token's hash picks a set, a set has [`WAYS`] places,
//! and a full set gives up the entry that would end soonest. That bounds memory and work whatever
//! clients send, with no sweeping. Refused tokens have a small table of their own, so that a flood
//! of forgeries pushes no good token out.

use super::{CredentialError, User};
use parking_lot::Mutex;
use std::sync::Arc;

const WAYS: usize = 8;
/// 16,384 good tokens, about 1 MiB.
const GOOD_SETS: usize = 2048;
/// 2,048 bad ones.
const BAD_SETS: usize = 256;
/// How many seconds a refusal is remembered.
const BAD_SECONDS: u64 = 10;

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

type Verdict = Result<Arc<User>, CredentialError>;

/// Verdicts on tokens under one set of keys.
pub struct TokenCache {
    good: Table<Arc<User>>,
    bad: Table<CredentialError>,
}

impl std::fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenCache")
    }
}

impl Default for TokenCache {
    fn default() -> Self {
        Self {
            good: Table::new(GOOD_SETS),
            bad: Table::new(BAD_SETS),
        }
    }
}

impl TokenCache {
    /// The verdict on a token, when it still holds at `now` (Unix seconds).
    #[must_use]
    pub fn get(&self, hash: &TokenHash, now: u64) -> Option<Verdict> {
        self.good
            .get(hash, now)
            .map(Ok)
            .or_else(|| self.bad.get(hash, now).map(Err))
    }

    /// Remembers a good token until `until` (Unix seconds).
    pub fn accept(&self, hash: TokenHash, user: Arc<User>, until: u64) {
        self.good.insert(hash, user, until);
    }

    /// Remembers a refusal for a little while.
    pub fn refuse(&self, hash: TokenHash, error: CredentialError, now: u64) {
        self.bad
            .insert(hash, error, now.saturating_add(BAD_SECONDS));
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.good.len() + self.bad.len()
    }
}

struct Table<T> {
    sets: Box<[Mutex<Vec<Entry<T>>>]>,
}

struct Entry<T> {
    hash: TokenHash,
    until: u64,
    value: T,
}

impl<T: Clone> Table<T> {
    fn new(sets: usize) -> Self {
        Self {
            sets: (0..sets).map(|_| Mutex::new(Vec::new())).collect(),
        }
    }

    fn set(&self, hash: &TokenHash) -> Option<&Mutex<Vec<Entry<T>>>> {
        let [a, b, ..] = hash;
        let index = usize::from(u16::from_le_bytes([*a, *b]));
        self.sets.get(index.checked_rem(self.sets.len())?)
    }

    fn get(&self, hash: &TokenHash, now: u64) -> Option<T> {
        let set = self.set(hash)?.lock();
        set.iter()
            .find(|entry| entry.hash == *hash && entry.until > now)
            .map(|entry| entry.value.clone())
    }

    fn insert(&self, hash: TokenHash, value: T, until: u64) {
        let Some(set) = self.set(&hash) else {
            return;
        };
        let mut set = set.lock();
        let entry = Entry { hash, until, value };
        if let Some(same) = set.iter_mut().find(|entry| entry.hash == hash) {
            *same = entry;
        } else if set.len() < WAYS {
            set.push(entry);
        } else if let Some(ends_first) = set.iter_mut().min_by_key(|entry| entry.until) {
            *ends_first = entry;
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.sets.iter().map(|set| set.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u32) -> TokenHash {
        ring::digest::digest(&ring::digest::SHA256, &n.to_le_bytes())
            .as_ref()
            .try_into()
            .unwrap()
    }

    fn user() -> Arc<User> {
        Arc::new(User::default())
    }

    #[test]
    fn an_entry_ends_when_its_token_does() {
        let cache = TokenCache::default();
        cache.accept(hash(1), user(), 100);
        assert!(matches!(cache.get(&hash(1), 99), Some(Ok(_))));
        assert!(cache.get(&hash(1), 100).is_none());
        assert!(cache.get(&hash(2), 0).is_none());
    }

    #[test]
    fn a_refusal_is_short() {
        let cache = TokenCache::default();
        cache.refuse(hash(1), CredentialError::TokenSignature, 100);
        assert!(matches!(
            cache.get(&hash(1), 109),
            Some(Err(CredentialError::TokenSignature))
        ));
        assert!(cache.get(&hash(1), 110).is_none());
    }

    #[test]
    fn a_flood_of_forgeries_stays_in_its_bound_and_evicts_no_good_token() {
        let cache = TokenCache::default();
        for n in 0..1000 {
            cache.accept(hash(n), user(), 1000);
        }
        for n in 1000..50_000 {
            cache.refuse(hash(n), CredentialError::TokenSignature, 0);
        }
        assert_eq!(cache.len(), 1000 + BAD_SETS * WAYS);
        assert!((0..1000).all(|n| matches!(cache.get(&hash(n), 999), Some(Ok(_)))));
    }

    #[test]
    fn a_flood_of_good_tokens_stays_in_its_bound() {
        let cache = TokenCache::default();
        for n in 0..200_000 {
            cache.accept(hash(n), user(), 1000);
        }
        assert_eq!(cache.len(), GOOD_SETS * WAYS);
        // The newest is always there: a set gives up the one that ends first.
        assert!(cache.get(&hash(199_999), 999).is_some());
    }
}
