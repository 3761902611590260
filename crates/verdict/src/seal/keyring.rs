//! Several keys at once, so that a secret can be replaced while tokens of the one before are still
//! about: the first seals, all of them open.

use super::{Key, MAX_BYTES, Purpose, Reader, Unopened, Writer};
use arrayvec::ArrayVec;

/// How many keys besides the first open.
pub const MAX_OLDER: usize = 3;

/// Seals with the newest key, and opens with any. The key id in a token says which one to try; it is
/// no secret, and a false one opens nothing.
#[derive(Clone, Debug)]
pub struct Keyring {
    newest: Key,
    older: ArrayVec<Key, MAX_OLDER>,
}

impl From<Key> for Keyring {
    fn from(newest: Key) -> Self {
        Self {
            newest,
            older: ArrayVec::new(),
        }
    }
}

impl Keyring {
    /// Keys made from secrets, the newest first; those past [`MAX_OLDER`] are left out.
    #[must_use]
    pub fn new<'a>(newest: &[u8], older: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self {
            newest: Key::new(newest),
            older: older.into_iter().take(MAX_OLDER).map(Key::new).collect(),
        }
    }

    /// Seals what was written, with the newest key; `None` when it is too long for a token.
    #[must_use]
    pub fn seal(&self, fields: Writer) -> Option<String> {
        self.newest.seal(fields)
    }

    /// The same for tokens of at most `most` bytes. See [`Key::seal_up_to`].
    #[must_use]
    pub fn seal_up_to(&self, fields: Writer, most: usize) -> Option<String> {
        self.newest.seal_up_to(fields, most)
    }

    /// Opens a token that one of the keys sealed. See [`Key::open`].
    #[must_use]
    pub fn open<'a>(
        &self,
        token: &[u8],
        purpose: Purpose,
        buffer: &'a mut [u8; MAX_BYTES],
    ) -> Option<Reader<'a>> {
        self.open_in(token, purpose, buffer)
    }

    /// The same for tokens of any length. See [`Key::open_in`].
    #[must_use]
    pub fn open_in<'a>(
        &self,
        token: &[u8],
        purpose: Purpose,
        buffer: &'a mut [u8],
    ) -> Option<Reader<'a>> {
        let unopened = Unopened::read(token, purpose, buffer)?;
        let mut keys = std::iter::once(&self.newest).chain(&self.older);
        let key = keys.find(|key| key.id == unopened.id)?;
        unopened.open(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS: [&[u8]; 5] = [b"one", b"two", b"three", b"four", b"five"];

    /// The keyring of a secret file with these lines.
    fn keyring(lines: &[&'static [u8]]) -> Keyring {
        let (newest, older) = lines.split_first().unwrap();
        Keyring::new(newest, older.iter().copied())
    }

    fn sealed(keys: &Keyring) -> String {
        keys.seal(Writer::new(Purpose::Ticket).field(1, b"value"))
            .unwrap()
    }

    fn opens(keys: &Keyring, token: &str) -> bool {
        let mut buffer = [0; MAX_BYTES];
        let reader = keys.open(token.as_bytes(), Purpose::Ticket, &mut buffer);
        reader.is_some_and(|mut reader| reader.field(1) == Some(b"value"))
    }

    #[test]
    fn a_secret_is_replaced_in_two_steps_and_no_token_is_lost() {
        let (old, new) = (SECRETS[0], SECRETS[1]);
        let before = keyring(&[old]);
        let during = keyring(&[new, old]);
        let after = keyring(&[new]);
        let token = sealed(&before);
        assert!(opens(&during, &token));
        assert!(opens(&after, &sealed(&during)), "the first line seals");
        assert!(!opens(&after, &token));
        assert!(!opens(&before, &sealed(&during)));
    }

    #[test]
    fn replicas_with_the_lines_in_another_order_read_each_other() {
        let one = keyring(&[SECRETS[0], SECRETS[1]]);
        let other = keyring(&[SECRETS[1], SECRETS[0]]);
        assert!(opens(&one, &sealed(&other)) && opens(&other, &sealed(&one)));
    }

    #[test]
    fn three_older_ones_open_and_no_more() {
        let keys = keyring(&SECRETS);
        for (at, secret) in SECRETS.into_iter().enumerate() {
            let token = sealed(&Key::new(secret).into());
            assert_eq!(opens(&keys, &token), at <= MAX_OLDER, "line {at}");
        }
    }

    #[test]
    fn the_same_secret_twice_is_one() {
        let keys = keyring(&[SECRETS[0], SECRETS[0]]);
        assert!(opens(&keys, &sealed(&keys)));
    }
}
