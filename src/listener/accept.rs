//! The life of a connection: judged before it costs anything, proxied address and handshake where
//! they apply, then its protocol. Deadlines of requests are left to the protocols.

use super::{
    Endpoint, Kind, Settings, Shared,
    admission::Admission,
    budget::{Place, Refusal},
    conduct::Standing,
    handshake::{self, Failure, Secured, Terms},
    http1, http2,
    log_limit::LogLimit,
    proxy_protocol::{self, Proxied},
    redirect, socket,
    stream::{ClientStream, Transport},
};
use crate::{
    clock,
    config::Config,
    connection::{Connection, TlsInfo},
    identify::TrustedProxies,
};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::{HttpProxy, ProxyHttp};
use rustls::ServerConfig;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, timeout_at},
};
use verdict::prefix::Prefix;

/// How long to wait when a connection can't be accepted (no file descriptors left, mostly).
const BACK_OFF: Duration = Duration::from_millis(50);

/// Most connections that are still taken after the signal to shut down.
const LAST: u32 = 4096;

static ACCEPT_ERRORS: LogLimit = LogLimit::new();
static PANICS: LogLimit = LogLimit::new();

/// Accepts on one socket until the shutdown, which closes it.
pub(super) async fn run<SV>(
    socket: TcpListener,
    endpoint: Arc<Endpoint>,
    shared: Arc<Shared>,
    proxy: Arc<HttpProxy<SV>>,
    mut shutdown: ShutdownWatch,
    worker: Worker,
) where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let mut trusting = Trusting::of(shared.config.load_full());
    let mut begin = |tcp: TcpStream, from: SocketAddr| {
        trusting.refresh(&shared.config.load());
        let arrival = Arrival {
            tcp,
            from: canonical(from),
            endpoint: Arc::clone(&endpoint),
            shared: Arc::clone(&shared),
        };
        arrival.begin(&trusting, &proxy, &worker);
    };
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = shutdown.wait_for(|leave| *leave) => break,
        };
        match accepted {
            Ok((tcp, from)) => begin(tcp, from),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if let Some(left_out) = ACCEPT_ERRORS.admit() {
                    tracing::error!(listener = &*endpoint.name, %error, left_out, "can't accept connections");
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    // What is established already is served: closing the socket would reset it. Asked of the system
    // itself: the runtime would cut the queue short when this task's turn is over.
    let Ok(socket) = socket.into_std() else {
        return;
    };
    take_queued(&socket, |(tcp, from)| {
        // Non-blocking, as the runtime wants it, is not inherited.
        if tcp.set_nonblocking(true).is_ok()
            && let Ok(tcp) = TcpStream::from_std(tcp)
        {
            begin(tcp, from);
        }
    });
}

/// Takes what waits in a socket's queue, up to [`LAST`].
fn take_queued(
    socket: &std::net::TcpListener,
    mut take: impl FnMut((std::net::TcpStream, SocketAddr)),
) {
    for _ in 0..LAST {
        match socket.accept() {
            Ok(accepted) => take(accepted),
            Err(error) if is_of_one_connection(&error) => {}
            // Nothing is left, or nothing can be had.
            Err(_) => break,
        }
    }
}

/// Errors that end the connection which was to be accepted, and say nothing of the next.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// IPv4-mapped addresses of dual-stack sockets as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A configuration and what is made of it once, not for each connection.
struct Trusting {
    config: Arc<Config>,
    proxies: TrustedProxies,
}

impl Trusting {
    fn of(config: Arc<Config>) -> Self {
        let proxies = TrustedProxies::new(&config.clients.trusted_proxies);
        Self { config, proxies }
    }

    /// Follows a reload.
    fn refresh(&mut self, current: &Arc<Config>) {
        if !Arc::ptr_eq(&self.config, current) {
            *self = Self::of(Arc::clone(current));
        }
    }
}

/// A connection that was accepted and not judged yet.
struct Arrival {
    tcp: TcpStream,
    from: SocketAddr,
    endpoint: Arc<Endpoint>,
    shared: Arc<Shared>,
}

/// What the connections of one worker share.
#[derive(Clone)]
pub(super) struct Worker {
    /// The worker waits for these to be dropped.
    pub _alive: mpsc::Sender<()>,
    pub admission: Arc<Admission>,
}

/// An open connection, until the last part of it is gone.
pub(super) struct Alive {
    endpoint: Arc<Endpoint>,
    shared: Arc<Shared>,
    place: Place,
    worker: Worker,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.shared.metrics.connection_closed(&self.endpoint.name);
        note_panic();
    }
}

/// Called while something of a connection is dropped: writes down that it is dropped by a panic.
pub(super) fn note_panic() {
    if std::thread::panicking()
        && let Some(left_out) = PANICS.admit()
    {
        tracing::error!(left_out, "a connection ended by a panic");
    }
}

/// Why a client's connection is refused.
fn judge(
    client: IpAddr,
    config: &Config,
    shared: &Shared,
    place: &mut Place,
) -> Result<(), &'static str> {
    let prefix = Prefix::of(client, config.clients.prefix);
    let now = clock::now();
    if shared.bans.until(prefix, now).is_some() {
        return Err("banned");
    }
    if shared.gate.refuses(client) {
        return Err("listed");
    }
    place
        .claim(prefix, &config.connections, now)
        .map_err(Refusal::name)
}

impl Arrival {
    /// Judges the connection by its address, and serves it in a task of its own.
    fn begin<SV>(self, trusting: &Trusting, proxy: &Arc<HttpProxy<SV>>, worker: &Worker)
    where
        SV: ProxyHttp + Send + Sync + 'static,
        SV::CTX: Send + Sync,
    {
        let settings = self.endpoint.settings.load_full();
        let config = &trusting.config;
        let trusted = trusting.proxies.contains(self.from.ip());
        let entered = self.shared.budget.enter(config.connections.total);
        let place = match entered {
            Ok(mut place) => {
                // A trusted proxy is not a client: it brings many.
                let judged = match (settings.proxy_protocol, trusted) {
                    (true, false) => Err("proxy_header"),
                    (_, true) => Ok(()),
                    (false, false) => judge(self.from.ip(), config, &self.shared, &mut place),
                };
                judged.map(|()| place)
            }
            Err(refusal) => Err(refusal.name()),
        };
        let place = match place {
            Ok(place) => place,
            Err(reason) => {
                self.shared.metrics.connection_refused(reason);
                socket::reset(self.tcp);
                return;
            }
        };
        self.shared.metrics.connection_opened(&self.endpoint.name);
        let alive = Arc::new(Alive {
            endpoint: self.endpoint,
            shared: self.shared,
            place,
            worker: worker.clone(),
        });
        // Failing to set it costs latency only.
        let _ = self.tcp.set_nodelay(true);
        let proxy = Arc::clone(proxy);
        tokio::spawn(serve(self.tcp, self.from, settings, alive, proxy));
    }
}

/// One connection, from its first byte to its last.
async fn serve<SV>(
    tcp: TcpStream,
    from: SocketAddr,
    settings: Arc<Settings>,
    mut alive: Arc<Alive>,
    proxy: Arc<HttpProxy<SV>>,
) where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    // Boxed, so that an idle connection does not carry the room that the handshake needed.
    let established = Box::pin(establish(tcp, from, settings, &mut alive)).await;
    let Some((stream, http2)) = established else {
        return;
    };
    let shared = &alive.shared;
    match http2 {
        Http2::Agreed => {
            Box::pin(http2::serve(stream, shared, &proxy, &alive)).await;
        }
        Http2::Possible | Http2::No => {
            let possible = http2 == Http2::Possible;
            let http2 = http1::serve(stream, possible, shared, &proxy).await;
            if let Some(stream) = http2 {
                Box::pin(http2::serve(stream, shared, &proxy, &alive)).await;
            }
        }
    }
}

/// Whether a connection speaks HTTP/2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Http2 {
    /// By ALPN.
    Agreed,
    /// In plaintext, if its first bytes say so (RFC 9113, section 3.3).
    Possible,
    No,
}

/// PROXY header and handshake: everything before the first request.
async fn establish(
    mut tcp: TcpStream,
    from: SocketAddr,
    settings: Arc<Settings>,
    alive: &mut Arc<Alive>,
) -> Option<(Box<ClientStream>, Http2)> {
    let shared = Arc::clone(&alive.shared);
    let local = canonical(tcp.local_addr().ok()?);
    let timeouts = shared.config.load().connections.timeouts.clone();
    // One deadline for both: the PROXY header and the handshake behind it.
    let deadline = Instant::now() + timeouts.handshake;
    let mut ends = (from, local);
    if settings.proxy_protocol {
        match timeout_at(deadline, proxy_protocol::read(&mut tcp)).await {
            Ok(Ok(Proxied::Local)) => {}
            Ok(Ok(Proxied::For {
                source,
                destination,
            })) => {
                ends = (canonical(source), canonical(destination));
                let config = shared.config.load_full();
                // The only holder so far: nothing else was begun with it.
                let place = &mut Arc::get_mut(alive)?.place;
                if let Err(reason) = judge(ends.0.ip(), &config, &shared, place) {
                    shared.metrics.connection_refused(reason);
                    socket::reset(tcp);
                    return None;
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(%from, %error, "no valid PROXY header");
                shared.metrics.connection_refused("proxy_header");
                socket::reset(tcp);
                return None;
            }
            Err(_) => {
                shared.metrics.connection_refused("timeout");
                socket::reset(tcp);
                return None;
            }
        }
    }
    let connection = |tls: Option<TlsInfo>| {
        Arc::new(Connection {
            listener: Arc::clone(&alive.endpoint.name),
            peer: ends.0,
            local: ends.1,
            tls,
            standing: Standing::default(),
            drop: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
        })
    };
    let limits = http1::limits(&timeouts);
    match &settings.kind {
        Kind::Redirect => {
            redirect::serve(tcp, &shared).await;
            None
        }
        Kind::Plain => {
            let http2 = if settings.protocols.h2 {
                Http2::Possible
            } else {
                Http2::No
            };
            let stream = ClientStream::new(Transport::Plain(tcp), connection(None), None, limits);
            Some((Box::new(stream), http2))
        }
        Kind::Tls(config) => {
            let secured = secure(tcp, config, ends.0.ip(), deadline, alive).await?;
            let http2 = secured.info.alpn == "h2";
            let stream = ClientStream::new(
                Transport::Tls(secured.stream),
                connection(Some(secured.info)),
                Some(secured.digest),
                limits,
            );
            if !http2 && !settings.protocols.http1 {
                // No ALPN, on a listener that speaks HTTP/2 alone.
                shared.metrics.connection_refused("handshake");
                return None;
            }
            let http2 = if http2 { Http2::Agreed } else { Http2::No };
            Some((Box::new(stream), http2))
        }
    }
}

/// The handshake with this client, counted by how it ended.
async fn secure(
    tcp: TcpStream,
    config: &Arc<ServerConfig>,
    client: IpAddr,
    deadline: Instant,
    alive: &Alive,
) -> Option<Secured> {
    let shared = &*alive.shared;
    let terms = {
        let current = shared.config.load();
        Terms {
            client: Prefix::of(client, current.clients.prefix),
            limits: current.connections.handshakes.clone(),
            admission: &alive.worker.admission,
            conduct: &shared.conduct,
            deadline,
        }
    };
    let metrics = &shared.metrics;
    match handshake::shake(tcp, Arc::clone(config), terms).await {
        Ok(secured) => {
            metrics.handshake(if secured.resumed { "resumed" } else { "full" });
            return Some(secured);
        }
        Err(Failure::Timeout) => {
            metrics.handshake("timeout");
            metrics.connection_refused("timeout");
        }
        // None was begun.
        Err(Failure::Budget) => metrics.connection_refused("handshake_budget"),
        Err(Failure::Failed(error)) => {
            tracing::debug!(%client, %error, "handshake failed");
            metrics.handshake("failed");
            metrics.connection_refused("handshake");
        }
    }
    None
}
