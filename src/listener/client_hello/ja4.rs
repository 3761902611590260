//! JA4, the fingerprint of a TLS client (by `FoxIO`, BSD 3-Clause; "JA4: TLS Client Fingerprinting" in its
//! technical details): what the client is able to do, with everything left out that changes from one
//! connection to the next.
//!
//! ```text
//! t13d1516h2_8daaf6152771_e5627efa2ab1
//! | | | | |  |            hash of the extensions, sorted, and the signature algorithms, as sent
//! | | | | |  hash of the cipher suites, sorted
//! | | | | first and last character of the first protocol
//! | | | extensions    (GREASE is left out everywhere)
//! | | cipher suites
//! | a domain was asked for, or an IP address (i)
//! TLS over TCP, the highest version offered
//! ```

use super::{ClientHello, extension, is_grease};
use ring::digest::{Context, SHA256};
use std::fmt;

/// Length in characters.
pub const LENGTH: usize = 36;
/// Characters of each hash.
const HASH: usize = 12;
/// Where the first hash and the second begin.
const CIPHERS_AT: usize = 11;
const EXTENSIONS_AT: usize = 24;

/// A fingerprint, or none: then it is the empty text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ja4([u8; LENGTH]);

impl Ja4 {
    /// Of a client whose hello could not be read.
    pub const NONE: Self = Self([0; LENGTH]);

    /// The fingerprint of a client that said this. Costs two sorts and two hashes.
    #[must_use]
    pub fn of(hello: &ClientHello<'_>) -> Self {
        let mut ciphers: Vec<u16> = plain(hello.ciphers()).collect();
        let mut extensions: Vec<u16> = plain(hello.extensions().map(|(kind, _)| kind)).collect();
        let named = extensions.contains(&extension::SERVER_NAME);

        let mut text = [b'_'; LENGTH];
        let [version_high, version_low] = version(hello);
        let [ciphers_high, ciphers_low] = count(ciphers.len());
        let [extensions_high, extensions_low] = count(extensions.len());
        let [first, last] = protocol(hello.protocols().next().unwrap_or_default());
        put(
            &mut text,
            0,
            &[
                b't',
                version_high,
                version_low,
                if named { b'd' } else { b'i' },
                ciphers_high,
                ciphers_low,
                extensions_high,
                extensions_low,
                first,
                last,
            ],
        );

        ciphers.sort_unstable();
        let mut hashed = List::default();
        for cipher in ciphers {
            hashed.add(cipher);
        }
        put(&mut text, CIPHERS_AT, &hashed.hash());

        extensions.sort_unstable();
        let mut hashed = List::default();
        extensions
            .into_iter()
            .filter(|kind| ![extension::SERVER_NAME, extension::ALPN].contains(kind))
            .for_each(|kind| hashed.add(kind));
        if !hashed.is_empty() {
            hashed.section();
            plain(hello.signature_algorithms()).for_each(|algorithm| hashed.add(algorithm));
        }
        put(&mut text, EXTENSIONS_AT, &hashed.hash());
        Self(text)
    }

    /// The text; empty when there is none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        if *self == Self::NONE {
            return "";
        }
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Default for Ja4 {
    fn default() -> Self {
        Self::NONE
    }
}

impl fmt::Debug for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ja4").field(&self.as_str()).finish()
    }
}

impl fmt::Display for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn put(text: &mut [u8; LENGTH], at: usize, part: &[u8]) {
    for (place, byte) in text.iter_mut().skip(at).zip(part) {
        *place = *byte;
    }
}

fn plain(values: impl Iterator<Item = u16>) -> impl Iterator<Item = u16> {
    values.filter(|value| !is_grease(*value))
}

fn version(hello: &ClientHello<'_>) -> [u8; 2] {
    let highest = match hello.supported_versions() {
        Some(versions) => plain(versions).max().unwrap_or(0),
        None => hello.version,
    };
    *match highest {
        0x0304 => b"13",
        0x0303 => b"12",
        0x0302 => b"11",
        0x0301 => b"10",
        0x0300 => b"s3",
        0x0002 => b"s2",
        0xfeff => b"d1",
        0xfefd => b"d2",
        0xfefc => b"d3",
        _ => b"00",
    }
}

/// Two digits; 99 stands for more.
fn count(number: usize) -> [u8; 2] {
    let number = u8::try_from(number).unwrap_or(99).min(99);
    [b'0' + number / 10, b'0' + number % 10]
}

/// First and last character of a protocol's name; of its hexadecimal form when one of them is neither
/// a letter nor a digit.
fn protocol(name: &[u8]) -> [u8; 2] {
    let (Some(&first), Some(&last)) = (name.first(), name.last()) else {
        return *b"00";
    };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [first, last];
    }
    [digit(first >> 4), digit(last & 0x0f)]
}

fn digit(nibble: u8) -> u8 {
    match nibble & 0x0f {
        low @ 0..10 => b'0' + low,
        high => b'a' + high - 10,
    }
}

/// Values of four hexadecimal digits with commas between them, hashed as they come.
struct List {
    context: Context,
    /// What stands before the next value.
    separator: Option<u8>,
}

impl Default for List {
    fn default() -> Self {
        Self {
            context: Context::new(&SHA256),
            separator: None,
        }
    }
}

impl List {
    fn is_empty(&self) -> bool {
        self.separator.is_none()
    }

    fn add(&mut self, value: u16) {
        let [high, low] = value.to_be_bytes();
        let text = [
            self.separator.unwrap_or_default(),
            digit(high >> 4),
            digit(high),
            digit(low >> 4),
            digit(low),
        ];
        let from = usize::from(self.separator.is_none());
        self.context.update(text.get(from..).unwrap_or_default());
        self.separator = Some(b',');
    }

    /// The values from here on are another list. If there are none, neither is the underscore.
    fn section(&mut self) {
        self.separator = Some(b'_');
    }

    /// The beginning of the SHA-256; zeros for an empty list.
    fn hash(self) -> [u8; HASH] {
        let mut text = [b'0'; HASH];
        if self.is_empty() {
            return text;
        }
        let digest = self.context.finish();
        for (pair, byte) in text.chunks_exact_mut(2).zip(digest.as_ref()) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(*byte)]);
        }
        text
    }
}
