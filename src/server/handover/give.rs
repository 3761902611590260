//! The old process: starts the new one, hands over, and hears whether it is ready. All of it happens
//! on a thread of its own; connections are served as before meanwhile.

use super::{BANS_AT_ONCE, Handed, Hello, LONGEST, PREPARED, READY, VARIABLE, VERSION, wire::Wire};
use crate::{
    bans::{Bans, below::Below, state::StateFile},
    clock,
    listener::inherited::Group,
    server::program::Program,
};
use std::{
    fmt,
    future::pending,
    io,
    net::{Shutdown, SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long a process that has closed the conversation may take to end by itself, for its exit code.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What is bound to one process: the next one has its own.
const NOT_INHERITED: [&str; 5] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
];

/// What is handed over.
#[derive(Debug)]
pub struct Offer {
    pub listeners: Vec<Group>,
    /// The admin listener, and its address as configured.
    pub admin: Option<(SocketAddr, TcpListener)>,
    pub bans: Arc<Bans>,
    /// Where they are kept: left to the new process from the moment it has them.
    pub state: Option<Arc<StateFile>>,
    /// What tells the guard of them, likewise.
    pub below: Arc<OnceLock<Below>>,
}

impl Offer {
    /// File and guard are the new process's from now on.
    fn pause(&self) {
        if let Some(state) = &self.state {
            state.pause();
        }
        if let Some(below) = self.below.get() {
            below.pause();
        }
    }

    fn resume(&self) {
        if let Some(state) = &self.state {
            state.resume();
        }
        if let Some(below) = self.below.get() {
            below.resume();
        }
    }
}

/// A hand-over under way.
#[derive(Debug)]
pub struct Upgrade {
    /// Shutting it down ends the new process.
    conversation: UnixStream,
    outcome: oneshot::Receiver<Result<Successor, Failure>>,
}

/// The new process, which serves.
#[derive(Debug)]
pub struct Successor {
    pub pid: u32,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
}

impl Successor {
    /// Waits for its end, and says how it came, unless it was asked for: then, as while nothing is
    /// known, this waits for ever.
    pub async fn lost(self) -> String {
        match self.ended.await {
            Ok(Ok(status)) if !status.success() => {
                format!("the new process has ended ({status})")
            }
            // It was told to, or has handed over itself.
            Ok(Ok(_)) => {
                tracing::info!(
                    pid = self.pid,
                    "the new process has ended as it was asked to"
                );
                pending().await
            }
            Ok(Err(error)) => {
                tracing::warn!(pid = self.pid, %error, "the new process is not watched any more");
                pending().await
            }
            Err(_) => pending().await,
        }
    }
}

/// Why the old process goes on.
#[derive(Debug)]
pub struct Failure {
    error: io::Error,
    /// How the new process ended, if it was started.
    status: Option<ExitStatus>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error.kind() {
            _ if is_gone(&self.error) => f.write_str("it ended before it was ready")?,
            io::ErrorKind::TimedOut => f.write_str("it was not ready in time")?,
            _ => self.error.fmt(f)?,
        }
        self.status
            .map_or(Ok(()), |status| write!(f, " ({status})"))
    }
}

impl Upgrade {
    /// Starts the new process and begins to hand over to it.
    ///
    /// # Errors
    /// When there are no descriptors or threads left.
    pub fn begin(program: &Program, offer: Offer) -> io::Result<Self> {
        Self::within(program.command(), offer, LONGEST)
    }

    pub(super) fn within(mut command: Command, offer: Offer, limit: Duration) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let conversation = ours.try_clone()?;
        let (sender, outcome) = oneshot::channel();
        command
            .env(VARIABLE, "stdin")
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        thread::Builder::new()
            .name("handover".into())
            .spawn(move || {
                // Wherever nobody waits any more, the process ends.
                let mut child = match run(command, ours, offer, limit) {
                    Ok(child) => child,
                    Err(failure) => {
                        let _ = sender.send(Err(failure));
                        return;
                    }
                };
                let (end, ended) = oneshot::channel();
                let pid = child.id();
                let _ = sender.send(Ok(Successor { pid, ended }));
                // Until this process ends: nobody else could tell.
                let _ = end.send(child.wait());
            })?;
        Ok(Self {
            conversation,
            outcome,
        })
    }

    /// Waits for the end: the new process, or why there is none. To be asked once.
    pub async fn ended(&mut self) -> Result<Successor, Failure> {
        (&mut self.outcome).await.unwrap_or_else(|_| {
            Err(Failure {
                error: io::Error::other("handing over has panicked"),
                status: None,
            })
        })
    }

    /// Gives up: the new process is gone when this returns, unless it was ready before; then this is
    /// it.
    pub async fn cancel(&mut self) -> Option<Successor> {
        let _ = self.conversation.shutdown(Shutdown::Both);
        self.ended().await.ok()
    }
}

/// Gives the new process once it serves. The sockets of the offer are let go then.
fn run(
    mut command: Command,
    ours: UnixStream,
    offer: Offer,
    limit: Duration,
) -> Result<Child, Failure> {
    let wire = Wire::new(ours, limit);
    let spawned = wire.and_then(|wire| Ok((wire, command.spawn()?)));
    // It holds the new process's end of the conversation, whose closing is to be seen.
    drop(command);
    let (wire, mut child) = spawned.map_err(|error| Failure {
        error,
        status: None,
    })?;
    tracing::info!(pid = child.id(), "a new process was started to take over");
    let conversed = converse(&wire, &offer);
    if conversed.is_err() {
        offer.resume();
    }
    drop(offer);
    match conversed {
        Ok(()) => Ok(child),
        Err(error) => {
            let status = end(&mut child, is_gone(&error));
            Err(Failure { error, status })
        }
    }
}

/// The other end of the conversation was closed.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// The old process's part.
pub(super) fn converse(wire: &Wire, offer: &Offer) -> io::Result<()> {
    let handed = offer.listeners.iter().map(|group| Handed {
        address: group.address,
        sockets: group.sockets.len(),
    });
    let guard = offer.below.get().and_then(Below::stream);
    let hello = Hello {
        version: VERSION,
        listeners: handed.collect(),
        admin: offer.admin.as_ref().map(|(address, _)| *address),
        guard: guard.is_some(),
    };
    wire.send(&serde_json::to_vec(&hello)?)?;
    let listeners = offer.listeners.iter().flat_map(|group| &group.sockets);
    let admin = offer.admin.iter().map(|(_, socket)| socket);
    let sockets = listeners.chain(admin).map(AsFd::as_fd);
    let descriptors: Vec<_> = sockets.chain(guard.iter().map(AsFd::as_fd)).collect();
    wire.send_descriptors(&descriptors)?;
    wire.expect(PREPARED)?;
    offer.pause();
    // As late as can be: a ban that is placed from now on is the old process's alone.
    offer.bans.carry(clock::now(), |bans| {
        let mut parts = bans.chunks(BANS_AT_ONCE);
        parts.try_for_each(|bans| wire.send(&serde_json::to_vec(bans)?))
    })?;
    wire.send(b"[]")?;
    wire.expect(READY)
}

/// Ends a process that won't take over. `leaving`: it seems to end by itself.
fn end(child: &mut Child, leaving: bool) -> Option<ExitStatus> {
    let patience = Instant::now() + LAST_WORDS;
    while leaving && Instant::now() < patience {
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(20)),
            Ok(Some(status)) => return Some(status),
            Err(_) => break,
        }
    }
    // An error only says that it has ended.
    let _ = child.kill();
    child.wait().ok()
}
