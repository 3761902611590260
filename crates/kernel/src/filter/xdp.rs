//! Drops in the driver, by the program of bpf/rempart.bpf.c. It is attached through links that are held
//! by descriptors of this process alone: when it ends, however it ends, the kernel detaches it.
//!
//! After loading no rights are needed: maps are changed through descriptors that are open.

mod table;

use super::{Backend, Ban, Filter, MAX_PROTECTED, Ports, REFLECTOR_PORTS, Reflector, Totals};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::{TestRun, TestRunOptions, Xdp as Program, XdpMode, links::FdLink},
};
use ipnet::IpNet;
use nix::{errno::Errno, net::if_::if_nametoindex};
use std::{collections::BTreeSet, io, time::Duration};
use table::{Hash, Put, Table, Trie, Value};

static OBJECT: &[u8] = include_bytes_aligned!("../../bpf/rempart.bpf.o");

/// Bits of the port table, as the program has them.
const COVERED: u8 = 0x80;
const XDP_PASS: u32 = 2;

pub struct Xdp {
    /// With the numbers under which they were attached to.
    interfaces: Vec<(String, u32)>,
    capacity: u32,
    /// Bans in each map, in the order of the program's settings.
    held: [u32; 4],
    every_port: bool,
    exact_v4: HashMap<MapData, [u8; 4], Value>,
    exact_v6: HashMap<MapData, [u8; 8], Value>,
    wide_v4: LpmTrie<MapData, [u8; 4], Value>,
    wide_v6: LpmTrie<MapData, [u8; 16], Value>,
    protected_v4: LpmTrie<MapData, [u8; 4], u32>,
    protected_v6: LpmTrie<MapData, [u8; 16], u32>,
    protected: BTreeSet<IpNet>,
    settings: Array<MapData, [u32; 5]>,
    totals: PerCpuArray<MapData, [u64; 2]>,
    reflectors: PerCpuArray<MapData, [u64; 3]>,
    reflector_drops: Array<MapData, u32>,
    // Last: what is attached goes when all else is gone.
    links: Vec<FdLink>,
    program: Ebpf,
}

/// Where a ban is kept.
enum Place {
    ExactV4([u8; 4]),
    ExactV6([u8; 8]),
    WideV4(Key<[u8; 4]>),
    WideV6(Key<[u8; 16]>),
}

fn place(network: IpNet) -> Place {
    let length = u32::from(network.prefix_len());
    match network {
        IpNet::V4(network) => match network.network().octets() {
            address if length == 32 => Place::ExactV4(address),
            address => Place::WideV4(Key::new(length, address)),
        },
        IpNet::V6(network) => {
            let address = network.network().octets();
            match address.first_chunk() {
                Some(half) if length == 64 => Place::ExactV6(*half),
                _ => Place::WideV6(Key::new(length, address)),
            }
        }
    }
}

impl Xdp {
    /// Loads the program and attaches it to interfaces, each by its driver. An error says why not.
    pub fn attach(interfaces: &[String], ports: &Ports, capacity: u32) -> io::Result<Self> {
        let bans = capacity.max(1);
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for map in ["exact_v4", "exact_v6"] {
            loader.map_max_entries(map, bans);
        }
        for map in ["wide_v4", "wide_v6"] {
            // Before Linux 6.13 a change takes the room of one more.
            loader.map_max_entries(map, bans.saturating_add(1));
        }
        for map in ["protected_v4", "protected_v6"] {
            // All that is new comes before all that was there goes.
            loader.map_max_entries(map, 2 * MAX_PROTECTED);
        }
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| failed("load the program", &error))?;
        let program = program(&mut ebpf)?;
        program
            .load()
            .map_err(|error| failed("load the program", &error))?;
        let mut port_table: Array<MapData, [u8; 65536]> = map(&mut ebpf, "port_table")?;
        port_table.set(0, *table(ports)?, 0).map_err(table::error)?;
        let mut filter = Self {
            interfaces: Vec::new(),
            capacity,
            held: [0; 4],
            every_port: matches!(ports, Ports::All),
            exact_v4: map(&mut ebpf, "exact_v4")?,
            exact_v6: map(&mut ebpf, "exact_v6")?,
            wide_v4: map(&mut ebpf, "wide_v4")?,
            wide_v6: map(&mut ebpf, "wide_v6")?,
            protected_v4: map(&mut ebpf, "protected_v4")?,
            protected_v6: map(&mut ebpf, "protected_v6")?,
            protected: BTreeSet::new(),
            settings: map(&mut ebpf, "settings")?,
            totals: map(&mut ebpf, "totals")?,
            reflectors: map(&mut ebpf, "reflectors")?,
            reflector_drops: map(&mut ebpf, "reflector_drops")?,
            links: Vec::new(),
            program: ebpf,
        };
        filter.set()?;
        filter.link(interfaces)?;
        Ok(filter)
    }

    fn link(&mut self, interfaces: &[String]) -> io::Result<()> {
        let program = program(&mut self.program)?;
        for interface in interfaces {
            let what = format!("attach to the driver of {interface}");
            let link = program
                .attach(interface, XdpMode::Driver)
                .and_then(|id| program.take_link(id))
                .map_err(|error| failed(&what, &error))?;
            // Only a link by descriptor goes with the process; another kind is detached again here.
            let link = FdLink::try_from(link).map_err(|error| failed(&what, &error))?;
            self.links.push(link);
            self.interfaces
                .push((interface.clone(), if_nametoindex(interface.as_str())?));
        }
        Ok(())
    }

    /// Shows the program a packet, from its Ethernet header on, so many times: whether it passes, and
    /// how long that took on average. Needs the rights that loading needs.
    pub fn show(&mut self, packet: &[u8], times: u32) -> io::Result<(bool, Duration)> {
        let program = program(&mut self.program)?;
        let options = TestRunOptions {
            data_in: Some(packet),
            repeat: times,
            ..TestRunOptions::new()
        };
        let shown = program
            .test_run(options)
            .map_err(|error| failed("show a packet", &error))?;
        Ok((shown.return_value == XDP_PASS, shown.duration))
    }

    fn set(&mut self) -> io::Result<()> {
        let [exact_v4, exact_v6, wide_v4, wide_v6] = self.held.map(|held| u32::from(held > 0));
        let settings = [
            exact_v4,
            exact_v6,
            wide_v4,
            wide_v6,
            u32::from(self.every_port),
        ];
        self.settings.set(0, settings, 0).map_err(table::error)
    }

    /// The table a ban goes to, its key there, and how many the table holds.
    fn with<R>(
        &mut self,
        network: IpNet,
        act: impl FnOnce(&mut dyn Table, &mut u32) -> io::Result<R>,
    ) -> io::Result<R> {
        let before = self.held;
        let [exact_v4, exact_v6, wide_v4, wide_v6] = &mut self.held;
        let result = match place(network) {
            Place::ExactV4(key) => act(&mut Hash(&mut self.exact_v4, key), exact_v4),
            Place::ExactV6(key) => act(&mut Hash(&mut self.exact_v6, key), exact_v6),
            Place::WideV4(key) => act(&mut Trie(&mut self.wide_v4, key), wide_v4),
            Place::WideV6(key) => act(&mut Trie(&mut self.wide_v6, key), wide_v6),
        }?;
        // The program looks only into tables that hold something.
        if before.map(|held| held > 0) != self.held.map(|held| held > 0) {
            self.set()?;
        }
        Ok(result)
    }
}

impl Filter for Xdp {
    fn backend(&self) -> Backend {
        Backend::Xdp
    }

    fn interfaces(&self) -> Vec<String> {
        let names = self.interfaces.iter().map(|(name, _)| name.clone());
        names.collect()
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }

    /// A link goes with its interface, and one of the same name that comes later has none.
    fn check(&self) -> io::Result<()> {
        let gone = |(name, then): &&(String, u32)| match if_nametoindex(name.as_str()) {
            Ok(now) => now != *then,
            // Any other error says nothing of the interface.
            Err(error) => error == Errno::ENODEV,
        };
        match self.interfaces.iter().find(gone) {
            None => Ok(()),
            Some((name, _)) => Err(io::Error::other(format!(
                "xdp: the interface {name} that it was attached to is gone: start the guard again \
                 when it is there"
            ))),
        }
    }

    fn ban(&mut self, bans: &[Ban]) -> io::Result<Vec<IpNet>> {
        let mut refused = Vec::new();
        for ban in bans {
            let room = self.held.iter().sum::<u32>() < self.capacity;
            let length = u64::from(ban.network.prefix_len());
            let put = self.with(ban.network, |entry, held| {
                let put = table::put(entry, [ban.until.unwrap_or(0), 0, length], room)?;
                *held += u32::from(put == Put::Added);
                Ok(put)
            })?;
            if put == Put::Full {
                refused.push(ban.network);
            }
        }
        Ok(refused)
    }

    fn unban(&mut self, networks: &[IpNet]) -> io::Result<()> {
        for network in networks {
            self.with(*network, |entry, held| {
                *held -= u32::from(entry.remove()?);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn protect(&mut self, networks: &[IpNet]) -> io::Result<()> {
        let wanted: BTreeSet<IpNet> = networks.iter().copied().collect();
        // First what is new: nothing that stays protected is without protection meanwhile.
        for network in wanted.difference(&self.protected) {
            let length = u32::from(network.prefix_len());
            match network.network() {
                std::net::IpAddr::V4(address) => {
                    self.protected_v4
                        .insert(&Key::new(length, address.octets()), 1, 0)
                }
                std::net::IpAddr::V6(address) => {
                    self.protected_v6
                        .insert(&Key::new(length, address.octets()), 1, 0)
                }
            }
            .map_err(table::error)?;
        }
        for network in self.protected.difference(&wanted) {
            let length = u32::from(network.prefix_len());
            match network.network() {
                std::net::IpAddr::V4(address) => self
                    .protected_v4
                    .remove(&Key::new(length, address.octets())),
                std::net::IpAddr::V6(address) => self
                    .protected_v6
                    .remove(&Key::new(length, address.octets())),
            }
            .map_err(table::error)?;
        }
        self.protected = wanted;
        Ok(())
    }

    fn hits(&mut self, networks: &[IpNet]) -> io::Result<Vec<u64>> {
        networks
            .iter()
            .map(|network| {
                self.with(*network, |entry, _| {
                    Ok(entry.read()?.map_or(0, |[_, hits, _]| hits))
                })
            })
            .collect()
    }

    fn totals(&mut self) -> io::Result<Totals> {
        let each = self.totals.get(&0, 0).map_err(table::error)?;
        Ok(each
            .iter()
            .fold(Totals::default(), |sum, [packets, bytes]| Totals {
                packets: sum.packets.wrapping_add(*packets),
                bytes: sum.bytes.wrapping_add(*bytes),
            }))
    }

    fn reflectors(&mut self) -> io::Result<Vec<Reflector>> {
        let ports = std::iter::once(&0).chain(REFLECTOR_PORTS);
        ports
            .zip(0..)
            .map(|(port, number)| {
                let each = self.reflectors.get(&number, 0).map_err(table::error)?;
                let mut sum = Reflector {
                    port: *port,
                    ..Reflector::default()
                };
                for [packets, bytes, dropped] in each.iter() {
                    sum.packets = sum.packets.wrapping_add(*packets);
                    sum.bytes = sum.bytes.wrapping_add(*bytes);
                    sum.dropped = sum.dropped.wrapping_add(*dropped);
                }
                Ok(sum)
            })
            .collect()
    }

    fn drop_reflected(&mut self, ports: &[u16]) -> io::Result<()> {
        for (port, number) in std::iter::once(&0).chain(REFLECTOR_PORTS).zip(0..) {
            let drop = u32::from(ports.contains(port));
            self.reflector_drops
                .set(number, drop, 0)
                .map_err(table::error)?;
        }
        Ok(())
    }
}

/// What each port is to the program.
fn table(ports: &Ports) -> io::Result<Box<[u8; 65536]>> {
    let mut table: Box<[u8; 65536]> = vec![0; 65536]
        .try_into()
        .map_err(|_| io::Error::other("the table of ports has another size"))?;
    if let Ports::Only(ports) = ports {
        for port in ports {
            if let Some(what) = table.get_mut(usize::from(*port)) {
                *what |= COVERED;
            }
        }
    }
    for (port, number) in REFLECTOR_PORTS.iter().zip(1..) {
        if let Some(what) = table.get_mut(usize::from(*port)) {
            *what |= number;
        }
    }
    Ok(table)
}

fn program(ebpf: &mut Ebpf) -> io::Result<&mut Program> {
    let program = ebpf.program_mut("rempart");
    let program = program.ok_or_else(|| io::Error::other("the object has no program"))?;
    program
        .try_into()
        .map_err(|error| failed("take the program", &error))
}

/// A map of the program, as it is used from here.
fn map<M>(ebpf: &mut Ebpf, name: &str) -> io::Result<M>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| io::Error::other(format!("the object has no map {name}")))?;
    M::try_from(map).map_err(table::error)
}

/// An error of aya with all that caused it, and the kernel's number if there is one.
fn failed(what: &str, error: &dyn std::error::Error) -> io::Error {
    let mut words = format!("can't {what}: {error}");
    let mut kind = io::ErrorKind::Other;
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        if let Some(error) = error.downcast_ref::<io::Error>() {
            kind = error.kind();
        }
        cause = error.source();
    }
    // The verifier's log is for whoever changes the program.
    let words = words.lines().next().unwrap_or_default();
    io::Error::new(kind, words.to_owned())
}
