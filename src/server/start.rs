//! From a configuration to a process that serves: everything that can fail comes before the first
//! connection can be lost.

use super::{
    Running, guard,
    handover::{Predecessor, take::Sockets},
    open_files,
    program::Program,
    protected,
    reload::Reloader,
    sources::{self, Sources},
    systemd::{self, Supervisor},
    vital::Vital,
    worker::Workers,
};
use crate::{
    admin::{self, AdminState, Readiness},
    bans::{
        Bans,
        below::{Below, Guard},
        state::{self, StateFile},
    },
    clock,
    config::{Config, watch},
    edge::{Edge, Held},
    generation::Generation,
    listener::{Listeners, Shared, WorkerSockets, budget::Budget, inherited::Inherited},
    pressure,
    record::{Recorder, metrics::Metrics},
};
use arc_swap::ArcSwap;
use std::{
    io,
    net::SocketAddr,
    net::TcpListener,
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch as channel},
    time::{Interval, MissedTickBehavior, timeout},
};
use tracing::{error, info, warn};

/// How long the start waits for names to be resolved, so that the first request finds an endpoint.
const RESOLVING: Duration = Duration::from_secs(2);
/// The name of the task that serves `/metrics` and the rest.
const ADMIN: &str = "the admin listener";
/// Of the time that the watchdog allows, how much passes between two signs of life.
const SIGNS_OF_LIFE: u32 = 3;

/// How this process came to be, and what it was given.
#[derive(Debug)]
pub struct Origin {
    /// Not being known keeps nobody from starting; it keeps another from taking over.
    program: io::Result<Program>,
    predecessor: Option<Predecessor>,
    sockets: Sockets,
    guard: Option<Guard>,
}

impl Origin {
    /// To be called once and first of all, while the process has a single thread.
    ///
    /// # Errors
    /// When another process was to hand over and did not.
    pub fn find() -> io::Result<Self> {
        let program = Program::here();
        let (predecessor, sockets) = match Predecessor::find()? {
            Some((predecessor, sockets)) => (Some(predecessor), sockets),
            None => (
                None,
                Sockets {
                    listeners: systemd::activated(),
                    admin: None,
                    guard: None,
                },
            ),
        };
        Ok(Self {
            program,
            predecessor,
            sockets,
            guard: None,
        })
    }

    /// Sees to a guard for this configuration, and gives up the rights that only a guard needs. Also
    /// while the process has a single thread.
    pub fn guard(&mut self, config: &Config) {
        let handed = self.sockets.guard.take();
        self.guard = guard::find(config, handed, self.program.as_ref().ok());
    }
}

/// Starts everything. The receiver tells of changed files.
pub async fn start(
    path: &Path,
    config: Config,
    workers: NonZeroUsize,
    origin: Origin,
) -> io::Result<(Running, mpsc::Receiver<()>)> {
    let Origin {
        program,
        predecessor,
        sockets,
        guard,
    } = origin;
    warn_of(&config);
    open_files::provide(&config);
    let supervisor = Supervisor::from_environment();
    let control = Handle::current();
    let edge = Arc::new(build(config, &control)?);
    let mut guard = guard;
    if predecessor.is_none() {
        restore_bans(&edge).await?;
        push_below(&edge, guard.take())?;
    }
    let generation = edge.generation.load_full();
    start_tasks(&generation, &control);
    let metrics = edge.recorder.metrics();
    metrics.read_from(Box::new(Sources::new(Arc::clone(&edge))));
    metrics.reload(true, clock::unix_seconds());

    let (readiness, ready) = channel::channel(Readiness::Starting);
    let (stop, stopping) = channel::channel(false);
    let (close, closing) = channel::channel(false);
    let config = &generation.config;
    let mut inherited = Inherited::new(sockets.listeners);
    let mut vital = Vital::default();
    #[cfg(test)]
    super::tests::doom(&mut vital);
    let takes_over = predecessor.is_some();
    let admin = admin_listener(config, sockets.admin, &mut inherited, takes_over).await?;
    let held = admin.as_ref().map(duplicate).transpose()?;
    let serve = admin.map(|(_, socket)| admin_task(&edge, socket, ready, closing));
    let mut serve = serve.transpose()?;
    if !takes_over && let Some(serve) = serve.take() {
        // From the beginning, so that a slow start can be seen. Where another process still serves,
        // its answers are the true ones.
        vital.spawn(ADMIN, serve);
    }
    // A name that does not resolve must not keep the rest from being served.
    let _ = timeout(RESOLVING, generation.upstreams.resolved()).await;
    let (watcher, changed) = watch::watch(config.files.clone())?;

    let predecessor = match predecessor {
        Some(predecessor) => Some(take_bans(predecessor, &edge.bans).await?),
        None => None,
    };
    let (listeners, sockets) = Listeners::bind_with(config, workers.get(), &mut inherited)?;
    leave_out(&inherited, takes_over);
    // Workers inherit what is left: nothing.
    guard::give_up_the_rest(config);
    pressure::watch(&edge, ports(&sockets)?)?;
    let beat = supervisor.watchdog().map(|within| within / SIGNS_OF_LIFE);
    let mut running = Workers::new(beat);
    running.start(sockets, &shared(&edge, stopping.clone()), &edge, &stopping)?;
    readiness.send_replace(Readiness::Ready);
    if let Some(serve) = serve {
        vital.spawn(ADMIN, serve);
    }
    info!(
        workers = workers.get(),
        pid = std::process::id(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    if let Some(predecessor) = predecessor {
        metrics.upgrade(true);
        dismiss(predecessor);
    }
    // Not before: until then the file and the guard were the other process's.
    let state = keep_bans(&edge)?;
    push_below(&edge, guard)?;
    let status = format!(
        "serving {} listeners with {workers} workers",
        config.listeners.len()
    );
    supervisor.ready(&status);
    drop(generation);
    let reloader = Reloader::new(path, &edge, listeners, watcher, control);
    let running = Running {
        edge,
        state,
        reloader,
        workers: running,
        vital,
        supervisor,
        status,
        readiness,
        stop,
        close,
        admin: held,
        program,
        took_over: takes_over,
        upgrade: None,
        beat: beat.map(interval),
    };
    Ok((running, changed))
}

/// What is listened on, the same for each worker.
fn ports(sockets: &[WorkerSockets]) -> io::Result<Vec<u16>> {
    let addresses = sockets.first().map(WorkerSockets::addresses).transpose()?;
    let addresses = addresses.unwrap_or_default().into_iter();
    Ok(addresses.map(|address| address.port()).collect())
}

fn interval(every: Duration) -> Interval {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// What all workers share.
fn shared(edge: &Arc<Edge>, draining: channel::Receiver<bool>) -> Arc<Shared> {
    Arc::new(Shared {
        config: Arc::clone(&edge.config),
        bans: Arc::clone(&edge.bans),
        metrics: Arc::clone(edge.recorder.metrics()),
        gate: Arc::new(sources::Lists(Arc::clone(edge))),
        budget: Arc::new(Budget::default()),
        conduct: Arc::clone(&edge.conduct),
        pressure: Arc::clone(&edge.pressure),
        draining,
    })
}

fn build(config: Config, control: &Handle) -> io::Result<Edge> {
    let metrics = Arc::new(Metrics::new());
    let recorder = Arc::new(Recorder::start(&config.access_log, metrics)?);
    let generation =
        Generation::build(config, None, &recorder, control).map_err(io::Error::other)?;
    let config = Arc::clone(&generation.config);
    let bans = Arc::new(Bans::with_capacity(config.bans.capacity as usize));
    protected::configure(&bans, &config);
    Ok(Edge {
        generation: ArcSwap::from_pointee(generation),
        config: Arc::new(ArcSwap::new(config)),
        bans,
        below: Arc::default(),
        recorder,
        conduct: Arc::default(),
        pressure: Arc::default(),
        held: Held::default(),
    })
}

/// Bans of a process that has ended. What can't be read keeps nobody from being served.
async fn restore_bans(edge: &Arc<Edge>) -> io::Result<()> {
    let Some(path) = edge.config.load().bans.state_file.clone() else {
        return Ok(());
    };
    let bans = Arc::clone(&edge.bans);
    let metrics = Arc::clone(edge.recorder.metrics());
    let restoring = tokio::task::spawn_blocking(move || {
        let began = clock::now();
        let file = path.display();
        match state::restore(&path, &bans, began, SystemTime::now()) {
            Ok(restored) => {
                let took = clock::now().since(began).as_millis();
                info!(bans = restored.bans, %file, milliseconds = took, "bans go on");
                if restored.damaged > 0 {
                    let kept = restored.kept.as_deref().map(Path::display);
                    warn!(
                        %file, lines = restored.damaged, first = restored.first_damaged,
                        kept = kept.map(tracing::field::display),
                        "lines of the file of bans were damaged and left out; the last one may have \
                         been cut when the process ended"
                    );
                }
            }
            Err(error) => {
                metrics.ban_state_failed();
                error!(
                    %file, %error,
                    "the file of bans can't be read: those in it are forgotten; it is put aside as \
                     `.damaged`"
                );
            }
        }
    });
    restoring.await.map_err(io::Error::other)
}

fn push_below(edge: &Edge, guard: Option<Guard>) -> io::Result<()> {
    if let Some(guard) = guard {
        // There was none before.
        let _ = edge.below.set(Below::tell(&edge.bans, guard)?);
    }
    Ok(())
}

fn keep_bans(edge: &Edge) -> io::Result<Option<Arc<StateFile>>> {
    let config = edge.config.load();
    let Some(path) = &config.bans.state_file else {
        return Ok(None);
    };
    let metrics = Arc::clone(edge.recorder.metrics());
    let state = StateFile::keep(path, &edge.bans, move || metrics.ban_state_failed())?;
    Ok(Some(Arc::new(state)))
}

pub fn start_tasks(generation: &Generation, control: &Handle) {
    generation.identifier.spawn_tasks(control);
    generation.upstreams.spawn_tasks(control);
    generation.challenges.spawn_tasks(control);
}

pub fn warn_of(config: &Config) {
    for warning in &config.warnings {
        warn!("{warning}");
    }
}

/// Tells the process before that nothing can go wrong any more, and takes its bans.
async fn take_bans(predecessor: Predecessor, bans: &Arc<Bans>) -> io::Result<Predecessor> {
    let bans = Arc::clone(bans);
    // It may keep this process waiting.
    let taking = tokio::task::spawn_blocking(move || {
        let mut taken = 0_usize;
        predecessor.prepared(|carried| {
            taken = taken.saturating_add(bans.take_over(carried, clock::now()));
        })?;
        info!(bans = taken, "bans go on");
        Ok(predecessor)
    });
    taking.await.map_err(io::Error::other)?
}

/// Tells the process before that it may leave.
fn dismiss(predecessor: Predecessor) {
    let pid = predecessor.pid;
    match predecessor.ready() {
        Ok(()) => info!(from = pid, "taken over"),
        Err(error) => {
            warn!(from = pid, %error, "the process before is gone: this one serves all the same");
        }
    }
}

/// The same listener once more, with its address.
pub fn duplicate(
    (address, socket): &(SocketAddr, TcpListener),
) -> io::Result<(SocketAddr, TcpListener)> {
    Ok((*address, socket.try_clone()?))
}

/// The admin listener's socket: one that was handed over or passed, if it is for the configured
/// address, or a new one.
async fn admin_listener(
    config: &Config,
    handed: Option<(SocketAddr, TcpListener)>,
    passed: &mut Inherited,
    handed_over: bool,
) -> io::Result<Option<(SocketAddr, TcpListener)>> {
    let Some(configured) = config.admin.as_ref().map(|admin| admin.address) else {
        return Ok(None);
    };
    let mut found = handed.filter(|(address, _)| *address == configured);
    if !handed_over {
        // Only what systemd passed is known by its true address.
        let passed = passed.take(configured).pop();
        found = found.or(passed.map(|socket| (configured, socket)));
    }
    let explain =
        |error: io::Error| io::Error::new(error.kind(), format!("admin {configured}: {error}"));
    let socket = if let Some((_, socket)) = found {
        socket
    } else {
        let bound = tokio::net::TcpListener::bind(configured).await;
        bound
            .and_then(tokio::net::TcpListener::into_std)
            .map_err(explain)?
    };
    socket.set_nonblocking(true)?;
    info!(listener = "admin", address = %socket.local_addr()?, "listening");
    Ok(Some((configured, socket)))
}

fn admin_task(
    edge: &Arc<Edge>,
    socket: TcpListener,
    readiness: channel::Receiver<Readiness>,
    stopping: channel::Receiver<bool>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let current = Arc::clone(&edge.config);
    let generation = Arc::clone(edge);
    let state = AdminState {
        config: Box::new(move || current.load_full()),
        bans: Arc::clone(&edge.bans),
        kernel: Arc::clone(&edge.below),
        // The same in every generation.
        revoked: Arc::clone(edge.generation.load().challenges.clearances().revoked()),
        metrics: Arc::clone(edge.recorder.metrics()),
        pressure: Arc::clone(&edge.pressure),
        readiness,
        upstreams: Box::new(move || sources::upstreams(&generation.generation.load())),
    };
    let listener = tokio::net::TcpListener::from_std(socket)?;
    Ok(admin::serve(listener, state, stopping))
}

/// Says which sockets nobody wants; they are closed.
fn leave_out(inherited: &Inherited, handed_over: bool) {
    for address in inherited.addresses() {
        if handed_over {
            info!(%address, "the new configuration does not listen here any more");
        } else {
            warn!(
                %address,
                "a socket for this address was passed at the start (LISTEN_FDS), and no listener of \
                 the configuration has this address: nobody will answer there; give one of them \
                 exactly this address, or take it out of the socket unit"
            );
        }
    }
}
