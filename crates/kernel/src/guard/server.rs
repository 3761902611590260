//! Serves the clients in turns: each has one message taken, then the next, so that one that floods or
//! stands still keeps none of the others waiting.
//!
//! An error of the filter ends the guard, and with it all bans in the kernel; an error of a client
//! ends that client's connection.

mod requests;
mod upkeep;

use super::{
    ledger::{ClientId, Ledger},
    protocol::Reply,
    reflections::Reflections,
    session::Session,
};
use crate::filter::{Filter, Nanos};
use ipnet::IpNet;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
};
use std::{
    collections::VecDeque,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};
use tracing::{debug, warn};
use upkeep::SURROUNDINGS_EVERY;

const MAX_CLIENTS: usize = 32;
const COMPLAINTS_EVERY: Nanos = 1_000_000_000;
/// The longest that the guard sleeps: bans end in the kernel by themselves, its memory of them here.
const TURN: Duration = Duration::from_secs(1);

/// The clients, what they asked for, and the filter that does it.
pub struct Server {
    filter: Box<dyn Filter>,
    notes: Vec<String>,
    /// Protected whatever clients say.
    own: Vec<IpNet>,
    surroundings: Option<Surroundings>,
    reflections: Option<Reflections>,
    listener: Option<UnixListener>,
    sessions: Vec<Session>,
    departed: VecDeque<Departed>,
    ledger: Ledger,
    /// Networks to look at again, since somebody let go of them.
    releases: VecDeque<IpNet>,
    refused: u64,
    next_id: ClientId,
    complaints: Complaints,
}

/// Networks that the host needs to live; they change with its addresses.
struct Surroundings {
    read: fn() -> io::Result<Vec<IpNet>>,
    networks: Vec<IpNet>,
    again: Nanos,
}

struct Departed {
    id: ClientId,
    until: Nanos,
    protected: Vec<IpNet>,
}

/// Why a client's message was not taken.
enum Fault {
    /// Its own: it is told, and its connection ends.
    Client(String),
    /// The filter's.
    Filter(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Filter(error)
    }
}

impl Server {
    /// `notes`: why the filter is not a better one; `own`: what is protected whatever clients say.
    pub fn new(
        mut filter: Box<dyn Filter>,
        notes: Vec<String>,
        own: Vec<IpNet>,
    ) -> io::Result<Self> {
        filter.protect(&own)?;
        let ledger = Ledger::new(filter.capacity());
        Ok(Self {
            filter,
            notes,
            own,
            surroundings: None,
            reflections: None,
            listener: None,
            sessions: Vec::new(),
            departed: VecDeque::new(),
            ledger,
            releases: VecDeque::new(),
            refused: 0,
            next_id: 0,
            complaints: Complaints::default(),
        })
    }

    /// Also protects what is read here, again every few seconds.
    pub fn protect_surroundings(&mut self, read: fn() -> io::Result<Vec<IpNet>>) -> io::Result<()> {
        let networks = read()?;
        let again = now().saturating_add(SURROUNDINGS_EVERY);
        self.surroundings = Some(Surroundings {
            read,
            networks,
            again,
        });
        let all = self.all_protected(&[]);
        self.filter.protect(&all)
    }

    /// Drops reflected floods while they last.
    pub fn drop_reflected(&mut self) {
        self.reflections = Some(Reflections::default());
    }

    /// Takes clients from a socket, until told to stop.
    pub fn listen(&mut self, listener: UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Takes one client. Without a socket to listen on, the guard ends with the last one.
    pub fn serve(&mut self, stream: UnixStream) -> io::Result<()> {
        let session = Session::new(self.next_id, stream, now())?;
        self.next_id += 1;
        self.sessions.push(session);
        Ok(())
    }

    /// Serves until `stop` can be read, or nobody is left to serve.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            if self.listener.is_none() && self.sessions.is_empty() {
                return Ok(());
            }
            let ready = self.wait(stop)?;
            if ready.stop {
                return Ok(());
            }
            if ready.listener {
                self.accept()?;
            }
            for (session, ready) in ready.sessions {
                self.turn(session, ready)?;
            }
            self.settle(now())?;
        }
    }

    fn wait(&self, stop: BorrowedFd<'_>) -> io::Result<Ready> {
        let mut polled = vec![PollFd::new(stop, PollFlags::POLLIN)];
        polled.extend(
            self.listener
                .iter()
                .map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN)),
        );
        let fixed = polled.len();
        polled.extend(
            self.sessions
                .iter()
                .map(|one| PollFd::new(one.descriptor(), one.interest())),
        );
        let busy = !self.releases.is_empty()
            || self.ledger.is_due(now())
            || self
                .sessions
                .iter()
                .any(|one| one.has_message() || one.is_over());
        let timeout = if busy { Duration::ZERO } else { TURN };
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |polled: &PollFd<'_>| polled.any().unwrap_or(true);
        let (fixed, sessions) = polled.split_at(fixed);
        Ok(Ready {
            stop: fixed.first().is_some_and(ready),
            listener: fixed.get(1).is_some_and(ready),
            sessions: self
                .sessions
                .iter()
                .map(|one| one.id)
                .zip(sessions.iter().map(ready))
                .collect(),
        })
    }

    fn accept(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        match listener.accept() {
            Ok((stream, _)) if self.sessions.len() < MAX_CLIENTS => self.serve(stream),
            Ok((stream, _)) => {
                self.complain("there are too many");
                let why = format!("{MAX_CLIENTS} clients are connected, and no more are taken");
                if let Ok(mut session) = Session::new(self.next_id, stream, now()) {
                    let _ = session.answer(&Reply::Refused(why), now());
                }
                Ok(())
            }
            Err(error) => {
                debug!(%error, "a client could not be accepted");
                Ok(())
            }
        }
    }

    /// Logs that a client was refused something.
    fn complain(&mut self, why: &str) {
        let now = now();
        if now < self.complaints.next {
            self.complaints.left_out += 1;
            return;
        }
        let left_out = std::mem::take(&mut self.complaints.left_out);
        self.complaints.next = now.saturating_add(COMPLAINTS_EVERY);
        warn!(why, left_out, "a client was refused");
    }

    /// Gives a client its turn: at most one message is taken from it.
    fn turn(&mut self, id: ClientId, ready: bool) -> io::Result<()> {
        let Some(at) = self.sessions.iter().position(|one| one.id == id) else {
            return Ok(());
        };
        let mut session = self.sessions.swap_remove(at);
        let now = now();
        match self.converse(&mut session, ready, now) {
            Ok(true) => self.sessions.push(session),
            Ok(false) => self.depart(session, now),
            Err(Fault::Filter(error)) => return Err(error),
            Err(Fault::Client(why)) => {
                self.complain(&why);
                // What it does not read at once it has no claim to.
                let _ = session.answer(&Reply::Refused(why), now);
                self.depart(session, now);
            }
        }
        Ok(())
    }

    /// False when the client is gone.
    fn converse(&mut self, session: &mut Session, ready: bool, now: Nanos) -> Result<bool, Fault> {
        if ready && (session.write().is_err() || session.read(now).is_err()) {
            return Ok(false);
        }
        if session.has_message() {
            let request = session
                .take(now)
                .map_err(|error| Fault::Client(error.to_string()))?;
            let reply = match request {
                Some(request) => self.handle(session, request, now)?,
                None => None,
            };
            if let Some(reply) = reply
                && session.answer(&reply, now).is_err()
            {
                return Ok(false);
            }
        }
        if session.is_over() {
            return Ok(false);
        }
        if session.is_overdue(now) {
            return Err(Fault::Client("it said or read nothing for too long".into()));
        }
        Ok(true)
    }
}

/// Whoever can cause a line of the log can cause many: one a second, with the number left out.
#[derive(Default)]
struct Complaints {
    next: Nanos,
    left_out: u64,
}

struct Ready {
    stop: bool,
    listener: bool,
    sessions: Vec<(ClientId, bool)>,
}

/// The kernel's clock.
fn now() -> Nanos {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .ok()
        .and_then(|now| Nanos::try_from(now.as_nanos()).ok())
        .unwrap_or_default()
}
