//! The proxy's end of the guard's socket: blocking, with deadlines, for one thread.
//!
//! After an error a client is of no more use: what was sent may have arrived in part. Connect anew
//! and say everything again, from `Begin` to `End`.

use super::protocol::{
    self, Change, HEAD, Hello, MAGIC, MAX_ASKED, MAX_CHANGES, MAX_PROTECTED, Reply, Report,
    Request, VERSION,
};
use ipnet::IpNet;
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

/// How long the guard may take to read or to say something.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one that was just started may take to open its filter: some drivers restart for it.
const OPENING: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    hello: Hello,
}

impl Client {
    /// To a guard that listens on a path.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // While the guard's queue is full, connecting waits as long as writing would.
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&SockAddr::unix(path)?).map_err(|error| {
            let why = format!("no guard answers on {}: {error}", path.display());
            io::Error::new(error.kind(), why)
        })?;
        Self::greet(UnixStream::from(OwnedFd::from(socket)), PATIENCE)
    }

    /// To a guard at the other end of a stream; also of one that another process spoke over before.
    pub fn over(stream: UnixStream) -> io::Result<Self> {
        Self::greet(stream, OPENING)
    }

    fn greet(stream: UnixStream, patience: Duration) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let hello = Request::Hello {
            magic: MAGIC,
            version: VERSION,
        };
        write(&stream, &protocol::frame(&hello)?)?;
        let reply = read(&stream)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        match reply {
            Reply::Hello(hello) => Ok(Self { stream, hello }),
            other => Err(unexpected(other)),
        }
    }

    /// What the guard said of itself.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Tells of changes, in their order. They are in force when a report that was asked for after
    /// them is there.
    pub fn send(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut frames = Vec::new();
        // A list of what is protected fills a message of its own.
        let alone = |change: &Change| matches!(change, Change::Protect { .. });
        for run in changes.chunk_by(|one, next| !alone(one) && !alone(next)) {
            if let [Change::Protect { networks }] = run
                && networks.len() > MAX_PROTECTED
            {
                let why = format!(
                    "{} networks to protect; the guard takes {MAX_PROTECTED}",
                    networks.len()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            for chunk in run.chunks(MAX_CHANGES) {
                frames.extend(protocol::frame(&Request::Changes(chunk.to_vec()))?);
            }
        }
        write(&self.stream, &frames)
    }

    /// What was dropped so far, and how many packets of each of these networks.
    pub fn report(&mut self, networks: &[IpNet]) -> io::Result<Report> {
        let mut hits = Vec::with_capacity(networks.len());
        let (first, rest) = networks.split_at(networks.len().min(MAX_ASKED));
        let mut report = self.report_some(first)?;
        for some in rest.chunks(MAX_ASKED) {
            hits.append(&mut report.hits);
            report = self.report_some(some)?;
        }
        hits.append(&mut report.hits);
        Ok(Report { hits, ..report })
    }

    /// The same connection, for the process that takes over: it says hello `over` it when this
    /// client says no more.
    pub fn try_clone_stream(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    fn report_some(&mut self, networks: &[IpNet]) -> io::Result<Report> {
        let request = Request::Report {
            networks: networks.to_vec(),
        };
        write(&self.stream, &protocol::frame(&request)?)?;
        match read(&self.stream)? {
            Reply::Report(report) if report.hits.len() == networks.len() => Ok(report),
            other => Err(unexpected(other)),
        }
    }
}

fn write(mut stream: &UnixStream, frames: &[u8]) -> io::Result<()> {
    stream
        .write_all(frames)
        .map_err(|error| match error.kind() {
            // The guard may have said why it hung up.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                read(stream).map_or(error, unexpected)
            }
            _ => slow(error),
        })
}

fn read(mut stream: &UnixStream) -> io::Result<Reply> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).map_err(slow)?;
    let mut bytes = vec![0; protocol::length(head)?];
    stream.read_exact(&mut bytes).map_err(slow)?;
    protocol::message(&bytes)
}

/// A deadline that passed, in words.
fn slow(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "the guard did not answer in time")
        }
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the guard hung up"),
        _ => error,
    }
}

fn unexpected(reply: Reply) -> io::Error {
    match reply {
        Reply::Refused(why) => io::Error::new(
            io::ErrorKind::ConnectionRefused,
            format!("the guard refused: {why}"),
        ),
        Reply::Hello(_) | Reply::Report(_) => io::Error::new(
            io::ErrorKind::InvalidData,
            "the guard's answer is to another question",
        ),
    }
}
