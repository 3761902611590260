//! Listeners with a trivial proxy behind them and a tiny upstream behind that, all on one thread.

use super::certificate;
use crate::{
    bans::Bans,
    config::{
        Config,
        model::{
            self, AccessLog, Certificate, Challenge, ClientTimeouts, Clients, Connections,
            Handshakes, Http1Limits, Http2Limits, Identity, Listener, ListenerKind, Protocols,
            Shutdown, Tls, TlsVersion,
        },
    },
    connection::Connection,
    listener::{
        Gate, Listeners, Shared, budget::Budget, head, http2::Lasting, run_worker, stream::Body,
    },
    record::metrics::Metrics,
};
use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use pingora_core::{server::configuration::ServerConf, upstreams::peer::HttpPeer};
use pingora_http::ResponseHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use verdict::{policy::PolicySpec, prefix::PrefixLengths};

pub const BOTH: Protocols = Protocols {
    h2: true,
    http1: true,
};

/// A TLS listener on a free port.
pub fn tls(certificates: Vec<Certificate>) -> Listener {
    Listener {
        address: ([127, 0, 0, 1], 0).into(),
        kind: ListenerKind::Tls(Tls {
            certificates,
            minimum_version: TlsVersion::Tls12,
        }),
        protocols: BOTH,
        proxy_protocol: false,
    }
}

/// A plaintext listener on a free port.
pub fn plain() -> Listener {
    Listener {
        kind: ListenerKind::Plain,
        ..tls(vec![certificate(&["unused.test"])])
    }
}

/// A configuration with generous limits.
pub fn config(listeners: Vec<Listener>) -> Config {
    Config {
        files: Vec::new(),
        warnings: Vec::new(),
        listeners,
        admin: None,
        clients: Clients {
            trusted_proxies: Vec::new(),
            prefix: PrefixLengths::CLIENT,
        },
        pressure: None,
        connections: Connections {
            under_pressure: None,
            per_client: None,
            rate_per_client: None,
            total: 10_000.try_into().unwrap(),
            handshakes: Handshakes::default(),
            http1: Http1Limits::default(),
            http2: Http2Limits::default(),
            timeouts: ClientTimeouts {
                handshake: Duration::from_secs(20),
                headers: Duration::from_secs(20),
                idle: Duration::from_secs(20),
                body_minimum_rate: 1024,
                response_minimum_rate: 1024,
                request: Duration::from_secs(60),
                stream_idle: Duration::from_secs(20),
            },
        },
        identity: Identity::default(),
        upstreams: Vec::new(),
        routes: Vec::new(),
        policy: PolicySpec::default(),
        challenge: Challenge::default(),
        bans: model::Bans::default(),
        access_log: AccessLog::Off,
        shutdown: Shutdown {
            grace: Duration::from_secs(20),
        },
        masked: serde_json::Value::Null,
    }
}

/// Refuses 127.0.0.66 alone, and panics at 127.0.0.77: that is within the accept loop.
struct Gatekeeper;

impl Gate for Gatekeeper {
    fn refuses(&self, address: IpAddr) -> bool {
        assert_ne!(address, IpAddr::from([127, 0, 0, 77]), "the test asked");
        address == IpAddr::from([127, 0, 0, 66])
    }
}

/// What runs.
pub struct Edge {
    pub addresses: Vec<SocketAddr>,
    pub shared: Arc<Shared>,
    pub listeners: Listeners,
    pub draining: watch::Sender<bool>,
    shutdown: watch::Sender<bool>,
    pub workers: Vec<JoinHandle<io::Result<()>>>,
}

impl Edge {
    /// Starts `workers` workers on this thread.
    pub async fn start(config: Config, workers: usize) -> Self {
        let upstream = upstream().await;
        let (listeners, sockets) = Listeners::bind(&config, workers).unwrap();
        let addresses = sockets[0].addresses().unwrap();
        let (draining, drained) = watch::channel(false);
        let shared = Arc::new(Shared {
            draining: drained,
            config: Arc::new(ArcSwap::from_pointee(config)),
            bans: Arc::new(Bans::default()),
            metrics: Arc::new(Metrics::default()),
            gate: Arc::new(Gatekeeper),
            budget: Arc::new(Budget::default()),
            conduct: Arc::default(),
            pressure: Arc::default(),
        });
        let proxy = Arc::new(http_proxy(
            &Arc::new(ServerConf::default()),
            Trivial { upstream },
        ));
        let (shutdown, watch) = watch::channel(false);
        let workers = sockets
            .into_iter()
            .map(|sockets| {
                tokio::spawn(run_worker(
                    sockets,
                    Arc::clone(&shared),
                    Arc::clone(&proxy),
                    watch.clone(),
                ))
            })
            .collect();
        Self {
            addresses,
            shared,
            listeners,
            draining,
            shutdown,
            workers,
        }
    }

    /// Signals the shutdown.
    pub fn leave(&self) {
        self.draining.send_replace(true);
        self.shutdown.send_replace(true);
    }

    /// Signals the shutdown and waits until every connection has ended.
    pub async fn stop(self) {
        self.leave();
        for worker in self.workers {
            worker.await.unwrap().unwrap();
        }
        assert_eq!(self.shared.budget.open(), 0, "every place was given back");
    }
}

/// How long the upstream may take to answer a request for a stream.
const PATIENCE_UPSTREAM: Duration = Duration::from_secs(3);

/// Requests that hang upstream, of the one test that uses them.
pub static HANGING: AtomicUsize = AtomicUsize::new(0);

struct Trivial {
    upstream: SocketAddr,
}

#[async_trait::async_trait]
impl ProxyHttp for Trivial {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        session: &mut Session,
        (): &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        if let Some(lasting) = Lasting::of(session.req_header()) {
            lasting.forwarded(PATIENCE_UPSTREAM, true);
        }
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        (): &mut (),
    ) -> pingora_core::Result<()> {
        if let Some(lasting) = Lasting::of(session.req_header()) {
            lasting.answered(&response.headers);
        }
        Ok(())
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        (): &mut (),
    ) -> pingora_core::Result<bool> {
        let connection = Arc::clone(Connection::of(session.digest()).expect("rides along"));
        match session.req_header().uri.path() {
            "/drop" => {
                connection.drop.store(true, Relaxed);
                Ok(true)
            }
            "/panic" => panic!("as the test asked for"),
            "/panic/late" => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                panic!("as the test asked for")
            }
            "/who" => {
                let tls = connection.tls.clone().unwrap_or_default();
                let who = format!(
                    "{} {} {} {}",
                    connection.peer.ip(),
                    tls.version,
                    tls.sni,
                    tls.alpn
                );
                let mut header = ResponseHeader::build(200, None)?;
                header.insert_header("content-length", who.len())?;
                session
                    .write_response_header(Box::new(header), false)
                    .await?;
                session
                    .write_response_body(Some(Bytes::from(who)), true)
                    .await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// Answers `METHOD PATH BODYLENGTH`; `/big` with a MiB; `/slow` after a moment; `/chunked` chunked;
/// `/events` with events, after a second; `/cut/…` not to the end; `/ws` turns into an echo; `/hang`
/// never.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

async fn serve(mut stream: TcpStream) -> Option<()> {
    let mut buffer = BytesMut::new();
    loop {
        let end = loop {
            if let Some(end) = head::end(&buffer, &mut 0) {
                break end;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        let head = buffer.split_to(end);
        let mut line = std::str::from_utf8(&head).ok()?.split(' ');
        let (method, path) = (line.next()?, line.next()?);
        let length = match head::framing(&head, &Http1Limits::default()).ok()?.body {
            Body::None => 0,
            Body::Length(length) => {
                let length = usize::try_from(length).ok()?;
                while buffer.len() < length {
                    if stream.read_buf(&mut buffer).await.ok()? == 0 {
                        return None;
                    }
                }
                drop(buffer.split_to(length));
                length
            }
            Body::Chunked => {
                // The tests' bodies hold no such bytes themselves.
                let end = b"0\r\n\r\n";
                while !buffer.ends_with(end) {
                    if stream.read_buf(&mut buffer).await.ok()? == 0 {
                        return None;
                    }
                }
                std::mem::take(&mut buffer).len()
            }
        };
        if path == "/ws" {
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
                .await
                .ok()?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.ok()?;
            return None;
        }
        if path == "/hang" {
            HANGING.fetch_add(1, Relaxed);
            // The other side closes, or resets.
            let _ = stream.read_buf(&mut buffer).await;
            HANGING.fetch_sub(1, Relaxed);
            return None;
        }
        if let "/cut/length" | "/cut/chunks" = path {
            let framing = if path == "/cut/length" {
                "content-length: 99\r\n\r\npart"
            } else {
                "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"
            };
            let answer = format!("HTTP/1.1 200 OK\r\n{framing}");
            stream.write_all(answer.as_bytes()).await.ok()?;
            return None;
        }
        if path == "/chunked" {
            let answer =
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.ok()?;
            continue;
        }
        if path == "/events" {
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 4\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            stream.write_all(b"part").await.ok()?;
            continue;
        }
        if path == "/slow" {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let body = if path == "/big" {
            vec![b'x'; 1024 * 1024]
        } else {
            format!("{method} {path} {length}").into_bytes()
        };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(answer.as_bytes()).await.ok()?;
        stream.write_all(&body).await.ok()?;
    }
}
