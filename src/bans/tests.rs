//! The ban table, with time as an argument.

use super::*;
use std::net::Ipv4Addr;

const MINUTE: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> Nanos {
    Nanos(seconds * 1_000_000_000)
}

fn client(address: &str) -> Prefix {
    Prefix::of(address.parse().unwrap(), PrefixLengths::CLIENT)
}

fn numbered(number: u32) -> Prefix {
    let address = Ipv4Addr::from(0x0b00_0000 + number);
    Prefix::of(address.into(), PrefixLengths::CLIENT)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn a_ban_lasts_as_long_as_it_says() {
    let bans = Bans::default();
    let (bad, good) = (client("203.0.113.7"), client("203.0.113.8"));
    assert_eq!(bans.until(bad, at(0)), None);
    assert_eq!(bans.ban(bad, MINUTE, "per-login", at(0)), MINUTE);
    assert_eq!(bans.until(bad, at(59)), Some(at(60)));
    assert_eq!(bans.until(good, at(59)), None);
    assert_eq!(bans.until(bad, at(60)), None);
    let (listed, beyond) = bans.list(10, at(59));
    assert_eq!(beyond, 0);
    assert_eq!(
        listed,
        [Ban {
            network: net("203.0.113.7/32"),
            source: "per-login".into(),
            comment: None,
            since: at(0),
            until: at(60),
            offences: 1,
            hits: 1,
        }]
    );
    assert_eq!(bans.list(10, at(60)).0, []);
    assert_eq!((bans.count(at(59)), bans.count(at(60))), (1, 0));
}

#[test]
fn a_64_is_one_client() {
    let bans = Bans::default();
    bans.ban(client("2001:db8:0:1::1"), MINUTE, "x", at(0));
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
        let length = bans.ban(bad, base, "x", now);
        assert_eq!(length, expected * MINUTE);
        now = now.after(length);
    }
    // Ten days after the last one ended it still counts; then it doesn't.
    let quiet = now.after(Duration::from_secs(10 * 24 * 3600));
    assert_eq!(
        bans.ban(bad, base, "x", Nanos(quiet.0 - 1)),
        Duration::from_secs(24 * 3600)
    );
    let end = quiet.after(Duration::from_secs(24 * 3600));
    let forgotten = end.after(Duration::from_secs(10 * 24 * 3600));
    assert_eq!(bans.ban(bad, base, "x", forgotten), base);
}

#[test]
fn offences_of_one_burst_count_once() {
    let bans = Bans::default();
    let bad = client("203.0.113.7");
    bans.ban(bad, MINUTE, "x", at(0));
    // Requests that were in flight when the ban fell.
    for second in 1..30 {
        bans.ban(bad, MINUTE, "x", at(second));
    }
    assert_eq!(bans.until(bad, at(30)), Some(at(89)));
    assert_eq!(bans.ban(bad, MINUTE, "x", at(100)), 2 * MINUTE);
    // A guard that bans for longer is heard.
    assert_eq!(bans.ban(bad, 10 * MINUTE, "y", at(101)), 10 * MINUTE);
}

#[test]
fn a_base_longer_than_a_day_stands() {
    let bans = Bans::default();
    let week = Duration::from_secs(7 * 24 * 3600);
    let bad = client("203.0.113.7");
    assert_eq!(bans.ban(bad, week, "x", at(0)), week);
    assert_eq!(bans.ban(bad, week, "x", at(0).after(week)), week);
}

#[test]
fn a_flood_of_bans_stays_in_its_bound_and_keeps_the_longest() {
    let bans = Bans::with_capacity(1600);
    let long: Vec<_> = (0..200).map(|n| numbered(1_000_000 + n)).collect();
    for bad in &long {
        bans.ban(*bad, 60 * MINUTE, "x", at(0));
    }
    for n in 0..50_000 {
        bans.ban(numbered(n), MINUTE, "x", at(1));
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
        bans.ban(numbered(n), MINUTE, "x", at(0));
    }
    let evicted = bans.evicted();
    // All those have ended.
    for n in 0..1000 {
        bans.ban(numbered(100_000 + n), MINUTE, "x", at(61));
    }
    assert_eq!(bans.evicted(), evicted);
    assert_eq!(bans.count(at(62)), 1000);
    let kept: usize = bans.shards.iter().map(|s| s.read().entries.len()).sum();
    assert!(kept <= 1600);
}

#[test]
fn protected_networks_are_never_banned() {
    let bans = Bans::default();
    let proxy = client("10.1.2.3");
    bans.ban(proxy, MINUTE, "x", at(0));
    bans.ban(client("10.200.0.1"), MINUTE, "x", at(0));
    let protected = ["10.1.0.0/16", "2001:db8:0:1::7/128", "::ffff:192.0.2.0/120"].map(net);
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
        let banned = bans.ban(client(address), MINUTE, "x", at(2));
        assert_eq!(banned.is_zero(), hit, "{address}");
        assert_eq!(
            bans.until(client(address), at(2)).is_none(),
            hit,
            "{address}"
        );
    }
    assert_eq!(
        bans.add(net("10.0.0.0/8"), MINUTE, None, at(2)),
        Err(AddError::Protected(net("10.1.0.0/16")))
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
    bans.ban(client("203.0.113.200"), 5 * MINUTE, "x", at(1));
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
    for n in 0..1024u32 {
        let network = IpNet::new(Ipv4Addr::from(0x0b00_0000 + (n << 8)).into(), 24).unwrap();
        bans.add(network, MINUTE, None, at(0)).unwrap();
    }
    assert_eq!(add("192.0.2.0/24", MINUTE, None), Err(AddError::Full));
    // Replacing one is no addition, and those that ended make room.
    assert!(add("11.0.0.0/24", MINUTE, None).is_ok());
    assert!(bans.add(net("192.0.2.0/24"), MINUTE, None, at(61)).is_ok());
    assert_eq!(bans.count(at(61)), 1);
}

#[test]
fn another_prefix_for_clients_ends_their_bans_alone() {
    let bans = Bans::default();
    bans.ban(client("203.0.113.7"), MINUTE, "x", at(0));
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
fn workers_meet_without_losing_bans() {
    let bans = Bans::default();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let bans = &bans;
            scope.spawn(move || {
                for n in 0..500 {
                    let bad = numbered(worker * 1000 + n);
                    bans.ban(bad, MINUTE, "x", at(0));
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
