//! The door: connections are taken from a socket's queue and judged by their address, before they cost
//! anything. Those that may stay are left to [`super::serve`].

use super::{
    Endpoint, Shared,
    admission::Admission,
    budget::{Place, Refusal},
    log_limit::LogLimit,
    pages,
    queue::{Next, Queue, Waiting},
    serve::serve,
    socket,
};
use crate::{clock, config::Config, identify::TrustedProxies, record::metrics::Metrics};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::{HttpProxy, ProxyHttp};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::sleep};
use verdict::{Nanos, prefix::Prefix};

/// Connections that are judged before whatever else is ready on this worker has its turn.
const ROUND: u32 = 64;

/// Most connections that are still taken after the signal to shut down.
const LAST: u32 = 4096;

/// Accepts on one socket until the shutdown, which closes it.
pub(super) async fn run<SV>(
    mut queue: Queue,
    endpoint: Arc<Endpoint>,
    shared: Arc<Shared>,
    proxy: Arc<HttpProxy<SV>>,
    mut shutdown: ShutdownWatch,
    worker: Worker,
) where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let mut door = Door {
        trusting: Trusting::of(shared.config.load_full()),
        endpoint,
        shared,
        proxy,
        worker,
        flood: Flood::default(),
    };
    door.prepare(queue.socket());
    loop {
        tokio::select! {
            ready = queue.ready() => if ready.is_err() { return },
            _ = shutdown.wait_for(|leave| *leave) => break,
        }
        door.refresh(queue.socket());
        match door.round(&mut queue) {
            Round::Full => tokio::task::yield_now().await,
            Round::Over => {
                if let Some(pause) = door.flood.pause(clock::now()) {
                    sleep(pause).await;
                }
            }
            Round::Failed(error) => Queue::back_off(&door.endpoint.name, &error).await,
        }
    }
    // What is established already is served: closing the socket would reset it. Asked of the system
    // itself: the runtime may not have been told of all.
    for _ in 0..LAST {
        match queue.next_unasked() {
            Next::Connection(waiting) => door.judge(waiting),
            Next::NoDescriptors { refused: true } => door.refused("no_descriptors"),
            // Nothing is left, or nothing can be had.
            Next::Empty | Next::NoDescriptors { .. } | Next::Failed(_) => break,
        }
    }
}

/// How a round of accepting ended.
enum Round {
    /// There may be more.
    Full,
    /// Nothing more waits.
    Over,
    Failed(io::Error),
}

/// What stands behind one socket.
struct Door<SV> {
    trusting: Trusting,
    endpoint: Arc<Endpoint>,
    shared: Arc<Shared>,
    proxy: Arc<HttpProxy<SV>>,
    worker: Worker,
    flood: Flood,
}

impl<SV> Door<SV>
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    fn round(&mut self, queue: &mut Queue) -> Round {
        for _ in 0..ROUND {
            match queue.next() {
                Next::Connection(waiting) => self.judge(waiting),
                Next::Empty => return Round::Over,
                Next::NoDescriptors { refused: true } => {
                    self.refused("no_descriptors");
                    log_no_descriptors(&self.endpoint.name);
                }
                Next::NoDescriptors { refused: false } => {
                    return Round::Failed(io::Error::from_raw_os_error(libc::EMFILE));
                }
                Next::Failed(error) => return Round::Failed(error),
            }
        }
        Round::Full
    }

    /// Follows a reload.
    fn refresh(&mut self, socket: &std::net::TcpListener) {
        let before = Arc::as_ptr(&self.trusting.config);
        self.trusting.refresh(&self.shared.config.load());
        if before != Arc::as_ptr(&self.trusting.config) {
            self.prepare(socket);
        }
    }

    fn prepare(&self, socket: &std::net::TcpListener) {
        let silence = self.trusting.config.connections.timeouts.idle;
        if let Err(error) = socket::prepare(socket, silence) {
            // Connections are served all the same: it is the kernel's share of holding them that
            // stays as the system has it.
            tracing::warn!(listener = &*self.endpoint.name, %error, "can't set options of the socket");
        }
    }

    fn refused(&mut self, reason: &'static str) {
        self.shared.metrics.connection_refused(reason);
        self.flood.refused();
    }

    /// Judges a connection by its address, and serves it in a task of its own.
    fn judge(&mut self, waiting: Waiting) {
        let from = canonical(waiting.from);
        let place = match self.place(from.ip()) {
            Ok(place) => place,
            Err(reason) => {
                waiting.refuse();
                self.refused(reason);
                return;
            }
        };
        // Whatever the system has against it: it is gone then.
        let Ok(tcp) = waiting.admit() else { return };
        self.shared.metrics.connection_opened(&self.endpoint.name);
        pages::follow(self.shared.budget.open());
        let alive = Own(Arc::new(Alive {
            endpoint: Arc::clone(&self.endpoint),
            shared: Arc::clone(&self.shared),
            place,
            worker: self.worker.clone(),
        }));
        let settings = self.endpoint.settings.load_full();
        let trusted = Arc::clone(&self.trusting.proxies);
        let proxy = Arc::clone(&self.proxy);
        tokio::spawn(serve(tcp, from, (settings, trusted), alive, proxy));
    }

    /// A place for a connection from this address, or why there is none. What costs least comes first.
    fn place(&self, from: IpAddr) -> Result<Place, &'static str> {
        let config = &self.trusting.config;
        let connections = &config.connections;
        let trusted = self.trusting.proxies.contains(from);
        if self.endpoint.settings.load().proxy_protocol && !trusted {
            return Err("proxy_header");
        }
        if trusted {
            // A trusted proxy is not a client: it brings many.
            let entered = self.shared.budget.enter(connections.total);
            return entered.map_err(Refusal::name);
        }
        let prefix = Prefix::of(from, config.clients.prefix);
        let now = clock::now();
        unwelcome(from, prefix, &self.shared, now)?;
        let mut place = self
            .shared
            .budget
            .enter(connections.total)
            .map_err(Refusal::name)?;
        let is_good = || self.shared.conduct.is_good(prefix, now);
        let pressed = connections.under(self.shared.pressure.states());
        place
            .claim(prefix, connections, pressed, is_good, now)
            .map_err(Refusal::name)?;
        Ok(place)
    }
}

fn log_no_descriptors(listener: &str) {
    static LIMIT: LogLimit = LogLimit::new();
    if let Some(left_out) = LIMIT.admit() {
        tracing::error!(
            listener,
            left_out,
            "no file descriptors are left: connections are refused; raise the limit (LimitNOFILE, \
             ulimit -n) or lower connections.total"
        );
    }
}

/// Many refusals: they are taken together then, rather than waking the worker for each.
#[derive(Default)]
struct Flood {
    /// Refusals since the window began.
    refused: u32,
    window: Nanos,
    raging: bool,
}

impl Flood {
    const WINDOW: Duration = Duration::from_millis(100);
    /// Refusals in a window that make a flood: a thousand a second.
    const MANY: u32 = 100;
    /// How long the queue is left to itself. It holds thousands, so nobody is lost by it.
    const PAUSE: Duration = Duration::from_millis(2);

    fn refused(&mut self) {
        self.refused = self.refused.saturating_add(1);
    }

    /// How long to leave the queue to itself, now that it is empty.
    fn pause(&mut self, now: Nanos) -> Option<Duration> {
        if now.since(self.window) >= Self::WINDOW {
            self.raging = self.refused >= Self::MANY;
            self.refused = 0;
            self.window = now;
        }
        self.raging.then_some(Self::PAUSE)
    }
}

/// IPv4-mapped addresses of dual-stack sockets as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A configuration and what is made of it once, not for each connection.
struct Trusting {
    config: Arc<Config>,
    proxies: Arc<TrustedProxies>,
}

impl Trusting {
    fn of(config: Arc<Config>) -> Self {
        let proxies = TrustedProxies::new(&config.clients.trusted_proxies);
        Self {
            config,
            proxies: Arc::new(proxies),
        }
    }

    /// Follows a reload.
    fn refresh(&mut self, current: &Arc<Config>) {
        if !Arc::ptr_eq(&self.config, current) {
            *self = Self::of(Arc::clone(current));
        }
    }
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
    pub endpoint: Arc<Endpoint>,
    pub shared: Arc<Shared>,
    pub place: Place,
    pub worker: Worker,
}

impl Drop for Alive {
    fn drop(&mut self) {
        let metrics = &self.shared.metrics;
        metrics.connection_closed(&self.endpoint.name);
    }
}

/// A connection's own hold on it; its streams have theirs. Each counts the panic that drops it, so
/// that one of a stream that has outlived its connection counts once.
pub(super) struct Own(pub Arc<Alive>);

impl Drop for Own {
    fn drop(&mut self) {
        count_panic(&self.0.shared.metrics);
    }
}

/// Called while a task's part in a connection is dropped: counts it if a panic drops it. What
/// panicked, and where, is in the log ([`crate::logs`]).
pub(super) fn count_panic(metrics: &Metrics) {
    if std::thread::panicking() {
        metrics.panicked();
    }
}

/// Why a client may not connect at all.
fn unwelcome(
    client: IpAddr,
    prefix: Prefix,
    shared: &Shared,
    now: Nanos,
) -> Result<(), &'static str> {
    if shared.bans.until(prefix, now).is_some() {
        return Err("banned");
    }
    if shared.gate.refuses(client) {
        return Err("listed");
    }
    Ok(())
}

/// Why a client's connection is refused, whose place among all has been taken already.
pub(super) fn judge(
    client: IpAddr,
    config: &Config,
    shared: &Shared,
    place: &mut Place,
) -> Result<(), &'static str> {
    let prefix = Prefix::of(client, config.clients.prefix);
    let now = clock::now();
    unwelcome(client, prefix, shared, now)?;
    let is_good = || shared.conduct.is_good(prefix, now);
    let connections = &config.connections;
    let pressed = connections.under(shared.pressure.states());
    place
        .claim(prefix, connections, pressed, is_good, now)
        .map_err(Refusal::name)
}
