//! The thread that takes full buffers and writes them, a batch at a time.

use super::{BUFFER_HURRY, Buffer, Command, GATHER, Shared, Sink};
use std::{
    io::{self, Write},
    mem,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

/// A buffer that grew past this gives its memory back once written.
const KEPT_CAPACITY: usize = 64 << 10;
/// Between two complaints about a destination that can't be written.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Writes until it is told to stop; asleep while there is nothing to write.
pub(super) fn run(shared: &Shared, sink: Sink) {
    let mut out = Output {
        sink,
        torn: false,
        complained: None,
    };
    let mut spare = Buffer::default();
    loop {
        while !shared.pending.load(Ordering::Relaxed) {
            thread::park();
        }
        gather(shared);
        shared.hurry.store(false, Ordering::Relaxed);
        shared.pending.store(false, Ordering::Relaxed);
        // Commands first: what they ask for concerns lines that were there before them.
        let commands = mem::take(&mut *shared.commands.lock());
        drain(shared, &mut spare, &mut out);
        for command in commands {
            match command {
                Command::Use(sink) => {
                    out.sink = sink;
                    out.torn = false;
                }
                Command::Flush(done) => drop(done.send(())),
                Command::Stop => return,
            }
        }
    }
}

/// Waits for more lines, until a buffer fills or the time is over.
fn gather(shared: &Shared) {
    let end = Instant::now() + GATHER;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || shared.hurry.load(Ordering::Relaxed) {
            return;
        }
        thread::park_timeout(left);
    }
}

/// Swaps each buffer for an empty one and writes it.
fn drain(shared: &Shared, spare: &mut Buffer, out: &mut Output) {
    for buffer in &shared.buffers {
        mem::swap(&mut *buffer.lock(), spare);
        if spare.lines > 0
            && let Err(error) = out.write(&spare.bytes)
        {
            shared.dropped.inc_by(spare.lines);
            out.complain(&error);
        }
        spare.lines = 0;
        spare.bytes.clear();
        spare
            .bytes
            .shrink_to(if spare.bytes.capacity() > BUFFER_HURRY {
                KEPT_CAPACITY
            } else {
                BUFFER_HURRY
            });
    }
}

struct Output {
    sink: Sink,
    /// The last write ended in the middle of a line.
    torn: bool,
    complained: Option<Instant>,
}

impl Output {
    /// Writes whole lines. After an error in the middle of one, the next batch starts a new line,
    /// so that one line is unreadable and no more.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.torn {
            self.sink.write(b"\n")?;
        }
        self.torn = true;
        self.sink.write(bytes)?;
        self.torn = false;
        Ok(())
    }

    fn complain(&mut self, error: &io::Error) {
        let quiet = self
            .complained
            .is_some_and(|last| last.elapsed() < COMPLAINT_INTERVAL);
        if !quiet {
            self.complained = Some(Instant::now());
            tracing::error!(%error, "the access log can't be written: lines are lost");
        }
    }
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Self::File(file) => file.write_all(bytes),
            #[cfg(test)]
            Self::Test(out) => out.write_all(bytes),
        }
    }
}
