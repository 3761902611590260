//! A network as bytes in a token: one way to write it, and no other is read.

use crate::prefix::{Prefix, PrefixLengths};
use std::net::IpAddr;

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
