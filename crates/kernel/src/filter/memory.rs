//! A filter that drops nothing but answers as the others do: what tests and benchmarks of the guard
//! stand on, where there is no kernel to ask.

use super::{Backend, Ban, Filter, Nanos, Reflector, Totals};
use ipnet::IpNet;
use std::{collections::HashMap, io, net::IpAddr};

#[derive(Debug)]
pub struct Memory {
    backend: Backend,
    capacity: u32,
    bans: HashMap<IpNet, Entry>,
    protected: Vec<IpNet>,
    totals: Totals,
}

#[derive(Debug)]
struct Entry {
    until: Option<Nanos>,
    hits: u64,
}

impl Memory {
    /// Claims to be `backend`.
    #[must_use]
    pub fn new(backend: Backend, capacity: u32) -> Self {
        Self {
            backend,
            capacity,
            bans: HashMap::new(),
            protected: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Whether a packet of `bytes` from `source` passes at a time.
    pub fn passes(&mut self, source: IpAddr, bytes: u64, now: Nanos) -> bool {
        if self
            .protected
            .iter()
            .any(|network| network.contains(&source))
        {
            return true;
        }
        let banned = self
            .bans
            .iter_mut()
            .filter(|(network, entry)| {
                network.contains(&source) && entry.until.is_none_or(|until| now < until)
            })
            .max_by_key(|(network, _)| network.prefix_len());
        let Some((_, entry)) = banned else {
            return true;
        };
        entry.hits += 1;
        self.totals.packets += 1;
        self.totals.bytes += bytes;
        false
    }
}

impl Filter for Memory {
    fn backend(&self) -> Backend {
        self.backend
    }

    fn interfaces(&self) -> Vec<String> {
        Vec::new()
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn ban(&mut self, bans: &[Ban]) -> io::Result<Vec<IpNet>> {
        let mut refused = Vec::new();
        for ban in bans {
            let full = self.bans.len() >= self.capacity as usize;
            if let Some(entry) = self.bans.get_mut(&ban.network) {
                entry.until = ban.until;
            } else if full {
                refused.push(ban.network);
            } else {
                let entry = Entry {
                    until: ban.until,
                    hits: 0,
                };
                self.bans.insert(ban.network, entry);
            }
        }
        Ok(refused)
    }

    fn unban(&mut self, networks: &[IpNet]) -> io::Result<()> {
        for network in networks {
            self.bans.remove(network);
        }
        Ok(())
    }

    fn protect(&mut self, networks: &[IpNet]) -> io::Result<()> {
        self.protected = networks.to_vec();
        Ok(())
    }

    fn hits(&mut self, networks: &[IpNet]) -> io::Result<Vec<u64>> {
        let hits = |network| self.bans.get(network).map_or(0, |entry| entry.hits);
        Ok(networks.iter().map(hits).collect())
    }

    fn totals(&mut self) -> io::Result<Totals> {
        Ok(self.totals)
    }

    fn reflectors(&mut self) -> io::Result<Vec<Reflector>> {
        Ok(Vec::new())
    }

    fn drop_reflected(&mut self, _: &[u16]) -> io::Result<()> {
        Ok(())
    }
}
