//! Who can't be banned under a configuration: the one place that decides it. What is banned by hand is
//! held against this, and so is what guards and feeds decide.

use crate::{
    bans::{Bans, Because, Feed},
    clock,
    config::{Config, model::Endpoints},
};
use ipnet::IpNet;
use std::{fs, io::Read, net::IpAddr};
use verdict::decision::Action;

const RESOLVERS: &str = "/etc/resolv.conf";
/// Bytes of it.
const LARGEST: u64 = 64 << 10;

/// Puts what a configuration says of bans into force.
pub fn configure(bans: &Bans, config: &Config) {
    let mut resolvers = String::new();
    let read = fs::File::open(RESOLVERS);
    if let Err(error) = read.and_then(|file| file.take(LARGEST).read_to_string(&mut resolvers)) {
        tracing::debug!(%error, "{RESOLVERS} can't be read");
    }
    let protected = protected(config, &resolvers);
    let now = clock::now();
    bans.resize(config.bans.capacity as usize, now);
    bans.configure(&protected, config.clients.prefix, now);
    let lists = &config.policy.lists;
    let feeds = config.bans.feeds.iter().filter_map(|name| {
        let list = lists.iter().find(|list| list.name == *name)?;
        Some(Feed::new(name, &list.networks))
    });
    bans.feed(feeds.collect());
}

/// Loopback is not among resolvers and upstreams: it is what clients of a test or a sidecar come
/// from, and the guard never drops it.
fn protected(config: &Config, resolvers: &str) -> Vec<(IpNet, Because)> {
    let allowed = config.policy.lists.iter();
    let allowed = allowed.filter(|list| list.then == Some(Action::Allow));
    let allowed = allowed.flat_map(|list| &list.networks);
    let endpoints = config.upstreams.iter().flat_map(|upstream| {
        let list = match &upstream.endpoints {
            Endpoints::List(list) => list.as_slice(),
            // Names, all of them.
            Endpoints::Dns { .. } | Endpoints::Srv { .. } => &[],
        };
        list.iter().filter_map(|target| target.host.parse().ok())
    });
    let asked = config.challenge.resolver.map(|resolver| resolver.ip());
    let resolvers = resolvers.lines().filter_map(nameserver).chain(asked);
    let single = |address: IpAddr, why| {
        let address = address.to_canonical();
        (!address.is_loopback()).then(|| (IpNet::from(address), why))
    };
    let trusted = config.clients.trusted_proxies.iter();
    let trusted = trusted.map(|network| (*network, Because::TrustedProxy));
    let never = config.bans.never.iter();
    trusted
        .chain(allowed.map(|network| (*network, Because::Allowed)))
        .chain(never.map(|network| (*network, Because::Never)))
        .chain(resolvers.filter_map(|address| single(address, Because::Resolver)))
        .chain(endpoints.filter_map(|address| single(address, Because::Upstream)))
        .collect()
}

/// The address of a `nameserver` line (resolv.conf(5)); a zone behind `%` does not matter here.
fn nameserver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|word| *word == "nameserver")?;
    let address = words.next()?;
    address.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_found() {
        for (line, expected) in [
            ("nameserver 192.0.2.53", Some("192.0.2.53")),
            ("  nameserver\t2001:db8::53 # mine", Some("2001:db8::53")),
            ("nameserver fe80::1%eth0", Some("fe80::1")),
            ("#nameserver 192.0.2.53", None),
            ("search example.com", None),
            ("nameserver", None),
            ("nameserver x", None),
            ("", None),
        ] {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(nameserver(line), expected, "{line}");
        }
    }

    #[test]
    fn whom_this_process_needs_is_protected() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rempart.yaml");
        let yaml = "listeners: [{ address: 127.0.0.1:0 }]\n\
                    clients: { trusted_proxies: [10.0.0.0/8] }\n\
                    upstreams:\n  a: { endpoints: [192.0.2.10:80, 127.0.0.1:80, app.example.com:80] }\n\
                    \x20 b: { endpoints: [\"[2001:db8::11]:80\"] }\n\
                    routes: [{ name: a, path: /, upstream: a }]\n\
                    lists: { friends: { networks: [198.51.100.0/24], then: allow }, x: { networks: [1.0.0.0/8], then: drop } }\n\
                    bans: { never: [203.0.113.0/24], feeds: [x] }\n";
        fs::write(&file, yaml).unwrap();
        let config = crate::config::load(&file).unwrap_or_else(|errors| panic!("{errors}"));
        let protected = protected(&config, "nameserver 192.0.2.53\nnameserver 127.0.0.53\n");
        let told: Vec<_> = protected
            .iter()
            .map(|(network, why)| (network.to_string(), *why))
            .collect();
        let expected = [
            ("10.0.0.0/8", Because::TrustedProxy),
            ("198.51.100.0/24", Because::Allowed),
            ("203.0.113.0/24", Because::Never),
            ("192.0.2.53/32", Because::Resolver),
            ("192.0.2.10/32", Because::Upstream),
            ("2001:db8::11/128", Because::Upstream),
        ];
        let expected = expected.map(|(network, why)| (network.to_owned(), why));
        assert_eq!(told, expected);
        let bans = Bans::default();
        configure(&bans, &config);
        assert_eq!(
            bans.feeds()[0].networks.as_ref(),
            ["1.0.0.0/8".parse().unwrap()]
        );
    }
}
