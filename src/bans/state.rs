//! Bans in a file, so that they outlive the process, however it ends. A thread of its own appends each
//! change and writes the file anew when it has grown; whoever bans never waits for the disk. A whole
//! file is written beside the old one and put in its place, so that there is always one to read.

mod line;

use super::{
    Bans, Carried, client_or_wider,
    followers::{Change, Queue},
    key::Key,
    net_of,
};
use line::Line;
use parking_lot::Mutex;
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use verdict::Nanos;

/// Lines past twice those of the last whole file, after which the next whole one is written.
const SPARE: usize = 10_000;
/// What was appended reaches the disk itself this late at the most.
const SYNC: Duration = Duration::from_secs(1);
/// A wall clock that moved by so many milliseconds against this process's was set: times that were
/// written by it mean something else now.
const SET: u64 = 2000;
/// How often it is looked at while nothing changes.
const LOOK: Duration = Duration::from_secs(60);
/// Before the next try after the disk failed; it doubles from the one to the other.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Bans that are restored at once.
const BATCH: usize = 1000;
/// Bytes of a file that are looked at.
const LARGEST: u64 = 4 << 30;
/// How long a pause or the end waits for what is being written.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found in a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Bans in force by it.
    pub bans: u64,
    /// Lines that were not what was written.
    pub damaged: usize,
    /// The first of them, from 1.
    pub first_damaged: usize,
    /// A copy of the file as it was found, where some were.
    pub kept: Option<PathBuf>,
}

/// Takes over what a file holds. One that does not exist holds nothing.
///
/// # Errors
/// When the file can't be read; what was read until then is in force, and the file is put aside: what
/// is written next must not take its place.
pub fn restore(path: &Path, bans: &Bans, now: Nanos, wall: SystemTime) -> io::Result<Restored> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(io::Error::other("it is not a file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Restored::default()),
        Err(error) => return Err(error),
    }
    let aside = beside(path, ".damaged");
    let mut restored = match read(path, bans, now, milliseconds(wall)) {
        Ok(restored) => restored,
        Err(error) => {
            let _ = fs::rename(path, &aside);
            return Err(error);
        }
    };
    restored.bans = bans.count(now);
    if restored.damaged > 0 {
        restored.kept = fs::copy(path, &aside).is_ok().then_some(aside);
    }
    Ok(restored)
}

fn read(path: &Path, bans: &Bans, now: Nanos, wall: u64) -> io::Result<Restored> {
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?.take(LARGEST));
    let mut restored = Restored::default();
    let mut batch: Vec<Carried> = Vec::with_capacity(BATCH);
    let mut bytes = Vec::new();
    let mut number = 0_usize;
    let ended = loop {
        match read_line(&mut reader, &mut bytes) {
            Ok(true) => {}
            ended => break ended,
        }
        number = number.saturating_add(1);
        let whole = bytes.pop_if(|last| *last == b'\n').is_some();
        let read = if number == 1 {
            (bytes == line::HEAD.as_bytes()).then_some(None)
        } else {
            line::read(&bytes, wall).map(Some)
        };
        match read.filter(|_| whole) {
            Some(None) => {}
            Some(Some(Line::Placed(ban))) => {
                batch.push(ban);
                if batch.len() >= BATCH {
                    bans.take_over(&batch, now);
                    batch.clear();
                }
            }
            Some(Some(Line::Removed(network))) => {
                bans.take_over(&batch, now);
                batch.clear();
                bans.take_back(network, now);
            }
            None => {
                restored.damaged = restored.damaged.saturating_add(1);
                if restored.first_damaged == 0 {
                    restored.first_damaged = number;
                }
            }
        }
    };
    bans.take_over(&batch, now);
    ended.map(|_| restored)
}

/// One line with its end; of one that is too long the beginning. Whether there was any.
fn read_line(reader: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<bool> {
    bytes.clear();
    let most = u64::try_from(line::LONGEST).unwrap_or(u64::MAX);
    reader.by_ref().take(most).read_until(b'\n', bytes)?;
    if bytes.len() >= line::LONGEST && bytes.last() != Some(&b'\n') {
        reader.skip_until(b'\n')?;
    }
    Ok(!bytes.is_empty())
}

impl Bans {
    /// Removes exactly this ban, as a file says that it was.
    fn take_back(&self, network: ipnet::IpNet, now: Nanos) {
        let clients = self.settings.load().clients;
        let prefix = client_or_wider(network, clients);
        let _changing = self.changing.lock();
        if prefix.length() < super::widest(prefix, clients) {
            self.networks
                .remove(|other| other == prefix, &self.followers, now);
        } else if let Some((shard, _)) = self.shard(Key::of(prefix)) {
            shard.write().forget(Key::of(prefix), &self.followers, now);
        }
    }
}

/// Keeps a file as the table is, from its start until it is closed.
#[derive(Debug)]
pub struct StateFile {
    queue: Arc<Queue>,
    paused: Arc<Mutex<bool>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl StateFile {
    /// Writes the file whole, and then each change. `failed` is told of every failure of the disk.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn keep(
        path: &Path,
        bans: &Arc<Bans>,
        failed: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        Self::keep_by(SystemTime::now, path, bans, failed)
    }

    /// The same by this clock on the wall.
    fn keep_by(
        wall: impl Fn() -> SystemTime + Send + 'static,
        path: &Path,
        bans: &Arc<Bans>,
        failed: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let queue = bans.followers.state();
        let paused = Arc::new(Mutex::new(false));
        let mut writer = Writer {
            path: path.to_owned(),
            bans: Arc::clone(bans),
            queue: Arc::clone(&queue),
            paused: Arc::clone(&paused),
            file: None,
            lines: 0,
            compact_at: 0,
            unsynced: None,
            retry: (Instant::now(), RETRY.0),
            failed: Box::new(failed),
            wall: Box::new(wall),
            began: 0,
        };
        let thread = thread::Builder::new()
            .name("bans".into())
            .spawn(move || writer.run())?;
        Ok(Self {
            queue,
            paused,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Writes nothing until [`Self::resume`]: another process is about to. Waits for what is being
    /// written.
    pub fn pause(&self) {
        if let Some(mut paused) = self.paused.try_lock_for(PATIENCE) {
            *paused = true;
        } else {
            tracing::warn!("the file of bans is being written for long: it may be stale");
        }
    }

    /// Goes on: no other process took over.
    pub fn resume(&self) {
        *self.paused.lock() = false;
        self.queue.wake();
    }

    /// Writes what waits, and ends.
    pub fn close(&self) {
        self.queue.close();
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        let patience = Instant::now() + PATIENCE;
        while !thread.is_finished() {
            if Instant::now() > patience {
                tracing::warn!("the last changes of bans were not written in time");
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = thread.join();
    }
}

struct Writer {
    path: PathBuf,
    bans: Arc<Bans>,
    queue: Arc<Queue>,
    paused: Arc<Mutex<bool>>,
    /// Appended to; `None`: it is to be written whole.
    file: Option<File>,
    lines: usize,
    /// Lines at which the next whole file is due.
    compact_at: usize,
    /// When what was appended last is due on the disk itself.
    unsynced: Option<Instant>,
    /// When the next whole file may be tried, and how long to wait if that fails.
    retry: (Instant, Duration),
    failed: Box<dyn Fn() + Send>,
    wall: Box<dyn Fn() -> SystemTime + Send>,
    /// When this process's clock began, by the clock on the wall as it was at the last whole file.
    began: u64,
}

impl Writer {
    fn run(&mut self) {
        loop {
            let next = if self.file.is_none() {
                Some(self.retry.0)
            } else {
                self.unsynced
            };
            let longest = next.map_or(LOOK, |next| next.saturating_duration_since(Instant::now()));
            let heard = self.queue.take(longest);
            let paused = Arc::clone(&self.paused);
            let paused = paused.lock();
            if *paused {
                // The file belongs to another process. Should it come back, it is written whole.
                self.file = None;
                self.unsynced = None;
                self.retry.0 = Instant::now() + RETRY.1;
                if heard.closed {
                    return;
                }
                continue;
            }
            if heard.woken {
                self.retry.0 = Instant::now();
            }
            let (_, _, began) = self.clocks();
            let was_set = began.abs_diff(self.began) > SET;
            if heard.overflowed || was_set || self.lines > self.compact_at {
                self.file = None;
            }
            let done = if self.file.is_none() {
                // What was heard is in the table as well.
                if Instant::now() >= self.retry.0 || heard.closed {
                    self.write_whole()
                } else {
                    Ok(())
                }
            } else {
                self.append(&heard.changes)
                    .and_then(|()| self.sync(heard.closed))
            };
            if let Err(error) = done {
                self.file = None;
                self.unsynced = None;
                let (_, wait) = self.retry;
                self.retry = (Instant::now() + wait, (wait * 2).min(RETRY.1));
                tracing::error!(
                    file = %self.path.display(), %error, again_in = wait.as_secs(),
                    "bans could not be written: a restart would forget the latest of them"
                );
                (self.failed)();
            }
            if heard.closed {
                return;
            }
        }
    }

    /// Now by both clocks, and when the first began by the other.
    fn clocks(&self) -> (Nanos, u64, u64) {
        let (now, wall) = (crate::clock::now(), milliseconds((self.wall)()));
        (now, wall, wall.saturating_sub(now.0 / 1_000_000))
    }

    fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let (now, wall, _) = self.clocks();
        let Some(file) = self.file.as_mut().filter(|_| !changes.is_empty()) else {
            return Ok(());
        };
        let mut text = String::new();
        for change in changes {
            match change {
                Change::Placed(record) => {
                    if let Some(ban) = self.bans.carried(record, now) {
                        line::placed(&ban, wall, &mut text);
                    }
                }
                Change::Removed(prefix) => line::removed(net_of(*prefix), &mut text),
            }
        }
        file.write_all(text.as_bytes())?;
        self.lines = self.lines.saturating_add(changes.len());
        self.unsynced.get_or_insert(Instant::now() + SYNC);
        Ok(())
    }

    fn sync(&mut self, at_once: bool) -> io::Result<()> {
        let due = self
            .unsynced
            .is_some_and(|due| at_once || Instant::now() >= due);
        let Some(file) = self.file.as_ref().filter(|_| due) else {
            return Ok(());
        };
        file.sync_data()?;
        self.unsynced = None;
        if is_at(file, &self.path)? {
            return Ok(());
        }
        if at_once {
            return self.write_whole();
        }
        Err(io::Error::other(
            "it was removed, or another process put its own there: each needs one of its own",
        ))
    }

    fn write_whole(&mut self) -> io::Result<()> {
        let new = beside(&self.path, ".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        let mut writer = BufWriter::with_capacity(1 << 18, file);
        writeln!(writer, "{}", line::HEAD)?;
        let mut lines = 0_usize;
        let (now, wall, began) = self.clocks();
        let mut text = String::new();
        self.bans.carry(now, |bans| {
            for ban in &bans {
                text.clear();
                line::placed(ban, wall, &mut text);
                writer.write_all(text.as_bytes())?;
            }
            lines = lines.saturating_add(bans.len());
            Ok::<_, io::Error>(())
        })?;
        let file = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        if let Some(folder) = self.path.parent()
            && let Ok(folder) = File::open(folder)
        {
            // Some file systems can't; the file itself is written.
            let _ = folder.sync_all();
        }
        self.file = Some(file);
        self.began = began;
        self.lines = lines;
        self.compact_at = lines.saturating_mul(2).saturating_add(SPARE);
        self.unsynced = None;
        self.retry.1 = RETRY.0;
        Ok(())
    }
}

/// Whether this is what whoever reads there will find.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

fn milliseconds(wall: SystemTime) -> u64 {
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
