//! The ban table, with time as an argument.

use super::{
    testing::{LOGIN, MINUTE, client, numbered},
    *,
};
use std::net::Ipv4Addr;

fn at(seconds: u64) -> Nanos {
    Nanos(seconds * 1_000_000_000)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn a_ban_lasts_as_long_as_it_says() {
    let bans = Bans::default();
    let (bad, good) = (client("203.0.113.7"), client("203.0.113.8"));
    assert_eq!(bans.until(bad, at(0)), None);
    assert_eq!(bans.ban(bad, MINUTE, LOGIN, at(0)), MINUTE);
    assert_eq!(bans.until(bad, at(59)), Some(at(60)));
    assert_eq!(bans.until(good, at(59)), None);
    assert_eq!(bans.until(bad, at(60)), None);
    let (listed, beyond) = bans.list(10, at(59));
    assert_eq!(beyond, 0);
    assert_eq!(
        listed,
        [Ban {
            network: net("203.0.113.7/32"),
            reason: Reason::parse("limit:per-login").unwrap(),
            comment: None,
            age: Duration::from_secs(59),
            until: at(60),
            offences: 1,
            hits: 1,
            direct: true,
        }]
    );
    assert_eq!(bans.list(10, at(60)).0, []);
    assert_eq!((bans.count(at(59)), bans.count(at(60))), (1, 0));
}

#[test]
fn a_64_is_one_client() {
    let bans = Bans::default();
    bans.ban(client("2001:db8:0:1::1"), MINUTE, LOGIN, at(0));
    assert!(bans.until(client("2001:db8:0:1::2"), at(1)).is_some());
    assert!(bans.until(client("2001:db8:0:2::1"), at(1)).is_none());
}

#[test]
fn repeated_bans_double_up_to_a_day_and_are_forgotten_in_time() {
    let bans = Bans::default();
    let bad = client("203.0.113.7");
    let base = 10 * MINUTE;
    let mut now = at(0);
    for expected in [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440] {
        let length = bans.ban(bad, base, LOGIN, now);
        assert_eq!(length, expected * MINUTE);
        now = now.after(length);
    }
    // Ten days after the last one ended it still counts; then it doesn't.
    let quiet = now.after(Duration::from_secs(10 * 24 * 3600));
    assert_eq!(
        bans.ban(bad, base, LOGIN, Nanos(quiet.0 - 1)),
        Duration::from_secs(24 * 3600)
    );
    let end = quiet.after(Duration::from_secs(24 * 3600));
    let forgotten = end.after(Duration::from_secs(10 * 24 * 3600));
    assert_eq!(bans.ban(bad, base, LOGIN, forgotten), base);
}

#[test]
fn offences_of_one_burst_count_once() {
    let bans = Bans::default();
    let bad = client("203.0.113.7");
    bans.ban(bad, MINUTE, LOGIN, at(0));
    // Requests that were in flight when the ban fell.
    for second in 1..30 {
        bans.ban(bad, MINUTE, LOGIN, at(second));
    }
    assert_eq!(bans.until(bad, at(30)), Some(at(89)));
    assert_eq!(bans.ban(bad, MINUTE, LOGIN, at(100)), 2 * MINUTE);
    // A guard that bans for longer is heard.
    assert_eq!(bans.ban(bad, 10 * MINUTE, LOGIN, at(101)), 10 * MINUTE);
}

#[test]
fn a_base_longer_than_a_day_stands() {
    let bans = Bans::default();
    let week = Duration::from_secs(7 * 24 * 3600);
    let bad = client("203.0.113.7");
    assert_eq!(bans.ban(bad, week, LOGIN, at(0)), week);
    assert_eq!(bans.ban(bad, week, LOGIN, at(0).after(week)), week);
}

#[test]
fn a_flood_of_bans_stays_in_its_bound_and_keeps_the_longest() {
    let bans = Bans::with_capacity(1600);
    let long: Vec<_> = (0..200).map(|n| numbered(1_000_000 + n)).collect();
    for bad in &long {
        bans.ban(*bad, 60 * MINUTE, LOGIN, at(0));
    }
    for n in 0..50_000 {
        bans.ban(numbered(n), MINUTE, LOGIN, at(1));
    }
    let (listed, beyond) = bans.list(10_000, at(2));
    assert!(listed.len() <= 1600, "{}", listed.len());
    assert!(listed.len() > 1500, "{}", listed.len());
    assert_eq!(beyond, 0);
    assert_eq!(bans.evicted(), 50_200 - listed.len() as u64);
    for bad in &long {
        assert_eq!(bans.until(*bad, at(2)), Some(at(3600)));
    }
    // The newest is in, at the cost of another of its kind.
    assert!(bans.until(numbered(49_999), at(2)).is_some());
}

#[test]
fn memories_make_room_before_bans_do() {
    let bans = Bans::with_capacity(1600);
    for n in 0..10_000 {
        bans.ban(numbered(n), MINUTE, LOGIN, at(0));
    }
    let evicted = bans.evicted();
    // All those have ended.
    for n in 0..1000 {
        bans.ban(numbered(100_000 + n), MINUTE, LOGIN, at(61));
    }
    assert_eq!(bans.evicted(), evicted);
    assert_eq!(bans.count(at(62)), 1000);
    let kept: usize = bans.shards.iter().map(|s| s.read().len()).sum();
    assert!(kept <= 1600);
}

#[test]
fn protected_networks_are_never_banned() {
    let bans = Bans::default();
    let proxy = client("10.1.2.3");
    bans.ban(proxy, MINUTE, LOGIN, at(0));
    bans.ban(client("10.200.0.1"), MINUTE, LOGIN, at(0));
    let protected = ["10.1.0.0/16", "2001:db8:0:1::7/128", "::ffff:192.0.2.0/120"];
    let protected = protected.map(|network| (net(network), Because::Allowed));
    bans.configure(&protected, PrefixLengths::CLIENT, at(1));
    assert_eq!(bans.until(proxy, at(1)), None, "the ban ended");
    assert!(bans.until(client("10.200.0.1"), at(1)).is_some());
    for (address, hit) in [
        ("10.1.2.3", true),
        ("10.0.255.255", false),
        ("10.2.0.0", false),
        ("192.0.2.255", true),
        ("2001:db8:0:1::1", true),
        ("2001:db8:0:2::1", false),
    ] {
        let banned = bans.ban(client(address), MINUTE, LOGIN, at(2));
        assert_eq!(banned.is_zero(), hit, "{address}");
        assert_eq!(
            bans.until(client(address), at(2)).is_none(),
            hit,
            "{address}"
        );
    }
    assert_eq!(
        bans.add(net("10.0.0.0/8"), MINUTE, None, at(2)),
        Err(AddError::Protected(net("10.1.0.0/16"), Because::Allowed))
    );
    assert_eq!(bans.until(client("10.9.9.9"), at(2)), None);
}

#[test]
fn operators_ban_networks_and_clients() {
    let bans = Bans::default();
    bans.add(net("203.0.113.9/24"), MINUTE, Some("scan"), at(0))
        .unwrap();
    let narrow = bans.add(net("2001:db8::1/128"), 2 * MINUTE, None, at(0));
    assert_eq!(narrow, Ok(net("2001:db8::/64")));
    assert_eq!(bans.until(client("203.0.113.200"), at(1)), Some(at(60)));
    assert_eq!(bans.until(client("203.0.114.1"), at(1)), None);
    assert_eq!(bans.until(client("2001:db8::2"), at(1)), Some(at(120)));
    // The longest of several bans counts.
    bans.ban(client("203.0.113.200"), 5 * MINUTE, LOGIN, at(1));
    assert_eq!(bans.until(client("203.0.113.200"), at(2)), Some(at(301)));
    let (listed, _) = bans.list(10, at(2));
    let shown: Vec<_> = listed.iter().map(|ban| ban.network.to_string()).collect();
    assert_eq!(
        shown,
        ["203.0.113.200/32", "203.0.113.0/24", "2001:db8::/64"]
    );
    assert_eq!(listed[1].comment.as_deref(), Some("scan"));
    assert_eq!(listed[1].hits, 2);
    assert_eq!(
        bans.covering(net("203.0.113.200/32"), at(2)),
        [net("203.0.113.0/24")]
    );
    // Taking the network away frees those in it.
    assert_eq!(bans.remove(net("203.0.113.0/24"), at(3)), 2);
    assert_eq!(bans.until(client("203.0.113.200"), at(3)), None);
    assert_eq!(bans.remove(net("203.0.113.0/24"), at(3)), 0);
    assert_eq!(bans.remove(net("2001:db8::77/128"), at(3)), 1);
    assert_eq!(bans.count(at(3)), 0);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bans = Bans::default();
    let day = 24 * 60 * MINUTE;
    let add = |network, duration, comment| bans.add(net(network), duration, comment, at(0));
    assert_eq!(add("0.0.0.0/0", MINUTE, None), Err(AddError::TooWide));
    assert_eq!(add("::/0", MINUTE, None), Err(AddError::TooWide));
    assert_eq!(
        add("192.0.2.1/32", Duration::ZERO, None),
        Err(AddError::Duration)
    );
    assert_eq!(
        add("192.0.2.1/32", 366 * day, None),
        Err(AddError::Duration)
    );
    let long = "x".repeat(257);
    assert_eq!(
        add("192.0.2.1/32", MINUTE, Some(&long)),
        Err(AddError::Comment)
    );
    let wanted = |n: u32| Wanted {
        network: IpNet::new(Ipv4Addr::from(0x0b00_0000 + (n << 8)).into(), 24).unwrap(),
        duration: MINUTE,
        reason: Reason::new(Kind::Admin, ""),
        comment: None,
        direct: true,
    };
    let many: Vec<_> = (0..10_000).map(wanted).collect();
    bans.import(&many, at(0)).unwrap();
    assert_eq!(add("192.0.2.0/24", MINUTE, None), Err(AddError::Full));
    // Replacing one is no addition, and those that ended make room.
    assert!(add("11.0.0.0/24", MINUTE, None).is_ok());
    assert!(bans.add(net("192.0.2.0/24"), MINUTE, None, at(61)).is_ok());
    assert_eq!(bans.count(at(61)), 1);
}

#[test]
fn another_prefix_for_clients_ends_their_bans_alone() {
    let bans = Bans::default();
    bans.ban(client("203.0.113.7"), MINUTE, LOGIN, at(0));
    bans.add(net("198.51.100.0/24"), MINUTE, None, at(0))
        .unwrap();
    let wider = PrefixLengths { ipv4: 28, ipv6: 64 };
    bans.configure(&[], wider, at(1));
    let cut = |address: &str| Prefix::of(address.parse().unwrap(), wider);
    assert_eq!(bans.until(cut("203.0.113.7"), at(1)), None);
    assert_eq!(bans.until(cut("198.51.100.7"), at(1)), Some(at(60)));
    assert_eq!(
        bans.add(net("203.0.113.7/32"), MINUTE, None, at(1)),
        Ok(net("203.0.113.0/28"))
    );
}

#[test]
fn networks_that_become_less_than_a_client_are_widened_to_one() {
    let bans = Bans::default();
    for (network, minutes) in [("2001:db8:0:ff40::/58", 2), ("2001:db8:0:a000::/56", 1)] {
        bans.add(net(network), minutes * MINUTE, Some(network), at(0))
            .unwrap();
    }
    bans.add(net("198.51.100.0/24"), MINUTE, None, at(0))
        .unwrap();
    let wider = PrefixLengths { ipv4: 32, ipv6: 48 };
    bans.configure(&[], wider, at(1));
    let listed: Vec<_> = bans.list(9, at(1)).0;
    let listed: Vec<_> = listed
        .iter()
        .map(|ban| (ban.network.to_string(), ban.comment.as_deref()))
        .collect();
    assert_eq!(
        listed,
        [
            ("198.51.100.0/24".to_owned(), None),
            ("2001:db8::/48".to_owned(), Some("2001:db8:0:ff40::/58"))
        ]
    );
    let client = Prefix::of("2001:db8:0:1::1".parse().unwrap(), wider);
    assert_eq!(bans.until(client, at(1)), Some(at(120)));
    // Whoever is refused can be let go.
    assert_eq!(bans.remove(net("2001:db8:0:ff40::/58"), at(1)), 1);
    assert_eq!(bans.until(client, at(1)), None);
}

#[test]
fn workers_meet_without_losing_bans() {
    let bans = Bans::default();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let bans = &bans;
            scope.spawn(move || {
                for n in 0..500 {
                    let bad = numbered(worker * 1000 + n);
                    bans.ban(bad, MINUTE, LOGIN, at(0));
                    assert!(bans.until(bad, at(1)).is_some());
                    if n % 100 == 0 {
                        let network = net(&format!("12.{worker}.{}.0/24", n / 100));
                        bans.add(network, MINUTE, None, at(0)).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(bans.count(at(1)), 4 * 505);
}

#[test]
fn a_change_of_capacity_keeps_the_longest() {
    let bans = Bans::with_capacity(16_000);
    for n in 0..10_000 {
        bans.ban(
            numbered(n),
            MINUTE + Duration::from_secs(n.into()),
            LOGIN,
            at(0),
        );
    }
    bans.resize(1600, at(1));
    let kept = bans.count(at(1));
    assert!((1400..=1600).contains(&kept), "{kept}");
    assert!(bans.until(numbered(9_999), at(1)).is_some());
    assert!(bans.until(numbered(0), at(1)).is_none());
    bans.resize(16_000, at(1));
    for n in 0..5000 {
        bans.ban(numbered(n), MINUTE, LOGIN, at(1));
    }
    assert!(bans.count(at(2)) > 6000);
}

#[test]
fn all_of_a_list_is_placed_or_nothing() {
    let bans = Bans::with_capacity(1600);
    let wanted = |network: &str| Wanted {
        network: net(network),
        duration: MINUTE,
        reason: Reason::parse("rule:probes").unwrap(),
        comment: Some("list".into()),
        direct: false,
    };
    let protected = [(net("10.0.0.0/8"), Because::Upstream)];
    bans.configure(&protected, PrefixLengths::CLIENT, at(0));
    let list = [
        "192.0.2.1/32",
        "10.1.1.1/32",
        "198.51.100.0/24",
        "0.0.0.0/0",
    ]
    .map(wanted);
    let errors = bans.import(&list, at(0)).unwrap_err();
    let protected = AddError::Protected(net("10.0.0.0/8"), Because::Upstream);
    assert_eq!(errors, [(1, protected), (3, AddError::TooWide)]);
    assert_eq!(bans.count(at(0)), 0);
    bans.import(&[wanted("192.0.2.1/32"), wanted("198.51.100.0/24")], at(0))
        .unwrap();
    let (listed, _) = bans.list(10, at(1));
    assert_eq!(listed.len(), 2);
    assert!(
        listed
            .iter()
            .all(|ban| ban.reason.to_string() == "rule:probes" && !ban.direct)
    );
    let many: Vec<_> = (0..1601)
        .map(|n| wanted(&format!("12.0.{}.{}/32", n / 256, n % 256)))
        .collect();
    let errors = bans.import(&many, at(0)).unwrap_err();
    assert_eq!(errors, [(1600, AddError::TooMany(1600))]);
    assert_eq!(bans.counts(at(1)), (2, 0));
}

mod properties {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Debug)]
    enum Step {
        Ban { client: u32, seconds: u64 },
        Remove { client: u32 },
        Pass { seconds: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..60_u32, 1..500_u64).prop_map(|(client, seconds)| Step::Ban { client, seconds }),
            1 => (0..60_u32).prop_map(|client| Step::Remove { client }),
            1 => (1..300_u64).prop_map(|seconds| Step::Pass { seconds }),
        ]
    }

    proptest! {
        /// Against a table that is as plain as can be. Never full: what is evicted is told elsewhere.
        #[test]
        fn the_table_is_what_a_plain_one_would_be(steps in proptest::collection::vec(step(), 1..200)) {
            let bans = Bans::default();
            // End, length of the ban, offences.
            let mut plain: HashMap<u32, (u64, u64, u32)> = HashMap::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Ban { client, seconds } => {
                        let known = plain.get(&client).copied();
                        let (until, length, offences) = match known {
                            Some((until, length, offences)) if now < until => {
                                (until.max(now + seconds), length, offences)
                            }
                            Some((until, length, offences)) if now < until + 10 * length => {
                                let factor = 1_u64 << offences.min(31);
                                let length = (seconds * factor).min(24 * 3600);
                                (now + length, length, offences + 1)
                            }
                            _ => (now + seconds, seconds, 1),
                        };
                        plain.insert(client, (until, length, offences));
                        let length = Duration::from_secs(seconds);
                        let banned = bans.ban(numbered(client), length, LOGIN, at(now));
                        prop_assert_eq!(banned, Duration::from_secs(until - now));
                    }
                    Step::Remove { client } => {
                        let gone = plain.remove(&client);
                        let in_force = gone.is_some_and(|(until, ..)| now < until);
                        let network = net_of(numbered(client));
                        prop_assert_eq!(bans.remove(network, at(now)), usize::from(in_force));
                    }
                    Step::Pass { seconds } => now += seconds,
                }
                for client in 0..60 {
                    let expected = plain.get(&client).filter(|ban| now < ban.0);
                    let expected = expected.map(|ban| at(ban.0));
                    prop_assert_eq!(bans.until(numbered(client), at(now)), expected);
                }
                prop_assert!(bans.shards.iter().all(|shard| shard.read().is_sound()));
            }
        }

        /// Read part by part while others go, and some come, nobody who stays is missed.
        #[test]
        fn whoever_stays_is_seen(
            count in 1500..4000_u32,
            gone in proptest::collection::vec(0..4000_u32, 0..300),
        ) {
            let mut shard = Shard::new(10_000, RandomState::new());
            let followers = Followers::default();
            let on = On { reason: 0, direct: true };
            let offend = |shard: &mut Shard, n| {
                shard.offend(Key::of(numbered(n)), MINUTE, on, &followers, at(0));
            };
            (0..count).for_each(|n| offend(&mut shard, n));
            let mut seen = std::collections::HashSet::new();
            let (mut end, mut next) = (usize::MAX, count);
            let mut leaving = gone.chunks(100);
            while end > 0 {
                let (records, start) = shard.records_before(end);
                seen.extend(records.into_iter().map(|record| record.prefix));
                end = start;
                for n in leaving.next().unwrap_or_default() {
                    shard.forget(Key::of(numbered(*n)), &Followers::default(), at(0));
                }
                offend(&mut shard, next);
                next += 1;
            }
            for n in (0..count).filter(|n| !gone.contains(n)) {
                prop_assert!(seen.contains(&numbered(n)));
            }
        }

        /// Whoever is evicted ends before all who stay.
        #[test]
        fn whoever_ends_soonest_makes_room(
            lengths in proptest::collection::vec(1..100_000_u64, 50..400),
            capacity in 1..40_usize,
        ) {
            let hasher = RandomState::new();
            let mut shard = Shard::new(capacity, hasher);
            let followers = Followers::default();
            let on = On { reason: 0, direct: true };
            let mut plain: Vec<(u64, u32)> = Vec::new();
            for (client, length) in (0_u32..).zip(&lengths) {
                if plain.len() >= capacity {
                    let soonest = *plain.iter().min_by_key(|(until, _)| *until).unwrap();
                    plain.retain(|ban| *ban != soonest);
                }
                let unique = length * 1000 + u64::from(client);
                plain.push((unique, client));
                let length = Duration::from_secs(unique);
                shard.offend(Key::of(numbered(client)), length, on, &followers, at(0));
                prop_assert!(shard.len() <= capacity && shard.is_sound());
            }
            let mut kept: Vec<_> = shard.in_force(at(0)).map(|(_, key)| key).collect();
            let mut expected: Vec<_> = plain.iter().map(|(_, n)| Key::of(numbered(*n))).collect();
            kept.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(kept, expected);
        }
    }
}

/// What operators size memory by: documented in `docs/configuration.md`.
#[test]
fn a_million_bans_take_less_than_a_hundred_bytes_each() {
    const MANY: u32 = 1_000_000;
    let mut bans = None;
    let used = allocation_counter::measure(|| {
        let table = Bans::with_capacity(MANY as usize + MANY as usize / 8);
        for n in 0..MANY {
            table.ban(numbered(n), MINUTE, LOGIN, at(0));
        }
        bans = Some(table);
    });
    let bans = bans.unwrap();
    assert_eq!(bans.count(at(1)), u64::from(MANY));
    let each = used.bytes_current / i64::from(MANY);
    println!(
        "{each} bytes each, {} at the most on the way",
        used.bytes_max / u64::from(MANY)
    );
    assert!((48..=100).contains(&each), "{each} bytes each");
}
