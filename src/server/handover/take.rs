//! The new process: takes what the old one hands over, and tells it when to leave.

use super::{Hello, LONGEST, PREPARED, READY, Spoken, VARIABLE, VERSION, wire::Wire};
use crate::{bans::Carried, listener::inherited::Group};
use rustix::net::sockopt::socket_acceptconn;
use std::{
    env, fs, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::parent_id},
    },
    time::Duration,
};

/// The process that this one takes over from.
#[derive(Debug)]
pub struct Predecessor {
    wire: Wire,
    pub pid: u32,
}

/// What it had open.
#[derive(Debug, Default)]
pub struct Sockets {
    pub listeners: Vec<Group>,
    /// The admin listener, and its address as configured.
    pub admin: Option<(SocketAddr, TcpListener)>,
    /// The stream to its guard.
    pub guard: Option<UnixStream>,
}

impl Predecessor {
    /// The process that started this one to take over, if that is how it was started, and its
    /// sockets. Standard input is `/dev/null` afterwards.
    ///
    /// # Errors
    /// When the environment says so, and nobody hands over.
    pub fn find() -> io::Result<Option<(Self, Sockets)>> {
        match env::var(VARIABLE) {
            Err(env::VarError::NotPresent) => return Ok(None),
            Ok(value) if value == "stdin" => {}
            _ => {
                return Err(io::Error::other(format!(
                    "{VARIABLE} is not for people: unset it"
                )));
            }
        }
        let stream = io::stdin().as_fd().try_clone_to_owned()?;
        // What this process starts later must not find the conversation there.
        rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
        Self::meet(stream, LONGEST).map(Some).map_err(|error| {
            io::Error::other(format!(
                "{VARIABLE} is set, and nobody hands over on standard input: {error}"
            ))
        })
    }

    pub(super) fn meet(stream: OwnedFd, limit: Duration) -> io::Result<(Self, Sockets)> {
        let wire = Wire::new(UnixStream::from(stream), limit)?;
        let hello = wire.receive()?;
        // First: whatever else another version says may look different.
        let Spoken { version } = serde_json::from_slice(&hello)?;
        if version != VERSION {
            return Err(io::Error::other(format!(
                "the process before speaks version {version} of the hand-over and this one {VERSION}: restart instead",
            )));
        }
        let hello: Hello = serde_json::from_slice(&hello)?;
        let counts = hello.listeners.iter().map(|handed| handed.sockets);
        let listeners = counts.fold(0_usize, usize::saturating_add);
        let count = listeners.saturating_add(usize::from(hello.admin.is_some()));
        let mut sockets = Vec::with_capacity(count.min(1024));
        let all = count.saturating_add(usize::from(hello.guard));
        let mut descriptors = wire.receive_descriptors(all)?;
        let guard = if hello.guard { descriptors.pop() } else { None };
        for descriptor in descriptors {
            if !socket_acceptconn(&descriptor)? {
                return Err(io::Error::other("a socket that does not listen came over"));
            }
            sockets.push(TcpListener::from(descriptor));
        }
        let mut sockets = sockets.into_iter();
        let mut group = |address, count| Group {
            address,
            sockets: sockets.by_ref().take(count).collect(),
        };
        let listeners = hello.listeners.iter();
        let listeners = listeners
            .map(|handed| group(handed.address, handed.sockets))
            .collect();
        let admin = hello.admin.zip(sockets.next());
        let pid = parent_id();
        let sockets = Sockets {
            listeners,
            admin,
            guard: guard.map(UnixStream::from),
        };
        Ok((Self { wire, pid }, sockets))
    }

    /// Tells that all that can go wrong has gone right, and takes the bans, part by part.
    ///
    /// # Errors
    /// When the old process has gone, given up, or speaks nonsense.
    pub fn prepared(&self, mut take: impl FnMut(&[Carried])) -> io::Result<()> {
        self.wire.send(PREPARED)?;
        loop {
            let bans: Vec<Carried> = serde_json::from_slice(&self.wire.receive()?)?;
            if bans.is_empty() {
                return Ok(());
            }
            take(&bans);
        }
    }

    /// Tells that this process serves: the old one leaves.
    ///
    /// # Errors
    /// When the old process is gone already.
    pub fn ready(self) -> io::Result<()> {
        self.wire.send(READY)
    }
}
