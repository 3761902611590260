//! Two network namespaces and a veth pair between them: a host that is to be guarded, and the world.
//! Each test has its own, and its thread stands in the host's.

use nix::sched::{CloneFlags, setns};
use rempart_kernel::filter::{Backend, Choice, Ports, Wanted};
use socket2::{Domain, Socket, Type};
use std::{
    cell::RefCell,
    collections::HashSet,
    fs::File,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// The host's port that bans cover, and one that they don't.
pub const COVERED: u16 = 443;
pub const UNCOVERED: u16 = 22;
/// The host's end of the pair.
pub const INTERFACE: &str = "edge";
/// A source that no test bans: what it sends tells that all before it has arrived.
const MARKER_V4: &str = "198.18.0.2";
const MARKER_V6: &str = "fd00::2";
/// How long what was sent may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Field {
    host: String,
    world: String,
    covered: [UdpSocket; 2],
    uncovered: [UdpSocket; 2],
    /// What the world has been given already.
    owned: RefCell<HashSet<IpAddr>>,
}

impl Field {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "rk{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        Self::make(&name).unwrap_or_else(|error| panic!("no field: {error}"))
    }

    /// Whether this host lets tests have what they need.
    pub fn try_out() -> io::Result<()> {
        // The thread that tries it is not to stay in the namespace.
        let tried = std::thread::spawn(|| {
            let _field = Self::make(&format!("rk{}-try", std::process::id()))?;
            for backend in [Backend::Xdp, Backend::Nftables] {
                rempart_kernel::filter::open(&wanted(backend, Ports::All, 1))?;
            }
            Ok(())
        });
        tried
            .join()
            .map_err(|_| io::Error::other("the field could not be tried"))?
    }

    fn make(name: &str) -> io::Result<Self> {
        let (host, world) = (format!("{name}-h"), format!("{name}-w"));
        // Removes itself whatever fails below.
        let names = Names(host.clone(), world.clone());
        for namespace in [&host, &world] {
            ip(&["netns", "add", namespace])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        }
        ip(&[
            "-n", &host, "link", "add", INTERFACE, "type", "veth", "peer", "outer", "netns", &world,
        ])?;
        for (namespace, interface, v4, v6) in [
            (&host, INTERFACE, "198.18.0.1/32", "fd00::1/128"),
            (&world, "outer", "198.18.0.2/32", "fd00::2/128"),
        ] {
            ip(&["-n", namespace, "link", "set", interface, "up"])?;
            ip(&["-n", namespace, "address", "add", v4, "dev", interface])?;
            ip(&[
                "-n", namespace, "address", "add", v6, "dev", interface, "nodad",
            ])?;
            // The other side has every address.
            ip(&["-n", namespace, "route", "add", "default", "dev", interface])?;
            ip(&[
                "-n", namespace, "-6", "route", "add", "default", "dev", interface,
            ])?;
        }
        stand_in(&host)?;
        let bind = |port| -> io::Result<[UdpSocket; 2]> {
            let sockets = [UdpSocket::bind(("0.0.0.0", port))?, bind_v6(port)?];
            for socket in &sockets {
                socket.set_read_timeout(Some(PATIENCE))?;
            }
            Ok(sockets)
        };
        let (covered, uncovered) = (bind(COVERED)?, bind(UNCOVERED)?);
        std::mem::forget(names);
        Ok(Self {
            host,
            world,
            covered,
            uncovered,
            owned: RefCell::default(),
        })
    }

    /// Does something in the world's namespace.
    pub fn outside<R>(&self, act: impl FnOnce() -> R) -> R {
        stand_in(&self.world).unwrap();
        let result = act();
        stand_in(&self.host).unwrap();
        result
    }

    /// Gives the world an address.
    fn own(&self, source: IpAddr) {
        if !self.owned.borrow_mut().insert(source) {
            return;
        }
        let length = if source.is_ipv4() { 32 } else { 128 };
        let address = format!("{source}/{length}");
        let mut words = vec![
            "-n",
            &self.world,
            "address",
            "replace",
            &address,
            "dev",
            "outer",
        ];
        if source.is_ipv6() {
            words.push("nodad");
        }
        ip(&words).unwrap();
    }

    /// Whether a datagram from a source arrives at a port of the host.
    pub fn arrives(&self, source: IpAddr, port: u16) -> bool {
        self.arrives_whole(source, port, 6)
    }

    /// The same of one with so many bytes: more than 1,472 come in parts.
    pub fn arrives_whole(&self, source: IpAddr, port: u16, bytes: usize) -> bool {
        self.own(source);
        let v6 = usize::from(source.is_ipv6());
        let sockets = if port == COVERED {
            &self.covered
        } else {
            &self.uncovered
        };
        let to = SocketAddr::new(host_address(source), port);
        let marker: IpAddr = if v6 == 0 { MARKER_V4 } else { MARKER_V6 }.parse().unwrap();
        // One after the other over one pair: the second does not overtake the first.
        self.outside(|| {
            for (from, bytes) in [(source, bytes), (marker, 6)] {
                let socket = UdpSocket::bind((from, 0)).unwrap();
                socket.send_to(&vec![0; bytes], to).unwrap();
            }
        });
        let mut arrived = false;
        let mut word = [0; 6];
        loop {
            let (_, from) = sockets[v6]
                .recv_from(&mut word)
                .expect("not even the marker arrives");
            match from.ip() {
                from if from == source => arrived = true,
                from if from == marker => return arrived,
                _ => {}
            }
        }
    }

    /// Sends datagrams of 400 bytes from a source's port, to a port of the host that nobody reads.
    pub fn reflects(&self, source: IpAddr, port: u16, count: u32) {
        self.own(source);
        let to = SocketAddr::new(host_address(source), 40_000);
        self.outside(|| {
            let socket = UdpSocket::bind((source, port)).unwrap();
            for _ in 0..count {
                // Nobody reads it, and the host may say so.
                let _ = socket.send_to(&[0; 400], to);
            }
        });
    }

    /// Whether a connection from a source comes about within a while.
    pub fn connects(&self, source: IpAddr, listener: &TcpListener, within: Duration) -> bool {
        self.own(source);
        let to = SocketAddr::new(host_address(source), listener.local_addr().unwrap().port());
        self.outside(|| {
            let domain = if source.is_ipv4() {
                Domain::IPV4
            } else {
                Domain::IPV6
            };
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
            match socket.connect_timeout(&to.into(), within) {
                Ok(()) => drop(TcpStream::from(socket)),
                Err(error) if error.kind() == ErrorKind::TimedOut => return false,
                Err(error) => panic!("{source} can't connect: {error}"),
            }
            true
        })
    }

    /// Another one of the same name takes the place of the host's interface.
    pub fn make_the_interface_anew(&self) {
        let host = self.host.as_str();
        ip(&["-n", host, "link", "del", INTERFACE]).unwrap();
        ip(&[
            "-n", host, "link", "add", INTERFACE, "type", "veth", "peer", "other",
        ])
        .unwrap();
    }

    /// What `ip` says of the host's interface.
    pub fn interface(&self) -> String {
        let shown = Command::new("ip")
            .args(["-n", &self.host, "link", "show", INTERFACE])
            .output();
        String::from_utf8(shown.unwrap().stdout).unwrap()
    }

    /// What `nft` says of the host's tables.
    pub fn tables(&self) -> String {
        let shown = Command::new("ip")
            .args(["netns", "exec", &self.host, "nft", "list", "tables"])
            .output()
            .unwrap();
        String::from_utf8(shown.stdout).unwrap()
    }

    /// A command that runs on the host.
    pub fn command(&self, program: &std::ffi::OsStr) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host]).arg(program);
        command
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        drop(Names(self.host.clone(), self.world.clone()));
    }
}

/// Namespaces that go when this does.
struct Names(String, String);

impl Drop for Names {
    fn drop(&mut self) {
        for namespace in [&self.0, &self.1] {
            let _ = Command::new("ip")
                .args(["netns", "delete", namespace])
                .output();
        }
    }
}

/// A backend on the host's interface.
pub fn wanted(backend: Backend, ports: Ports, capacity: u32) -> Wanted {
    Wanted {
        choice: Choice::Only(backend),
        interfaces: vec![INTERFACE.into()],
        ports,
        capacity,
    }
}

pub fn host_address(to: IpAddr) -> IpAddr {
    if to.is_ipv4() {
        "198.18.0.1"
    } else {
        "fd00::1"
    }
    .parse()
    .unwrap()
}

fn bind_v6(port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.set_only_v6(true)?;
    socket.bind(&SocketAddr::from(([0; 16], port)).into())?;
    Ok(socket.into())
}

fn stand_in(namespace: &str) -> io::Result<()> {
    setns(
        File::open(format!("/run/netns/{namespace}"))?,
        CloneFlags::CLONE_NEWNET,
    )?;
    Ok(())
}

fn ip(words: &[&str]) -> io::Result<()> {
    let done = Command::new("ip").args(words).output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!(
        "ip {}: {}",
        words.join(" "),
        said.trim()
    )))
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(
            std::time::Instant::now() < give_up,
            "waited in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
