//! Starts everything and stops it again: one control runtime for what is slow (files, names, health
//! checks, admin), and a runtime of one thread for each worker, for what is hot.
//!
//! | signal | what follows |
//! |---|---|
//! | SIGHUP | a reload, and the access log is opened anew |
//! | SIGTERM, SIGINT | connections end well, within `shutdown.grace`; once more: at once |
//! | SIGQUIT | a new process takes over ([`handover`]), then as SIGTERM |
//!
//! A worker, a listener or a task that ends before its time ends the process, with an error.

mod guard;
pub mod handover;
mod open_files;
mod parent;
mod program;
mod protected;
mod pulse;
mod reload;
mod sources;
mod start;
mod systemd;
mod vital;
mod worker;

pub use open_files::needed as files_for;

use crate::{
    admin::Readiness,
    bans::state::StateFile,
    config::{self, Config},
    edge::Edge,
};
use handover::{
    Offer, Upgrade,
    give::{Failure, Successor},
};
use program::Program;
use reload::Reloader;
use start::{Origin, duplicate, start_tasks, warn_of};
use std::{
    future::pending,
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
};
use systemd::Supervisor;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch as channel},
    time::{Interval, sleep},
};
use tracing::{error, info, warn};
use vital::Vital;
use worker::Workers;

/// Serves a configuration until SIGTERM or SIGINT. `workers` is one a core unless given.
#[must_use]
pub fn run(path: &Path, workers: Option<NonZeroUsize>) -> ExitCode {
    let mut origin = match Origin::find() {
        Ok(origin) => origin,
        Err(error) => {
            error!(%error, "can't start");
            return ExitCode::FAILURE;
        }
    };
    install_crypto();
    let load = || config::load(path).map_err(|errors| eprint!("{errors}"));
    let Ok(mut config) = load() else {
        return ExitCode::FAILURE;
    };
    origin.guard(&config);
    if config.bans.kernel.is_some() {
        // What it can't read without its rights it could not reload either: better said now.
        let Ok(again) = load() else {
            error!(
                "with `bans.kernel` this process gives up the right to read what other users keep to \
                 themselves: let its own user or group read these files"
            );
            return ExitCode::FAILURE;
        };
        config = again;
    }
    let workers = workers
        .or_else(|| thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let served = runtime.and_then(|runtime| {
        let served = runtime.block_on(serve(path, config, workers, origin));
        // A file that can't be read, say, must not keep the process.
        runtime.shutdown_background();
        served
    });
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

async fn serve(
    path: &Path,
    config: Config,
    workers: NonZeroUsize,
    origin: Origin,
) -> io::Result<()> {
    // First of all: a signal without a handler ends the process.
    let mut signals = Signals::new()?;
    let (mut running, mut changed) = start::start(path, config, workers, origin).await?;
    let result = match running.go_on(&mut signals, &mut changed).await {
        Ok(reason) => running.leave(reason, &mut signals).await,
        Err(error) => {
            running.supervisor.stopping(&error.to_string());
            Err(error)
        }
    };
    if let Some(state) = &running.state {
        state.close();
    }
    if let Some(below) = running.edge.below.get() {
        below.close();
    }
    running.edge.recorder.access_log().stop();
    result
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }
}

/// Why a process leaves.
enum Reason {
    Asked,
    HandedOver(Successor),
}

/// What runs.
struct Running {
    edge: Arc<Edge>,
    /// The file that bans are kept in.
    state: Option<Arc<StateFile>>,
    reloader: Reloader,
    workers: Workers,
    vital: Vital,
    supervisor: Supervisor,
    /// What it does, in words for the supervisor.
    status: String,
    readiness: channel::Sender<Readiness>,
    /// Tells workers to drain.
    stop: channel::Sender<bool>,
    /// Ends the admin listener.
    close: channel::Sender<bool>,
    /// The admin listener once more, and its address as configured.
    admin: Option<(SocketAddr, TcpListener)>,
    program: io::Result<Program>,
    /// From another process.
    took_over: bool,
    upgrade: Option<Upgrade>,
    /// When to tell the watchdog that all is well.
    beat: Option<Interval>,
}

impl Running {
    /// Serves until there is a reason to leave.
    async fn go_on(
        &mut self,
        signals: &mut Signals,
        changed: &mut mpsc::Receiver<()>,
    ) -> io::Result<Reason> {
        loop {
            tokio::select! {
                change = changed.recv() => match change {
                    Some(()) => self.reload().await,
                    None => return Err(io::Error::other("files are no longer watched")),
                },
                Some(()) = signals.hangup.recv() => {
                    if let Err(error) = self.edge.recorder.access_log().reopen() {
                        warn!(%error, "the access log could not be reopened");
                    }
                    self.reload().await;
                }
                Some(()) = signals.quit.recv() => self.hand_over(),
                outcome = outcome(&mut self.upgrade) => {
                    self.upgrade = None;
                    match outcome {
                        Ok(successor) => {
                            let pid = successor.pid;
                            self.supervisor.handed_over(pid);
                            info!(pid, "handed over");
                            return Ok(Reason::HandedOver(successor));
                        }
                        Err(failure) => self.stay(&failure),
                    }
                }
                _ = signals.terminate.recv() => return Ok(Reason::Asked),
                _ = signals.interrupt.recv() => return Ok(Reason::Asked),
                // A worker that is gone would leave half of the connections unserved.
                ended = self.workers.ended() => {
                    let how = ended.err();
                    let how = how.unwrap_or_else(|| "a worker has ended".to_owned());
                    return Err(io::Error::other(how));
                }
                ended = self.vital.ended() => return Err(io::Error::other(ended)),
                () = tick(&mut self.beat) => {
                    if self.workers.all_beat() {
                        self.supervisor.alive();
                    }
                }
            }
        }
    }

    async fn reload(&self) {
        self.supervisor.reloading("reloading");
        self.reloader.reload().await;
        self.supervisor.ready(&self.status);
    }

    /// Begins to hand over to a new process.
    fn hand_over(&mut self) {
        if self.upgrade.is_some() {
            warn!("SIGQUIT is ignored: a new process is being started already");
            return;
        }
        self.supervisor.reloading("handing over to a new process");
        match self.begin() {
            Ok(upgrade) => self.upgrade = Some(upgrade),
            Err(error) => self.stay(&error),
        }
    }

    fn begin(&self) -> io::Result<Upgrade> {
        if let Some(objection) = parent::objection(self.took_over) {
            return Err(io::Error::other(objection));
        }
        let program = self.program.as_ref().map_err(|error| {
            io::Error::other(format!(
                "at its start this process could not find out what file it is ({error}): restart it"
            ))
        })?;
        let offer = Offer {
            listeners: self.reloader.listeners().duplicate()?,
            admin: self.admin.as_ref().map(duplicate).transpose()?,
            bans: Arc::clone(&self.edge.bans),
            state: self.state.clone(),
            below: Arc::clone(&self.edge.below),
        };
        Upgrade::begin(program, offer)
    }

    /// Goes on, since no other process does.
    fn stay(&self, error: &dyn std::fmt::Display) {
        let program = self.program.as_ref().ok();
        let program = program.map(|program| program.path().display());
        error!(
            %error, program = program.map(tracing::field::display),
            "the new process did not take over, and this one goes on as before"
        );
        self.edge.recorder.metrics().upgrade(false);
        self.supervisor
            .ready(&format!("{}; the last upgrade failed", self.status));
    }

    /// Lets connections end well, for as long as the grace lasts or until a signal insists.
    async fn leave(&mut self, reason: Reason, signals: &mut Signals) -> io::Result<()> {
        // Where nobody has asked for the end so far, the first to do so does not insist: a supervisor
        // tells every process that it finds.
        let (mut successor, insistence) = match reason {
            Reason::Asked => (None, 1),
            Reason::HandedOver(successor) => (Some(successor), 2),
        };
        if let Some(mut upgrade) = self.upgrade.take()
            && let Some(ready) = upgrade.cancel().await
        {
            info!(
                pid = ready.pid,
                "the new process was ready before it could be stopped, and serves"
            );
            self.supervisor.handed_over(ready.pid);
            successor = Some(ready);
        }
        let grace = self.edge.config.load().shutdown.grace;
        info!(grace = grace.as_secs(), "draining");
        self.readiness.send_replace(Readiness::Draining);
        if successor.is_some() {
            // From now on the new process answers for both, and speaks to the guard: what this one had
            // banned there is not to outlast it.
            self.close.send_replace(true);
            if let Some(below) = self.edge.below.get() {
                below.close();
            }
        } else {
            self.supervisor.stopping("draining");
            self.reloader.listeners().restore();
        }
        self.reloader.listeners().let_go();
        self.stop.send_replace(true);
        let result = tokio::select! {
            finished = self.workers.finish() => finished.map_err(io::Error::other),
            () = sleep(grace) => {
                warn!("connections were still open at the end of the grace period");
                Ok(())
            }
            () = insist(signals, insistence) => {
                warn!("asked again to end: open connections are cut");
                Ok(())
            }
            how = lost(successor) => {
                // The sooner this one ends, the sooner whoever watches starts another.
                self.supervisor.taken_back(&how);
                Err(io::Error::other(format!("{how}, and nobody accepts connections")))
            }
        };
        // Last: while connections drain, `/readyz` says so and figures can be read.
        self.close.send_replace(true);
        result
    }
}

/// Waits until signals have asked for the end so many times.
async fn insist(signals: &mut Signals, times: u32) {
    for left in (0..times).rev() {
        tokio::select! {
            _ = signals.terminate.recv() => {}
            _ = signals.interrupt.recv() => {}
        }
        if left > 0 {
            info!("asked to end, which it does already: once more cuts open connections");
        }
    }
}

async fn lost(successor: Option<Successor>) -> String {
    match successor {
        Some(successor) => successor.lost().await,
        None => pending().await,
    }
}

async fn outcome(upgrade: &mut Option<Upgrade>) -> Result<Successor, Failure> {
    match upgrade {
        Some(upgrade) => upgrade.ended().await,
        None => pending().await,
    }
}

async fn tick(beat: &mut Option<Interval>) {
    match beat {
        Some(beat) => {
            beat.tick().await;
        }
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
