//! Sealed tokens: fields that a client carries about and can't change, under HMAC-SHA-256.
//!
//! Every field has a type and a length in front of it, and all of them are under the seal with the
//! token's purpose, so that no byte can be read as part of another field, and no token as one of
//! another kind. What the fields mean is left to [`crate::clearance`] and [`crate::ticket`].
//!
//! ```text
//! base64url( version 1 | purpose 1 | key id 4 | (type 1 | length 2 | bytes)* | tag 32 )
//! ```

mod keyring;

pub use keyring::{Keyring, MAX_OLDER};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

const VERSION: u8 = 1;
const HEAD: usize = 6;
const TAG: usize = 32;

/// The longest token, before base64url.
pub const MAX_BYTES: usize = 1536;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Clearance,
    Ticket,
    /// A request's body that waits for its visitor.
    Replay,
}

impl Purpose {
    fn code(self) -> u8 {
        match self {
            Self::Clearance => b'c',
            Self::Ticket => b't',
            Self::Replay => b'r',
        }
    }
}

/// Seals and opens tokens.
#[derive(Clone)]
pub struct Key {
    id: [u8; 4],
    key: hmac::Key,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

impl Key {
    /// A key made from a secret of any length; 32 random bytes are a good one.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        // Derived, so that the secret itself signs nothing and the id tells nothing of the key.
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&root, b"rempart seal key 1");
        let mut id = [0; 4];
        for (to, from) in id
            .iter_mut()
            .zip(hmac::sign(&root, b"rempart seal id 1").as_ref())
        {
            *to = *from;
        }
        Self {
            id,
            key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
        }
    }

    /// Seals what was written; `None` when it is too long for a token.
    #[must_use]
    pub fn seal(&self, fields: Writer) -> Option<String> {
        self.seal_up_to(fields, MAX_BYTES)
    }

    /// The same for tokens of at most `most` bytes, before base64url.
    #[must_use]
    pub fn seal_up_to(&self, fields: Writer, most: usize) -> Option<String> {
        let Writer { purpose, bytes, ok } = fields;
        let mut token = Vec::with_capacity(bytes.len().saturating_add(HEAD + TAG));
        token.extend([VERSION, purpose.code()]);
        token.extend(self.id);
        token.extend(bytes);
        let tag = hmac::sign(&self.key, &token);
        token.extend(tag.as_ref());
        (ok && token.len() <= most).then(|| URL_SAFE_NO_PAD.encode(token))
    }

    /// Opens a token of this purpose into `buffer`, in constant time as far as the tag is concerned.
    /// Allocates nothing.
    #[must_use]
    pub fn open<'a>(
        &self,
        token: &[u8],
        purpose: Purpose,
        buffer: &'a mut [u8; MAX_BYTES],
    ) -> Option<Reader<'a>> {
        self.open_in(token, purpose, buffer)
    }

    /// The same for tokens of any length; a longer one than `buffer` holds is none.
    #[must_use]
    pub fn open_in<'a>(
        &self,
        token: &[u8],
        purpose: Purpose,
        buffer: &'a mut [u8],
    ) -> Option<Reader<'a>> {
        Unopened::read(token, purpose, buffer)?.open(self)
    }
}

/// A token that was taken apart, and whose seal nobody has looked at.
struct Unopened<'a> {
    /// Of the key that is said to have sealed it.
    id: [u8; 4],
    sealed: &'a [u8],
    fields: &'a [u8],
    tag: &'a [u8; TAG],
}

impl<'a> Unopened<'a> {
    fn read(token: &[u8], purpose: Purpose, buffer: &'a mut [u8]) -> Option<Self> {
        // base64url makes 4 bytes of 3.
        if token.len() > buffer.len().div_ceil(3).saturating_mul(4) {
            return None;
        }
        let length = URL_SAFE_NO_PAD.decode_slice(token, buffer).ok()?;
        let (sealed, tag) = buffer.get(..length)?.split_last_chunk()?;
        let (head, fields) = sealed.split_first_chunk::<HEAD>()?;
        let [version, found, id @ ..] = *head;
        (version == VERSION && found == purpose.code()).then_some(Self {
            id,
            sealed,
            fields,
            tag,
        })
    }

    fn open(self, key: &Key) -> Option<Reader<'a>> {
        if self.id != key.id {
            return None;
        }
        hmac::verify(&key.key, self.sealed, self.tag).ok()?;
        Some(Reader {
            fields: self.fields,
            tag: *self.tag,
        })
    }
}

/// Collects the fields of a token, in order.
#[derive(Debug)]
pub struct Writer {
    purpose: Purpose,
    bytes: Vec<u8>,
    ok: bool,
}

impl Writer {
    #[must_use]
    pub fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            bytes: Vec::with_capacity(256),
            ok: true,
        }
    }

    /// One field of the type `kind`.
    #[must_use]
    pub fn field(mut self, kind: u8, value: &[u8]) -> Self {
        if let Ok(length) = u16::try_from(value.len()) {
            self.bytes.push(kind);
            self.bytes.extend(length.to_be_bytes());
            self.bytes.extend(value);
        } else {
            self.ok = false;
        }
        self
    }
}

/// The fields of an opened token, in order.
#[derive(Debug)]
pub struct Reader<'a> {
    fields: &'a [u8],
    tag: [u8; TAG],
}

impl<'a> Reader<'a> {
    /// The seal itself: 32 bytes that nobody knew before the token was made, and that depend on all
    /// of it.
    #[must_use]
    pub fn tag(&self) -> [u8; TAG] {
        self.tag
    }

    /// The next field, which must be of the type `kind`.
    pub fn field(&mut self, kind: u8) -> Option<&'a [u8]> {
        let [found, high, low, rest @ ..] = self.fields else {
            return None;
        };
        if *found != kind {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(length)?;
        self.fields = rest;
        Some(value)
    }

    /// The next field as an array of exactly `N` bytes.
    pub fn array<const N: usize>(&mut self, kind: u8) -> Option<[u8; N]> {
        self.field(kind)?.try_into().ok()
    }

    /// The next field as a number of 8 bytes.
    pub fn number(&mut self, kind: u8) -> Option<u64> {
        self.array(kind).map(u64::from_be_bytes)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.fields.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> Key {
        Key::new(b"a secret of the tests, long enough")
    }

    fn open(key: &Key, token: &str, purpose: Purpose) -> Option<Vec<u8>> {
        let mut buffer = [0; MAX_BYTES];
        let mut reader = key.open(token.as_bytes(), purpose, &mut buffer)?;
        let value = reader.field(1)?.to_vec();
        reader.is_at_end().then_some(value)
    }

    fn sealed(value: &[u8]) -> String {
        key()
            .seal(Writer::new(Purpose::Clearance).field(1, value))
            .unwrap()
    }

    #[test]
    fn what_was_sealed_comes_out() {
        let token = sealed(b"value");
        let value = open(&key(), &token, Purpose::Clearance);
        assert_eq!(value.as_deref(), Some(&b"value"[..]));
    }

    #[test]
    fn another_key_or_purpose_opens_nothing() {
        let token = sealed(b"value");
        assert_eq!(open(&Key::new(b"other"), &token, Purpose::Clearance), None);
        assert_eq!(open(&key(), &token, Purpose::Ticket), None);
    }

    /// CVE-2025-68113: ALTCHA signed its fields without delimiters.
    #[test]
    fn bytes_can_not_move_between_fields() {
        let one = Writer::new(Purpose::Clearance)
            .field(1, b"ab")
            .field(2, b"c");
        let two = Writer::new(Purpose::Clearance)
            .field(1, b"a")
            .field(2, b"bc");
        assert_ne!(key().seal(one), key().seal(two));
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let token = sealed(b"value");
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(open(&key(), &changed, Purpose::Clearance), None, "{at}");
            assert_eq!(open(&key(), &token[..at], Purpose::Clearance), None);
        }
        assert_eq!(open(&key(), &format!("{token}A"), Purpose::Clearance), None);
        assert_eq!(open(&key(), &format!("{token}="), Purpose::Clearance), None);
    }

    #[test]
    fn too_long_is_refused_on_both_sides() {
        let fields = Writer::new(Purpose::Clearance).field(1, &[0; MAX_BYTES]);
        assert_eq!(key().seal(fields), None);
        let fields = Writer::new(Purpose::Clearance).field(1, &vec![0; 70_000]);
        assert_eq!(key().seal(fields), None);
        let long = "A".repeat(100_000);
        assert_eq!(open(&key(), &long, Purpose::Clearance), None);
        let longest = sealed(&[7; MAX_BYTES - HEAD - TAG - 3]);
        assert!(open(&key(), &longest, Purpose::Clearance).is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_open(token in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = [0; MAX_BYTES];
            prop_assert!(key().open(&token, Purpose::Clearance, &mut buffer).is_none());
        }

        #[test]
        fn any_value_survives(value in prop::collection::vec(any::<u8>(), 0..1000)) {
            prop_assert_eq!(open(&key(), &sealed(&value), Purpose::Clearance), Some(value));
        }
    }
}
