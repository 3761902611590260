//! Which address a request counts for: the peer's own, or the one that trusted proxies report in
//! `x-forwarded-for`. Cutting it to a prefix is left to the caller.
//!
//! The header is a list that each proxy appends to, so only its right end can be believed, and only
//! as far as the chain of trusted proxies reaches (RFC 7239, section 8.1, says the same of
//! `forwarded`).

use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many hops are read, so that a long header costs no more than this.
const MAX_HOPS: usize = 32;

/// The longest hop that can be an address: a full IPv6 one in brackets, with a port.
const MAX_HOP_BYTES: usize = 64;

/// The networks whose word is taken.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// IPv4-mapped IPv6 networks (`::ffff:10.0.0.0/104`) count as IPv4, as addresses do.
    #[must_use]
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.iter().map(|network| canonical(*network)).collect())
    }

    /// Whether the host at `address` is believed.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Ok(mapped) = Ipv4Net::new(v4, length)
    {
        return IpNet::V4(mapped);
    }
    network
}

/// The client's address. `forwarded_for` are the values of `x-forwarded-for`, in the order in which
/// they stand in the request; they count only when `peer` is trusted, are read from the right, and
/// the first hop that is not trusted is the client. A hop that is no address ends the walk, and the
/// hop that reported it counts. Never fails and never allocates.
#[must_use]
pub fn client_address<'a>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &TrustedProxies,
) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.contains(client) {
        return client;
    }
    let hops = forwarded_for
        .rev()
        .flat_map(|value| value.rsplit(|byte| *byte == b','))
        .take(MAX_HOPS);
    for hop in hops {
        let hop = hop.trim_ascii();
        if hop.is_empty() {
            // RFC 9110, 5.6.1.2: empty list elements are ignored.
            continue;
        }
        let Some(address) = parse_hop(hop) else {
            return client;
        };
        client = address;
        if !trusted.contains(client) {
            return client;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:5678`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:443`.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    if hop.len() > MAX_HOP_BYTES {
        return None;
    }
    let text = std::str::from_utf8(hop).ok()?;
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
            return None;
        }
        IpAddr::V6(address.parse::<Ipv6Addr>().ok()?)
    } else if let Ok(address) = text.parse::<IpAddr>() {
        address
    } else {
        let (address, port) = text.split_once(':')?;
        if !is_port(port) {
            return None;
        }
        IpAddr::V4(address.parse::<Ipv4Addr>().ok()?)
    };
    Some(address.to_canonical())
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trusted() -> TrustedProxies {
        TrustedProxies::new(&[
            "10.0.0.0/8".parse().unwrap(),
            "fd00::/8".parse().unwrap(),
            "::ffff:172.16.0.0/108".parse().unwrap(),
        ])
    }

    fn client(peer: &str, values: &[&str]) -> String {
        let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
        client_address(peer.parse().unwrap(), values.into_iter(), &trusted()).to_string()
    }

    #[test]
    fn stories() {
        #[rustfmt::skip]
        let table: &[(&str, &str, &[&str], &str)] = &[
            ("no header: the peer", "10.0.0.1", &[], "10.0.0.1"),
            ("a stranger's header says nothing", "198.51.100.1", &["192.0.2.7"], "198.51.100.1"),
            ("one trusted proxy", "10.0.0.1", &["192.0.2.7"], "192.0.2.7"),
            ("what the client wrote itself is to the left", "10.0.0.1", &["127.0.0.1, 192.0.2.7"], "192.0.2.7"),
            ("trusted hops are skipped", "10.0.0.1", &["192.0.2.7, 10.2.3.4, 10.9.9.9"], "192.0.2.7"),
            ("a client that claims to be a proxy", "10.0.0.1", &["10.6.6.6, 192.0.2.7"], "192.0.2.7"),
            ("only proxies: the first of them", "10.0.0.1", &["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
            ("several lines are one list", "10.0.0.1", &["203.0.113.9", "192.0.2.7, 10.2.3.4"], "192.0.2.7"),
            ("a forged first line", "10.0.0.1", &["10.1.1.1", "192.0.2.7"], "192.0.2.7"),
            ("a port", "10.0.0.1", &["192.0.2.7:5678"], "192.0.2.7"),
            ("IPv6", "10.0.0.1", &["2001:db8::7"], "2001:db8::7"),
            ("IPv6 in brackets", "fd00::1", &["[2001:db8::7]"], "2001:db8::7"),
            ("IPv6 in brackets with a port", "fd00::1", &["[2001:db8::7]:443"], "2001:db8::7"),
            ("a mapped hop is IPv4", "10.0.0.1", &["::ffff:192.0.2.7"], "192.0.2.7"),
            ("a mapped peer is IPv4", "::ffff:10.0.0.1", &["192.0.2.7"], "192.0.2.7"),
            ("a mapped trusted network is IPv4", "172.20.0.1", &["192.0.2.7"], "192.0.2.7"),
            ("garbage: who reported it", "10.0.0.1", &["192.0.2.7, unknown, 10.2.3.4"], "10.2.3.4"),
            ("garbage alone: the peer", "10.0.0.1", &["unknown"], "10.0.0.1"),
            ("empty elements are skipped", "10.0.0.1", &["192.0.2.7, ,,", "", " "], "192.0.2.7"),
            ("a tab is white space", "10.0.0.1", &["192.0.2.7\t,\t10.2.3.4"], "192.0.2.7"),
            ("no such port", "10.0.0.1", &["192.0.2.7:99999"], "10.0.0.1"),
            ("a sign is no port", "10.0.0.1", &["192.0.2.7:+80"], "10.0.0.1"),
            ("an empty port", "10.0.0.1", &["192.0.2.7:"], "10.0.0.1"),
            ("text after the bracket", "10.0.0.1", &["[2001:db8::7]443"], "10.0.0.1"),
            ("no closing bracket", "10.0.0.1", &["[2001:db8::7"], "10.0.0.1"),
            ("IPv4 in brackets", "10.0.0.1", &["[192.0.2.7]"], "10.0.0.1"),
            ("a zone is nobody's business", "10.0.0.1", &["fe80::1%eth0"], "10.0.0.1"),
            ("octal is no address", "10.0.0.1", &["0300.0.2.7"], "10.0.0.1"),
        ];
        for (story, peer, values, expected) in table {
            assert_eq!(client(peer, values), *expected, "{story}");
        }
    }

    #[test]
    fn the_walk_is_bounded() {
        let mut hops = vec!["192.0.2.7".to_owned()];
        hops.extend((0..MAX_HOPS).map(|hop| format!("10.1.1.{hop}")));
        assert_eq!(client("10.0.0.1", &[&hops.join(",")]), "10.1.1.0");
    }

    #[test]
    fn nobody_is_trusted_by_default() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let values: [&[u8]; 1] = [b"192.0.2.7"];
        assert_eq!(
            client_address(peer, values.into_iter(), &TrustedProxies::default()),
            peer
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_strangers_stay_themselves(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
            let values = || values.iter().map(Vec::as_slice);
            let _ = client_address("10.0.0.1".parse().unwrap(), values(), &trusted());
            let stranger: IpAddr = "198.51.100.1".parse().unwrap();
            prop_assert_eq!(client_address(stranger, values(), &trusted()), stranger);
        }

        #[test]
        fn whatever_stands_left_of_the_client_is_ignored(junk in "[ -~]{0,80}") {
            let list = format!("{junk}, 192.0.2.7, 10.3.3.3");
            prop_assert_eq!(client("10.0.0.1", &[&list]), "192.0.2.7");
        }
    }
}
