//! From a socket to decrypted bytes that pingora serves: the listening sockets, what a connection
//! must pass before it costs anything, TLS, and the protocols.
//!
//! ```text
//! socket -> accept (budget, bans, lists) -> proxy_protocol -> handshake -> http1 | http2
//!                                                          |   (client_hello, admission, tls)
//!                                                          \-> redirect
//! ```
//!
//! Each worker has a runtime of one thread and its own socket for every address ([`run_worker`]);
//! nothing of a connection ever moves to another. What a request means is left to the proxy that
//! pingora calls; what is known of its connection rides along ([`crate::connection::Connection`]).

mod accept;
mod admission;
mod answer;
pub mod budget;
mod chunked;
pub mod client_hello;
mod close;
pub mod conduct;
mod deadline;
pub(crate) mod fuzzing;
mod handshake;
mod head;
mod http1;
pub(crate) mod http2;
pub mod inherited;
pub(crate) mod log_limit;
mod pages;
mod proxy_protocol;
mod queue;
mod redirect;
mod serve;
mod socket;
mod stream;
mod term;
mod tls;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use socket::BACKLOG;

use crate::{
    bans::Bans,
    config::{
        Config,
        model::{self, Current, ListenerKind, Protocols},
    },
    pressure::Pressure,
    record::metrics::Metrics,
};
use arc_swap::ArcSwap;
use budget::Budget;
use conduct::Conduct;
use inherited::{Group, Inherited};
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::{HttpProxy, ProxyHttp};
use rustls::{ServerConfig, server::ProducesTickets};
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
};
use tokio::{sync::mpsc, task::JoinSet};

/// Says which addresses may not even connect, from the lists of the policy in force. Asked for every
/// new connection.
pub trait Gate: Send + Sync {
    /// Whether connections from this address are dropped without a word.
    fn refuses(&self, address: IpAddr) -> bool;
}

/// What all workers share.
pub struct Shared {
    pub config: Current,
    pub bans: Arc<Bans>,
    pub metrics: Arc<Metrics>,
    pub gate: Arc<dyn Gate>,
    pub budget: Arc<Budget>,
    pub conduct: Arc<Conduct>,
    pub pressure: Arc<Pressure>,
    /// True once clients are to go elsewhere: answers say `connection: close`, HTTP/2 says GOAWAY, idle
    /// connections end. New ones are accepted all the same, until [`run_worker`]'s shutdown.
    pub draining: ShutdownWatch,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("open", &self.budget.open())
            .finish_non_exhaustive()
    }
}

/// One configured address. Its settings are swapped on reload; it itself lives as long as its sockets.
struct Endpoint {
    name: Arc<str>,
    configured: SocketAddr,
    settings: ArcSwap<Settings>,
    /// Kept across reloads, so that sessions resume.
    ticketer: Arc<dyn ProducesTickets>,
    /// The workers' sockets once more, for a process to come; until they are let go.
    held: Mutex<Vec<TcpListener>>,
}

impl Endpoint {
    fn hold(&self, sockets: &[TcpListener]) -> io::Result<()> {
        let copies: io::Result<Vec<_>> = sockets.iter().map(TcpListener::try_clone).collect();
        self.held.lock().extend(copies?);
        Ok(())
    }

    fn announce(&self, inherited: &[TcpListener]) -> io::Result<()> {
        let Some(first) = inherited.first() else {
            return Ok(());
        };
        let (listener, address) = (&*self.name, first.local_addr()?);
        let sockets = inherited.len();
        tracing::info!(listener, %address, inherited = sockets, "listening");
        Ok(())
    }
}

/// What a reload can change of a listener.
struct Settings {
    kind: Kind,
    protocols: Protocols,
    proxy_protocol: bool,
}

enum Kind {
    Tls(Arc<ServerConfig>),
    Plain,
    Redirect,
}

impl Settings {
    fn of(listener: &model::Listener, ticketer: &Arc<dyn ProducesTickets>) -> io::Result<Self> {
        Ok(Self {
            kind: match &listener.kind {
                ListenerKind::Tls(tls) => {
                    Kind::Tls(tls::server_config(tls, listener.protocols, ticketer)?)
                }
                ListenerKind::Plain => Kind::Plain,
                ListenerKind::Redirect => Kind::Redirect,
            },
            protocols: listener.protocols,
            proxy_protocol: listener.proxy_protocol,
        })
    }
}

/// Every address that was bound at the start.
pub struct Listeners {
    endpoints: Vec<Arc<Endpoint>>,
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.endpoints.iter().map(|endpoint| &endpoint.name);
        f.debug_list().entries(names).finish()
    }
}

/// One worker's sockets: one for each address, or several that were inherited.
pub struct WorkerSockets {
    sockets: Vec<(TcpListener, Arc<Endpoint>)>,
}

impl WorkerSockets {
    /// The addresses bound, in the order of the configuration.
    ///
    /// # Errors
    /// What the system says.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets
            .iter()
            .map(|(socket, _)| socket.local_addr())
            .collect()
    }

    /// Makes sure that there is a socket for this address.
    fn complete(&mut self, endpoint: &Arc<Endpoint>) -> io::Result<()> {
        let mut own = self.sockets.iter();
        if own.any(|(_, other)| Arc::ptr_eq(endpoint, other)) {
            return Ok(());
        }
        let known = endpoint.held.lock().first().map(TcpListener::try_clone);
        let Some(known) = known.transpose()? else {
            return Ok(());
        };
        let (socket, is_new) = inherited::further(&known)?;
        if is_new {
            endpoint.hold(std::slice::from_ref(&socket))?;
        }
        self.sockets.push((socket, Arc::clone(endpoint)));
        Ok(())
    }
}

impl fmt::Debug for WorkerSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.sockets.iter().map(|(socket, _)| socket))
            .finish()
    }
}

impl Listeners {
    /// Binds every address once for each worker. Must be called before privileges are given up.
    ///
    /// # Errors
    /// When an address can't be bound (it says which), or TLS can't be set up.
    pub fn bind(config: &Config, workers: usize) -> io::Result<(Self, Vec<WorkerSockets>)> {
        Self::bind_with(config, workers, &mut Inherited::default())
    }

    /// As [`bind`](Self::bind), with inherited sockets where there are some for an address.
    ///
    /// # Errors
    /// When an address can't be bound (it says which), or TLS can't be set up. No inherited socket
    /// has lost a connection then, while another process holds it as well.
    pub fn bind_with(
        config: &Config,
        workers: usize,
        inherited: &mut Inherited,
    ) -> io::Result<(Self, Vec<WorkerSockets>)> {
        let mut each: Vec<WorkerSockets> = (0..workers.max(1))
            .map(|_| WorkerSockets {
                sockets: Vec::new(),
            })
            .collect();
        let mut endpoints = Vec::new();
        for listener in &config.listeners {
            let ticketer = tls::ticketer()?;
            let endpoint = Arc::new(Endpoint {
                name: listener.name().into(),
                configured: listener.address,
                settings: ArcSwap::from_pointee(Settings::of(listener, &ticketer)?),
                ticketer,
                held: Mutex::default(),
            });
            let inherited = inherited.take(listener.address);
            let sockets = if inherited.is_empty() {
                socket::bind(listener.address, each.len())?
            } else {
                endpoint.announce(&inherited)?;
                inherited
            };
            endpoint.hold(&sockets)?;
            let hands = inherited::deal(sockets, each.len())?;
            for (worker, hand) in each.iter_mut().zip(hands) {
                let hand = hand.into_iter();
                worker
                    .sockets
                    .extend(hand.map(|socket| (socket, Arc::clone(&endpoint))));
            }
            endpoints.push(endpoint);
        }
        // Last, for what comes to these is lost when anything else fails.
        for endpoint in &endpoints {
            for worker in &mut each {
                worker.complete(endpoint)?;
            }
        }
        Ok((Self { endpoints }, each))
    }

    /// All listening sockets once more, for a process that is to accept on them from now on.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub fn duplicate(&self) -> io::Result<Vec<Group>> {
        let endpoints = self.endpoints.iter();
        endpoints
            .map(|endpoint| {
                let held = endpoint.held.lock();
                let sockets = held.iter().map(TcpListener::try_clone);
                Ok(Group {
                    address: endpoint.configured,
                    sockets: sockets.collect::<io::Result<_>>()?,
                })
            })
            .collect()
    }

    /// Leaves the sockets as other programs expect them: whoever opened them for this process may give
    /// them to another one. Not for sockets that another process accepts on already.
    pub fn restore(&self) {
        for endpoint in &self.endpoints {
            for socket in &*endpoint.held.lock() {
                // The socket is about to be closed, if it is only this process's.
                let _ = socket::restore(socket);
            }
        }
    }

    /// Leaves the sockets to the workers alone: what these close is closed. To be called before they
    /// are told to leave.
    pub fn let_go(&self) {
        for endpoint in &self.endpoints {
            endpoint.held.lock().clear();
        }
    }

    /// Takes over certificates, protocols, versions and PROXY settings of a new configuration, for
    /// connections from now on. Addresses can't change while the process runs: the ones that were
    /// added or removed are returned.
    ///
    /// # Errors
    /// When TLS can't be set up; then nothing has changed.
    pub fn reload(&self, config: &Config) -> io::Result<Vec<SocketAddr>> {
        let mut fresh = Vec::new();
        let mut needing_restart = Vec::new();
        // The same address may stand there twice only with port 0: each takes the first not taken.
        let mut left: Vec<&model::Listener> = config.listeners.iter().collect();
        for endpoint in &self.endpoints {
            let found = left
                .iter()
                .position(|listener| listener.address == endpoint.configured);
            match found {
                Some(at) => {
                    let listener = left.remove(at);
                    fresh.push((endpoint, Settings::of(listener, &endpoint.ticketer)?));
                }
                None => needing_restart.push(endpoint.configured),
            }
        }
        for (endpoint, settings) in fresh {
            endpoint.settings.store(Arc::new(settings));
        }
        needing_restart.extend(left.iter().map(|listener| listener.address));
        Ok(needing_restart)
    }
}

/// Serves one worker's sockets until `shutdown` turns true, then until its last connection has ended:
/// [`Shared::draining`] is to be true by then.
/// To be run on a runtime of one thread, with time and I/O on; how long to wait at the end is the
/// caller's.
///
/// # Errors
/// When a socket can't be registered with the runtime, or one is no longer accepted on though nobody
/// asked for the end: a worker that hears on half of its sockets is worse than none.
pub async fn run_worker<SV>(
    sockets: WorkerSockets,
    shared: Arc<Shared>,
    proxy: Arc<HttpProxy<SV>>,
    shutdown: ShutdownWatch,
) -> io::Result<()>
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
{
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let worker = accept::Worker {
        _alive: alive,
        admission: Arc::default(),
    };
    let mut accepting = JoinSet::new();
    for (socket, endpoint) in sockets.sockets {
        accepting.spawn(accept::run(
            queue::Queue::new(socket)?,
            endpoint,
            Arc::clone(&shared),
            Arc::clone(&proxy),
            shutdown.clone(),
            worker.clone(),
        ));
    }
    drop(worker);
    while let Some(ended) = accepting.join_next().await {
        ended.map_err(|error| io::Error::other(format!("a listener: {error}")))?;
        // A sender that is gone asks for the end as well.
        if !*shutdown.borrow() && shutdown.has_changed().is_ok() {
            return Err(io::Error::other("a listener has stopped accepting"));
        }
    }
    // Nothing is ever sent: this ends when the last connection drops its sender.
    ended.recv().await;
    Ok(())
}
