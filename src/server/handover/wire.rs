//! Messages and file descriptors over a stream of Unix sockets. A message is its length in four
//! bytes, big endian, and its bytes; descriptors ride on single bytes of their own (`SCM_RIGHTS`),
//! so that none is lost to a read that did not ask for any. Blocking, each step under the one
//! deadline.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

/// Bytes of a message: a thousand bans with the longest comments fit.
const LARGEST: usize = 4 << 20;
/// Descriptors at once; the kernel takes 253.
const AT_ONCE: usize = 128;
/// Descriptors in all: more listeners and workers than any machine has.
const MOST: usize = 65_536;

/// One end of the conversation.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    deadline: Instant,
}

impl Wire {
    pub fn new(stream: UnixStream, limit: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self {
            stream,
            deadline: Instant::now() + limit,
        })
    }

    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let length = u32::try_from(message.len()).ok();
        let length = length.filter(|_| message.len() <= LARGEST);
        let length = length.ok_or_else(|| io::Error::other("a message is too long"))?;
        self.watch_the_clock()?;
        (&self.stream)
            .write_all(&length.to_be_bytes())
            .map_err(late)?;
        (&self.stream).write_all(message).map_err(late)
    }

    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > LARGEST {
            return Err(io::Error::other("a message is too long"));
        }
        let mut message = vec![0; length];
        self.read(&mut message)?;
        Ok(message)
    }

    /// Receives a message that must be this one.
    pub fn expect(&self, word: &[u8]) -> io::Result<()> {
        let said = self.receive()?;
        if said == word {
            return Ok(());
        }
        let (word, said) = (
            String::from_utf8_lossy(word),
            String::from_utf8_lossy(&said),
        );
        let said: String = said.chars().take(64).collect();
        Err(io::Error::other(format!(
            "{said:?} came in place of {word:?}"
        )))
    }

    pub fn send_descriptors(&self, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        for some in descriptors.chunks(AT_ONCE) {
            self.watch_the_clock()?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(some)) {
                return Err(io::Error::other("descriptors don't fit a message"));
            }
            let byte = [IoSlice::new(b"d")];
            while let Err(error) = sendmsg(
                self.stream.as_fd(),
                &byte,
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                if error != rustix::io::Errno::INTR {
                    return Err(late(error.into()));
                }
            }
        }
        Ok(())
    }

    /// Receives exactly so many. None is inherited by processes that this one starts.
    pub fn receive_descriptors(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if count > MOST {
            return Err(io::Error::other("too many descriptors"));
        }
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            self.watch_the_clock()?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let received = recvmsg(
                self.stream.as_fd(),
                &mut [IoSliceMut::new(&mut byte)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            let received = match received {
                Ok(received) => received,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(late(error.into())),
            };
            let before = all.len();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    all.extend(descriptors);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                return Err(io::Error::other(
                    "descriptors were lost on the way: is the limit of open files too low?",
                ));
            }
            if all.len() == before {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        if all.len() > count {
            return Err(io::Error::other(
                "more descriptors came than were announced",
            ));
        }
        Ok(all)
    }

    fn read(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            self.watch_the_clock()?;
            match (&self.stream).read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => buffer = buffer.get_mut(read..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(late(error)),
            }
        }
        Ok(())
    }

    /// Whatever comes next may take what is left of the time.
    fn watch_the_clock(&self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.set_write_timeout(Some(left))
    }
}

/// The system says of a timeout that it would block.
fn late(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock {
        ErrorKind::TimedOut.into()
    } else {
        error
    }
}
