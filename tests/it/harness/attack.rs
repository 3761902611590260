//! Attacks with the project's own client, innocents who ask meanwhile, and what it all costs the edge.

use super::{Edge, process::Process};
use rempart_attack::{Attack, Kind, Summary};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};
use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// An attack on the edge's TLS listener, of one kind (`KIND` or `KIND:VARIANT`), each connection from
/// another address of `127.THIRD.0.0/16`. It ends when all connections are closed, at last after 20 s.
#[track_caller]
pub fn attack(edge: &Edge, kind: &str, source: u8) -> Attack {
    let (name, variant) = kind.split_once(':').unwrap_or((kind, ""));
    let kind = Kind::named(name).unwrap_or_else(|| panic!("no attack {name}"));
    let mut attack = Attack::new(kind, edge.tls()).unwrap();
    attack.variant = kind
        .variants
        .iter()
        .copied()
        .find(|known| *known == variant);
    assert!(
        variant.is_empty() || attack.variant.is_some(),
        "{name}: {variant}"
    );
    attack.name = "app.example.com".into();
    attack.sources = Some(format!("127.{source}.0.0/16").parse().unwrap());
    attack.connections = 3;
    attack.total = 3;
    attack.duration = Duration::from_secs(20);
    attack
}

/// Carries attacks out side by side, in threads of their own.
pub fn all(attacks: Vec<Attack>) -> Vec<Summary> {
    let running: Vec<_> = attacks
        .into_iter()
        .map(|attack| std::thread::spawn(move || rempart_attack::run(attack).unwrap()))
        .collect();
    running
        .into_iter()
        .map(|attack| attack.join().unwrap())
        .collect()
}

/// What a process has used up to now.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub memory: u64,
}

impl Usage {
    pub fn of(process: &Process) -> Self {
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.id())).unwrap();
        let stat = read("stat");
        let fields = stat.rsplit_once(')').unwrap().1;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        let kib: u64 = read("status")
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap()
            .parse()
            .unwrap();
        Self {
            // The kernel counts in hundredths of a second, on every machine it runs on.
            cpu: Duration::from_millis(ticks * 10),
            memory: kib * 1024,
        }
    }
}

/// Well-behaved clients, one over HTTP/1.1 and one over HTTP/2, each from an address of its own, who
/// ask for `/` all the time: some requests on a connection, then the next connection.
pub struct Innocents {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    to: SocketAddr,
    tls: Arc<ClientConfig>,
    stop: AtomicBool,
    answered: [AtomicUsize; 2],
    failures: Mutex<Vec<String>>,
}

const H1: &str = "127.200.0.1";
const H2: &str = "127.200.0.2";
const NAME: &str = "app.example.com";
/// Requests on one connection.
const REQUESTS: usize = 10;
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(20);
/// An answer that takes longer is a failure.
const PATIENCE: Duration = Duration::from_secs(15);

impl Innocents {
    /// Starts them; returns when both have been answered on a second connection.
    #[track_caller]
    pub fn start(edge: &Edge) -> Self {
        let shared = Arc::new(Shared {
            to: edge.tls(),
            tls: Arc::new(tls(edge.folder.authority.roots())),
            stop: AtomicBool::new(false),
            answered: [AtomicUsize::new(0), AtomicUsize::new(0)],
            failures: Mutex::new(Vec::new()),
        });
        let threads = vec![
            {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || http1(&shared))
            },
            {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || http2(&shared))
            },
        ];
        let innocents = Self { shared, threads };
        super::wait_until("innocents answered", 20, || {
            innocents.answered().iter().all(|count| *count > REQUESTS)
        });
        innocents
    }

    /// Answers so far, over HTTP/1.1 and HTTP/2.
    pub fn answered(&self) -> [usize; 2] {
        [0, 1].map(|at| self.shared.answered[at].load(Ordering::SeqCst))
    }

    /// Ends them: every request they made must have been answered with 200, and they must have made
    /// some since `before`.
    #[track_caller]
    pub fn all_were_served(mut self, before: [usize; 2]) -> [usize; 2] {
        // The last request of each began after everything that went before this call.
        let now = self.answered();
        super::wait_until("a last answer to each innocent", 20, || {
            let answered = self.answered();
            self.failed().is_some() || (0..2).all(|at| answered[at] > now[at])
        });
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        if let Some(failures) = self.failed() {
            panic!(
                "innocents were not served (answered {:?}):\n{failures}",
                self.answered()
            );
        }
        let answered = self.answered();
        [0, 1].map(|at| answered[at] - before[at])
    }

    fn failed(&self) -> Option<String> {
        let failures = self.shared.failures.lock().unwrap();
        (!failures.is_empty()).then(|| failures.join("\n"))
    }
}

impl Drop for Innocents {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

/// Settings of clients that resume their sessions, as browsers do.
fn tls(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

impl Shared {
    fn runs(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn tls(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        let mut tls = (*self.tls).clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(tls)
    }

    fn failed(&self, who: &str, what: &dyn fmt::Display) {
        let mut failures = self.failures.lock().unwrap();
        if failures.len() < 20 {
            let at =
                self.answered[0].load(Ordering::SeqCst) + self.answered[1].load(Ordering::SeqCst);
            failures.push(format!("{who}, after {at} answers: {what}"));
        }
    }
}

fn http1(shared: &Shared) {
    let tls = shared.tls(b"http/1.1");
    while shared.runs() {
        if let Err(error) = http1_connection(shared, &tls) {
            shared.failed("http/1.1", &error);
            std::thread::sleep(PAUSE);
        }
    }
}

fn http1_connection(shared: &Shared, tls: &Arc<ClientConfig>) -> io::Result<()> {
    let tcp = super::raw::connect(H1, shared.to)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(NAME).unwrap();
    let connection = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, tcp);
    for number in 0..REQUESTS {
        let get = format!("GET / HTTP/1.1\r\nhost: {NAME}\r\n\r\n");
        match super::raw::exchange(&mut stream, get.as_bytes()) {
            Ok(answer) if answer.status == 200 => {
                shared.answered[0].fetch_add(1, Ordering::SeqCst);
            }
            Ok(answer) => return Err(io::Error::other(format!("status {}", answer.status))),
            // Kept too long on a busy machine, and closed by the idle deadline: any client asks again.
            Err(error) if number > 0 && error.to_string().contains("closed after \"\"") => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if !shared.runs() {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn http2(shared: &Shared) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tls = shared.tls(b"h2");
    while shared.runs() {
        if let Err(error) = runtime.block_on(http2_connection(shared, &tls)) {
            shared.failed("h2", &error);
            std::thread::sleep(PAUSE);
        }
    }
}

async fn http2_connection(shared: &Shared, tls: &Arc<ClientConfig>) -> Result<(), String> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    let source: IpAddr = H2.parse().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    let text = |error: &dyn fmt::Display| error.to_string();
    let tcp = socket.connect(shared.to).await.map_err(|e| text(&e))?;
    let name = ServerName::try_from(NAME).unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::clone(tls))
        .connect(name, tcp)
        .await
        .map_err(|e| format!("handshake: {e}"))?;
    let (mut client, connection) = h2::client::handshake(stream).await.map_err(|e| text(&e))?;
    let driver = tokio::spawn(connection);
    let mut result = Ok(());
    for number in 0..REQUESTS {
        match tokio::time::timeout(PATIENCE, http2_exchange(&mut client)).await {
            Ok(Ok(200)) => {
                shared.answered[1].fetch_add(1, Ordering::SeqCst);
            }
            // As over HTTP/1: closed while it was idle.
            Ok(Err(error)) if number > 0 && (error.is_go_away() && !error.is_library()) => {
                let calm = error.reason() == Some(h2::Reason::NO_ERROR);
                if !calm {
                    result = Err(error.to_string());
                }
                break;
            }
            Ok(Err(error)) => {
                result = Err(error.to_string());
                break;
            }
            Ok(Ok(status)) => {
                result = Err(format!("status {status}"));
                break;
            }
            Err(_) => {
                result = Err("no answer in time".into());
                break;
            }
        }
        if !shared.runs() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    driver.abort();
    result
}

async fn http2_exchange(
    client: &mut h2::client::SendRequest<bytes::Bytes>,
) -> Result<u16, h2::Error> {
    let request = http::Request::get(format!("https://{NAME}/"))
        .body(())
        .unwrap();
    let mut ready = client.clone().ready().await?;
    let (response, _) = ready.send_request(request, true)?;
    let response = response.await?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    while let Some(part) = body.data().await {
        let length = part?.len();
        let _ = body.flow_control().release_capacity(length);
    }
    Ok(status)
}
