//! Clearance: what a client carries to show that it has solved a challenge.
//!
//! It holds for one host, for a few networks and for a while. A visitor whose address changes (from
//! Wi-Fi to mobile, from IPv4 to IPv6) solves once more and then holds both networks, each until its
//! own end. Time is Unix seconds, and an argument.

use crate::{
    decision::Rung,
    prefix::{Prefix, PrefixLengths},
    seal::{Keyring, MAX_BYTES, Purpose, Reader, Writer},
};
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// How many networks one clearance can hold for.
pub const MAX_GRANTS: usize = 4;

/// The longest host name (RFC 1035).
const MAX_HOST: usize = 253;

const RUNG: u8 = 1;
const HOST: u8 = 2;
const GRANT: u8 = 3;

/// One network, until when (Unix seconds), and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub network: Prefix,
    pub issued: u64,
    pub expires: u64,
}

/// What stands in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clearance {
    pub rung: Rung,
    /// The newest last.
    pub grants: ArrayVec<Grant, MAX_GRANTS>,
}

impl Clearance {
    /// A clearance for one network.
    #[must_use]
    pub fn new(rung: Rung, grant: Grant) -> Self {
        Self {
            rung,
            grants: std::iter::once(grant).collect(),
        }
    }

    /// This clearance, with those networks of an older one that are still good for this rung. The
    /// newest come first when there are too many.
    #[must_use]
    pub fn after(mut self, older: &Self, now: u64) -> Self {
        if older.rung < self.rung {
            return self;
        }
        for grant in older.grants.iter().rev() {
            let known = self.grants.iter().any(|own| own.network == grant.network);
            if !known && grant.expires > now && !self.grants.is_full() {
                self.grants.insert(0, *grant);
            }
        }
        self
    }

    /// The token, for `host` alone; `None` when the host is no host.
    #[must_use]
    pub fn seal(&self, key: &Keyring, host: &str) -> Option<String> {
        if host.len() > MAX_HOST {
            return None;
        }
        let mut fields = Writer::new(Purpose::Clearance)
            .field(RUNG, &[self.rung.code()])
            .field(HOST, host.as_bytes());
        for grant in &self.grants {
            fields = fields.field(GRANT, &grant.to_bytes());
        }
        key.seal(fields)
    }

    /// Opens a token that was sealed for `host`. Says nothing of networks and times yet.
    #[must_use]
    pub fn open(token: &[u8], key: &Keyring, host: &str) -> Option<Self> {
        let mut buffer = [0; MAX_BYTES];
        let mut fields = key.open(token, Purpose::Clearance, &mut buffer)?;
        let [rung] = fields.array(RUNG)?;
        let rung = Rung::from_code(rung)?;
        if fields.field(HOST)? != host.as_bytes() {
            return None;
        }
        let mut grants = ArrayVec::new();
        while !fields.is_at_end() {
            grants.try_push(Grant::read(&mut fields)?).ok()?;
        }
        Some(Self { rung, grants })
    }

    /// The rung that a token proves at `now`, for this network and host. Allocates nothing.
    #[must_use]
    pub fn verify(
        token: &[u8],
        key: &Keyring,
        network: Prefix,
        host: &str,
        now: u64,
    ) -> Option<Rung> {
        let clearance = Self::open(token, key, host)?;
        let holds = clearance.grants.iter().any(|grant| {
            grant.network == network && grant.issued <= grant.expires && now < grant.expires
        });
        holds.then_some(clearance.rung)
    }
}

const GRANT_BYTES: usize = 8 + 8 + PREFIX_BYTES;

impl Grant {
    fn to_bytes(self) -> [u8; GRANT_BYTES] {
        let mut bytes = [0; GRANT_BYTES];
        let parts = self
            .issued
            .to_be_bytes()
            .into_iter()
            .chain(self.expires.to_be_bytes())
            .chain(prefix_to_bytes(self.network));
        for (to, from) in bytes.iter_mut().zip(parts) {
            *to = from;
        }
        bytes
    }

    fn read(fields: &mut Reader<'_>) -> Option<Self> {
        let bytes: [u8; GRANT_BYTES] = fields.array(GRANT)?;
        let (issued, rest) = bytes.split_first_chunk()?;
        let (expires, network) = rest.split_first_chunk()?;
        Some(Self {
            issued: u64::from_be_bytes(*issued),
            expires: u64::from_be_bytes(*expires),
            network: prefix_from_bytes(network.try_into().ok()?)?,
        })
    }
}

pub(crate) const PREFIX_BYTES: usize = 18;

/// Family, length and 16 bytes of address (IPv4: 4, and zeros).
pub(crate) fn prefix_to_bytes(prefix: Prefix) -> [u8; PREFIX_BYTES] {
    let mut bytes = [0; PREFIX_BYTES];
    let mut fill = |family: u8, address: &[u8]| {
        let parts = [family, prefix.length()]
            .into_iter()
            .chain(address.iter().copied());
        for (to, from) in bytes.iter_mut().zip(parts) {
            *to = from;
        }
    };
    match prefix.address() {
        IpAddr::V4(v4) => fill(4, &v4.octets()),
        IpAddr::V6(v6) => fill(6, &v6.octets()),
    }
    bytes
}

/// The prefix, when the bytes are exactly what [`prefix_to_bytes`] makes of it.
pub(crate) fn prefix_from_bytes(bytes: [u8; PREFIX_BYTES]) -> Option<Prefix> {
    let [family, length, address @ ..] = bytes;
    let address = match family {
        4 => {
            let (v4, _) = address.split_first_chunk::<4>()?;
            IpAddr::from(*v4)
        }
        6 => IpAddr::from(address),
        _ => return None,
    };
    let lengths = PrefixLengths {
        ipv4: length,
        ipv6: length,
    };
    Some(Prefix::of(address, lengths)).filter(|prefix| prefix_to_bytes(*prefix) == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_700_000_000;
    const HOUR: u64 = 3600;

    fn key() -> Keyring {
        Keyring::new(b"a secret of the tests, long enough", [])
    }

    fn network(address: &str) -> Prefix {
        Prefix::of(address.parse().unwrap(), PrefixLengths::CLIENT)
    }

    fn home() -> Prefix {
        network("192.0.2.7")
    }

    fn grant(network: Prefix) -> Grant {
        Grant {
            network,
            issued: NOW,
            expires: NOW + HOUR,
        }
    }

    fn clearance() -> Clearance {
        Clearance::new(Rung::ProofOfWork, grant(home()))
    }

    fn token() -> String {
        clearance().seal(&key(), "app.example.com").unwrap()
    }

    fn verify(token: &str, network: Prefix, host: &str, now: u64) -> Option<Rung> {
        Clearance::verify(token.as_bytes(), &key(), network, host, now)
    }

    #[test]
    fn it_holds_for_its_network_host_and_time() {
        let token = token();
        let host = "app.example.com";
        let held = Some(Rung::ProofOfWork);
        assert_eq!(verify(&token, home(), host, NOW), held);
        assert_eq!(verify(&token, home(), host, NOW + HOUR - 1), held);
        assert_eq!(verify(&token, home(), host, NOW + HOUR), None);
        assert_eq!(verify(&token, home(), host, u64::MAX), None);
        assert_eq!(verify(&token, home(), "other.example.com", NOW), None);
        assert_eq!(verify(&token, home(), "", NOW), None);
        assert_eq!(verify(&token, network("192.0.2.8"), host, NOW), None);
        assert_eq!(verify(&token, network("2001:db8::1"), host, NOW), None);
    }

    #[test]
    fn the_same_address_in_another_length_is_another_network() {
        let wide = Prefix::of("192.0.2.0".parse().unwrap(), PrefixLengths::NETWORK);
        assert_eq!(verify(&token(), wide, "app.example.com", NOW), None);
    }

    #[test]
    fn forged_truncated_and_foreign_tokens_are_nothing() {
        let token = token();
        let host = "app.example.com";
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] ^= 1;
            assert_eq!(Clearance::verify(&forged, &key(), home(), host, NOW), None);
            assert_eq!(verify(&token[..at], home(), host, NOW), None);
        }
        let other = Keyring::new(b"another secret", []);
        let foreign = clearance().seal(&other, host).unwrap();
        assert_eq!(verify(&foreign, home(), host, NOW), None);
    }

    #[test]
    fn fields_can_not_be_spliced() {
        // Sealed by the right key, and still not what a clearance looks like.
        let sealed = |fields: Writer| key().seal(fields).unwrap();
        let start = || {
            Writer::new(Purpose::Clearance)
                .field(RUNG, &[10])
                .field(HOST, b"app.example.com")
        };
        let bytes = grant(home()).to_bytes();
        let mut longer = bytes.to_vec();
        longer.push(0);
        for (story, token) in [
            ("no grant", sealed(start())),
            ("a short grant", sealed(start().field(GRANT, &bytes[1..]))),
            ("a long grant", sealed(start().field(GRANT, &longer))),
            (
                "something behind it",
                sealed(start().field(GRANT, &bytes).field(9, b"")),
            ),
            (
                "a second host",
                sealed(start().field(HOST, b"x").field(GRANT, &bytes)),
            ),
            (
                "no host",
                sealed(
                    Writer::new(Purpose::Clearance)
                        .field(RUNG, &[10])
                        .field(GRANT, &bytes),
                ),
            ),
            (
                "an unknown rung",
                sealed(
                    Writer::new(Purpose::Clearance)
                        .field(RUNG, &[9])
                        .field(HOST, b"app.example.com")
                        .field(GRANT, &bytes),
                ),
            ),
            (
                "a challenge",
                sealed(
                    Writer::new(Purpose::Ticket)
                        .field(RUNG, &[10])
                        .field(HOST, b"app.example.com")
                        .field(GRANT, &bytes),
                ),
            ),
        ] {
            assert_eq!(
                verify(&token, home(), "app.example.com", NOW),
                None,
                "{story}"
            );
        }
        assert!(
            verify(
                &sealed(start().field(GRANT, &bytes)),
                home(),
                "app.example.com",
                NOW
            )
            .is_some()
        );
    }

    #[test]
    fn a_visitor_who_moves_keeps_both_networks() {
        let mobile = network("2001:db8::1");
        let later = Clearance::new(
            Rung::ProofOfWork,
            Grant {
                network: mobile,
                issued: NOW + 60,
                expires: NOW + 60 + HOUR,
            },
        );
        let both = later.after(&clearance(), NOW + 60);
        let token = both.seal(&key(), "app.example.com").unwrap();
        let held = Some(Rung::ProofOfWork);
        assert_eq!(verify(&token, home(), "app.example.com", NOW + 60), held);
        assert_eq!(verify(&token, mobile, "app.example.com", NOW + 60), held);
        // Each network keeps its own end.
        assert_eq!(verify(&token, home(), "app.example.com", NOW + HOUR), None);
        assert_eq!(verify(&token, mobile, "app.example.com", NOW + HOUR), held);
    }

    #[test]
    fn networks_are_few_and_the_newest_stay() {
        let mut held = clearance();
        for n in 0..10_u8 {
            let next = grant(network(&format!("198.51.100.{n}")));
            held = Clearance::new(Rung::ProofOfWork, next).after(&held, NOW);
        }
        let networks: Vec<_> = held.grants.iter().map(|grant| grant.network).collect();
        let expected: Vec<_> = (6..10)
            .map(|n| network(&format!("198.51.100.{n}")))
            .collect();
        assert_eq!(networks, expected);
        assert!(held.seal(&key(), &"h".repeat(MAX_HOST)).is_some());
        assert!(held.seal(&key(), &"h".repeat(MAX_HOST + 1)).is_none());
    }

    #[test]
    fn an_expired_network_is_left_behind() {
        let next = Grant {
            network: network("198.51.100.1"),
            issued: NOW + HOUR,
            expires: NOW + 2 * HOUR,
        };
        let held = Clearance::new(Rung::ProofOfWork, next).after(&clearance(), NOW + HOUR);
        assert_eq!(held.grants.as_slice(), [next]);
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_clearance(token in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Clearance::verify(&token, &key(), home(), "app.example.com", NOW), None);
        }

        #[test]
        fn any_clearance_opens_again(v4 in any::<u32>(), v6 in any::<u128>(), length in 0_u8..=128, issued in any::<u64>(), expires in any::<u64>(), host in "[a-z.-]{0,253}") {
            let lengths = PrefixLengths { ipv4: length.min(32), ipv6: length };
            for address in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                let network = Prefix::of(address, lengths);
                let made = Clearance::new(Rung::ProofOfWork, Grant { network, issued, expires });
                let token = made.seal(&key(), &host).unwrap();
                prop_assert_eq!(Clearance::open(token.as_bytes(), &key(), &host), Some(made));
            }
        }
    }
}
