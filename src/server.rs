//! Starts everything and stops it again: one control runtime for what is slow (files, names, health
//! checks, admin), and a runtime of one thread for each worker, for what is hot.

mod reload;
mod sources;
mod worker;

use crate::{
    admin::{self, AdminState, Readiness},
    bans::Bans,
    clock,
    config::{self, Config, watch},
    edge::{Edge, Held},
    generation::Generation,
    listener::{Listeners, Shared, budget::Budget},
    record::{Recorder, metrics::Metrics},
};
use arc_swap::ArcSwap;
use reload::Reloader;
use sources::Sources;
use std::{
    io, num::NonZeroUsize, path::Path, process::ExitCode, sync::Arc, thread, time::Duration,
};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch as channel,
    time::timeout,
};
use tracing::{error, info, warn};
use worker::Workers;

/// How long the start waits for names to be resolved, so that the first request finds an endpoint.
const RESOLVING: Duration = Duration::from_secs(2);

/// Serves a configuration until SIGTERM or SIGINT. `workers` is one a core unless given.
#[must_use]
pub fn run(path: &Path, workers: Option<NonZeroUsize>) -> ExitCode {
    install_crypto();
    let config = match config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            eprint!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    let workers = workers
        .or_else(|| thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN);
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(serve(path, config, workers)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "stopped");
            ExitCode::FAILURE
        }
    }
}

/// Makes ring this process's one provider of cryptography.
pub fn install_crypto() {
    // An error only says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

async fn serve(path: &Path, config: Config, workers: NonZeroUsize) -> io::Result<()> {
    // First of all: a signal without a handler ends the process.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    warn_of(&config);
    let control = Handle::current();
    let edge = Arc::new(build(config, &control)?);
    let generation = edge.generation.load_full();
    start_tasks(&generation, &control);
    let metrics = edge.recorder.metrics();
    metrics.read_from(Box::new(Sources::new(Arc::clone(&edge))));
    metrics.reload(true, clock::unix_seconds());

    let (readiness, ready) = channel::channel(Readiness::Starting);
    let (stop, stopping) = channel::channel(false);
    let (close, closing) = channel::channel(false);
    start_admin(&edge, ready, closing).await?;

    let config = &generation.config;
    let (listeners, sockets) = Listeners::bind(config, workers.get())?;
    // A name that does not resolve must not keep the rest from being served.
    let _ = timeout(RESOLVING, generation.upstreams.resolved()).await;
    let shared = Arc::new(Shared {
        config: Arc::clone(&edge.config),
        bans: Arc::clone(&edge.bans),
        metrics: Arc::clone(metrics),
        gate: Arc::new(sources::Lists(Arc::clone(&edge))),
        budget: Arc::new(Budget::default()),
        conduct: Arc::clone(&edge.conduct),
        draining: stopping.clone(),
    });
    let mut running = Workers::start(sockets, &shared, &edge, &stopping)?;
    readiness.send_replace(Readiness::Ready);
    info!(
        workers = workers.get(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );

    let files = config.files.clone();
    drop(generation);
    let (watcher, mut changed) = watch::watch(files)?;
    let reloader = Reloader::new(path, &edge, listeners, watcher, control);
    loop {
        tokio::select! {
            Some(()) = changed.recv() => reloader.reload().await,
            Some(()) = hangup.recv() => {
                if let Err(error) = edge.recorder.access_log().reopen() {
                    warn!(%error, "the access log could not be reopened");
                }
                reloader.reload().await;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            ended = running.ended() => {
                // A worker that is gone would leave half of the connections unserved.
                return Err(io::Error::other(ended));
            }
        }
    }

    let grace = edge.config.load().shutdown.grace;
    info!(grace = grace.as_secs(), "draining");
    readiness.send_replace(Readiness::Draining);
    stop.send_replace(true);
    if timeout(grace, running.finish()).await.is_err() {
        warn!("connections were still open at the end of the grace period");
    }
    // Last: while connections drain, `/readyz` says so and figures can be read.
    close.send_replace(true);
    edge.recorder.access_log().stop();
    Ok(())
}

fn build(config: Config, control: &Handle) -> io::Result<Edge> {
    let metrics = Arc::new(Metrics::new());
    let recorder = Arc::new(Recorder::start(&config.access_log, metrics)?);
    let generation =
        Generation::build(config, None, &recorder, control).map_err(io::Error::other)?;
    let config = Arc::clone(&generation.config);
    let bans = Arc::new(Bans::default());
    protect(&bans, &config);
    Ok(Edge {
        generation: ArcSwap::from_pointee(generation),
        config: Arc::new(ArcSwap::new(config)),
        bans,
        recorder,
        conduct: Arc::default(),
        held: Held::default(),
    })
}

/// Neither trusted proxies nor allow-listed networks can be banned.
fn protect(bans: &Bans, config: &Config) {
    let allowed = config
        .policy
        .lists
        .iter()
        .filter(|list| list.then == Some(verdict::decision::Action::Allow))
        .flat_map(|list| &list.networks);
    let trusted = config.clients.trusted_proxies.iter();
    let protected: Vec<_> = trusted.chain(allowed).copied().collect();
    bans.configure(&protected, config.clients.prefix, clock::now());
}

fn start_tasks(generation: &Generation, control: &Handle) {
    generation.identifier.spawn_tasks(control);
    generation.upstreams.spawn_tasks(control);
}

fn warn_of(config: &Config) {
    for warning in &config.warnings {
        warn!("{warning}");
    }
}

async fn start_admin(
    edge: &Arc<Edge>,
    readiness: channel::Receiver<Readiness>,
    stopping: channel::Receiver<bool>,
) -> io::Result<()> {
    let Some(configured) = edge.config.load().admin.as_ref().map(|admin| admin.address) else {
        return Ok(());
    };
    let listener = tokio::net::TcpListener::bind(configured)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("admin {configured}: {error}")))?;
    info!(listener = "admin", address = %listener.local_addr()?, "listening");
    let current = Arc::clone(&edge.config);
    let generation = Arc::clone(edge);
    let state = AdminState {
        config: Box::new(move || current.load_full()),
        bans: Arc::clone(&edge.bans),
        metrics: Arc::clone(edge.recorder.metrics()),
        readiness,
        upstreams: Box::new(move || sources::upstreams(&generation.generation.load())),
    };
    tokio::spawn(admin::serve(listener, state, stopping));
    Ok(())
}
