//! What is advised, of hosts that are made up.

use super::*;

const NEEDS: Needs = Needs {
    backlog: 4096,
    open_files: 42_000,
};

/// All is well.
fn good() -> Host {
    Host {
        syncookies: Some(1),
        max_syn_backlog: Some(128),
        somaxconn: Some(4096),
        synack_retries: Some(3),
        abort_on_overflow: Some(0),
        netdev_max_backlog: Some(1000),
        netdev_dropped: Some(0),
        conntrack: None,
        local_ports: Some((32_768, 60_999)),
        rp_filter: Some(("eth0".into(), 2)),
        bpf_jit: Some(1),
        open_files: Some(1_048_576),
        capabilities: Some(0),
    }
}

/// What advice is expected once the host is changed like this.
type Case = (&'static str, fn(&mut Host));

fn names(host: &Host) -> Vec<&'static str> {
    host.advise(NEEDS)
        .iter()
        .map(|advice| advice.name)
        .collect()
}

#[test]
fn a_good_host_and_one_that_says_nothing_need_nothing() {
    assert!(names(&good()).is_empty());
    assert!(names(&Host::default()).is_empty());
}

/// Whoever did as advised is advised no further, though what was dropped before stays counted.
#[test]
fn advice_that_was_followed_is_not_given_again() {
    let mut host = Host {
        netdev_dropped: Some(1),
        ..good()
    };
    let advice = host.advise(NEEDS);
    host.netdev_max_backlog = advice.first().and_then(|one| one.wanted.parse().ok());
    assert_eq!(names(&host), Vec::<&str>::new());
}

#[test]
fn each_setting_that_is_off_is_advised_on_alone() {
    let cases: [Case; 11] = [
        ("net.ipv4.tcp_syncookies", |host| host.syncookies = Some(2)),
        ("net.core.somaxconn", |host| host.somaxconn = Some(128)),
        ("net.ipv4.tcp_synack_retries", |host| {
            host.synack_retries = Some(5);
        }),
        ("net.ipv4.tcp_abort_on_overflow", |host| {
            host.abort_on_overflow = Some(1);
        }),
        ("open files (hard limit)", |host| {
            host.open_files = Some(1024);
        }),
        ("net.core.netdev_max_backlog", |host| {
            host.netdev_dropped = Some(1);
        }),
        ("net.netfilter.nf_conntrack_max", |host| {
            host.conntrack = Some(Conntrack {
                max: 65_536,
                count: 1,
            });
        }),
        ("net.netfilter.nf_conntrack_max", |host| {
            host.conntrack = Some(Conntrack {
                max: 300_000,
                count: 200_000,
            });
        }),
        ("net.ipv4.ip_local_port_range", |host| {
            host.local_ports = Some((50_000, 60_000));
        }),
        ("net.ipv4.conf.all.rp_filter", |host| {
            host.rp_filter = Some(("eth1".into(), 0));
        }),
        ("net.core.bpf_jit_enable", |host| host.bpf_jit = Some(0)),
    ];
    for (name, change) in cases {
        let mut host = good();
        change(&mut host);
        let advice = host.advise(NEEDS);
        let [advice] = advice.as_slice() else {
            panic!("{name}: {advice:?}")
        };
        assert_eq!(advice.name, name);
        assert_ne!(advice.now, advice.wanted);
        if let Fix::Sysctl(line) = &advice.fix {
            assert!(line.starts_with(name), "{line}");
        }
    }
}

#[test]
fn the_backlog_of_syns_matters_where_cookies_are_off() {
    let mut host = good();
    host.syncookies = Some(0);
    assert_eq!(
        names(&host),
        ["net.ipv4.tcp_syncookies", "net.ipv4.tcp_max_syn_backlog"]
    );
    assert_eq!(
        host.advise(NEEDS)[1].fix,
        Fix::Sysctl("net.ipv4.tcp_max_syn_backlog = 4096".into())
    );
}

#[test]
fn rights_are_told_from_capabilities() {
    let may = |bits| {
        Host {
            capabilities: bits,
            ..good()
        }
        .may_filter()
    };
    assert_eq!(may(None), None);
    assert_eq!(may(Some(0)), Some((false, false)));
    assert_eq!(may(Some(1 << 12)), Some((false, true)));
    assert_eq!(may(Some(1 << 12 | 1 << 38 | 1 << 39)), Some((true, true)));
}

#[test]
fn a_host_is_read_as_linux_writes_it() {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join("proc").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("sys/net/ipv4/tcp_syncookies", "1\n");
    write("sys/net/core/somaxconn", "4096\n");
    write("sys/net/netfilter/nf_conntrack_max", "262144\n");
    write("sys/net/netfilter/nf_conntrack_count", "17\n");
    write("sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
    for (interface, value) in [
        ("all", 1),
        ("default", 0),
        ("lo", 0),
        ("eth0", 0),
        ("eth1", 2),
    ] {
        write(
            &format!("sys/net/ipv4/conf/{interface}/rp_filter"),
            &format!("{value}\n"),
        );
    }
    write(
        "net/softnet_stat",
        "00000010 00000000 00000000\n00000020 0000000a 00000000\n",
    );
    write(
        "self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\n\
         Max open files            1024                 524288               files\n",
    );
    write("self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n");
    let host = Host::read(root.path());
    let expected = Host {
        syncookies: Some(1),
        somaxconn: Some(4096),
        conntrack: Some(Conntrack {
            max: 262_144,
            count: 17,
        }),
        local_ports: Some((32_768, 60_999)),
        rp_filter: Some(("eth0".into(), 1)),
        netdev_dropped: Some(10),
        open_files: Some(524_288),
        capabilities: Some(0x1ff_ffff_ffff),
        ..Host::default()
    };
    assert_eq!(host, expected);
    assert_eq!(host.may_filter(), Some((true, true)));
}

#[test]
fn this_host_is_read() {
    let host = Host::read(Path::new("/"));
    assert!(
        host.somaxconn.is_some() && host.open_files.is_some(),
        "{host:?}"
    );
    assert!(host.capabilities.is_some());
}
