//! What bans in the kernel cost, on this machine and kernel (docs/performance.md): as root,
//!
//!     ip netns add bench
//!     ip -n bench link add edge type veth peer outer
//!     ip -n bench link set edge up
//!     ip netns exec bench cargo run --release -p rempart-kernel --example bans -- edge
//!     ip netns delete bench
//!
//! It sends no packet: the kernel shows the XDP program made-up ones and says how long that took.

use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use rempart_kernel::{
    filter::{Backend, Ban, Filter, Ports, nftables::Nftables, xdp::Xdp},
    guard::{Change, Client, Server},
};
use std::{
    error::Error,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{fd::AsFd, unix::net::UnixStream},
    thread,
    time::{Duration, Instant},
};

const SHOWN: u32 = 1_000_000;
const MANY: u32 = 100_000;
const MOST: u32 = 1_000_000;
const ROUNDS: usize = 7;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let interface = std::env::args()
        .nth(1)
        .ok_or("name an interface that has a driver mode")?;
    // First: what is freed later would hide what is taken here.
    memory(Backend::Nftables, &interface)?;
    memory(Backend::Xdp, &interface)?;
    packets(&interface)?;
    for backend in [Backend::Xdp, Backend::Nftables] {
        load(backend, &interface)?;
        in_force(backend, &interface)?;
    }
    Ok(())
}

fn open(backend: Backend, interface: &str, capacity: u32) -> io::Result<Box<dyn Filter>> {
    let ports = Ports::Only(vec![80, 443]);
    Ok(match backend {
        Backend::Xdp => Box::new(Xdp::attach(&[interface.into()], &ports, capacity)?),
        Backend::Nftables => Box::new(Nftables::attach(&ports, capacity)?),
    })
}

fn packets(interface: &str) -> Result<()> {
    let mut xdp = Xdp::attach(&[interface.into()], &Ports::Only(vec![80, 443]), MANY + 10)?;
    let (clean_v4, clean_v6) = ("203.0.113.7".parse()?, "2001:db8:ffff::1".parse()?);
    println!("nanoseconds a packet (median of {ROUNDS} rounds of {SHOWN}):");
    show(&mut xdp, "clean, IPv4, no ban", clean_v4, true)?;
    show(&mut xdp, "clean, IPv6, no ban", clean_v6, true)?;
    xdp.ban(&bans(MANY))?;
    show(
        &mut xdp,
        "clean, IPv4, 100,000 bans of addresses",
        clean_v4,
        true,
    )?;
    for network in [
        "192.0.2.7/32",
        "2001:db8:7::/64",
        "198.51.100.0/24",
        "2001:db8:8::/48",
    ] {
        xdp.ban(&[Ban {
            network: network.parse()?,
            until: Some(now()? + HOUR),
        }])?;
    }
    show(&mut xdp, "clean, IPv4, and of networks", clean_v4, true)?;
    show(&mut xdp, "clean, IPv6, and of networks", clean_v6, true)?;
    show(
        &mut xdp,
        "dropped, IPv4 address (/32)",
        "192.0.2.7".parse()?,
        false,
    )?;
    show(
        &mut xdp,
        "dropped, IPv6 /64",
        "2001:db8:7::1".parse()?,
        false,
    )?;
    show(
        &mut xdp,
        "dropped, IPv4 /24",
        "198.51.100.7".parse()?,
        false,
    )?;
    show(
        &mut xdp,
        "dropped, IPv6 /48",
        "2001:db8:8:1::1".parse()?,
        false,
    )?;
    Ok(())
}

fn show(xdp: &mut Xdp, what: &str, source: IpAddr, passes: bool) -> Result<()> {
    let packet = syn(source);
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let (passed, each) = xdp.show(&packet, SHOWN)?;
        if passed != passes {
            return Err(format!("{what}: passed is {passed}").into());
        }
        took.push(each.as_nanos());
    }
    took.sort_unstable();
    let median = took.get(ROUNDS / 2).ok_or("no rounds")?;
    println!("  {what}: {median}");
    Ok(())
}

/// A SYN to port 443, from its Ethernet header on.
fn syn(source: IpAddr) -> Vec<u8> {
    let mut frame = vec![2; 12];
    match source {
        IpAddr::V4(source) => {
            frame.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0]);
            frame.extend(source.octets());
            frame.extend([198, 18, 0, 1]);
        }
        IpAddr::V6(source) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend(source.octets());
            frame.extend(Ipv6Addr::LOCALHOST.octets());
        }
    }
    frame.extend(5555_u16.to_be_bytes());
    frame.extend(443_u16.to_be_bytes());
    frame.extend([0; 16]);
    frame
}

const HOUR: u64 = 3_600_000_000_000;

fn bans(count: u32) -> Vec<Ban> {
    let until = now().ok().map(|now| now + HOUR);
    let address = |n| Ipv4Addr::from(0x0a00_0000 + n);
    let ban = |n| Ban {
        network: IpNet::from(IpAddr::from(address(n))),
        until,
    };
    (0..count).map(ban).collect()
}

fn load(backend: Backend, interface: &str) -> Result<()> {
    let mut filter = open(backend, interface, MANY)?;
    let bans = bans(MANY);
    let start = Instant::now();
    filter.ban(&bans)?;
    println!(
        "{backend}: {MANY} bans told to the kernel in {:.2?}",
        start.elapsed()
    );
    Ok(())
}

/// A guard in a thread of its own, and its client.
fn in_force(backend: Backend, interface: &str) -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let (_stop, stopped) = UnixStream::pair()?;
    let interface = interface.to_owned();
    let guard = thread::spawn(move || -> io::Result<()> {
        let filter = open(backend, &interface, MANY + 2000)?;
        let mut server = Server::new(filter, Vec::new(), Vec::new())?;
        server.serve(theirs)?;
        server.run(stopped.as_fd())
    });
    let mut client = Client::over(ours)?;
    let ban = |network| Change::Ban {
        network,
        remaining: Some(Duration::from_secs(3600)),
    };
    let all: Vec<_> = bans(MANY).into_iter().map(|one| ban(one.network)).collect();
    let start = Instant::now();
    client.send(&all)?;
    client.report(&[])?;
    println!(
        "{backend}: {MANY} bans through the guard in {:.2?}",
        start.elapsed()
    );
    let mut took = Vec::new();
    for n in 0..1000 {
        let network = IpNet::from(IpAddr::from(Ipv4Addr::from(0xc612_0000_u32 + n)));
        let start = Instant::now();
        client.send(&[ban(network)])?;
        client.report(&[])?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    let at = |part: usize| {
        took.get(took.len() * part / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{backend}: from telling the guard to its answer that a ban is in force: p50 {:.0?}, p99 {:.0?}",
        at(50),
        at(99)
    );
    drop(client);
    guard.join().map_err(|_| "the guard panicked")??;
    Ok(())
}

fn memory(backend: Backend, interface: &str) -> Result<()> {
    let mut filter = open(backend, interface, MOST)?;
    let bans = bans(MOST);
    let before = available()?;
    let start = Instant::now();
    filter.ban(&bans)?;
    let took = start.elapsed();
    let used = before.saturating_sub(available()?) / 1024;
    println!("{backend}: {MOST} bans in {took:.2?}; the machine has {used} MiB less");
    if backend == Backend::Xdp {
        println!(
            "{backend}: the kernel counts {} MiB for its maps",
            maps()? >> 20
        );
    }
    Ok(())
}

/// Bytes of the maps that this process holds.
fn maps() -> Result<u64> {
    let mut sum = 0;
    for file in fs::read_dir("/proc/self/fdinfo")? {
        // The folder's own descriptor is gone again.
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        sum += line.map_or(Ok(0), |bytes| bytes.trim().parse::<u64>())?;
    }
    Ok(sum)
}

/// KiB of memory that the machine could give.
fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no MemAvailable")?.parse()?)
}

fn now() -> Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(now.as_nanos())?)
}
