//! Active health checks: each endpoint is asked in the background, the way requests reach it.
//!
//! An endpoint takes requests from the start and until checks fail in a row; it comes back when they
//! succeed in a row. What real requests say of it is counted in [`super::endpoint`].

use super::{endpoint::Endpoint, pool::Pool};
use crate::config::model::{HealthCheck, UpstreamProtocol};
use http::Uri;
use pingora_core::{
    connectors::http::Connector,
    protocols::http::client::HttpSession,
    upstreams::peer::{HttpPeer, Peer},
};
use pingora_http::RequestHeader;
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::task::JoinSet;

/// Good or bad answers in a row of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Streak {
    good: u32,
    bad: u32,
}

impl Streak {
    /// `Some` when the streak is long enough to say how the endpoint is.
    fn add(&mut self, good: bool, check: &HealthCheck) -> Option<bool> {
        if good {
            self.bad = 0;
            self.good = self.good.saturating_add(1);
            (self.good >= check.healthy).then_some(true)
        } else {
            self.good = 0;
            self.bad = self.bad.saturating_add(1);
            (self.bad >= check.unhealthy).then_some(false)
        }
    }
}

/// Checks all endpoints of an upstream, over and over, until its generation ends.
pub(super) async fn run(pool: Weak<Pool>, check: HealthCheck, connector: Arc<Connector>) {
    let mut streaks: HashMap<SocketAddr, Streak> = HashMap::new();
    loop {
        let Some(pool_now) = pool.upgrade() else {
            return;
        };
        let endpoints = pool_now.endpoints();
        streaks.retain(|address, _| endpoints.iter().any(|known| known.address == *address));
        let mut probes = JoinSet::new();
        for endpoint in endpoints.iter().map(Arc::clone) {
            let (connector, check) = (Arc::clone(&connector), check.clone());
            let host = host(&pool_now, &endpoint);
            let h2 = pool_now.spec.protocol == UpstreamProtocol::H2;
            probes.spawn(async move {
                let probe = probe(&connector, &endpoint.peer, &host, &check.path, h2);
                let found = match tokio::time::timeout(check.timeout, probe).await {
                    Ok(found) => found,
                    Err(_) => Err("no answer in time".to_owned()),
                };
                (endpoint, found)
            });
        }
        while let Some(probed) = probes.join_next().await {
            let Ok((endpoint, found)) = probed else {
                continue;
            };
            let streak = streaks.entry(endpoint.address).or_default();
            if let Some(healthy) = streak.add(found.is_ok(), &check)
                && endpoint.fare.set_healthy(healthy)
            {
                report(&pool_now, &endpoint, found.err());
            }
        }
        drop(pool_now);
        tokio::time::sleep(jittered(check.every)).await;
    }
}

fn report(pool: &Pool, endpoint: &Endpoint, problem: Option<String>) {
    let upstream = &*pool.spec.name;
    let endpoint = endpoint.address;
    match problem {
        None => tracing::info!(upstream, %endpoint, "endpoint is healthy again"),
        Some(problem) => tracing::warn!(upstream, %endpoint, problem, "endpoint is unhealthy"),
    }
}

/// What checks say they are for: the server name, or the endpoint's address.
fn host(pool: &Pool, endpoint: &Endpoint) -> String {
    pool.spec.tls.as_ref().map_or_else(
        || endpoint.address.to_string(),
        |tls| tls.server_name.clone(),
    )
}

/// One `GET` on a connection of its own; the problem, when the answer is not 2xx or 3xx.
async fn probe(
    connector: &Connector,
    peer: &HttpPeer,
    host: &str,
    path: &str,
    h2: bool,
) -> Result<(), String> {
    let text = |error: pingora_core::BError| error.to_string();
    let mut peer = peer.clone();
    // Never shares a connection with an earlier check.
    peer.options.idle_timeout = Some(Duration::ZERO);
    let (mut session, _) = connector.get_http_session(&peer).await.map_err(text)?;
    let mut request = RequestHeader::build("GET", path.as_bytes(), None).map_err(text)?;
    if h2 {
        let scheme = if peer.tls() { "https" } else { "http" };
        let uri: Result<Uri, _> = format!("{scheme}://{host}{path}").parse();
        request.set_uri(uri.map_err(|error| error.to_string())?);
        request.set_version(http::Version::HTTP_2);
    } else {
        request.insert_header("host", host).map_err(text)?;
        request.insert_header("connection", "close").map_err(text)?;
    }
    request
        .insert_header("user-agent", "rempart-health-check")
        .map_err(text)?;
    session
        .write_request_header(Box::new(request))
        .await
        .map_err(text)?;
    session.finish_request_body().await.map_err(text)?;
    session.read_response_header().await.map_err(text)?;
    let status = session.response_header().map(|response| response.status);
    finish(session).await;
    match status {
        Some(status) if status.is_success() || status.is_redirection() => Ok(()),
        Some(status) => Err(format!("answered {status}")),
        None => Err("no answer".to_owned()),
    }
}

async fn finish(mut session: HttpSession) {
    session.shutdown().await;
}

/// Up to a tenth earlier or later, so that checks of many replicas don't fall together.
fn jittered(every: Duration) -> Duration {
    let mut bytes = [0_u8; 2];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        return every;
    }
    let share = f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX);
    every.mul_f64(0.9 + 0.2 * share)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        config::model::{ClientCertificate, Upstream, UpstreamTls},
        forward::{
            Upstreams,
            testing::{self, Certificates},
            upstream::tests::{client, generation, upstream},
        },
    };
    use tokio::runtime::Handle;

    fn check(path: &str) -> HealthCheck {
        HealthCheck {
            path: path.into(),
            every: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
            healthy: 2,
            unhealthy: 2,
        }
    }

    /// Waits, within reason, until so many endpoints are in a state.
    pub async fn until(upstreams: &Upstreams, state: &str, count: usize) {
        let reached = || {
            upstreams
                .states()
                .any(|(_, name, now)| name == state && now == count)
        };
        let waiting = async {
            while !reached() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let states: Vec<_> = upstreams.states().collect();
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap_or_else(|_| panic!("{count} {state}: {states:?}"));
    }

    #[test]
    fn it_takes_several_in_a_row() {
        let check = check("/");
        let mut streak = Streak::default();
        let said: Vec<_> = [true, false, true, false, false, true, true, true]
            .into_iter()
            .map(|good| streak.add(good, &check))
            .collect();
        let (up, down) = (Some(true), Some(false));
        assert_eq!(said, [None, None, None, None, down, None, up, up]);
    }

    #[tokio::test]
    async fn endpoints_go_and_come_back_with_their_answers() {
        let server = testing::Upstream::start(0).await;
        let mut spec = upstream("app", &[&server.address.to_string()]);
        spec.health_check = Some(check("/healthz"));
        let upstreams = Arc::new(generation(&[spec], None));
        upstreams.spawn_tasks(&Handle::current());
        server.answer(500);
        until(&upstreams, "unhealthy", 1).await;
        assert!(
            upstreams
                .pick(0, client(), &mut crate::forward::Tries::default())
                .is_err()
        );
        server.answer(204);
        until(&upstreams, "healthy", 1).await;
        let heard = server.heard();
        assert!(heard[0].head.starts_with("GET /healthz HTTP/1.1"));
        assert_eq!(heard[0].header("host"), Some(&*server.address.to_string()));
    }

    async fn reach(server: SocketAddr, tls: UpstreamTls, h2: bool) -> Result<(), String> {
        let mut spec: Upstream = upstream("app", &[&server.to_string()]);
        spec.tls = Some(tls);
        if h2 {
            spec.protocol = UpstreamProtocol::H2;
        }
        let upstreams = generation(&[spec], None);
        let endpoint = Arc::clone(&upstreams.pools()[0].endpoints()[0]);
        probe(
            &Connector::new(None),
            &endpoint.peer,
            "app.internal",
            "/",
            h2,
        )
        .await
    }

    #[tokio::test]
    async fn upstream_tls_is_verified_both_ways() {
        let (ours, theirs) = (
            Certificates::new("app.internal"),
            Certificates::new("app.internal"),
        );
        let server = testing::tls_server(&ours, false).await;
        let tls = |ca: &Certificates, name: &str, from: Option<&Certificates>| UpstreamTls {
            ca: Some(vec![ca.ca.clone()]),
            server_name: name.into(),
            client: from.map(|from| {
                Arc::new(ClientCertificate {
                    chain: vec![from.leaf.clone()],
                    key: from.key.clone_key(),
                })
            }),
        };
        reach(server, tls(&ours, "app.internal", Some(&ours)), false)
            .await
            .unwrap();
        let refused = [
            ("another CA", tls(&theirs, "app.internal", Some(&ours))),
            ("another name", tls(&ours, "other.internal", Some(&ours))),
            ("no client certificate", tls(&ours, "app.internal", None)),
            (
                "a client certificate of another CA",
                tls(&ours, "app.internal", Some(&theirs)),
            ),
            (
                "the system's CAs",
                UpstreamTls {
                    ca: None,
                    ..tls(&ours, "app.internal", Some(&ours))
                },
            ),
        ];
        for (what, tls) in refused {
            let problem = reach(server, tls, false).await;
            assert!(problem.is_err(), "{what} was accepted");
        }
    }

    #[tokio::test]
    async fn h2_upstreams_are_reached_with_and_without_tls() {
        let ours = Certificates::new("app.internal");
        let server = testing::tls_server(&ours, true).await;
        let tls = UpstreamTls {
            ca: Some(vec![ours.ca.clone()]),
            server_name: "app.internal".into(),
            client: Some(Arc::new(ClientCertificate {
                chain: vec![ours.leaf.clone()],
                key: ours.key.clone_key(),
            })),
        };
        reach(server, tls, true).await.unwrap();

        let plain = testing::h2c_server().await;
        let mut spec = upstream("app", &[&plain.to_string()]);
        spec.protocol = UpstreamProtocol::H2;
        let upstreams = generation(&[spec], None);
        let endpoint = Arc::clone(&upstreams.pools()[0].endpoints()[0]);
        probe(
            &Connector::new(None),
            &endpoint.peer,
            "app.internal",
            "/",
            true,
        )
        .await
        .unwrap();
    }
}
