//! Serves the clients in turns: each has one message taken, then the next, so that one that floods or
//! stands still keeps none of the others waiting.
//!
//! An error of the filter ends the guard, and with it all bans in the kernel; an error of a client
//! ends that client's connection.

use super::{
    ledger::{ClientId, Ledger},
    protocol::{
        Change, Hello, MAGIC, MAX_ASKED, MAX_CHANGES, MAX_PROTECTED, Reply, Report, Request,
        VERSION,
    },
    reflections::Reflections,
    session::Session,
};
use crate::filter::{Ban, Filter, MAX_PROTECTED as MAX_PROTECTED_BY_FILTER, Nanos};
use ipnet::IpNet;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
};
use std::{
    collections::{BTreeSet, VecDeque},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};
use tracing::{debug, info, warn};

const MAX_CLIENTS: usize = 32;
/// Clients that are gone and whose bans stay for a while.
const MAX_DEPARTED: usize = 32;
/// How long: a proxy that restarts comes back and says its bans again.
const DEPARTED_STAY: Nanos = 30_000_000_000;
/// Networks protected by all clients together: room is left for what the host needs.
const MAX_PROTECTED_IN_ALL: usize = MAX_PROTECTED_BY_FILTER as usize - 1024;
/// How often the host's addresses, gateways and name servers are read again.
const SURROUNDINGS_EVERY: Nanos = 10_000_000_000;
/// Networks that are let go of in a turn.
const RELEASES: usize = 1024;
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
                warn!(
                    clients = MAX_CLIENTS,
                    "a client was refused: there are too many"
                );
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
                warn!(client = id, why, "a client was refused");
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

    fn handle(
        &mut self,
        session: &mut Session,
        request: Request,
        now: Nanos,
    ) -> Result<Option<Reply>, Fault> {
        match request {
            Request::Hello { magic, version } => {
                if magic != MAGIC {
                    return Err(Fault::Client(
                        "this is Rempart's guard; you speak something else".into(),
                    ));
                }
                if version != VERSION {
                    return Err(Fault::Client(format!(
                        "this guard speaks version {VERSION}, you speak {version}: update the older one"
                    )));
                }
                if !session.greeted {
                    info!(client = session.id, "a client came");
                }
                session.greeted = true;
                Ok(Some(Reply::Hello(Hello {
                    backend: self.filter.backend(),
                    interfaces: self.filter.interfaces(),
                    capacity: self.filter.capacity(),
                    notes: self.notes.clone(),
                })))
            }
            _ if !session.greeted => Err(Fault::Client("say hello first".into())),
            Request::Changes(changes) if changes.len() > MAX_CHANGES => {
                Err(Fault::Client(format!(
                    "{} changes in a message; at most {MAX_CHANGES} are taken",
                    changes.len()
                )))
            }
            Request::Changes(changes) => self.change(session, changes, now).map(|()| None),
            Request::Report { networks } if networks.len() > MAX_ASKED => {
                Err(Fault::Client(format!(
                    "{} networks asked for in a message; at most {MAX_ASKED} are taken",
                    networks.len()
                )))
            }
            Request::Report { networks } => self
                .report(&networks)
                .map(|report| Some(Reply::Report(report))),
        }
    }

    fn change(
        &mut self,
        session: &mut Session,
        changes: Vec<Change>,
        now: Nanos,
    ) -> Result<(), Fault> {
        let mut touched = BTreeSet::new();
        let mut stated = None;
        for change in changes {
            match change {
                Change::Begin => session.round += 1,
                Change::Ban { network, .. } if network.prefix_len() == 0 => {
                    warn!(client = session.id, %network, "a ban of everybody was refused");
                    self.refused += 1;
                }
                Change::Ban { network, remaining } => {
                    let network = network.trunc();
                    let until = remaining.map(|remaining| {
                        now.saturating_add(
                            Nanos::try_from(remaining.as_nanos()).unwrap_or(Nanos::MAX),
                        )
                    });
                    let ban = Ban { network, until };
                    let mut taken = self.ledger.ban(session.id, session.round, ban);
                    if !taken && let Some(round) = stated.take() {
                        self.releases
                            .extend(self.ledger.keep_since(session.id, round));
                        taken = self.ledger.ban(session.id, session.round, ban);
                    }
                    if taken {
                        touched.insert(network);
                    } else {
                        self.refused += 1;
                    }
                }
                Change::Unban { network } => {
                    let network = network.trunc();
                    self.ledger.unban(session.id, network);
                    touched.insert(network);
                }
                Change::Protect { networks } => self.protect(session, &networks)?,
                Change::End => stated = Some(session.round),
            }
        }
        // Once a message: it walks the whole ledger.
        if let Some(round) = stated {
            self.releases
                .extend(self.ledger.keep_since(session.id, round));
        }
        Ok(self.enforce(touched.into_iter())?)
    }

    fn protect(&mut self, session: &mut Session, networks: &[IpNet]) -> Result<(), Fault> {
        if networks.len() > MAX_PROTECTED {
            return Err(Fault::Client(format!(
                "{} networks to protect; at most {MAX_PROTECTED} are taken",
                networks.len()
            )));
        }
        let networks = networks.iter().map(IpNet::trunc).collect();
        let before = std::mem::replace(&mut session.protected, networks);
        let all = self.all_protected(&session.protected);
        if all.len() > MAX_PROTECTED_IN_ALL {
            session.protected = before;
            return Err(Fault::Client(format!(
                "all clients together protect {} networks; at most {MAX_PROTECTED_IN_ALL} can be",
                all.len()
            )));
        }
        Ok(self.filter.protect(&all)?)
    }

    fn all_protected(&self, besides: &[IpNet]) -> Vec<IpNet> {
        let mut all: BTreeSet<IpNet> = self.own.iter().chain(besides).copied().collect();
        all.extend(self.surroundings.iter().flat_map(|one| &one.networks));
        all.extend(self.sessions.iter().flat_map(|one| &one.protected));
        all.extend(self.departed.iter().flat_map(|one| &one.protected));
        all.into_iter().collect()
    }

    /// Makes the filter do as the ledger says, for these networks.
    fn enforce(&mut self, networks: impl Iterator<Item = IpNet>) -> io::Result<()> {
        // What waits to be let go of still takes room.
        let full = self.ledger.len() + self.releases.len() > self.filter.capacity() as usize;
        let releases = if full {
            std::mem::take(&mut self.releases)
        } else {
            VecDeque::new()
        };
        let (mut bans, mut unbans) = (Vec::new(), Vec::new());
        for network in releases.into_iter().chain(networks) {
            match self.ledger.standing(network) {
                Some(ban) => bans.push(ban),
                None => unbans.push(network),
            }
        }
        self.filter.unban(&unbans)?;
        for network in self.filter.ban(&bans)? {
            self.ledger.forget_network(network);
            self.refused += 1;
        }
        Ok(())
    }

    fn report(&mut self, networks: &[IpNet]) -> Result<Report, Fault> {
        let networks: Vec<_> = networks.iter().map(IpNet::trunc).collect();
        let totals = self.filter.totals()?;
        Ok(Report {
            packets: totals.packets,
            bytes: totals.bytes,
            hits: self.filter.hits(&networks)?,
            entries: self.ledger.len() as u64,
            refused: self.refused,
            reflectors: self.filter.reflectors()?,
        })
    }

    /// Reads again what the host needs, and what floods it.
    fn look_around(&mut self, now: Nanos) -> io::Result<()> {
        if let Some(surroundings) = &mut self.surroundings
            && surroundings.again <= now
        {
            surroundings.again = now.saturating_add(SURROUNDINGS_EVERY);
            match (surroundings.read)() {
                Ok(networks) if networks != surroundings.networks => {
                    surroundings.networks = networks;
                    let all = self.all_protected(&[]);
                    self.filter.protect(&all)?;
                }
                Ok(_) => {}
                Err(error) => warn!(%error, "what the host needs could not be read again"),
            }
        }
        if let Some(reflections) = &mut self.reflections
            && reflections.is_due(now)
            && let Some(ports) = reflections.sample(&self.filter.reflectors()?, now)
        {
            info!(
                ?ports,
                "reflected floods are dropped from these ports and no others"
            );
            self.filter.drop_reflected(&ports)?;
        }
        Ok(())
    }

    fn depart(&mut self, session: Session, now: Nanos) {
        if !session.greeted {
            return;
        }
        info!(client = session.id, "a client left; its bans stay for 30 s");
        self.departed.push_back(Departed {
            id: session.id,
            until: now.saturating_add(DEPARTED_STAY),
            protected: session.protected,
        });
    }

    /// Lets go of what ended, and of clients that did not come back.
    fn settle(&mut self, now: Nanos) -> io::Result<()> {
        self.look_around(now)?;
        let surplus = self.departed.len().saturating_sub(MAX_DEPARTED);
        let due = self
            .departed
            .iter()
            .take_while(|one| one.until <= now)
            .count()
            .max(surplus);
        let gone: Vec<Departed> = self.departed.drain(..due).collect();
        if !gone.is_empty() {
            let ids: Vec<_> = gone.iter().map(|one| one.id).collect();
            self.releases.extend(self.ledger.forget(&ids));
            // Their bans first: what they protected stays so until those are gone.
            let releases = std::mem::take(&mut self.releases);
            self.enforce(releases.into_iter())?;
            if gone.iter().any(|one| !one.protected.is_empty()) {
                let all = self.all_protected(&[]);
                self.filter.protect(&all)?;
            }
        }
        let ended = self.ledger.ended(now, RELEASES);
        let some = self.releases.len().min(RELEASES);
        let released: Vec<_> = self.releases.drain(..some).collect();
        self.enforce(ended.into_iter().chain(released))
    }
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
