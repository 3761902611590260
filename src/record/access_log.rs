//! The access log: one JSON object a line, written by a thread of its own.
//!
//! A worker that writes a line never waits for a disk or a pipe: it appends to its own bounded
//! buffer, and where that is full the line is dropped and counted. What a line says is [`line`]'s;
//! turning files over is done from outside (rename, then [`AccessLog::reopen`]).

mod json;
mod line;
mod writer;

pub use line::Server;

use super::Record;
use crate::config::model;
use parking_lot::Mutex;
use prometheus::IntCounter;
use std::{
    cell::Cell,
    collections::VecDeque,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{JoinHandle, Thread},
    time::Duration,
};

/// Bytes that may wait in one buffer. Threads share [`BUFFERS`] of them.
const BUFFER_LIMIT: usize = 1 << 20;
/// From this many on, the writer is told not to wait for more.
const BUFFER_HURRY: usize = 256 << 10;
/// A power of two; workers beyond that many share.
const BUFFERS: usize = 16;
/// How long the writer gathers lines before it writes them.
const GATHER: Duration = Duration::from_millis(20);

/// Where requests are written down. Shared by all workers.
pub struct AccessLog {
    shared: Arc<Shared>,
    destination: Mutex<model::AccessLog>,
    thread: Mutex<Option<JoinHandle<()>>>,
    writer: Thread,
}

/// What workers and the writer both hold.
struct Shared {
    buffers: [Mutex<Buffer>; BUFFERS],
    /// Lines are wanted at all.
    enabled: AtomicBool,
    /// Lines may wait: the writer is awake or about to be.
    pending: AtomicBool,
    /// The writer should not gather any longer.
    hurry: AtomicBool,
    commands: Mutex<VecDeque<Command>>,
    dropped: IntCounter,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    lines: u64,
}

/// What the writer is told, after all lines before it.
enum Command {
    Use(Sink),
    /// Say so when everything before is written.
    Flush(mpsc::SyncSender<()>),
    Stop,
}

/// Where the bytes go.
enum Sink {
    Nowhere,
    Stdout,
    File(File),
    #[cfg(test)]
    Test(Box<dyn io::Write + Send>),
}

impl AccessLog {
    /// Opens the destination and starts the writer. `dropped` counts lines that were lost.
    ///
    /// # Errors
    /// The file can't be opened or the thread can't be started.
    pub fn start(destination: &model::AccessLog, dropped: IntCounter) -> io::Result<Self> {
        Self::start_with(destination, open(destination)?, dropped)
    }

    fn start_with(
        destination: &model::AccessLog,
        sink: Sink,
        dropped: IntCounter,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            buffers: Default::default(),
            enabled: AtomicBool::new(!matches!(sink, Sink::Nowhere)),
            pending: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            commands: Mutex::default(),
            dropped,
        });
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || writer::run(&shared, sink)
            })?;
        Ok(Self {
            shared,
            destination: Mutex::new(destination.clone()),
            writer: thread.thread().clone(),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Appends one line, or drops it where the buffer is full. Never blocks on I/O.
    pub fn write(&self, record: &Record<'_>, server: &Server) {
        if !self.shared.enabled.load(Ordering::Relaxed) {
            return;
        }
        let Some(buffer) = self.shared.buffers.get(own_buffer()) else {
            return;
        };
        let mut buffer = buffer.lock();
        if buffer.bytes.len() >= BUFFER_LIMIT {
            drop(buffer);
            self.shared.dropped.inc();
            return;
        }
        line::write(&mut buffer.bytes, record, server);
        buffer.bytes.push(b'\n');
        buffer.lines = buffer.lines.saturating_add(1);
        let hurry = buffer.bytes.len() >= BUFFER_HURRY;
        drop(buffer);
        // The writer clears `pending` before it takes the buffers, so whoever appends after that
        // sees it cleared (the buffer's lock orders the two) and wakes the writer again.
        if hurry && !self.shared.hurry.swap(true, Ordering::Relaxed) {
            self.shared.pending.store(true, Ordering::Relaxed);
            self.writer.unpark();
        } else if !self.shared.pending.load(Ordering::Relaxed)
            && !self.shared.pending.swap(true, Ordering::Relaxed)
        {
            self.writer.unpark();
        }
    }

    /// Opens the same destination anew: for rotation, on SIGHUP.
    ///
    /// # Errors
    /// The file can't be opened; lines go on to where they went.
    pub fn reopen(&self) -> io::Result<()> {
        let destination = self.destination.lock().clone();
        self.redirect(&destination)
    }

    /// Sends the lines from now on to another destination; those of the same moment may still go to
    /// the former one ([`Self::flush`] waits until it is done with).
    ///
    /// # Errors
    /// The file can't be opened; lines go on to where they went.
    pub fn redirect(&self, destination: &model::AccessLog) -> io::Result<()> {
        let sink = open(destination)?;
        let enabled = !matches!(sink, Sink::Nowhere);
        *self.destination.lock() = destination.clone();
        self.tell(Command::Use(sink));
        self.shared.enabled.store(enabled, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until every line before this call is written. Blocks: not for workers.
    pub fn flush(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        self.tell(Command::Flush(done));
        // An error says that the writer has stopped, having written everything.
        let _ = wait.recv();
    }

    /// Writes what waits and ends the writer. Lines after this are dropped unseen.
    pub fn stop(&self) {
        self.shared.enabled.store(false, Ordering::Relaxed);
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    fn tell(&self, command: Command) {
        self.shared.commands.lock().push_back(command);
        self.shared.hurry.store(true, Ordering::Relaxed);
        self.shared.pending.store(true, Ordering::Relaxed);
        self.writer.unpark();
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AccessLog")
            .field(&*self.destination.lock())
            .finish()
    }
}

/// Which buffer this thread appends to.
fn own_buffer() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static OWN: Cell<Option<usize>> = const { Cell::new(None) });
    OWN.with(|own| {
        own.get().unwrap_or_else(|| {
            let taken = NEXT.fetch_add(1, Ordering::Relaxed) % BUFFERS;
            own.set(Some(taken));
            taken
        })
    })
}

fn open(destination: &model::AccessLog) -> io::Result<Sink> {
    Ok(match destination {
        model::AccessLog::Off => Sink::Nowhere,
        model::AccessLog::Stdout => Sink::Stdout,
        model::AccessLog::File(path) => Sink::File(open_file(path)?),
    })
}

/// Appends; a new file is not for others to read, since it says who visited what.
fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests;
