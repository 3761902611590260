//! A request's body that its visitor carries past a challenge: sealed, for one visitor, host and
//! target, for a while. Nothing of it is kept here.
//!
//! Which bodies may be carried, and when they are given back, is the caller's to decide.

use crate::{
    clearance::{PREFIX_BYTES, prefix_from_bytes, prefix_to_bytes},
    prefix::Prefix,
    seal::{Keyring, Purpose, Writer},
};

/// The longest path and query that a body is kept for.
pub const MAX_TARGET: usize = 4096;

/// The longest `content-type`, and the longest `referer`.
pub const MAX_VALUE: usize = 1024;

/// What a token has beside the body, at most, before base64url.
pub const MAX_OVERHEAD: usize = MAX_TARGET + 2 * MAX_VALUE + 1024;

/// A field's length has two bytes.
const CHUNK: usize = 0xffff;

const HOST: u8 = 1;
const TARGET: u8 = 2;
const NETWORK: u8 = 3;
const EXPIRES: u8 = 4;
const CONTENT_TYPE: u8 = 5;
const REFERER: u8 = 6;
const BODY: u8 = 7;

/// A request's body, and what it takes to send it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    pub host: String,
    /// Path and query, as received.
    pub target: String,
    pub network: Prefix,
    /// Unix milliseconds.
    pub expires: u64,
    pub content_type: Vec<u8>,
    /// Empty where there was none.
    pub referer: Vec<u8>,
    pub body: Vec<u8>,
}

impl Replay {
    /// The token; `None` when something is too long.
    #[must_use]
    pub fn seal(&self, keys: &Keyring) -> Option<String> {
        if self.host.len() > 253
            || self.target.len() > MAX_TARGET
            || self.content_type.len() > MAX_VALUE
            || self.referer.len() > MAX_VALUE
        {
            return None;
        }
        let fields = Writer::new(Purpose::Replay)
            .field(HOST, self.host.as_bytes())
            .field(TARGET, self.target.as_bytes())
            .field(NETWORK, &prefix_to_bytes(self.network))
            .field(EXPIRES, &self.expires.to_be_bytes())
            .field(CONTENT_TYPE, &self.content_type)
            .field(REFERER, &self.referer);
        let fields = self
            .body
            .chunks(CHUNK)
            .fold(fields, |fields, chunk| fields.field(BODY, chunk));
        keys.seal_up_to(fields, usize::MAX)
    }

    /// Opens a token that this key sealed. Takes memory for what the token holds: who calls bounds
    /// its length.
    #[must_use]
    pub fn open(token: &[u8], keys: &Keyring) -> Option<Self> {
        let mut buffer = vec![0; token.len().div_ceil(4).saturating_mul(3)];
        let mut fields = keys.open_in(token, Purpose::Replay, &mut buffer)?;
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let mut replay = Self {
            host: text(fields.field(HOST)?)?,
            target: text(fields.field(TARGET)?)?,
            network: prefix_from_bytes(fields.array::<PREFIX_BYTES>(NETWORK)?)?,
            expires: fields.number(EXPIRES)?,
            content_type: fields.field(CONTENT_TYPE)?.to_vec(),
            referer: fields.field(REFERER)?.to_vec(),
            body: Vec::with_capacity(token.len()),
        };
        while !fields.is_at_end() {
            replay.body.extend_from_slice(fields.field(BODY)?);
        }
        Some(replay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::PrefixLengths;
    use proptest::prelude::*;

    fn key() -> Keyring {
        Keyring::new(b"a secret of the tests, long enough", [])
    }

    fn replay(body: Vec<u8>) -> Replay {
        Replay {
            host: "app.example.com".to_owned(),
            target: "/orders?new=1".to_owned(),
            network: Prefix::of("192.0.2.7".parse().unwrap(), PrefixLengths::NETWORK),
            expires: 1_700_000_300_123,
            content_type: b"multipart/form-data; boundary=x".to_vec(),
            referer: b"https://app.example.com/cart".to_vec(),
            body,
        }
    }

    #[test]
    fn bodies_of_any_length_come_out() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 256 * 1024] {
            let made = replay(vec![7; length]);
            let token = made.seal(&key()).unwrap();
            assert!(token.len() <= (length + MAX_OVERHEAD).div_ceil(3) * 4);
            assert_eq!(Replay::open(token.as_bytes(), &key()), Some(made));
        }
    }

    #[test]
    fn changed_cut_and_foreign_tokens_are_nothing() {
        let token = replay(b"a=b".to_vec()).seal(&key()).unwrap();
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(Replay::open(&changed, &key()), None, "{at}");
            assert_eq!(Replay::open(&token.as_bytes()[..at], &key()), None, "{at}");
        }
        assert_eq!(
            Replay::open(token.as_bytes(), &Keyring::new(b"other", [])),
            None
        );
        let clearance = key().seal(Writer::new(Purpose::Clearance).field(HOST, b"app.example.com"));
        assert_eq!(Replay::open(clearance.unwrap().as_bytes(), &key()), None);
    }

    #[test]
    fn what_is_too_long_has_no_token() {
        let fits = replay(Vec::new());
        for long in [
            Replay {
                target: "a".repeat(MAX_TARGET + 1),
                ..fits.clone()
            },
            Replay {
                host: "a".repeat(254),
                ..fits.clone()
            },
            Replay {
                content_type: vec![b'a'; MAX_VALUE + 1],
                ..fits.clone()
            },
            Replay {
                referer: vec![b'a'; MAX_VALUE + 1],
                ..fits
            },
        ] {
            assert_eq!(long.seal(&key()), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_replay(token in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Replay::open(&token, &key()), None);
        }
    }
}
