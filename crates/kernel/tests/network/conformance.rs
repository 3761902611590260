//! What every backend does alike: one suite, over XDP and nftables with real packets, and in memory.

use crate::{
    Story,
    field::{COVERED, Field, UNCOVERED, until, wanted},
};
use ipnet::IpNet;
use libtest_mimic::Failed;
use nix::time::{ClockId, clock_gettime};
use rempart_kernel::filter::{
    self, Backend, Ban, Filter, MAX_PROTECTED, Nanos, Ports, memory::Memory,
};
use std::{
    net::{IpAddr, Ipv4Addr, TcpListener},
    time::Duration,
};

/// A backend and the way to it.
struct Subject {
    filter: Box<dyn Filter>,
    field: Field,
}

trait Subjected {
    fn filter(&mut self) -> &mut dyn Filter;
    /// Whether a packet to the covered port arrives.
    fn arrives(&mut self, source: &str) -> bool;
}

impl Subjected for Subject {
    fn filter(&mut self) -> &mut dyn Filter {
        self.filter.as_mut()
    }

    fn arrives(&mut self, source: &str) -> bool {
        self.field.arrives(source.parse().unwrap(), COVERED)
    }
}

impl Subjected for Memory {
    fn filter(&mut self) -> &mut dyn Filter {
        self
    }

    fn arrives(&mut self, source: &str) -> bool {
        self.passes(source.parse().unwrap(), 50, now())
    }
}

type Case = fn(&mut dyn Subjected);

const CASES: &[(&str, Case)] = &[
    ("bans_and_unbans_addresses", bans_and_unbans_addresses),
    (
        "bans_wider_and_narrower_networks",
        bans_wider_and_narrower_networks,
    ),
    ("bans_within_bans", bans_within_bans),
    ("bans_end_by_themselves", bans_end_by_themselves),
    (
        "a_wide_ban_outlasts_a_narrow_one",
        a_wide_ban_outlasts_a_narrow_one,
    ),
    (
        "a_ban_is_changed_and_keeps_its_hits",
        a_ban_is_changed_and_keeps_its_hits,
    ),
    ("what_is_protected_passes", what_is_protected_passes),
    ("hits_and_totals_are_counted", hits_and_totals_are_counted),
    ("a_full_table_refuses", a_full_table_refuses),
];
const CAPACITY: u32 = 100;

pub fn in_memory() -> Vec<(String, impl FnOnce() -> Result<(), Failed> + Send + 'static)> {
    let case = |(name, case): &(&str, Case)| {
        let case = *case;
        (format!("conformance::memory::{name}"), move || {
            case(&mut Memory::new(Backend::Nftables, CAPACITY));
            Ok(())
        })
    };
    CASES.iter().map(case).collect()
}

macro_rules! on_each_backend {
    ($stories:ident, $($name:ident),*) => {
        $(
            $stories.push((concat!("conformance::xdp::", stringify!($name)).into(), || {
                $name(&mut subject(Backend::Xdp, CAPACITY));
                Ok(())
            }));
            $stories.push((concat!("conformance::nftables::", stringify!($name)).into(), || {
                $name(&mut subject(Backend::Nftables, CAPACITY));
                Ok(())
            }));
        )*
    };
}

pub fn in_the_kernel() -> Vec<Story> {
    let mut stories: Vec<Story> = Vec::new();
    on_each_backend!(
        stories,
        bans_and_unbans_addresses,
        bans_wider_and_narrower_networks,
        bans_within_bans,
        bans_end_by_themselves,
        a_wide_ban_outlasts_a_narrow_one,
        a_ban_is_changed_and_keeps_its_hits,
        what_is_protected_passes,
        hits_and_totals_are_counted,
        a_full_table_refuses,
        a_connection_fails_and_comes_about_again,
        other_ports_stay_open_unless_all_are_covered,
        parts_of_a_datagram_do_not_slip_through,
        a_hundred_thousand_bans_are_loaded,
        as_much_is_protected_as_may_be
    );
    stories.push((
        "conformance::xdp::an_interface_that_is_made_anew_is_noticed".into(),
        || {
            an_interface_that_is_made_anew_is_noticed(&subject(Backend::Xdp, CAPACITY));
            Ok(())
        },
    ));
    // An interface has room for one program; there may be any number of tables.
    stories.push((
        "conformance::nftables::another_is_opened_beside_it".into(),
        || {
            another_is_opened_beside_it(&mut subject(Backend::Nftables, CAPACITY));
            Ok(())
        },
    ));
    stories
}

fn subject(backend: Backend, capacity: u32) -> Subject {
    with_ports(backend, Ports::Only(vec![80, COVERED]), capacity)
}

fn with_ports(backend: Backend, ports: Ports, capacity: u32) -> Subject {
    let field = Field::new();
    let (filter, _) = filter::open(&wanted(backend, ports, capacity)).unwrap();
    assert_eq!(filter.backend(), backend);
    Subject { filter, field }
}

fn now() -> Nanos {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    Nanos::try_from(now.as_nanos()).unwrap()
}

fn net(network: &str) -> IpNet {
    network.parse().unwrap()
}

fn ban(subject: &mut dyn Subjected, network: &str, lasts: Option<Duration>) {
    let until = lasts.map(|lasts| now() + Nanos::try_from(lasts.as_nanos()).unwrap());
    let refused = subject
        .filter()
        .ban(&[Ban {
            network: net(network),
            until,
        }])
        .unwrap();
    assert_eq!(refused, []);
}

fn unban(subject: &mut dyn Subjected, network: &str) {
    subject.filter().unban(&[net(network)]).unwrap();
}

fn bans_and_unbans_addresses(subject: &mut dyn Subjected) {
    for (network, inside, outside) in [
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
        ("2001:db8:7::/64", "2001:db8:7::aa", "2001:db8:7:1::aa"),
    ] {
        assert!(subject.arrives(inside));
        ban(subject, network, None);
        assert!(!subject.arrives(inside), "{network}");
        assert!(subject.arrives(outside), "{network}");
        unban(subject, network);
        assert!(subject.arrives(inside), "{network}");
        // Twice does no harm.
        unban(subject, network);
    }
}

fn bans_wider_and_narrower_networks(subject: &mut dyn Subjected) {
    for (network, inside, outside) in [
        ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
        ("10.64.0.0/10", "10.127.255.255", "10.128.0.0"),
        ("203.0.112.0/20", "203.0.127.1", "203.0.128.1"),
        ("198.51.100.6/31", "198.51.100.7", "198.51.100.8"),
        ("2001:db8:1::/48", "2001:db8:1:ffff::1", "2001:db8:2::1"),
        ("2001:db8:3::/45", "2001:db8:7::1", "2001:db8:8::1"),
        ("2001:db8:9::9/128", "2001:db8:9::9", "2001:db8:9::8"),
        ("2001:db8:9::4/127", "2001:db8:9::5", "2001:db8:9::6"),
    ] {
        let network = net(network).trunc().to_string();
        ban(subject, &network, None);
        assert!(!subject.arrives(inside), "{network}");
        assert!(subject.arrives(outside), "{network}");
        unban(subject, &network);
        assert!(subject.arrives(inside), "{network}");
    }
}

fn bans_within_bans(subject: &mut dyn Subjected) {
    for network in ["192.0.0.0/16", "192.0.2.0/24", "192.0.2.7/32"] {
        ban(subject, network, None);
    }
    assert!(!subject.arrives("192.0.2.7"));
    unban(subject, "192.0.2.7/32");
    assert!(!subject.arrives("192.0.2.7"));
    unban(subject, "192.0.0.0/16");
    assert!(!subject.arrives("192.0.2.7"));
    assert!(subject.arrives("192.0.3.7"));
    unban(subject, "192.0.2.0/24");
    assert!(subject.arrives("192.0.2.7"));
}

fn bans_end_by_themselves(subject: &mut dyn Subjected) {
    for (network, inside) in [
        ("192.0.2.7/32", "192.0.2.7"),
        ("192.0.4.0/24", "192.0.4.1"),
        ("2001:db8:7::/64", "2001:db8:7::aa"),
        ("2001:db8:8::/48", "2001:db8:8:1::a"),
    ] {
        assert!(subject.arrives(inside), "{network}");
        let ends = now() + 1_000_000_000;
        ban(subject, network, Some(Duration::from_secs(1)));
        let mut dropped = 0;
        until("the ban has ended", || {
            let arrives = subject.arrives(inside);
            dropped += u32::from(!arrives);
            // nftables counts in ticks of the kernel.
            assert!(!arrives || now() > ends - 20_000_000, "{network}");
            arrives
        });
        assert!(dropped > 0, "{network}");
        // Nothing of it is in the way of another.
        ban(subject, network, None);
        assert!(!subject.arrives(inside), "{network}");
        unban(subject, network);
        assert!(subject.arrives(inside), "{network}");
    }
}

fn a_wide_ban_outlasts_a_narrow_one(subject: &mut dyn Subjected) {
    ban(subject, "192.0.2.0/24", None);
    ban(subject, "192.0.2.0/28", Some(Duration::from_millis(300)));
    ban(subject, "192.0.2.7/32", Some(Duration::from_millis(300)));
    let ends = now() + 400_000_000;
    until("the narrow ones have ended", || now() > ends);
    assert!(!subject.arrives("192.0.2.7"));
}

fn a_ban_is_changed_and_keeps_its_hits(subject: &mut dyn Subjected) {
    ban(subject, "192.0.2.7/32", Some(Duration::from_secs(3600)));
    assert!(!subject.arrives("192.0.2.7"));
    ban(subject, "192.0.2.7/32", Some(Duration::from_secs(2)));
    assert_eq!(subject.filter().hits(&[net("192.0.2.7/32")]).unwrap(), [1]);
    until("the ban has ended", || subject.arrives("192.0.2.7"));
    ban(subject, "192.0.2.8/32", Some(Duration::from_millis(200)));
    ban(subject, "192.0.2.8/32", None);
    let ends = now() + 300_000_000;
    until("it would have ended", || now() > ends);
    assert!(!subject.arrives("192.0.2.8"));
}

fn what_is_protected_passes(subject: &mut dyn Subjected) {
    let filter = subject.filter();
    filter
        .protect(&[
            net("192.0.2.7/32"),
            net("2001:db8:7::/64"),
            net("192.0.2.6/32"),
        ])
        .unwrap();
    for network in [
        "192.0.2.0/24",
        "192.0.2.7/32",
        "192.0.2.9/32",
        "2001:db8::/32",
    ] {
        ban(subject, network, None);
    }
    assert!(subject.arrives("192.0.2.7"));
    assert!(subject.arrives("192.0.2.6"));
    assert!(!subject.arrives("192.0.2.8"));
    assert!(!subject.arrives("192.0.2.9"));
    assert!(subject.arrives("2001:db8:7::1"));
    assert!(!subject.arrives("2001:db8:8::1"));
    subject
        .filter()
        .protect(&[net("192.0.2.8/31"), net("192.0.2.0/24")])
        .unwrap();
    assert!(subject.arrives("192.0.2.9"));
    assert!(!subject.arrives("2001:db8:7::1"));
    subject.filter().protect(&[]).unwrap();
    assert!(!subject.arrives("192.0.2.9"));
    assert!(!subject.arrives("192.0.2.7"));
}

fn hits_and_totals_are_counted(subject: &mut dyn Subjected) {
    let networks = [
        net("192.0.2.7/32"),
        net("192.0.4.0/24"),
        net("2001:db8:7::/64"),
        net("192.0.2.9/32"),
    ];
    for network in &networks[..3] {
        ban(subject, &network.to_string(), None);
    }
    for source in [
        "192.0.2.7",
        "192.0.2.7",
        "192.0.4.1",
        "192.0.4.2",
        "192.0.4.3",
        "2001:db8:7::1",
    ] {
        assert!(!subject.arrives(source));
    }
    assert_eq!(subject.filter().hits(&networks).unwrap(), [2, 3, 1, 0]);
    let totals = subject.filter().totals().unwrap();
    assert_eq!(totals.packets, 6);
    assert!(totals.bytes >= 6 * 28, "{totals:?}");
}

fn a_full_table_refuses(subject: &mut dyn Subjected) {
    let address = |n: u32| IpNet::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)));
    let bans: Vec<_> = (0..CAPACITY + 2)
        .map(|n| Ban {
            network: address(n),
            until: None,
        })
        .collect();
    let refused = subject.filter().ban(&bans).unwrap();
    assert_eq!(refused, [address(CAPACITY), address(CAPACITY + 1)]);
    assert!(!subject.arrives("10.0.0.99"));
    assert!(subject.arrives("10.0.0.100"));
    // Those that are there may be changed, and one that goes makes room.
    assert_eq!(subject.filter().ban(&bans[..5]).unwrap(), []);
    unban(subject, "10.0.0.99/32");
    ban(subject, "10.0.0.100/32", None);
    assert!(!subject.arrives("10.0.0.100"));
    assert!(subject.arrives("10.0.0.99"));
}

fn a_connection_fails_and_comes_about_again(subject: &mut Subject) {
    for (source, network) in [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:7::7", "2001:db8:7::/64"),
    ] {
        let source: IpAddr = source.parse().unwrap();
        let any = if source.is_ipv4() { "0.0.0.0" } else { "::" };
        let listener = TcpListener::bind((any, COVERED)).unwrap();
        let long = Duration::from_secs(10);
        assert!(subject.field.connects(source, &listener, long));
        ban(subject, network, None);
        assert!(
            !subject
                .field
                .connects(source, &listener, Duration::from_millis(500))
        );
        unban(subject, network);
        assert!(subject.field.connects(source, &listener, long));
    }
}

fn other_ports_stay_open_unless_all_are_covered(subject: &mut Subject) {
    let sources = [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:7::7", "2001:db8:7::/64"),
    ];
    for (source, network) in sources {
        ban(subject, network, None);
        assert!(!subject.field.arrives(source.parse().unwrap(), COVERED));
        assert!(subject.field.arrives(source.parse().unwrap(), UNCOVERED));
    }
    let mut all = with_ports(subject.filter.backend(), Ports::All, CAPACITY);
    for (source, network) in sources {
        ban(&mut all, network, None);
        assert!(!all.field.arrives(source.parse().unwrap(), COVERED));
        assert!(!all.field.arrives(source.parse().unwrap(), UNCOVERED));
    }
}

fn parts_of_a_datagram_do_not_slip_through(subject: &mut Subject) {
    for (source, network) in [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:7::7", "2001:db8:7::/64"),
    ] {
        let source = source.parse().unwrap();
        for port in [COVERED, UNCOVERED] {
            assert!(subject.field.arrives_whole(source, port, 3000));
        }
        ban(subject, network, None);
        assert!(!subject.field.arrives_whole(source, COVERED, 3000));
        // The first part names its port, which is not covered; later ones name none. A host may put
        // them together before nftables sees them: then the whole is judged by its port.
        if subject.filter.backend() == Backend::Xdp {
            assert!(!subject.field.arrives_whole(source, UNCOVERED, 3000));
        }
    }
}

fn a_hundred_thousand_bans_are_loaded(small: &mut Subject) {
    const MANY: u32 = 100_000;
    let mut subject = subject(small.filter.backend(), MANY);
    let bans: Vec<_> = (0..MANY)
        .map(|n| {
            let address = Ipv4Addr::from(0x0a00_0000 + n);
            Ban {
                network: IpNet::from(IpAddr::from(address)),
                until: Some(now() + 3_600_000_000_000),
            }
        })
        .collect();
    assert_eq!(subject.filter.ban(&bans).unwrap(), []);
    for source in ["10.0.0.0", "10.1.0.1", "10.1.134.159"] {
        assert!(!subject.arrives(source), "{source}");
    }
    assert!(subject.arrives("10.1.134.160"));
    let networks: Vec<_> = bans.iter().map(|ban| ban.network).collect();
    subject.filter.unban(&networks).unwrap();
    assert!(subject.arrives("10.1.134.159"));
}

/// Every other address of so many, so that no two make one network.
fn apart(first: [u8; 4], count: u32) -> Vec<IpNet> {
    let first = u32::from(Ipv4Addr::from(first));
    let addresses = (0..count).map(|n| IpAddr::from(Ipv4Addr::from(first + 2 * n)));
    addresses.map(IpNet::from).collect()
}

fn as_much_is_protected_as_may_be(subject: &mut Subject) {
    let mut networks = apart([10, 0, 0, 0], MAX_PROTECTED);
    subject.filter.protect(&networks).unwrap();
    ban(subject, "10.0.0.0/8", None);
    assert!(subject.arrives("10.0.0.0"));
    assert!(!subject.arrives("10.0.0.1"));
    assert!(subject.arrives("10.1.255.254"));
    // All of them are others now.
    networks = apart([10, 64, 0, 0], MAX_PROTECTED);
    subject.filter.protect(&networks).unwrap();
    assert!(!subject.arrives("10.0.0.0"));
    assert!(subject.arrives("10.64.0.0"));
    // Neighbours that are not one network.
    networks = vec![net("10.0.0.1/32"), net("10.0.0.2/32"), net("10.0.0.3/32")];
    subject.filter.protect(&networks).unwrap();
    assert!(!subject.arrives("10.0.0.0"));
    assert!(subject.arrives("10.0.0.1"));
    assert!(subject.arrives("10.0.0.2"));
    assert!(subject.arrives("10.0.0.3"));
    assert!(!subject.arrives("10.0.0.4"));
}

fn another_is_opened_beside_it(subject: &mut Subject) {
    let wanted = wanted(Backend::Nftables, Ports::All, CAPACITY);
    let (mut other, _) = filter::open(&wanted).unwrap();
    other
        .ban(&[Ban {
            network: net("192.0.2.7/32"),
            until: None,
        }])
        .unwrap();
    assert!(!subject.arrives("192.0.2.7"));
    drop(other);
    assert!(subject.arrives("192.0.2.7"));
}

fn an_interface_that_is_made_anew_is_noticed(subject: &Subject) {
    subject.filter.check().unwrap();
    subject.field.make_the_interface_anew();
    let error = subject.filter.check().unwrap_err().to_string();
    assert!(error.contains("interface edge"), "{error}");
}
