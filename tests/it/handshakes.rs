//! A flood of handshakes takes no more than its budget, and those who are known go on meanwhile.

use crate::harness::{Edge, Upstream, raw, wait_until};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned, pki_types::ServerName};
use std::{
    io::{self, Read, Write},
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

/// Requests of each innocent during the flood.
const REQUESTS: u32 = 30;
/// Handshakes that the flood begins at the most.
const FLOOD: u32 = 60_000;
/// What an attacker rests after a refusal, which costs it nothing.
const REST: Duration = Duration::from_millis(5);
const ATTACKERS: u32 = 16;
/// Of a handshake.
const DEADLINE: Duration = Duration::from_secs(15);

fn client(edge: &Edge) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Arc::new(
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(edge.folder.authority.roots())
            .with_no_client_auth(),
    )
}

fn session(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("app.example.com").unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

/// A request for `/` over a new connection: its status, and how the handshake went.
fn visit(
    edge: &Edge,
    source: &str,
    config: &Arc<ClientConfig>,
) -> io::Result<(u16, HandshakeKind)> {
    ask(edge, source, config, "/")
}

fn ask(
    edge: &Edge,
    source: &str,
    config: &Arc<ClientConfig>,
    path: &str,
) -> io::Result<(u16, HandshakeKind)> {
    let tcp = raw::connect(source, edge.tls())?;
    let mut stream = StreamOwned::new(session(config), tcp);
    // The ticket comes before the answer.
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: app.example.com\r\nconnection: close\r\n\r\n");
    let answer = raw::exchange(&mut stream, request.as_bytes())?;
    Ok((answer.status, stream.conn.handshake_kind().unwrap()))
}

/// Addresses that nobody else has.
fn address(number: u32) -> String {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 77, 0, 1)) + number).to_string()
}

/// Begins handshakes from ever new addresses, with the least work of its own: the same hello again
/// and again, and nothing after it.
struct Flood {
    /// Were answered, refused.
    answered: AtomicU32,
    refused: AtomicU32,
    begun: AtomicU32,
    over: AtomicBool,
}

impl Flood {
    fn attack(&self, edge: &Edge, hello: &[u8]) {
        while !self.over.load(SeqCst) {
            let number = self.begun.fetch_add(1, SeqCst);
            if number >= FLOOD {
                return;
            }
            let tried = raw::connect(&address(number), edge.tls()).and_then(|mut tcp| {
                tcp.write_all(hello)?;
                tcp.read_exact(&mut [0; 5])
            });
            if tried.is_ok() {
                self.answered.fetch_add(1, SeqCst);
            } else {
                self.refused.fetch_add(1, SeqCst);
                thread::sleep(REST);
            }
        }
    }
}

/// Ends the flood however the test does.
struct Over<'a>(&'a Flood);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
    }
}

#[test]
fn known_clients_go_on_while_a_flood_of_handshakes_waits() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&format!(
        "connections:\n\
         \x20 per_client: off\n\
         \x20 rate_per_client: off\n\
         \x20 handshakes: {{ cpu: 2%, waiting: 4 }}\n\
         \x20 timeouts: {{ handshake: 15s }}\n\
         upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n",
        upstream.address
    ));
    let refused = || {
        edge.metric(
            "rempart_connections_refused_total",
            &[("reason", "handshake_budget")],
        )
    };

    // One has been here and has a ticket; one has been here and has none.
    let ticket = client(&edge);
    assert_eq!(visit(&edge, "127.0.0.2", &ticket).unwrap().0, 200);
    assert_eq!(visit(&edge, "127.0.0.3", &client(&edge)).unwrap().0, 200);

    let mut hello = Vec::new();
    session(&client(&edge)).write_tls(&mut hello).unwrap();
    let flood = Flood {
        answered: AtomicU32::new(0),
        refused: AtomicU32::new(0),
        begun: AtomicU32::new(0),
        over: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let _over = Over(&flood);
        for _ in 0..ATTACKERS {
            scope.spawn(|| flood.attack(&edge, &hello));
        }
        wait_until("the budget is spent", 30, || refused() >= 100.0);

        for number in 0..REQUESTS {
            // From an address of which nothing is known: the ticket alone speaks for it.
            let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 88, 0, 1)) + number);
            let served = visit(&edge, &source.to_string(), &ticket);
            assert_eq!(
                served.unwrap(),
                (200, HandshakeKind::Resumed),
                "with a ticket, request {number}"
            );
            let served = visit(&edge, "127.0.0.3", &client(&edge));
            let (status, kind) = served.unwrap();
            assert_eq!(status, 200, "of good conduct, request {number}");
            assert_ne!(kind, HandshakeKind::Resumed);
        }
        let (begun, answered) = (flood.begun.load(SeqCst), flood.answered.load(SeqCst));
        assert!(begun < FLOOD, "the flood went on all the time");
        assert!(answered > 0, "what budget there is goes to the unknown");
        assert!(
            flood.refused.load(SeqCst) > answered / 2,
            "most were refused"
        );
    });

    // When it is over, everyone is let in again.
    wait_until("a stranger is served", 30, || {
        visit(&edge, "127.0.0.4", &client(&edge)).is_ok_and(|(status, _)| status == 200)
    });
    assert!(refused() >= 100.0);
    let resumed = edge.metric("rempart_tls_handshakes_total", &[("result", "resumed")]);
    assert!(resumed >= f64::from(REQUESTS), "{resumed}");
}

/// Bad conduct: a client whose requests are refused waits with the unknown.
#[test]
fn a_client_whose_requests_are_refused_is_not_of_good_conduct() {
    let upstream = Upstream::named("app");
    let edge = Edge::start(&format!(
        "connections:\n\
         \x20 per_client: off\n\
         \x20 rate_per_client: off\n\
         \x20 handshakes: {{ cpu: 1%, waiting: 1 }}\n\
         \x20 timeouts: {{ handshake: 15s }}\n\
         upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         rules: [{{ name: no, when: 'request.path == \"/secret\"', then: deny }}]\n",
        upstream.address
    ));
    let mut hello = Vec::new();
    session(&client(&edge)).write_tls(&mut hello).unwrap();
    let flood = Flood {
        answered: AtomicU32::new(0),
        refused: AtomicU32::new(0),
        begun: AtomicU32::new(0),
        over: AtomicBool::new(false),
    };
    let refused = || {
        edge.metric(
            "rempart_connections_refused_total",
            &[("reason", "handshake_budget")],
        )
    };
    // Both have been served; the second has also asked for what it may not have.
    for source in ["127.0.0.2", "127.0.0.3"] {
        assert_eq!(visit(&edge, source, &client(&edge)).unwrap().0, 200);
    }
    let bad = || ask(&edge, "127.0.0.3", &client(&edge), "/secret");
    assert_eq!(bad().unwrap().0, 403);

    thread::scope(|scope| {
        let _over = Over(&flood);
        for _ in 0..ATTACKERS {
            scope.spawn(|| flood.attack(&edge, &hello));
        }
        // Full lines: the flood sees to it that nobody unknown gets in for long.
        wait_until("the budget is spent", 30, || refused() >= 100.0);
        wait_until("the bad one is refused", 30, || {
            let good = visit(&edge, "127.0.0.2", &client(&edge));
            assert_eq!(good.unwrap().0, 200, "the good one never is");
            // Reset while it shakes hands, long before its deadline: for want of budget.
            let began = Instant::now();
            let reset = bad().is_err_and(|error| {
                use io::ErrorKind::{BrokenPipe, ConnectionReset};
                matches!(error.kind(), ConnectionReset | BrokenPipe)
            });
            reset && began.elapsed() < DEADLINE
        });
    });
}
