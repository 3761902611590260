//! Picking, health, rests and retries, as one request sees them.

use super::*;
use crate::config::model::{
    Balance, Ejection, Endpoints, HealthCheck, HostPort, Retries, Upstream, UpstreamProtocol,
    UpstreamTimeouts,
};
use crate::forward::retry::Stage;
use http::Method;
use pingora_core::{Error, ErrorType, upstreams::peer::Peer};
use std::net::IpAddr;
use verdict::prefix::PrefixLengths;

pub fn upstream(name: &str, endpoints: &[&str]) -> Upstream {
    let list = endpoints.iter().map(|endpoint| {
        let (host, port) = endpoint.rsplit_once(':').unwrap();
        HostPort {
            host: host.into(),
            port: port.parse().unwrap(),
        }
    });
    Upstream {
        name: name.into(),
        endpoints: Endpoints::List(list.collect()),
        balance: Balance::RoundRobin,
        protocol: UpstreamProtocol::Http1,
        tls: None,
        health_check: None,
        ejection: Ejection {
            failures: 2,
            rest: Duration::from_secs(600),
            maximum: 0.5,
        },
        retries: Retries {
            attempts: 2,
            budget: 0.2,
        },
        timeouts: UpstreamTimeouts {
            connect: Duration::from_secs(2),
            response: Duration::from_secs(30),
        },
    }
}

pub fn generation(specs: &[Upstream], previous: Option<&Upstreams>) -> Upstreams {
    let pools = specs.iter().map(|spec| {
        let before = previous.and_then(|previous| previous.named(&spec.name));
        Arc::new(Pool::build(spec, before).unwrap())
    });
    Upstreams {
        pools: pools.collect(),
        alive: watch::Sender::new(()),
    }
}

pub fn client() -> Prefix {
    Prefix::of(IpAddr::from([192, 0, 2, 7]), PrefixLengths::CLIENT)
}

fn check() -> HealthCheck {
    HealthCheck {
        path: "/".into(),
        every: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        healthy: 1,
        unhealthy: 1,
    }
}

fn pick(upstreams: &Upstreams) -> Result<Picked, NoEndpoint> {
    upstreams.pick(0, client(), &mut Tries::default())
}

fn count(upstreams: &Upstreams, state: &str) -> usize {
    let mut states = upstreams.states();
    states.find(|(_, name, _)| *name == state).unwrap().2
}

#[test]
fn a_failing_endpoint_rests_and_its_share_is_bounded() {
    let upstreams = generation(&[upstream("app", &["10.0.0.1:80", "10.0.0.2:80"])], None);
    let first = pick(&upstreams).unwrap();
    first.report(Outcome::ConnectFailed);
    first.report(Outcome::ConnectFailed);
    assert_eq!(count(&upstreams, "ejected"), 1);
    for _ in 0..10 {
        let other = pick(&upstreams).unwrap();
        assert_ne!(other.address(), first.address());
        // Half may rest, no more.
        other.report(Outcome::ConnectFailed);
    }
    assert_eq!(count(&upstreams, "ejected"), 1);
    assert_eq!(count(&upstreams, "healthy"), 1);
}

#[test]
fn unhealthy_endpoints_get_nothing() {
    let mut spec = upstream("app", &["10.0.0.1:80"]);
    spec.health_check = Some(check());
    let upstreams = generation(&[spec], None);
    upstreams.pools[0].endpoints()[0].fare.set_healthy(false);
    assert!(pick(&upstreams).is_err());
    assert_eq!(count(&upstreams, "unhealthy"), 1);
}

#[test]
fn a_reload_keeps_how_endpoints_fare() {
    let mut spec = upstream("app", &["10.0.0.1:80", "10.0.0.2:80"]);
    spec.health_check = Some(check());
    let before = generation(&[spec.clone()], None);
    before.pools[0].endpoints()[0].fare.set_healthy(false);
    let held = pick(&before).unwrap();
    spec.timeouts.response = Duration::from_secs(5);
    spec.endpoints = upstream("app", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]).endpoints;
    let after = generation(&[spec.clone()], Some(&before));
    assert_eq!(count(&after, "unhealthy"), 1);
    assert_eq!(count(&after, "healthy"), 2);
    assert_eq!(after.pools[0].endpoints()[1].fare.in_flight(), 1);
    drop(held);
    assert_eq!(after.pools[0].endpoints()[1].fare.in_flight(), 0);
    assert_eq!(
        pick(&after).unwrap().peer(None).options.read_timeout,
        Some(Duration::from_secs(5))
    );
    // Nothing would ever lift a verdict of checks that are no longer made; but as long as the
    // generation before is in force, it stands there.
    let checked = spec.clone();
    spec.health_check = None;
    let unchecked = generation(&[spec], Some(&after));
    assert_eq!(count(&unchecked, "unhealthy"), 0);
    assert_eq!(count(&after, "unhealthy"), 1);
    // Nor does a check that was at it when it was retired.
    unchecked.pools[0].endpoints()[0].fare.set_healthy(false);
    assert_eq!(count(&unchecked, "unhealthy"), 0);
    unchecked.commit();
    assert_eq!(
        count(&generation(&[checked], Some(&unchecked)), "unhealthy"),
        0
    );
}

#[tokio::test]
async fn tasks_end_when_their_generation_retires_or_is_dropped() {
    for retire in [true, false] {
        let upstreams = generation(&[], None);
        let task = upstreams.spawn(&Handle::current(), std::future::pending());
        let held = retire.then(|| {
            upstreams.retire();
            upstreams
        });
        tokio::time::timeout(Duration::from_secs(20), task)
            .await
            .unwrap()
            .unwrap();
        drop(held);
    }
}

#[test]
fn retries_go_elsewhere_and_end() {
    let refused = Error::new_up(ErrorType::ConnectRefused);
    let failure = Failure {
        error: &refused,
        stage: Stage::Connecting,
        method: &Method::POST,
        body_kept: true,
        answered: false,
    };
    let upstreams = generation(
        &[upstream(
            "app",
            &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"],
        )],
        None,
    );
    let mut tries = Tries::default();
    let mut seen = Vec::new();
    loop {
        let picked = upstreams.pick(0, client(), &mut tries).unwrap();
        assert!(!seen.contains(&picked.address()));
        seen.push(picked.address());
        if !picked.may_retry(&failure, &mut tries) {
            break;
        }
    }
    assert_eq!(seen.len(), 3);

    let alone = generation(&[upstream("app", &["10.0.0.1:80"])], None);
    let mut tries = Tries::default();
    let picked = alone.pick(0, client(), &mut tries).unwrap();
    assert!(!picked.may_retry(&failure, &mut tries));
}

#[test]
fn names_have_no_endpoint_until_resolved() {
    let spec = upstream("app", &["app.internal:80"]);
    let before = generation(std::slice::from_ref(&spec), None);
    assert!(pick(&before).is_err());
    assert_eq!(count(&before, "resolving"), 1);
    let address: SocketAddr = "10.0.0.9:80".parse().unwrap();
    assert!(before.pools[0].learn(0, vec![address]));
    assert!(!before.pools[0].learn(0, vec![address]));
    assert_eq!(pick(&before).unwrap().address(), address);
    let after = generation(&[spec], Some(&before));
    assert_eq!(pick(&after).unwrap().address(), address);
}

#[test]
fn streams_may_be_silent_as_long_as_told() {
    let upstreams = generation(&[upstream("app", &["10.0.0.1:80"])], None);
    let picked = pick(&upstreams).unwrap();
    let timeouts = |silence| {
        let peer = picked.peer(silence);
        (peer.options.read_timeout, peer.options.write_timeout)
    };
    let both = |seconds| {
        let timeout = Some(Duration::from_secs(seconds));
        (timeout, timeout)
    };
    assert_eq!(timeouts(None), both(30));
    assert_eq!(timeouts(Some(Duration::from_secs(90))), both(90));
    assert_eq!(timeouts(Some(Duration::from_secs(1))), both(30));
    // Timeouts don't divide the pool of connections.
    let quiet = picked.peer(Some(Duration::from_secs(90)));
    assert_eq!(quiet.reuse_hash(), picked.peer(None).reuse_hash());
}

#[test]
fn a_first_try_costs_one_allocation() {
    let upstreams = generation(&[upstream("app", &["10.0.0.1:80", "10.0.0.2:80"])], None);
    let _warm = pick(&upstreams).unwrap().peer(None);
    let seen = allocation_counter::measure(|| {
        let mut tries = Tries::default();
        let picked = upstreams.pick(0, client(), &mut tries).unwrap();
        // The box that pingora wants.
        drop(picked.peer(None));
        picked.report(Outcome::Status(200));
    });
    assert_eq!(seen.count_total, 1);
}
