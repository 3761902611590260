//! What the host needs to live, whoever is banned: its own addresses, its gateways and its name
//! servers. And the interfaces that face the outside.

use ipnet::IpNet;
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use std::{collections::BTreeSet, fs, io, net::IpAddr};

// Of the thread: a thread may be in another network namespace than its process.
const ROUTES_V4: &str = "/proc/thread-self/net/route";
const ROUTES_V6: &str = "/proc/thread-self/net/ipv6_route";
const RESOLVERS: &str = "/etc/resolv.conf";

/// Those of the default routes, else all that are up, but for the loopback.
pub(super) fn interfaces() -> io::Result<Vec<String>> {
    let (v4, v6) = (read(ROUTES_V4)?, read(ROUTES_V6)?);
    let routed: BTreeSet<String> = default_v4(&v4)
        .chain(default_v6(&v6))
        .map(|(interface, _)| interface.into())
        .collect();
    if !routed.is_empty() {
        return Ok(routed.into_iter().collect());
    }
    let outside = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let up = getifaddrs()?
        .filter(|one| outside(one.flags))
        .map(|one| one.interface_name);
    Ok(up.collect::<BTreeSet<_>>().into_iter().collect())
}

/// Loopback, link-local of IPv6 (its routers and neighbours), own addresses, gateways, name servers.
pub(super) fn networks() -> io::Result<Vec<IpNet>> {
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    for interface in getifaddrs()? {
        let Some(address) = interface.address else {
            continue;
        };
        addresses.extend(address.as_sockaddr_in().map(|one| IpAddr::V4(one.ip())));
        addresses.extend(address.as_sockaddr_in6().map(|one| IpAddr::V6(one.ip())));
    }
    let (v4, v6) = (read(ROUTES_V4)?, read(ROUTES_V6)?);
    addresses.extend(
        default_v4(&v4)
            .chain(default_v6(&v6))
            .map(|(_, gateway)| gateway),
    );
    addresses.extend(name_servers(&read(RESOLVERS)?));
    let mut networks: BTreeSet<IpNet> = addresses
        .into_iter()
        .filter(|one| !one.is_unspecified())
        .map(IpNet::from)
        .collect();
    let always = ["127.0.0.0/8", "::1/128", "fe80::/10"];
    networks.extend(always.iter().filter_map(|one| one.parse::<IpNet>().ok()));
    Ok(networks.into_iter().collect())
}

/// A file's text; none if there is no such file: a host may have no IPv6, and no resolvers.
fn read(path: &str) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Interface and gateway of each default route: `eth0 00000000 0100000A ...`.
fn default_v4(routes: &str) -> impl Iterator<Item = (&str, IpAddr)> {
    routes.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (interface, to, gateway) = (fields.next()?, fields.next()?, fields.next()?);
        let mask = fields.nth(4)?;
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        // In the byte order of the host, as the kernel prints them.
        let gateway = IpAddr::from(gateway.to_ne_bytes());
        let default = to == "00000000" && mask == "00000000";
        // A route that forbids has none.
        (default && interface != "*").then_some((interface, gateway))
    })
}

/// The same of IPv6: address, length, source, length, gateway, four numbers, interface.
fn default_v6(routes: &str) -> impl Iterator<Item = (&str, IpAddr)> {
    routes.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [to, length, _, _, gateway, _, _, _, _, interface] = fields.as_slice() else {
            return None;
        };
        let gateway = IpAddr::from(u128::from_str_radix(gateway, 16).ok()?.to_be_bytes());
        let default = *length == "00" && to.bytes().all(|byte| byte == b'0');
        (default && *interface != "lo").then_some((*interface, gateway))
    })
}

fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words
            .next()
            .filter(|word| *word == "nameserver")
            .and(words.next())?;
        // `fe80::1%eth0` names its link.
        address.split('%').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_read() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            *\t00000000\t00000000\t0201\t0\t0\t9999\t00000000\t0\t0\t0\n";
        let found: Vec<_> = default_v4(v4).collect();
        assert_eq!(
            found,
            [("eth0", IpAddr::from(0x0100_000A_u32.to_ne_bytes()))]
        );
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth1\n\
             {zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo\n\
             fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 1 0 00000001 eth1\n"
        );
        let found: Vec<_> = default_v6(&v6).collect();
        assert_eq!(found, [("eth1", "fe80::1".parse().unwrap())]);
    }

    #[test]
    fn name_servers_are_read() {
        let text = "# nameserver 192.0.2.1\nsearch example.com\nnameserver 192.0.2.53\n\
            nameserver fe80::1%eth0\nnameserver of no address\n";
        let found: Vec<_> = name_servers(text).collect();
        assert_eq!(
            found,
            [
                "192.0.2.53".parse::<IpAddr>().unwrap(),
                "fe80::1".parse().unwrap()
            ]
        );
    }

    #[test]
    fn this_host_protects_its_loopback() {
        let networks = networks().unwrap();
        assert!(networks.contains(&"127.0.0.0/8".parse().unwrap()));
        assert!(networks.contains(&"::1/128".parse().unwrap()));
    }
}
