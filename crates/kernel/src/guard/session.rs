//! One client's connection: bytes in, bytes out, never more of either than a bound, and deadlines for
//! a message that was begun.

use super::{
    ledger::ClientId,
    protocol::{self, HEAD, MAX_FRAME, Reply, Request},
};
use crate::filter::Nanos;
use ipnet::IpNet;
use nix::poll::PollFlags;
use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

/// How long a message may take, from its first byte to its last, in either direction.
const PATIENCE: Nanos = 5_000_000_000;
/// Bytes read at once.
const READ: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: ClientId,
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Since when it is waited for: its hello, the rest of a message, its reading of an answer.
    waiting_since: Option<Nanos>,
    ended: bool,
    pub(super) greeted: bool,
    /// Counts its full statements.
    pub(super) round: u64,
    pub(super) protected: Vec<IpNet>,
}

impl Session {
    pub(super) fn new(id: ClientId, stream: UnixStream, now: Nanos) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            id,
            stream,
            input: Vec::new(),
            output: Vec::new(),
            waiting_since: Some(now),
            ended: false,
            greeted: false,
            round: 0,
            protected: Vec::new(),
        })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// While it does not read its answers, it is not read from.
    pub(super) fn interest(&self) -> PollFlags {
        match (self.output.is_empty(), self.ended) {
            (false, _) => PollFlags::POLLOUT,
            (true, false) => PollFlags::POLLIN,
            (true, true) => PollFlags::empty(),
        }
    }

    /// Whether there is a message that can be taken without reading more.
    pub(super) fn has_message(&self) -> bool {
        self.output.is_empty() && !matches!(self.length(), Ok(None))
    }

    /// Whether all that it said was taken, and it will say no more.
    pub(super) fn is_over(&self) -> bool {
        self.ended && !self.has_message()
    }

    pub(super) fn is_overdue(&self, now: Nanos) -> bool {
        self.waiting_since
            .is_some_and(|since| now.saturating_sub(since) > PATIENCE)
    }

    /// Reads what there is, up to the longest message.
    pub(super) fn read(&mut self, now: Nanos) -> io::Result<()> {
        let room = (HEAD + MAX_FRAME)
            .saturating_sub(self.input.len())
            .min(READ);
        if room == 0 || self.ended {
            return Ok(());
        }
        let end = self.input.len();
        self.input.resize(end + room, 0);
        let read = self
            .stream
            .read(self.input.get_mut(end..).unwrap_or_default());
        let count = *read.as_ref().unwrap_or(&0);
        self.input.truncate(end + count);
        match read {
            Ok(0) => self.ended = true,
            Ok(_) => {
                self.waiting_since.get_or_insert(now);
            }
            Err(error) if is_momentary(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next message, if all of it is here.
    pub(super) fn take(&mut self, now: Nanos) -> io::Result<Option<Request>> {
        let Some(length) = self.length()? else {
            return Ok(None);
        };
        let bytes = self.input.get(HEAD..HEAD + length).unwrap_or_default();
        let request = protocol::message(bytes);
        self.input.drain(..HEAD + length);
        self.waiting_since = (!self.input.is_empty()).then_some(now);
        if self.input.is_empty() {
            self.input.shrink_to(READ);
        }
        request.map(Some)
    }

    pub(super) fn answer(&mut self, reply: &Reply, now: Nanos) -> io::Result<()> {
        self.output.extend(protocol::frame(reply)?);
        self.waiting_since = Some(now);
        self.write()
    }

    /// Writes what it will take.
    pub(super) fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if is_momentary(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output = Vec::new();
        if self.input.is_empty() {
            self.waiting_since = None;
        }
        Ok(())
    }

    /// How long the next message is, if all of it is here.
    fn length(&self) -> io::Result<Option<usize>> {
        let Some(head) = self.input.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = protocol::length(*head)?;
        Ok((self.input.len() >= HEAD + length).then_some(length))
    }
}

fn is_momentary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
