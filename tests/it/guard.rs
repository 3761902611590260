//! Bans below the socket: the built proxy in a network namespace of its own, clients at the other end
//! of a veth pair, and a real kernel in between. Namespaces and devices are made and removed here;
//! where the host forbids them, the test says so and is skipped.

use crate::{
    harness::{
        Edge, Folder, edge::rempart, namespaces::skip, process::Process, raw, tools::said,
        wait_for, wait_until,
    },
    upgrade::Successor,
};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::Duration,
};

/// What a connection of a client meets.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    /// The kernel answered for a listener.
    Connected,
    /// The kernel answered that nobody listens.
    Refused,
    /// Nothing.
    Silence,
}

/// A namespace, and a veth pair into it from another: that of this thread, and of what it starts.
/// Nothing is changed where other tests run; browsers, say, let go of their connections when an
/// address comes or goes.
struct Field {
    namespace: String,
    number: u32,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {arguments}: {}", said(&output).trim()))
    }
}

impl Field {
    /// `None`: the host forbids it, which was said.
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = (std::process::id() * 7 + next) % 250;
        let field = Self {
            namespace: format!("rp{}n{next}", std::process::id() % 100_000),
            number,
        };
        match field.make() {
            Ok(()) => Some(field),
            Err(why) => {
                skip("bans in the kernel", &why);
                None
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        let (ns, n) = (&self.namespace, self.number);
        let (ours, theirs) = (format!("{ns}a"), format!("{ns}b"));
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("unshare: {error}"))?;
        ip("link set lo up")?;
        ip(&format!("netns add {ns}"))?;
        ip(&format!(
            "link add {ours} type veth peer name {theirs} netns {ns}"
        ))?;
        ip(&format!("-n {ns} link set lo up"))?;
        ip(&format!("-n {ns} addr add 198.18.{n}.2/24 dev {theirs}"))?;
        // The first is the operator; the others are clients.
        for last in [1, 8, 9, 10, 11, 12, 13] {
            ip(&format!("addr add 198.18.{n}.{last}/24 dev {ours}"))?;
        }
        // A /64 is one client.
        for last in [1, 8, 9] {
            ip(&format!(
                "addr add fd77:{n:x}:{last}::1/64 dev {ours} nodad"
            ))?;
            ip(&format!(
                "-n {ns} addr add fd77:{n:x}:{last}::2/64 dev {theirs} nodad"
            ))?;
        }
        ip(&format!("link set {ours} up"))?;
        ip(&format!("-n {ns} link set {theirs} up"))
    }

    fn interface(&self) -> String {
        format!("{}b", self.namespace)
    }

    fn v4(&self, last: u8) -> IpAddr {
        [198, 18, u8::try_from(self.number).unwrap(), last].into()
    }

    fn v6(&self, network: u16) -> IpAddr {
        let n = u16::try_from(self.number).unwrap();
        [0xfd77, n, network, 0, 0, 0, 0, 1].into()
    }

    /// Where the client of this address finds the proxy.
    fn proxy(&self, client: IpAddr) -> SocketAddr {
        let ip = match client {
            IpAddr::V4(_) => self.v4(2),
            IpAddr::V6(v6) => {
                let mut segments = v6.segments();
                segments[7] = 2;
                segments.into()
            }
        };
        SocketAddr::new(ip, 8080)
    }

    fn meets(&self, client: IpAddr) -> Met {
        let to = self.proxy(client);
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(to),
            socket2::Type::STREAM,
            None,
        )
        .unwrap();
        socket.bind(&SocketAddr::new(client, 0).into()).unwrap();
        match socket.connect_timeout(&to.into(), Duration::from_millis(800)) {
            Ok(()) => Met::Connected,
            // And the proxy closed at once, before that was heard of.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Met::Connected,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Met::Refused,
            Err(_) => Met::Silence,
        }
    }

    fn inside(&self) -> Command {
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.namespace,
                env!("CARGO_BIN_EXE_rempart"),
            ])
            .env_remove("REMPART_LOG");
        command
    }

    fn yaml(&self, bans: &str) -> String {
        let (v4, n) = (self.v4(2), self.number);
        format!(
            "listeners:\n\
             \x20 - {{ address: \"{v4}:8080\" }}\n\
             \x20 - {{ address: \"[fd77:{n:x}:8::2]:8080\" }}\n\
             \x20 - {{ address: \"[fd77:{n:x}:9::2]:8080\" }}\n\
             admin: {{ address: \"{v4}:9090\", token_file: secrets/admin.token }}\n\
             clients: {{ trusted_proxies: [{proxy}] }}\n\
             connections: {{ per_client: off, rate_per_client: off }}\n\
             upstreams: {{ app: {{ endpoints: [\"127.0.0.1:9\"] }} }}\n\
             routes: [{{ name: app, path: /, upstream: app }}]\n\
             lists: {{ friends: {{ networks: [{friend}], then: allow }} }}\n\
             rules:\n\
             \x20 - {{ name: attack, when: 'request.path == \"/attack\"', then: {{ ban: 10m }} }}\n\
             \x20 - {{ name: rest, when: 'request.path != \"\"', then: deny }}\n\
             bans: {{ state_file: state/bans, {bans} }}\n",
            proxy = self.v4(10),
            friend = self.v4(9),
        )
    }

    fn start(&self, folder: Folder, bans: &str) -> Edge {
        fs::create_dir_all(folder.path("state")).unwrap();
        folder.write("rempart.yaml", &self.yaml(bans));
        let file = folder.path("rempart.yaml");
        Edge::started(folder, &file, &mut self.inside())
    }

    /// Asks for a path over a new connection; `None`: the connection was closed unanswered.
    fn ask(&self, client: IpAddr, path: &str, header: &str) -> Option<u16> {
        // One that is banned in user space may be reset before it hears that it was connected.
        ask(&mut self.connect(client).ok()?, path, header)
    }

    fn connect(&self, client: IpAddr) -> io::Result<TcpStream> {
        raw::connect(&client.to_string(), self.proxy(client))
    }
}

fn ask(stream: &mut TcpStream, path: &str, header: &str) -> Option<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}

impl Drop for Field {
    fn drop(&mut self) {
        // The pair goes with either end.
        let _ = ip(&format!("link del {}a", self.namespace));
        let _ = ip(&format!("netns del {}", self.namespace));
    }
}

fn kernel(edge: &Edge) -> Value {
    edge.api("/api/bans").answer().json()["kernel"].clone()
}

#[track_caller]
fn wait_for_backend(edge: &Edge, backend: &str) {
    wait_until(&format!("{backend}\n{}", edge.log()), 20, || {
        kernel(edge)["backend"] == backend
    });
}

fn is_in_use(edge: &Edge, backend: &str) -> bool {
    edge.metric("rempart_kernel_backend", &[("backend", backend)]) > 0.5
}

fn remove(edge: &Edge, prefix: &str) {
    let admin = format!("http://{}", edge.admin());
    let token = edge.folder.path("secrets/admin.token");
    let token = token.to_str().unwrap();
    let output = rempart(&[
        "bans",
        "remove",
        prefix,
        "--admin",
        &admin,
        "--token-file",
        token,
    ]);
    assert!(output.status.success(), "{output:?}");
}

/// What each thread has of something in its status.
fn of_threads(pid: u32, name: &str) -> Vec<String> {
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        all.extend(line.map(|of| of.trim().to_owned()));
    }
    all
}

/// The whole story over one backend.
fn a_ban_stops_packets(backend: &str) {
    let Some(field) = Field::new() else { return };
    let interfaces = match backend {
        "xdp" => format!(", interfaces: [{}]", field.interface()),
        _ => String::new(),
    };
    let bans = format!("kernel: {{ backend: {backend}{interfaces}, ports: all }}");
    let edge = field.start(Folder::new(), &bans);
    wait_for_backend(&edge, backend);
    assert!(is_in_use(&edge, backend));

    for (bad, good) in [(field.v4(8), field.v4(11)), (field.v6(8), field.v6(9))] {
        assert_eq!(field.ask(bad, "/", ""), Some(403));
        assert_eq!(field.ask(bad, "/attack", ""), None);
        wait_until("silence", 10, || field.meets(bad) == Met::Silence);
        assert_eq!(field.meets(good), Met::Connected);
        assert_eq!(field.ask(good, "/", ""), Some(403));
    }
    let dropped = || edge.metric("rempart_kernel_dropped_packets_total", &[]);
    wait_until("dropped packets", 10, || dropped() >= 2.0);
    let listed = edge.api("/api/bans").answer().json();
    let mut all = listed["bans"].as_array().unwrap().iter();
    let bad = format!("{}/32", field.v4(8));
    let ban = all.find(|ban| ban["prefix"] == bad).unwrap();
    assert_eq!(
        (&ban["backend"], &ban["source"]),
        (&backend.into(), &"attack".into())
    );
    assert!(ban["hits"].as_u64() >= Some(1), "{ban}");
    assert!(edge.metric("rempart_bans", &[("backend", backend)]) > 1.5);

    // Un-ban restores.
    remove(&edge, &field.v4(8).to_string());
    wait_until("the un-ban", 10, || {
        field.meets(field.v4(8)) == Met::Connected
    });
    assert_eq!(field.ask(field.v4(8), "/", ""), Some(403));

    // Neither friends nor proxies, nor whom a proxy speaks for.
    assert_eq!(
        field.ask(field.v4(9), "/attack", ""),
        Some(502),
        "friends are forwarded"
    );
    let proxy = field.v4(10);
    for client in ["203.0.113.7", "198.18.0.200"] {
        // Not closed: the connection is the proxy's.
        let header = format!("x-forwarded-for: {client}\r\n");
        assert_eq!(field.ask(proxy, "/attack", &header), Some(403));
    }
    assert_eq!(field.ask(proxy, "/", ""), Some(403));
    let listed = edge.api("/api/bans").answer().json();
    let mut all = listed["bans"].as_array().unwrap().iter();
    let ban = all.find(|ban| ban["prefix"] == "203.0.113.7/32").unwrap();
    assert_eq!(
        (&ban["backend"], &ban["proxied"]),
        (&"user_space".into(), &true.into())
    );

    how_soon(&field);

    // No thread of the proxy has a right left that it was started with.
    let mut edge = edge;
    let pid = edge.process().id();
    let rights = of_threads(pid, "CapPrm:");
    let bind = format!("{:016x}", 1 << 10);
    let none = "0".repeat(16);
    assert!(
        rights.iter().all(|of| *of == none || *of == bind),
        "{rights:?}"
    );
    // Nor would a program that one of them starts, though it is root's.
    for (name, wanted) in [("NoNewPrivs:", "1"), ("CapBnd:", &none)] {
        let found = of_threads(pid, name);
        assert!(found.iter().all(|of| of == wanted), "{name} {found:?}");
    }

    // It ends as nothing can be caught: the kernel lets go at once. Started again, it drops again.
    let bad = field.v6(8);
    assert_eq!(field.meets(bad), Met::Silence);
    edge.signal("KILL");
    edge.process().wait(10);
    wait_until("the end of the drops", 10, || {
        field.meets(bad) == Met::Refused
    });
    let edge = field.start(edge.into_folder(), &bans);
    wait_for_backend(&edge, backend);
    wait_until("the ban once more", 10, || field.meets(bad) == Met::Silence);

    // A new process takes the guard over, which goes on all the while.
    let mut edge = edge;
    edge.signal("QUIT");
    let new = Successor::of(&edge, 0);
    assert!(edge.process().wait(30).success());
    assert_eq!(field.meets(bad), Met::Silence);
    wait_for_backend(&edge, backend);
    let other = field.v4(12);
    assert_eq!(field.ask(other, "/attack", ""), None);
    wait_until("a ban of the new process", 10, || {
        field.meets(other) == Met::Silence
    });
    new.signal("KILL");
    new.wait();
    wait_until("the end of the new one's drops", 10, || {
        field.meets(bad) == Met::Refused
    });
}

/// Prints how long after the end of the connection that earned it a ban was seen in force.
fn how_soon(field: &Field) {
    let mut soonest = None;
    let clients = [11, 12, 13].map(|last| field.v4(last));
    for (client, wait) in clients.into_iter().zip([0, 2, 8]) {
        let (mut one, mut other) = (
            field.connect(client).unwrap(),
            field.connect(client).unwrap(),
        );
        assert_eq!(ask(&mut other, "/", ""), Some(403));
        let patience = Duration::from_millis(300);
        other.set_read_timeout(Some(patience)).unwrap();
        // The rest of that answer.
        while other.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
        assert_eq!(ask(&mut one, "/attack", ""), None);
        sleep(Duration::from_millis(wait));
        other
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        // The proxy would close it or answer; the kernel says nothing.
        let silent = other.read(&mut [0; 1]).is_err_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            )
        });
        if silent && soonest.is_none() {
            soonest = Some(wait);
        }
    }
    println!("in force {soonest:?} ms after the client saw its connection end");
    assert!(soonest.is_some(), "never in force");
}

#[test]
fn a_ban_stops_packets_by_xdp() {
    a_ban_stops_packets("xdp");
}

#[test]
fn a_ban_stops_packets_by_nftables() {
    a_ban_stops_packets("nftables");
}

#[test]
fn a_shared_guard_outlives_its_proxies_for_a_while() {
    let Some(field) = Field::new() else { return };
    let folder = Folder::new();
    let socket = folder.path("guard.sock");
    let mut guard = Process::start(field.inside().args([
        "guard",
        "--socket",
        socket.to_str().unwrap(),
        "--backend",
        "nftables",
        "--port",
        "all",
    ]));
    wait_for("the guard's socket", 20, || {
        assert!(guard.ended().is_none(), "{:?}", guard.stderr());
        socket.exists().then_some(())
    });
    let mut edge = field.start(folder, "kernel: { guard: guard.sock }");
    wait_for_backend(&edge, "nftables");
    let bad = field.v4(8);
    assert_eq!(field.ask(bad, "/attack", ""), None);
    wait_until("silence", 10, || field.meets(bad) == Met::Silence);
    edge.signal("KILL");
    edge.process().wait(10);
    // Nobody listens, and the banned one does not even hear that.
    assert_eq!(field.meets(field.v4(11)), Met::Refused);
    assert_eq!(field.meets(bad), Met::Silence);
    let edge = field.start(edge.into_folder(), "kernel: { guard: guard.sock }");
    wait_for_backend(&edge, "nftables");
    assert_eq!(field.meets(bad), Met::Silence);

    // A guard that goes away is told of, and found again when it is back.
    guard.signal("TERM");
    guard.wait(10);
    wait_until("its end", 20, || kernel(&edge)["backend"].is_null());
    assert!(is_in_use(&edge, "user_space"));
    assert_eq!(field.meets(bad), Met::Connected);
    assert_eq!(field.ask(bad, "/", ""), None, "user space goes on");
    let _guard = Process::start(field.inside().args([
        "guard",
        "--socket",
        edge.folder.path("guard.sock").to_str().unwrap(),
        "--backend",
        "nftables",
        "--port",
        "all",
    ]));
    wait_for_backend(&edge, "nftables");
    wait_until("the ban once more", 10, || field.meets(bad) == Met::Silence);
}

#[test]
fn without_rights_it_serves_and_says_what_is_lacking() {
    let Some(field) = Field::new() else { return };
    let folder = Folder::new();
    fs::create_dir_all(folder.path("state")).unwrap();
    folder.write("rempart.yaml", &field.yaml("kernel: { backend: auto }"));
    let file = folder.path("rempart.yaml");
    let mut command = Command::new("ip");
    command
        .args([
            "netns",
            "exec",
            &field.namespace,
            "setpriv",
            "--bounding-set=-all",
        ])
        .args(["--inh-caps=-all", env!("CARGO_BIN_EXE_rempart")])
        .env_remove("REMPART_LOG");
    let edge = Edge::started(folder, &file, &mut command);
    let log = edge.log();
    assert_eq!(log.matches("lacks CAP_NET_ADMIN").count(), 1, "{log}");
    assert!(log.contains("bans.kernel.guard"), "{log}");
    assert!(is_in_use(&edge, "user_space"));
    assert_eq!(field.ask(field.v4(8), "/attack", ""), None);
    assert_eq!(
        field.ask(field.v4(8), "/", ""),
        None,
        "banned in user space"
    );
}

#[test]
fn what_a_reload_could_not_read_is_said_at_the_start() {
    let Some(field) = Field::new() else { return };
    let folder = Folder::new();
    fs::create_dir_all(folder.path("state")).unwrap();
    folder.write("rempart.yaml", &field.yaml("kernel: { guard: guard.sock }"));
    let token = folder.path("secrets/admin.token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&token, Some(65534), None).unwrap();
    let file = folder.path("rempart.yaml");
    let mut command = field.inside();
    let mut process = Process::start(command.arg("run").arg("--config").arg(&file));
    assert!(!process.wait(20).success());
    let said = process.stderr().join("\n");
    assert!(said.contains("admin.token` can't be read"), "{said}");
    assert!(said.contains("gives up the right"), "{said}");
}
