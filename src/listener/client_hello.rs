//! The first message of a TLS client, read before any TLS state exists: pure functions over the bytes
//! received so far (RFC 8446, sections 4.1.2 and 5.1; RFC 5246, section 7.4.1.2). What it says of the
//! client is in [`ja4`]; whether its ticket is worth anything is asked by the handshake.

pub mod fuzzing;
pub mod ja4;

use std::borrow::Cow;

/// Most bytes of a hello without its header. Browsers with post-quantum key shares send
/// under 2 KiB.
pub const MAXIMUM: usize = 16 * 1024;
/// Most records that it may come in.
const FRAGMENTS: usize = 64;
/// Type, version, length.
const RECORD_HEADER: usize = 5;
/// Type, length.
const MESSAGE_HEADER: usize = 4;
/// Most bytes that are read for it, headers included.
pub const WIRE: usize = MAXIMUM + MESSAGE_HEADER + FRAGMENTS * RECORD_HEADER;
/// Most bytes of a record (RFC 8446, section 5.1).
const RECORD: usize = 1 << 14;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Types of extensions (IANA).
mod extension {
    pub const SERVER_NAME: u16 = 0;
    pub const SIGNATURE_ALGORITHMS: u16 = 13;
    pub const ALPN: u16 = 16;
    pub const SESSION_TICKET: u16 = 35;
    pub const PRE_SHARED_KEY: u16 = 41;
    pub const SUPPORTED_VERSIONS: u16 = 43;
}

/// TLS 1.3 in `supported_versions`.
const TLS13: u16 = 0x0304;

/// What the bytes so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The message without its header; borrowed unless it came in several records.
    Complete(Cow<'a, [u8]>),
    /// At least this many bytes more are needed.
    Needs(usize),
    /// No hello: another protocol, or a record that no client sends first.
    Invalid,
    /// A message over [`MAXIMUM`], or cut into more records than any client would.
    TooLarge,
}

/// Puts the message together from the records at the beginning of `bytes`.
#[must_use]
pub fn assemble(bytes: &[u8]) -> Parsed<'_> {
    let mut records = Records::new(bytes);
    let first = match records.next() {
        Step::Fragment(first) => first,
        Step::Stop(parsed) => return parsed,
    };
    // Nearly always: all in the first record.
    if let Some((header, rest)) = first.split_first_chunk::<MESSAGE_HEADER>() {
        return match message_length(*header) {
            Ok(length) if length <= rest.len() => {
                Parsed::Complete(Cow::Borrowed(rest.get(..length).unwrap_or_default()))
            }
            Ok(length) => gather(first, &mut records, length),
            Err(parsed) => parsed,
        };
    }
    gather(first, &mut records, MAXIMUM)
}

/// The message over several records; `expected` bytes are due after its first.
fn gather(first: &[u8], records: &mut Records<'_>, expected: usize) -> Parsed<'static> {
    let room = expected
        .min(records.bytes.len())
        .saturating_add(first.len());
    let mut message = Vec::with_capacity(room);
    let mut fragment = first;
    loop {
        message.extend_from_slice(fragment);
        if let Some((header, rest)) = message.split_first_chunk::<MESSAGE_HEADER>() {
            match message_length(*header) {
                Ok(length) if length <= rest.len() => {
                    message.truncate(MESSAGE_HEADER.saturating_add(length));
                    message.drain(..MESSAGE_HEADER);
                    return Parsed::Complete(Cow::Owned(message));
                }
                Ok(_) => {}
                Err(parsed) => return parsed,
            }
        }
        fragment = match records.next() {
            Step::Fragment(fragment) => fragment,
            Step::Stop(Parsed::Needs(bytes)) => return Parsed::Needs(bytes),
            Step::Stop(Parsed::TooLarge) => return Parsed::TooLarge,
            Step::Stop(_) => return Parsed::Invalid,
        };
    }
}

fn message_length([kind, high, middle, low]: [u8; 4]) -> Result<usize, Parsed<'static>> {
    if kind != CLIENT_HELLO {
        return Err(Parsed::Invalid);
    }
    let length = u32::from_be_bytes([0, high, middle, low]);
    match usize::try_from(length) {
        Ok(length) if length <= MAXIMUM => Ok(length),
        _ => Err(Parsed::TooLarge),
    }
}

/// The records of a handshake, one after the other.
struct Records<'a> {
    /// What follows the records that were read.
    bytes: &'a [u8],
    /// Bytes of those, with their headers.
    read: usize,
    count: usize,
}

enum Step<'a> {
    Fragment(&'a [u8]),
    Stop(Parsed<'a>),
}

impl<'a> Records<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            read: 0,
            count: 0,
        }
    }

    fn next(&mut self) -> Step<'a> {
        if self.count >= FRAGMENTS {
            return Step::Stop(Parsed::TooLarge);
        }
        // Told at the first byte that is wrong: what speaks another protocol may never send five.
        let version = self.bytes.get(1);
        if self.bytes.first().is_some_and(|kind| *kind != HANDSHAKE)
            || version.is_some_and(|major| *major != 3)
        {
            return Step::Stop(Parsed::Invalid);
        }
        let Some((&[_, _, _, high, low], rest)) = self.bytes.split_first_chunk::<RECORD_HEADER>()
        else {
            let missing = RECORD_HEADER.saturating_sub(self.bytes.len());
            return Step::Stop(Parsed::Needs(missing));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > RECORD {
            return Step::Stop(Parsed::Invalid);
        }
        let read = self
            .read
            .saturating_add(RECORD_HEADER)
            .saturating_add(length);
        if read > WIRE {
            return Step::Stop(Parsed::TooLarge);
        }
        let Some((fragment, rest)) = rest.split_at_checked(length) else {
            // A first fragment may say already that the rest is not worth waiting for.
            if self.count == 0
                && let Some((header, _)) = rest.split_first_chunk::<MESSAGE_HEADER>()
                && let Err(parsed) = message_length(*header)
            {
                return Step::Stop(parsed);
            }
            return Step::Stop(Parsed::Needs(length.saturating_sub(rest.len())));
        };
        self.bytes = rest;
        self.read = read;
        self.count = self.count.saturating_add(1);
        Step::Fragment(fragment)
    }
}

/// What a client offers. Lists are as sent, GREASE (RFC 8701) included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// `legacy_version`: what clients before TLS 1.3 offer at most.
    pub version: u16,
    ciphers: &'a [u8],
    extensions: &'a [u8],
}

impl<'a> ClientHello<'a> {
    /// Takes a whole message apart, as [`assemble`] gives it; `None` when its parts don't fit together.
    /// What is in an extension is looked at only when it is asked for.
    #[must_use]
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let mut rest = Reader(message);
        let version = rest.u16()?;
        let _random = rest.take(32)?;
        let session_id = rest.short()?;
        let ciphers = rest.long()?;
        let compression = rest.short()?;
        if session_id.len() > 32
            || ciphers.is_empty()
            || ciphers.len() % 2 != 0
            || compression.is_empty()
        {
            return None;
        }
        // Before TLS 1.2 a hello could end here.
        let extensions = if rest.0.is_empty() { &[] } else { rest.long()? };
        if !rest.0.is_empty() {
            return None;
        }
        let hello = Self {
            version,
            ciphers,
            extensions,
        };
        let mut all = Reader(extensions);
        while !all.0.is_empty() {
            all.u16()?;
            all.long()?;
        }
        Some(hello)
    }

    /// Cipher suites, in the client's order.
    pub fn ciphers(&self) -> impl Iterator<Item = u16> + use<'a> {
        values(self.ciphers)
    }

    /// Extensions by type and content, in the client's order.
    pub fn extensions(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut rest = Reader(self.extensions);
        std::iter::from_fn(move || Some((rest.u16()?, rest.long()?)))
    }

    fn extension(&self, wanted: u16) -> Option<&'a [u8]> {
        self.extensions()
            .find_map(|(kind, content)| (kind == wanted).then_some(content))
    }

    /// The host name asked for (RFC 6066, section 3), as sent.
    #[must_use]
    pub fn server_name(&self) -> Option<&'a [u8]> {
        let mut names = Reader(Reader(self.extension(extension::SERVER_NAME)?).long()?);
        while !names.0.is_empty() {
            let kind = names.take(1)?;
            let name = names.long()?;
            if kind == [0] {
                return Some(name);
            }
        }
        None
    }

    /// Application protocols (RFC 7301), in the client's order.
    pub fn protocols(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let list = self
            .extension(extension::ALPN)
            .and_then(|content| Reader(content).long());
        let mut rest = Reader(list.unwrap_or_default());
        std::iter::from_fn(move || rest.short())
    }

    /// Signature algorithms, in the client's order.
    pub fn signature_algorithms(&self) -> impl Iterator<Item = u16> + use<'a> {
        let list = self
            .extension(extension::SIGNATURE_ALGORITHMS)
            .and_then(|content| Reader(content).long());
        values(list.unwrap_or_default())
    }

    /// What `supported_versions` lists; `None` without that extension.
    #[must_use]
    pub fn supported_versions(&self) -> Option<impl Iterator<Item = u16> + use<'a>> {
        let content = self.extension(extension::SUPPORTED_VERSIONS)?;
        Some(values(Reader(content).short().unwrap_or_default()))
    }

    /// Whether it offers TLS 1.3.
    #[must_use]
    pub fn offers_tls13(&self) -> bool {
        self.supported_versions()
            .is_some_and(|mut versions| versions.any(|version| version == TLS13))
    }

    /// The session ticket of TLS 1.2 (RFC 5077), if there is one in it.
    #[must_use]
    pub fn ticket(&self) -> Option<&'a [u8]> {
        self.extension(extension::SESSION_TICKET)
            .filter(|ticket| !ticket.is_empty())
    }

    /// Identities of pre-shared keys (RFC 8446, section 4.2.11), which are tickets here. They count
    /// only as the last extension.
    pub fn identities(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let list = self
            .extensions()
            .last()
            .filter(|(kind, _)| *kind == extension::PRE_SHARED_KEY)
            .and_then(|(_, content)| Reader(content).long());
        let mut rest = Reader(list.unwrap_or_default());
        std::iter::from_fn(move || {
            let identity = rest.long()?;
            let _age = rest.take(4)?;
            Some(identity)
        })
    }
}

/// Two bytes each; an odd one at the end is left out.
fn values(list: &[u8]) -> impl Iterator<Item = u16> + use<'_> {
    let mut rest = Reader(list);
    std::iter::from_fn(move || rest.u16())
}

/// Values reserved so that nobody relies on knowing all (RFC 8701): both bytes alike, and of the form
/// `0x?a`.
#[must_use]
pub fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

/// Bytes not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*taken))
    }

    /// What is preceded by its length in one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        self.0 = rest;
        self.take(usize::from(length))
    }

    /// What is preceded by its length in two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
pub(super) mod tests;
