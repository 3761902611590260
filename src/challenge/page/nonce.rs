//! Nonces of the Content-Security-Policy: 128 bits that nobody can guess, without a system call each.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

/// A random key of this process, never shown; `None` when the system gave no random bytes.
static KEY: LazyLock<Option<hmac::Key>> = LazyLock::new(|| {
    let key: [u8; 32] = crate::challenge::random().ok()?;
    Some(hmac::Key::new(hmac::HMAC_SHA256, &key))
});

static COUNT: AtomicU64 = AtomicU64::new(0);

/// The next: a count under a keyed hash, as base64url. Empty when there is no randomness: such a nonce
/// allows nothing (CSP 3, 2.3.1), so the page shows without style and script.
pub fn fresh() -> String {
    let Some(key) = KEY.as_ref() else {
        return String::new();
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let tag = hmac::sign(key, &count.to_be_bytes());
    let bytes = tag.as_ref().first_chunk::<16>();
    bytes.map_or_else(String::new, |bytes| URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_are_the_same_and_each_is_128_bits() {
        let nonces: HashSet<_> = (0..10_000).map(|_| fresh()).collect();
        assert_eq!(nonces.len(), 10_000);
        assert!(nonces.iter().all(|nonce| nonce.len() == 22));
    }
}
