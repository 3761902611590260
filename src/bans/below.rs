//! Bans below the socket: a thread that tells the guard what the table holds, and every change to it
//! as it falls. Only bans whose clients' packets come here themselves are told ([`super::Ban::direct`]).
//! While there is no guard the table is enforced in user space alone, which it is anyway.

mod reflected;

use super::{
    Bans, Feed,
    followers::{Change, Heard, Queue},
    net_of,
};
use crate::clock;
use ipnet::IpNet;
use parking_lot::Mutex;
use reflected::Reflections;
use rempart_kernel::{
    filter::Reflector,
    guard::{self, Client, Report, protocol::MAX_PROTECTED},
};
use serde::Serialize;
use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use verdict::{Nanos, pressure::Reflected};

/// Between two looks at the guard's figures, where nothing else is said.
const LOOK: Duration = Duration::from_secs(1);
/// Before the next try to reach a guard that went away; it doubles from the one to the other.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How old a list's hits may be.
const FRESH: Duration = Duration::from_secs(1);
/// How long a list waits for them, and a hand-over for the thread.
const PATIENCE: Duration = Duration::from_secs(6);

/// How the guard is reached.
#[derive(Debug)]
pub enum Guard {
    /// By its socket, again and again.
    Shared(PathBuf),
    /// By this stream and no other: it ends with it.
    Own(UnixStream),
}

/// What the guard does, for metrics and lists.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// `None`: bans are enforced in user space alone.
    pub backend: Option<&'static str>,
    pub interfaces: Vec<String>,
    /// Networks that it drops, those of other proxies included.
    pub entries: u64,
    /// Of those, at the most.
    pub capacity: u32,
    /// Bans that found no room there.
    pub refused: u64,
    pub dropped_packets: u64,
    pub dropped_bytes: u64,
    /// What came from ports that floods are reflected from.
    pub reflectors: Vec<Reflector>,
    /// The port of these that sent most in the last second, and how fast.
    #[serde(skip)]
    pub reflected: Option<Reflected>,
    /// Why a better backend was not taken, or why there is none.
    pub notes: Vec<String>,
}

/// The thread, and what it found out.
#[derive(Debug)]
pub struct Below {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    status: Mutex<Status>,
    asked: Mutex<Vec<Ask>>,
    hits: Mutex<Option<(Instant, HashMap<IpNet, u64>)>>,
    /// The guard's stream once more, to be handed over.
    stream: Mutex<Option<UnixStream>>,
    /// Held while the thread speaks; true: another process speaks to the guard.
    paused: Mutex<bool>,
}

#[derive(Debug)]
struct Ask {
    networks: Vec<IpNet>,
    answer: oneshot::Sender<HashMap<IpNet, u64>>,
}

impl Below {
    /// Begins to tell the guard.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn tell(bans: &Arc<Bans>, guard: Guard) -> io::Result<Self> {
        let queue = bans.followers.kernel();
        let shared = Arc::new(Shared::default());
        if let Guard::Own(stream) = &guard {
            *shared.stream.lock() = Some(stream.try_clone()?);
        }
        let teller = Teller {
            bans: Arc::clone(bans),
            queue: Arc::clone(&queue),
            shared: Arc::clone(&shared),
            reflections: RefCell::default(),
        };
        let thread = thread::Builder::new()
            .name("bans-below".into())
            .spawn(move || teller.run(guard))?;
        Ok(Self {
            queue,
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status.lock().clone()
    }

    /// See [`Status::reflected`].
    #[must_use]
    pub fn reflected(&self) -> Option<Reflected> {
        self.shared.status.lock().reflected
    }

    /// Packets that were dropped of each of these networks, as of a second ago at the most; `None`
    /// where nobody knows.
    pub async fn hits(&self, networks: Vec<IpNet>) -> Option<HashMap<IpNet, u64>> {
        if networks.is_empty() || self.shared.status.lock().backend.is_none() {
            return None;
        }
        if let Some((since, known)) = &*self.shared.hits.lock()
            && since.elapsed() < FRESH
            && networks.iter().all(|network| known.contains_key(network))
        {
            return Some(known.clone());
        }
        let (answer, answered) = oneshot::channel();
        self.shared.asked.lock().push(Ask { networks, answer });
        self.queue.wake();
        tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()
    }

    /// Says nothing more to the guard until [`Self::resume`]: another process is about to.
    pub fn pause(&self) {
        if let Some(mut paused) = self.shared.paused.try_lock_for(PATIENCE) {
            *paused = true;
        } else {
            tracing::warn!("the guard is slow: what is being said to it may be cut");
        }
    }

    /// The stream to a guard of our own once more, to be handed over.
    #[must_use]
    pub fn stream(&self) -> Option<UnixStream> {
        let stream = self.shared.stream.lock();
        stream.as_ref().and_then(|stream| stream.try_clone().ok())
    }

    /// Goes on: no other process took over.
    pub fn resume(&self) {
        *self.shared.paused.lock() = false;
        self.queue.overflow();
    }

    /// Ends, without a word to the guard.
    pub fn close(&self) {
        self.queue.close();
        if let Some(thread) = self.thread.lock().take()
            && thread.is_finished()
        {
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Teller {
    bans: Arc<Bans>,
    queue: Arc<Queue>,
    shared: Arc<Shared>,
    reflections: RefCell<Reflections>,
}

impl Teller {
    fn run(&self, guard: Guard) {
        match guard {
            Guard::Own(stream) => {
                let ended = Client::over(stream).and_then(|mut client| self.speak(&mut client));
                if let Err(error) = ended {
                    let error = in_words(error);
                    self.down(&error);
                    tracing::error!(
                        %error,
                        "no guard: bans are enforced in user space alone until a restart"
                    );
                }
                *self.shared.stream.lock() = None;
            }
            Guard::Shared(path) => {
                let mut wait = RETRY.0;
                loop {
                    let began = Instant::now();
                    let ended =
                        Client::connect(&path).and_then(|mut client| self.speak(&mut client));
                    let Err(error) = ended else { return };
                    if began.elapsed() > RETRY.1 {
                        wait = RETRY.0;
                    }
                    // Once when it goes, not at every try.
                    if self.down(&error) {
                        tracing::error!(
                            guard = %path.display(), %error,
                            "no guard: bans are enforced in user space alone until it is back"
                        );
                    }
                    if self.rest(wait) {
                        return;
                    }
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Whether that is news.
    fn down(&self, error: &io::Error) -> bool {
        let mut status = self.shared.status.lock();
        let notes = vec![error.to_string()];
        let news = status.backend.is_some() || status.notes != notes;
        *status = Status {
            notes,
            // Counters go on where they were.
            refused: status.refused,
            dropped_packets: status.dropped_packets,
            dropped_bytes: status.dropped_bytes,
            reflectors: std::mem::take(&mut status.reflectors),
            ..Status::default()
        };
        drop(status);
        self.shared.asked.lock().clear();
        news
    }

    /// Waits, letting go of what changes meanwhile; true: there is an end to it.
    fn rest(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.queue.take(left).closed {
                return true;
            }
            self.shared.asked.lock().clear();
            if Instant::now() >= until {
                return false;
            }
        }
    }

    /// Tells the guard everything, and then what changes, until the end of this process's part or an
    /// error.
    fn speak(&self, client: &mut Client) -> io::Result<()> {
        let hello = client.hello().clone();
        for note in &hello.notes {
            tracing::info!(backend = hello.backend.name(), note, "the guard says");
        }
        // What changed before this is in the table.
        self.queue.take(Duration::ZERO);
        let began = Instant::now();
        let paused = self.shared.paused.lock();
        // Else another process states what is to be dropped, maybe over this very stream.
        let (told, first) = if *paused {
            (None, Report::default())
        } else {
            (Some(self.state(client)?), client.report(&[])?)
        };
        drop(paused);
        *self.shared.status.lock() = Status {
            backend: Some(hello.backend.name()),
            interfaces: hello.interfaces.clone(),
            capacity: hello.capacity,
            notes: hello.notes.clone(),
            ..Status::default()
        };
        self.note(&first);
        if let Some(networks) = told {
            tracing::info!(
                backend = hello.backend.name(), interfaces = ?hello.interfaces, networks,
                milliseconds = began.elapsed().as_millis(),
                "bans are in force below the socket"
            );
        }
        let mut looked = Instant::now();
        loop {
            let heard = self.queue.take(LOOK.saturating_sub(looked.elapsed()));
            if heard.closed {
                return Ok(());
            }
            let paused = self.shared.paused.lock();
            if *paused {
                looked = Instant::now();
                continue;
            }
            self.pass_on(client, &heard)?;
            self.answer(client)?;
            if looked.elapsed() >= LOOK {
                let report = client.report(&[])?;
                self.note(&report);
                looked = Instant::now();
            }
            drop(paused);
        }
    }

    fn pass_on(&self, client: &mut Client, heard: &Heard) -> io::Result<()> {
        if heard.overflowed {
            self.state(client)?;
            return Ok(());
        }
        let now = clock::now();
        let feeds = self.bans.feeds();
        let changes = heard.changes.iter().map(|change| said(change, now));
        let changes: Vec<_> = changes.filter(|change| !is_fed(change, &feeds)).collect();
        if changes.is_empty() {
            return Ok(());
        }
        client.send(&changes)
    }

    /// States all that is to be dropped. Returns how many networks that were.
    fn state(&self, client: &mut Client) -> io::Result<usize> {
        let mut protected = self.bans.settings.load().protected.networks();
        let too_many = protected.len() > MAX_PROTECTED;
        if too_many {
            tracing::warn!(
                protected = protected.len(),
                most = MAX_PROTECTED,
                "more networks are protected than the guard can know: networks of feeds that touch \
                 the others are left to user space"
            );
        }
        let beyond = protected.split_off(protected.len().min(MAX_PROTECTED));
        client.send(&[
            guard::Change::Begin,
            guard::Change::Protect {
                networks: protected,
            },
        ])?;
        let mut told = 0_usize;
        let feeds = self.bans.feeds();
        for feed in feeds.iter() {
            let touches = |one: &IpNet| {
                beyond
                    .iter()
                    .any(|other| one.contains(other) || other.contains(one))
            };
            let networks = feed.networks.iter().filter(|network| !touches(network));
            let bans: Vec<_> = networks
                .map(|network| guard::Change::Ban {
                    network: *network,
                    remaining: None,
                })
                .collect();
            told = told.saturating_add(bans.len());
            client.send(&bans)?;
        }
        self.bans.each_part(|records| {
            // The guard may have taken its time for the parts before.
            let now = clock::now();
            let in_force = records
                .iter()
                .filter(|record| record.direct && now < record.until);
            let bans: Vec<_> = in_force
                .map(|record| guard::Change::Ban {
                    network: net_of(record.prefix),
                    remaining: Some(record.until.since(now)),
                })
                .filter(|ban| !is_fed(ban, &feeds))
                .collect();
            told = told.saturating_add(bans.len());
            client.send(&bans)
        })?;
        client.send(&[guard::Change::End])?;
        Ok(told)
    }

    /// Answers lists that wait for hits, with one question for all of them.
    fn answer(&self, client: &mut Client) -> io::Result<()> {
        let asked = std::mem::take(&mut *self.shared.asked.lock());
        if asked.is_empty() {
            return Ok(());
        }
        let mut networks: Vec<_> = asked
            .iter()
            .flat_map(|ask| &ask.networks)
            .copied()
            .collect();
        networks.sort_unstable();
        networks.dedup();
        let report = client.report(&networks)?;
        let hits: HashMap<_, _> = networks
            .into_iter()
            .zip(report.hits.iter().copied())
            .collect();
        for ask in asked {
            // Whoever asked may have left.
            let _ = ask.answer.send(hits.clone());
        }
        *self.shared.hits.lock() = Some((Instant::now(), hits));
        self.note(&report);
        Ok(())
    }

    fn note(&self, report: &Report) {
        let reflected = self
            .reflections
            .borrow_mut()
            .look(&report.reflectors, Instant::now());
        let mut status = self.shared.status.lock();
        status.reflectors.clone_from(&report.reflectors);
        status.reflected = reflected;
        status.entries = report.entries;
        status.refused = report.refused;
        status.dropped_packets = report.packets;
        status.dropped_bytes = report.bytes;
    }
}

/// A guard that ended says why in the log, and nothing to us.
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => {
            let why = "the guard has ended, and what it said last is in this process's log";
            io::Error::new(error.kind(), why)
        }
        _ => error,
    }
}

/// A change of the table in the guard's words.
fn said(change: &Change, now: Nanos) -> guard::Change {
    match change {
        Change::Placed(record) if record.direct && now < record.until => guard::Change::Ban {
            network: net_of(record.prefix),
            remaining: Some(record.until.since(now)),
        },
        // It may have been direct before.
        Change::Placed(record) => guard::Change::Unban {
            network: net_of(record.prefix),
        },
        Change::Removed(prefix) => guard::Change::Unban {
            network: net_of(*prefix),
        },
    }
}

/// Whether it is about a network that a feed names: that is dropped for as long as the feed does,
/// whatever becomes of a ban of just the same network.
fn is_fed(change: &guard::Change, feeds: &[Feed]) -> bool {
    let (guard::Change::Ban { network, .. } | guard::Change::Unban { network }) = change else {
        return false;
    };
    feeds
        .iter()
        .any(|feed| feed.networks.binary_search(network).is_ok())
}

#[cfg(test)]
mod tests;
