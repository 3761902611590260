//! Which crawlers are what they say: their address leads to a name of the search engine (PTR), and
//! that name leads back to the address (A or AAAA). Looked up in the background, never on the path of
//! a request: until the answer is there, a crawler is anybody.
//!
//! Everything that strangers can cause is bounded: lookups in flight and a second, for all and for
//! one network ([`flights`]), one an address, names and addresses of an answer, and what is remembered ([`table`]).

mod flights;
mod lookup;
mod table;

use crate::config::model;
use flights::Flights;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::Name,
};
use http::{HeaderMap, header::USER_AGENT};
use memchr::memmem::Finder;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use table::{Known, Table};
use tokio::runtime::Handle;
use verdict::{
    Nanos,
    prefix::{Prefix, PrefixLengths},
};

/// More of a `user-agent` is not looked at.
const LONGEST_AGENT: usize = 512;

/// Counts a result, under its name.
pub type Count = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Which crawlers an address was verified for: a bit each, in the order of the configuration.
type Mask = u64;

/// Tells crawlers by their address; one a generation, what it found is shared by those that follow.
pub struct Crawlers {
    entries: Vec<Entry>,
    shared: Arc<Shared>,
}

struct Entry {
    name: Arc<str>,
    agent: Finder<'static>,
}

/// What a lookup needs, and where its result goes.
struct Shared {
    spec: Vec<model::Crawler>,
    server: Option<SocketAddr>,
    domains: Vec<(Name, Mask)>,
    resolver: TokioResolver,
    control: Handle,
    flights: Arc<Flights>,
    table: Table,
    count: Count,
}

impl std::fmt::Debug for Crawlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.entries.iter().map(|entry| &entry.name);
        f.debug_list().entries(names).finish()
    }
}

impl Crawlers {
    /// `None` when no crawler is configured. What `previous` found stays, where the same ones are
    /// looked for. `control` is where lookups go on.
    ///
    /// # Errors
    /// A sentence, when the system has no resolver.
    pub fn build(
        spec: &model::Challenge,
        previous: Option<&Self>,
        control: &Handle,
        count: &Count,
    ) -> Result<Option<Self>, String> {
        if spec.crawlers.is_empty() {
            return Ok(None);
        }
        let same = previous
            .map(|previous| &previous.shared)
            .filter(|shared| shared.spec == spec.crawlers && shared.server == spec.resolver);
        let shared = if let Some(shared) = same {
            Arc::clone(shared)
        } else {
            let resolver = resolver(spec.resolver)
                .map_err(|e| format!("crawlers can't be looked up in the DNS: {e}"))?;
            Arc::new(Shared::new(
                &spec.crawlers,
                spec.resolver,
                resolver,
                control,
                count,
            ))
        };
        Ok(Some(Self::over(shared)))
    }

    fn over(shared: Arc<Shared>) -> Self {
        let entries = shared.spec.iter().map(|crawler| Entry {
            name: Arc::clone(&crawler.name),
            agent: Finder::new(crawler.agent.as_bytes()).into_owned(),
        });
        Self {
            entries: entries.collect(),
            shared,
        }
    }

    /// The name of the verified crawler that sent the request; empty for everybody else. Waits for
    /// nothing: an address that is not known yet is looked up in the background.
    #[must_use]
    pub fn identify(&self, headers: &HeaderMap, ip: IpAddr, now: Nanos) -> &str {
        let Some(agent) = headers.get(USER_AGENT) else {
            return "";
        };
        let agent = agent.as_bytes();
        let agent = agent.get(..LONGEST_AGENT).unwrap_or(agent);
        let mut claims = (0_u32..)
            .zip(&self.entries)
            .filter(|(_, entry)| entry.agent.find(agent).is_some())
            .peekable();
        if claims.peek().is_none() {
            return "";
        }
        let ip = ip.to_canonical();
        let mask = match self.shared.table.get(ip, now) {
            Some(Known::Verified(mask)) => mask,
            Some(Known::Stale(mask)) => {
                self.shared.begin(ip, now);
                mask
            }
            Some(Known::Other) => return "",
            None => {
                self.shared.begin(ip, now);
                return "";
            }
        };
        let verified = |index: u32| mask.checked_shr(index).is_some_and(|mask| mask & 1 == 1);
        let found = claims.find(|(index, _)| verified(*index));
        found.map_or("", |(_, entry)| &entry.name)
    }
}

impl Shared {
    fn new(
        spec: &[model::Crawler],
        server: Option<SocketAddr>,
        resolver: TokioResolver,
        control: &Handle,
        count: &Count,
    ) -> Self {
        let domains = (0_u32..).zip(spec).flat_map(|(index, crawler)| {
            let mask = 1_u64.checked_shl(index).unwrap_or(0);
            crawler.domains.iter().filter_map(move |domain| {
                let mut name = Name::from_ascii(domain).ok()?;
                name.set_fqdn(true);
                Some((name, mask))
            })
        });
        Self {
            domains: domains.collect(),
            spec: spec.to_vec(),
            server,
            resolver,
            control: control.clone(),
            flights: Arc::default(),
            table: Table::default(),
            count: Arc::clone(count),
        }
    }

    /// Looks an address up, unless there are too many already: it is tried again then.
    fn begin(self: &Arc<Self>, ip: IpAddr, now: Nanos) {
        let network = Prefix::of(ip, PrefixLengths::NETWORK);
        let Some(place) = self.flights.enter(network, now) else {
            (self.count)("shed");
            return;
        };
        if !self.table.begin(ip, now) {
            return;
        }
        let this = Arc::clone(self);
        self.control.spawn(async move {
            let found = lookup::verify(&this.resolver, ip, &this.domains).await;
            drop(place);
            (this.count)(match found {
                lookup::Found::Verified(_) => "verified",
                lookup::Found::Other => "refused",
                lookup::Found::Failed => "failed",
            });
            this.table.learn(ip, found, crate::clock::now());
        });
    }
}

/// Asks the server, or those of the system (`/etc/resolv.conf`).
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio().map_err(|e| e.to_string())?,
        Some(address) => {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // What was found is kept here, by address.
    options.cache_size = 0;
    builder.build().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
