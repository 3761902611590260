//! Turns names into addresses, in the background and never on the path of a request.
//!
//! An answer is asked for again when its TTL ends, at the latest after the configured time; when that
//! fails, the last good answer stays.

use super::pool::{Pool, Target};
use crate::config::model::Endpoints;
use hickory_resolver::{TokioResolver, config::LookupIpStrategy, net::NetError, proto::rr::RData};
use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// How often names in a list of endpoints are looked up, at the least.
const LIST_REFRESH: Duration = Duration::from_secs(30);
const SHORTEST: Duration = Duration::from_secs(1);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(2);
/// Most targets of one SRV record set.
const MAX_SERVICES: usize = 64;

/// A resolver as the system is configured (`/etc/resolv.conf`, `/etc/hosts`).
pub(super) fn system_resolver() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Answers are kept in the upstreams; a cache would only make them older.
    options.cache_size = 0;
    builder.build()
}

/// Keeps one target of an upstream resolved until its generation ends.
pub(super) async fn run(pool: Weak<Pool>, index: usize, resolver: Arc<TokioResolver>) {
    let mut failing = false;
    loop {
        let Some((target, refresh)) = pool.upgrade().and_then(|pool| due(&pool, index)) else {
            return;
        };
        let answer = resolve(&resolver, &target).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let upstream = &*pool.spec.name;
        let wait = match answer {
            Ok((addresses, valid_until)) => {
                failing = false;
                let count = addresses.len();
                if pool.learn(index, addresses) {
                    tracing::info!(upstream, name = %target, addresses = count, "endpoints changed");
                }
                let ttl = valid_until.saturating_duration_since(Instant::now());
                ttl.clamp(SHORTEST, refresh.max(SHORTEST))
            }
            Err(problem) => {
                if !failing {
                    tracing::warn!(upstream, name = %target, problem, "name does not resolve; the last answer stays");
                }
                failing = true;
                AGAIN.min(refresh.max(SHORTEST))
            }
        };
        drop(pool);
        tokio::time::sleep(wait).await;
    }
}

fn due(pool: &Pool, index: usize) -> Option<(Target, Duration)> {
    let refresh = match &pool.spec.endpoints {
        Endpoints::List(_) => LIST_REFRESH,
        Endpoints::Dns { refresh, .. } | Endpoints::Srv { refresh, .. } => *refresh,
    };
    Some((pool.targets.get(index)?.clone(), refresh))
}

/// Addresses in an order of their own (servers rotate them), never none, and until when they hold.
async fn resolve(
    resolver: &TokioResolver,
    target: &Target,
) -> Result<(Vec<SocketAddr>, Instant), String> {
    let (mut addresses, valid_until) = match target {
        Target::Address(address) => (vec![*address], Instant::now()),
        Target::Name(name) => look_up(resolver, &name.host, name.port).await?,
        Target::Srv(name) => look_up_services(resolver, name).await?,
    };
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err("no addresses".to_owned());
    }
    Ok((addresses, valid_until))
}

async fn look_up(
    resolver: &TokioResolver,
    host: &str,
    port: u16,
) -> Result<(Vec<SocketAddr>, Instant), String> {
    let answer = resolver
        .lookup_ip(host)
        .await
        .map_err(|error| error.to_string())?;
    let addresses = answer
        .iter()
        .map(|address| SocketAddr::new(address, port))
        .collect();
    Ok((addresses, answer.valid_until()))
}

/// The targets of the lowest priority that any has (RFC 2782). Weights are left to the balance.
async fn look_up_services(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(Vec<SocketAddr>, Instant), String> {
    let answer = resolver
        .srv_lookup(name)
        .await
        .map_err(|error| error.to_string())?;
    let mut services: Vec<(u16, String, u16)> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            // A target of "." says that the service is not offered.
            RData::SRV(service) if !service.target.is_root() => {
                Some((service.priority, service.target.to_utf8(), service.port))
            }
            _ => None,
        })
        .collect();
    let first = services.iter().map(|(priority, ..)| *priority).min();
    services.retain(|(priority, ..)| Some(*priority) == first);
    services.truncate(MAX_SERVICES);
    let mut valid_until = answer.valid_until();
    let mut addresses = Vec::new();
    let mut problem = None;
    for (_, host, port) in services {
        match look_up(resolver, &host, port).await {
            Ok((found, until)) => {
                addresses.extend(found);
                valid_until = valid_until.min(until);
            }
            Err(error) => problem = Some(error),
        }
    }
    match problem {
        Some(problem) if addresses.is_empty() => Err(problem),
        _ => Ok((addresses, valid_until)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::model::HostPort,
        forward::{
            testing::NameServer,
            upstream::{
                Upstreams,
                tests::{generation, upstream},
            },
        },
    };
    use std::collections::BTreeSet;
    use tokio::runtime::Handle;

    fn addresses(upstreams: &Upstreams) -> BTreeSet<String> {
        let endpoints = upstreams.pools()[0].endpoints();
        endpoints
            .iter()
            .map(|endpoint| endpoint.address.to_string())
            .collect()
    }

    async fn until(upstreams: &Upstreams, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
        let waiting = async {
            while addresses(upstreams) != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = tokio::time::timeout(Duration::from_secs(20), waiting);
        assert!(limit.await.is_ok(), "{wanted:?} {:?}", addresses(upstreams));
    }

    #[tokio::test]
    async fn names_follow_their_records_and_keep_the_last_good_answer() {
        let server = NameServer::start().await;
        server.set("app.test.", &["10.0.0.1", "10.0.0.2", "::1"], 1);
        let mut spec = upstream("app", &[]);
        spec.endpoints = Endpoints::Dns {
            target: HostPort {
                host: "app.test.".into(),
                port: 80,
            },
            refresh: Duration::from_secs(3600),
        };
        let upstreams = Arc::new(generation(&[spec.clone()], None));
        upstreams.spawn_tasks_with(&Handle::current(), Some(server.resolver()));
        upstreams.resolved().await;
        assert_eq!(addresses(&upstreams).len(), 3);
        until(&upstreams, &["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"]).await;
        // The TTL of a second is kept, not the refresh of an hour.
        server.set("app.test.", &["10.0.0.3"], 1);
        until(&upstreams, &["10.0.0.3:80"]).await;
        server.fail(true);
        let asked = server.asked();
        while server.asked() < asked + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until(&upstreams, &["10.0.0.3:80"]).await;
        server.fail(false);
        server.set("app.test.", &["10.0.0.4"], 1);
        until(&upstreams, &["10.0.0.4:80"]).await;
    }

    #[tokio::test]
    async fn services_give_ports_and_the_first_priority_wins() {
        let server = NameServer::start().await;
        server.set("a.test.", &["10.0.0.1"], 60);
        server.set("b.test.", &["10.0.0.2"], 60);
        server.set("c.test.", &["10.0.0.3"], 60);
        server.set_services(
            "_http._tcp.test.",
            &[
                (1, 8080, "a.test."),
                (1, 8081, "b.test."),
                (2, 8082, "c.test."),
            ],
        );
        let mut spec = upstream("app", &[]);
        spec.endpoints = Endpoints::Srv {
            name: "_http._tcp.test.".into(),
            refresh: Duration::from_secs(30),
        };
        let upstreams = Arc::new(generation(&[spec], None));
        upstreams.spawn_tasks_with(&Handle::current(), Some(server.resolver()));
        until(&upstreams, &["10.0.0.1:8080", "10.0.0.2:8081"]).await;
    }

    #[tokio::test]
    async fn lists_may_mix_names_and_addresses() {
        let server = NameServer::start().await;
        server.set("a.test.", &["10.0.0.1"], 60);
        let spec = upstream("app", &["a.test.:81", "10.0.0.9:82", "unknown.test.:83"]);
        let upstreams = Arc::new(generation(&[spec], None));
        assert_eq!(addresses(&upstreams).len(), 1);
        upstreams.spawn_tasks_with(&Handle::current(), Some(server.resolver()));
        until(&upstreams, &["10.0.0.1:81", "10.0.0.9:82"]).await;
        assert!(
            upstreams
                .states()
                .any(|state| state == ("app", "resolving", 1))
        );
    }
}
