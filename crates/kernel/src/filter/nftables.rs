//! Drops in a hook of `nf_tables`, before connection tracking, by a table that the kernel removes with
//! the netlink socket that made it: when this process ends, however it ends, the table is gone.
//!
//! A hash set for each length of prefix that is banned, so that wide and narrow bans may overlap, each
//! with its own timeout and counter (`rules`). The kernel checks rights with every message: the process
//! keeps `CAP_NET_ADMIN`.

mod counter;
mod netlink;
mod rules;

use super::{Backend, Ban, Filter, Nanos, Ports, Reflector, Totals};
use counter::Counter;
use ipnet::IpNet;
use netlink::Netlink;
use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};
use rules::{Rules, SetId};
use std::{
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

/// Elements of a message: its length must fit sixteen bits.
const CHUNK: usize = 512;
/// Ends that are said again and differ by less are the same.
const SAME: Nanos = 1_000_000_000;

pub struct Nftables {
    netlink: Netlink,
    rules: Rules,
    capacity: u32,
    /// What was told to the kernel, and until when (`NEVER`: without end).
    held: HashMap<IpNet, Nanos>,
    /// Lengths of prefix that have a set.
    lengths: HashSet<SetId>,
}

const NEVER: Nanos = Nanos::MAX;

impl Nftables {
    /// Makes the table. An error says why not.
    pub fn attach(ports: &Ports, capacity: u32) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        // Mostly the process's id; but processes of two containers may have the same.
        let rules = Rules::new(format!("rempart-{}", netlink.port()));
        netlink.transact(&rules.table(ports)).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("can't make a table of nf_tables: {error}"),
            )
        })?;
        Ok(Self {
            netlink,
            rules,
            capacity,
            held: HashMap::new(),
            lengths: HashSet::new(),
        })
    }

    /// Elements by the set they belong to, in portions that fit a message.
    fn portions<T>(items: Vec<(IpNet, T)>) -> Vec<Portion<T>> {
        let mut sets: HashMap<_, Vec<_>> = HashMap::new();
        for item in items {
            sets.entry(rules::set_of(&item.0)).or_default().push(item);
        }
        let mut portions = Vec::new();
        for (set, mut items) in sets {
            while items.len() > CHUNK {
                portions.push((set, items.split_off(items.len() - CHUNK)));
            }
            portions.push((set, items));
        }
        portions
    }

    fn add(&mut self, bans: Vec<(IpNet, Element)>) -> io::Result<()> {
        for (set, items) in Self::portions(bans) {
            let mut messages = Vec::new();
            if self.lengths.insert(set) {
                messages.extend(self.rules.length(set));
            }
            messages.push(self.rules.add(set, &items));
            self.netlink.transact(&messages)?;
        }
        Ok(())
    }

    fn remove(&mut self, networks: Vec<(IpNet, ())>) -> io::Result<()> {
        for (set, items) in Self::portions(networks) {
            match self.netlink.transact(&[self.rules.remove(set, &items)]) {
                // One of them ended just now, and spoilt it for the others.
                Err(error) if is(&error, Errno::ENOENT) => {
                    for item in items {
                        match self.netlink.transact(&[self.rules.remove(set, &[item])]) {
                            Err(error) if is(&error, Errno::ENOENT) => {}
                            other => other?,
                        }
                    }
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn counter(&mut self, network: &IpNet) -> io::Result<Counter> {
        if !self.held.contains_key(network) {
            return Ok(Counter::default());
        }
        let set = rules::set_of(network);
        match self.netlink.ask(&self.rules.ask(set, network), false) {
            Ok(answers) => Ok(answers
                .iter()
                .find_map(|one| counter::of_element(one))
                .unwrap_or_default()),
            // It ended.
            Err(error) if is(&error, Errno::ENOENT) => Ok(Counter::default()),
            Err(error) => Err(error),
        }
    }
}

type Portion<T> = (SetId, Vec<(IpNet, T)>);

/// What a ban is to the kernel: milliseconds (0: no end), and the count it starts with.
struct Element {
    timeout: u64,
    counter: Counter,
}

impl Filter for Nftables {
    fn backend(&self) -> Backend {
        Backend::Nftables
    }

    fn interfaces(&self) -> Vec<String> {
        Vec::new()
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn ban(&mut self, bans: &[Ban]) -> io::Result<Vec<IpNet>> {
        let now = now()?;
        let mut refused = Vec::new();
        let (mut changed, mut added) = (Vec::new(), Vec::new());
        for ban in bans {
            let until = ban.until.unwrap_or(NEVER);
            let timeout = match ban.until {
                None => 0,
                Some(until) => (until.saturating_sub(now) / 1_000_000).max(1),
            };
            match self.held.get(&ban.network) {
                Some(held) if held.abs_diff(until) < SAME && *held > now => continue,
                Some(_) => {
                    let counter = self.counter(&ban.network)?;
                    changed.push((ban.network, ()));
                    added.push((ban.network, Element { timeout, counter }));
                }
                None if self.held.len() >= self.capacity as usize => {
                    refused.push(ban.network);
                    continue;
                }
                None => added.push((
                    ban.network,
                    Element {
                        timeout,
                        counter: Counter::default(),
                    },
                )),
            }
            self.held.insert(ban.network, until);
        }
        self.remove(changed)?;
        self.add(added)?;
        Ok(refused)
    }

    fn unban(&mut self, networks: &[IpNet]) -> io::Result<()> {
        let now = now()?;
        // What ended is gone from the kernel.
        let held: Vec<_> = networks
            .iter()
            .filter(|network| self.held.remove(*network).is_some_and(|until| until > now))
            .map(|network| (*network, ()))
            .collect();
        self.remove(held)
    }

    fn protect(&mut self, networks: &[IpNet]) -> io::Result<()> {
        let networks = IpNet::aggregate(&networks.to_vec());
        self.netlink.transact(&self.rules.protect(&networks))
    }

    fn hits(&mut self, networks: &[IpNet]) -> io::Result<Vec<u64>> {
        networks
            .iter()
            .map(|network| Ok(self.counter(network)?.packets))
            .collect()
    }

    fn totals(&mut self) -> io::Result<Totals> {
        let answers = self.netlink.ask(&self.rules.ask_totals(), true)?;
        let counter = answers
            .iter()
            .find_map(|one| counter::of_rule(one))
            .unwrap_or_default();
        Ok(Totals {
            packets: counter.packets,
            bytes: counter.bytes,
        })
    }

    fn reflectors(&mut self) -> io::Result<Vec<Reflector>> {
        Ok(Vec::new())
    }

    fn drop_reflected(&mut self, _: &[u16]) -> io::Result<()> {
        Ok(())
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn now() -> io::Result<Nanos> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Nanos::try_from(now.as_nanos()).map_err(io::Error::other)
}
