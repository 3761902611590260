//! The budget under clients that behave and clients that don't.

use super::*;
use crate::config::model::{ClientTimeouts, Handshakes, Http1Limits, Http2Limits};
use std::net::{IpAddr, Ipv4Addr};
use verdict::prefix::PrefixLengths;

fn limits(per_client: Option<u32>, rate: Option<u32>) -> Connections {
    Connections {
        under_pressure: None,
        per_client: per_client.and_then(NonZeroU32::new),
        rate_per_client: rate.and_then(NonZeroU32::new).map(|amount| Rate {
            amount,
            period: Duration::from_secs(1),
        }),
        total: NonZeroU32::new(1_000_000).unwrap(),
        handshakes: Handshakes::default(),
        http1: Http1Limits::default(),
        http2: Http2Limits::default(),
        timeouts: ClientTimeouts {
            handshake: Duration::from_secs(5),
            headers: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            body_minimum_rate: 1024,
            response_minimum_rate: 1024,
            request: Duration::from_secs(600),
            stream_idle: Duration::from_secs(300),
        },
    }
}

fn client(number: u32) -> Prefix {
    Prefix::of(IpAddr::V4(Ipv4Addr::from(number)), PrefixLengths::CLIENT)
}

fn connect(
    budget: &Arc<Budget>,
    who: u32,
    limits: &Connections,
    now: Nanos,
) -> Result<Place, Refusal> {
    let mut place = budget.enter(limits.total)?;
    place.claim(client(who), limits, None, || true, now)?;
    Ok(place)
}

#[test]
fn a_client_gets_its_connections_and_no_more_until_one_ends() {
    let budget = Arc::new(Budget::default());
    let limits = limits(Some(2), None);
    let one = connect(&budget, 1, &limits, Nanos(0)).unwrap();
    let _two = connect(&budget, 1, &limits, Nanos(0)).unwrap();
    assert_eq!(
        connect(&budget, 1, &limits, Nanos(0)).unwrap_err(),
        Refusal::PerClient
    );
    connect(&budget, 2, &limits, Nanos(0)).expect("another client is not concerned");
    assert_eq!(budget.open(), 2, "what was refused holds nothing");
    drop(one);
    connect(&budget, 1, &limits, Nanos(0)).unwrap();
}

#[test]
fn the_total_holds_for_all_clients() {
    let budget = Arc::new(Budget::default());
    let total = NonZeroU32::new(2).unwrap();
    let places: Vec<_> = (0..2).map(|_| budget.enter(total).unwrap()).collect();
    assert_eq!(budget.enter(total).unwrap_err(), Refusal::Total);
    drop(places);
    assert_eq!(budget.open(), 0);
    budget.enter(total).unwrap();
}

#[test]
fn the_rate_is_a_bucket_that_fills_again() {
    let budget = Arc::new(Budget::default());
    let limits = limits(None, Some(20));
    // A dropped place reads the real clock, which must not have come this far.
    let start = crate::clock::now().after(Duration::from_secs(3600));
    for _ in 0..20 {
        connect(&budget, 1, &limits, start).unwrap();
    }
    assert_eq!(
        connect(&budget, 1, &limits, start).unwrap_err(),
        Refusal::Rate
    );
    let later = start.after(Duration::from_millis(50));
    connect(&budget, 1, &limits, later).unwrap();
    assert_eq!(
        connect(&budget, 1, &limits, later).unwrap_err(),
        Refusal::Rate
    );
}

#[test]
fn a_flood_of_clients_neither_grows_the_table_nor_frees_who_is_over() {
    let budget = Arc::new(Budget::default());
    let limits = limits(Some(64), Some(20));
    let start = crate::clock::now().after(Duration::from_secs(3600));
    for _ in 0..20 {
        connect(&budget, 1, &limits, start).unwrap();
    }
    let _open = connect(&budget, 2, &limits, start).unwrap();
    for other in 0..500_000 {
        connect(&budget, 1000 + other, &limits, start).unwrap();
    }
    assert!(
        budget.tracked() <= SHARDS * REMEMBERED,
        "{}",
        budget.tracked()
    );
    assert_eq!(
        connect(&budget, 1, &limits, start).unwrap_err(),
        Refusal::Rate
    );
    let shard = budget.shard(client(2)).unwrap().lock();
    assert!(shard.index.contains_key(&client(2)), "an open one is kept");
}

#[test]
fn strikes_are_used_up_and_forgotten_one_by_one() {
    let budget = Budget::default();
    let three = NonZeroU32::new(3).unwrap();
    let period = Duration::from_secs(600);
    let start = crate::clock::now();
    let strike = |who, seconds| budget.strike(client(who), three, period, start.after(seconds));
    let at = Duration::from_secs;
    assert!(!strike(1, at(0)));
    assert!(!strike(1, at(0)));
    assert!(!strike(2, at(0)), "another client is not concerned");
    assert!(strike(1, at(1)), "the third");
    assert!(strike(1, at(2)), "and each that follows");
    assert!(strike(1, at(3)), "which owe no more than all of them");
    assert!(!strike(1, at(404)), "two are forgotten, one is held");
    assert!(strike(1, at(405)));
    // However slowly: at less than one each third of the period nothing adds up.
    for nth in 0..10 {
        assert!(!strike(3, at(200 * nth)), "{nth}");
    }
    let one = NonZeroU32::MIN;
    assert!(budget.strike(client(4), one, period, start));
}

#[test]
fn strikes_outlive_connections_and_a_flood_of_others() {
    let budget = Arc::new(Budget::default());
    let limits = limits(Some(64), None);
    let two = NonZeroU32::new(2).unwrap();
    let period = Duration::from_secs(600);
    let now = crate::clock::now();
    let place = connect(&budget, 1, &limits, now).unwrap();
    assert!(!budget.strike(client(1), two, period, now));
    drop(place);
    for other in 0..200_000 {
        budget.strike(client(1000 + other), two, Duration::from_secs(1), now);
    }
    assert!(budget.tracked() <= SHARDS * REMEMBERED);
    assert!(budget.strike(client(1), two, period, now));
}

#[test]
fn a_client_that_owes_nothing_leaves_nothing_behind() {
    let budget = Arc::new(Budget::default());
    let limits = limits(Some(1), None);
    drop(connect(&budget, 1, &limits, Nanos(0)).unwrap());
    assert_eq!(budget.tracked(), 0);
}

#[test]
fn when_places_are_scarce_clients_with_many_get_no_more_and_others_do() {
    let budget = Arc::new(Budget::default());
    let mut limits = limits(Some(64), None);
    limits.total = NonZeroU32::new(1000).unwrap();
    let mut held = Vec::new();
    // A few clients, each with as many as it can get: so many could have had all.
    for greedy in 0..16 {
        while let Ok(place) = connect(&budget, greedy, &limits, Nanos(0)) {
            held.push(place);
        }
    }
    assert!(held.len() >= 750, "while there are many, each gets its own");
    assert!(
        held.len() <= 950,
        "{} of 1000 went to 40 clients",
        held.len()
    );
    // There is a place for everyone else, to the last.
    for innocent in 1000..1000 + 1000 - u32::try_from(held.len()).unwrap() {
        held.push(connect(&budget, innocent, &limits, Nanos(0)).unwrap());
    }
    assert_eq!(
        connect(&budget, 5000, &limits, Nanos(0)).unwrap_err(),
        Refusal::Total
    );
}

#[test]
fn a_site_of_many_ipv6_networks_is_bounded_as_a_whole() {
    let budget = Arc::new(Budget::default());
    let mut limits = limits(Some(64), None);
    limits.total = NonZeroU32::new(800).unwrap();
    let network = |site: u16, network: u16| {
        let address = std::net::Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 1);
        Prefix::of(address.into(), PrefixLengths::CLIENT)
    };
    let connect = |client| {
        let mut place = budget.enter(limits.total).unwrap();
        let claimed = place.claim(client, &limits, None, || false, Nanos(0));
        claimed.map(|()| place)
    };
    let held: Vec<_> = (0..100).map(|n| connect(network(1, n)).unwrap()).collect();
    assert_eq!(connect(network(1, 100)).unwrap_err(), Refusal::PerClient);
    connect(network(2, 0)).expect("another site is not concerned");
    assert_eq!(budget.open(), 100, "what was refused holds nothing");
    drop(held);
    assert_eq!(budget.tracked(), 0);
}

#[test]
fn the_last_eighth_is_for_those_who_behaved() {
    for per_client in [Some(64), None] {
        let budget = Arc::new(Budget::default());
        let mut limits = limits(per_client, None);
        limits.total = NonZeroU32::new(1000).unwrap();
        let stranger = |who| {
            let mut place = budget.enter(limits.total)?;
            let claimed = place.claim(client(who), &limits, None, || false, Nanos(0));
            claimed.map(|()| place)
        };
        let mut held: Vec<_> = (0..875).map(|who| stranger(who).unwrap()).collect();
        assert_eq!(stranger(875).unwrap_err(), Refusal::Total);
        assert_eq!(budget.open(), 875, "what was refused holds nothing");
        // Fewer than a client may hold otherwise, since little is left.
        for _ in 0..20 {
            held.push(connect(&budget, 2000, &limits, Nanos(0)).unwrap());
        }
        for regular in 3000..3105 {
            held.push(connect(&budget, regular, &limits, Nanos(0)).unwrap());
        }
        let full = connect(&budget, 4000, &limits, Nanos(0));
        assert_eq!(full.unwrap_err(), Refusal::Total);
        // Places of the first seven eighths are for anyone again.
        held.drain(..200);
        stranger(4001).unwrap();
    }
}

#[test]
fn strangers_hold_fewer_the_less_is_left_for_them() {
    let total = NonZeroU32::new(800).unwrap();
    let share = |open, is_good: bool| {
        let left = left_for(|| is_good, total, open, false);
        (left.places, left.share(NonZeroU32::new(64).unwrap()))
    };
    // The one that asks is among the open ones.
    assert_eq!(share(601, false), (200, 64));
    assert_eq!(share(602, false), (99, 63));
    assert_eq!(share(651, false), (50, 32));
    assert_eq!(share(700, false), (1, 1));
    assert_eq!(share(701, false).0, 0);
    assert_eq!(share(701, true), (100, 32));
    assert_eq!(share(800, true), (1, 1));
    // Of so few nothing is kept.
    let all = left_for(|| false, NonZeroU32::new(7).unwrap(), 7, false);
    assert_eq!((all.places, all.scarce), (1, 2));
}

#[test]
fn where_known_clients_come_first_half_of_the_places_is_theirs() {
    let total = NonZeroU32::new(800).unwrap();
    let share = |open, is_good: bool| {
        let left = left_for(|| is_good, total, open, true);
        (left.places, left.share(NonZeroU32::new(64).unwrap()))
    };
    assert_eq!(share(301, false), (500, 64));
    assert_eq!(share(351, false), (50, 32));
    assert_eq!(share(400, false), (1, 1));
    assert_eq!(share(401, false).0, 0);
    // Who behaved of late has them as at any other time.
    assert_eq!(share(401, true), (400, 64));
    assert_eq!(share(701, true), (100, 32));
}

#[test]
fn under_pressure_its_own_rate_holds() {
    let budget = Arc::new(Budget::default());
    let limits = limits(None, Some(20));
    let pressed = UnderPressure {
        during: verdict::pressure::States::ALL,
        handshake: None,
        rate_per_client: Some(Rate {
            amount: NonZeroU32::new(2).unwrap(),
            period: Duration::from_secs(1),
        }),
        known_first: false,
    };
    let start = crate::clock::now().after(Duration::from_secs(3600));
    let connect = |pressed| {
        let mut place = budget.enter(limits.total).unwrap();
        place
            .claim(client(1), &limits, pressed, || true, start)
            .map(|()| place)
    };
    for _ in 0..2 {
        connect(Some(&pressed)).unwrap();
    }
    assert_eq!(connect(Some(&pressed)).unwrap_err(), Refusal::Rate);
}
