//! API keys: who holds the key whose hash the configuration knows.
//!
//! Only SHA-256 hashes are kept. Keys are long and random, so a fast hash is enough: there is
//! nothing to guess.

use super::{CredentialError, User};
use crate::config::model;
use http::{HeaderMap, HeaderName};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Longer values are refused unread.
const MAX_KEY_BYTES: usize = 512;

/// The known keys, by hash.
#[derive(Debug)]
pub struct KeyRing {
    header: HeaderName,
    /// Sorted by the hash.
    holders: Vec<([u8; 32], Arc<User>)>,
}

impl KeyRing {
    #[must_use]
    pub fn new(keys: &model::ApiKeys) -> Self {
        let mut holders: Vec<_> = keys
            .keys
            .iter()
            .map(|key| {
                let user = User {
                    id: key.user.clone(),
                    roles: key.roles.as_slice().into(),
                    session: None,
                };
                (key.sha256, Arc::new(user))
            })
            .collect();
        holders.sort_by_key(|(hash, _)| *hash);
        Self {
            header: keys.header.clone(),
            holders,
        }
    }

    /// The holder of the key in the request; `None` without one.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Option<Arc<User>>, CredentialError> {
        let mut values = headers.get_all(&self.header).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(CredentialError::ApiKeyRepeated);
        }
        if value.len() > MAX_KEY_BYTES {
            return Err(CredentialError::ApiKeyTooLong);
        }
        self.holder(value.as_bytes())
            .map(Some)
            .ok_or(CredentialError::ApiKeyUnknown)
    }

    fn holder(&self, key: &[u8]) -> Option<Arc<User>> {
        let digest = ring::digest::digest(&ring::digest::SHA256, key);
        let digest = digest.as_ref();
        let index = digest.get(..8)?;
        // The search looks at 8 bytes of a hash, which say nothing of a key; the rest is compared
        // in constant time.
        let start = self
            .holders
            .partition_point(|(hash, _)| hash.get(..8) < Some(index));
        self.holders
            .iter()
            .skip(start)
            .take_while(|(hash, _)| hash.get(..8) == Some(index))
            .find(|(hash, _)| bool::from(hash.as_slice().ct_eq(digest)))
            .map(|(_, user)| Arc::clone(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn sha256(key: &[u8]) -> [u8; 32] {
        ring::digest::digest(&ring::digest::SHA256, key)
            .as_ref()
            .try_into()
            .unwrap()
    }

    fn ring() -> KeyRing {
        let key = |key: &str, user: &str| model::ApiKey {
            sha256: sha256(key.as_bytes()),
            user: user.to_owned(),
            roles: vec!["partner".to_owned()],
        };
        let mut keys = vec![key("first-key", "one"), key("second-key", "two")];
        keys.extend((0..500).map(|n| key(&format!("key-{n}"), &format!("user-{n}"))));
        KeyRing::new(&model::ApiKeys {
            header: HeaderName::from_static("x-api-key"),
            keys,
        })
    }

    fn identify(values: &[&[u8]]) -> Result<Option<String>, CredentialError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-api-key", HeaderValue::from_bytes(value).unwrap());
        }
        ring()
            .identify(&headers)
            .map(|user| user.map(|user| user.id.clone()))
    }

    #[test]
    fn stories() {
        assert_eq!(identify(&[]), Ok(None));
        assert_eq!(identify(&[b"first-key"]), Ok(Some("one".to_owned())));
        assert_eq!(identify(&[b"second-key"]), Ok(Some("two".to_owned())));
        assert_eq!(identify(&[b"key-499"]), Ok(Some("user-499".to_owned())));
        let unknown = Err(CredentialError::ApiKeyUnknown);
        assert_eq!(identify(&[b"first-kez"]), unknown);
        assert_eq!(identify(&[b""]), unknown);
        assert_eq!(identify(&[b"FIRST-KEY"]), unknown);
        assert_eq!(
            identify(&[b"first-key", b"second-key"]),
            Err(CredentialError::ApiKeyRepeated)
        );
        assert_eq!(
            identify(&[&[b'a'; MAX_KEY_BYTES + 1]]),
            Err(CredentialError::ApiKeyTooLong)
        );
    }

    #[test]
    fn a_stored_hash_is_no_key() {
        let hash = sha256(b"first-key");
        assert!(ring().holder(&hash).is_none());
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hash);
        assert!(ring().holder(base64.as_bytes()).is_none());
    }

    #[test]
    fn hashes_that_share_their_start_are_told_apart() {
        let mut ring = ring();
        let mut twin = sha256(b"first-key");
        twin[31] ^= 1;
        let user = User {
            id: "twin".to_owned(),
            ..User::default()
        };
        ring.holders.push((twin, Arc::new(user)));
        ring.holders.sort_by_key(|(hash, _)| *hash);
        assert_eq!(ring.holder(b"first-key").unwrap().id, "one");
    }

    proptest! {
        #[test]
        fn no_random_key_opens(key in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(ring().holder(&key).is_none());
        }
    }
}
