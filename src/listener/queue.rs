//! What waits in a listening socket's queue, taken without the runtime's knowledge: a connection that
//! is refused costs two system calls and is never registered anywhere. Whom to refuse is left to
//! [`super::accept`].

use super::{log_limit::LogLimit, socket};
use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpStream,
    time::sleep,
};

/// How long to wait when nothing can be accepted and nothing be done about it.
const BACK_OFF: Duration = Duration::from_millis(50);

static ERRORS: LogLimit = LogLimit::new();

/// Held while some queue's reserve is let go, and whether it is: the descriptor that this frees is not
/// for the connections of other queues. One that was taken away would leave its owner's clients in
/// silence until something closes.
static LENDING: Mutex<()> = Mutex::new(());
static LENT: AtomicBool = AtomicBool::new(false);

/// A listening socket of this worker.
pub struct Queue {
    socket: AsyncFd<TcpListener>,
    /// Held to be let go when there are no descriptors left: with it a connection can still be taken
    /// and refused, so that clients learn at once what would otherwise be a silence.
    reserve: Option<File>,
}

/// What was next in the queue.
pub enum Next {
    Connection(Waiting),
    /// Nothing, for now.
    Empty,
    /// A connection was refused, or could not even be that: no descriptors are left.
    NoDescriptors {
        refused: bool,
    },
    /// Nothing can be accepted now.
    Failed(io::Error),
}

/// A connection that was taken from the queue and costs nothing yet. Dropping it resets it.
pub struct Waiting {
    socket: OwnedFd,
    pub from: SocketAddr,
}

impl Waiting {
    /// Refuses the connection by a reset: the listening socket has seen to it that closing does that.
    pub fn refuse(self) {
        drop(self.socket);
    }

    /// Makes it a connection of the runtime, which ends as connections do.
    ///
    /// # Errors
    /// When the runtime can't take it; then it has been reset.
    pub fn admit(self) -> io::Result<TcpStream> {
        socket::close_gently(&self.socket)?;
        TcpStream::from_std(self.socket.into())
    }
}

impl Queue {
    /// Takes a listening, non-blocking socket over. To be called within a runtime.
    ///
    /// # Errors
    /// When the socket can't be registered with the runtime.
    pub fn new(socket: TcpListener) -> io::Result<Self> {
        // Deprecated because a type could lie about its descriptor, which the standard library's
        // sockets don't; what is to replace it asks for `unsafe`.
        #[allow(deprecated)]
        let socket = AsyncFd::with_interest(socket, Interest::READABLE)?;
        Ok(Self {
            socket,
            reserve: File::open("/dev/null").ok(),
        })
    }

    /// The socket itself.
    pub fn socket(&self) -> &TcpListener {
        self.socket.get_ref()
    }

    /// Waits until there may be something in the queue.
    ///
    /// # Errors
    /// When the runtime is going away.
    pub async fn ready(&self) -> io::Result<()> {
        self.socket.readable().await?.retain_ready();
        Ok(())
    }

    /// Takes the next connection that the runtime knows of: [`Self::ready`] waits from when it was
    /// empty on.
    pub fn next(&mut self) -> Next {
        self.take(|socket| socket.try_io(Interest::READABLE, accept))
    }

    /// Takes the next connection, whatever the runtime knows of.
    pub fn next_unasked(&mut self) -> Next {
        self.take(|socket| accept(socket.get_ref()))
    }

    /// Waits a moment after a failure, which is written down.
    pub async fn back_off(listener: &str, error: &io::Error) {
        if let Some(left_out) = ERRORS.admit() {
            tracing::error!(listener, %error, left_out, "can't accept connections");
        }
        sleep(BACK_OFF).await;
    }

    fn take(&mut self, accept: impl Fn(&AsyncFd<TcpListener>) -> io::Result<Waiting>) -> Next {
        if LENT.load(Ordering::Relaxed) {
            drop(LENDING.lock());
        }
        match accept(&self.socket) {
            Ok(connection) if self.is_reserved() => Next::Connection(connection),
            Ok(connection) => {
                // Something closed: the reserve comes first.
                connection.refuse();
                self.reserve();
                Next::NoDescriptors { refused: true }
            }
            Err(error) if are_no_descriptors(&error) => {
                let _lending = LENDING.lock();
                LENT.store(true, Ordering::Relaxed);
                // Dropped, or made again where it could not be before.
                let held = self.reserve.take().is_some();
                let next = match held.then(|| accept(&self.socket)) {
                    Some(Ok(waiting)) => {
                        waiting.refuse();
                        Next::NoDescriptors { refused: true }
                    }
                    // Another worker was faster, or the client has left.
                    Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Next::Empty,
                    Some(Err(_)) | None => Next::NoDescriptors { refused: false },
                };
                self.reserve();
                LENT.store(false, Ordering::Relaxed);
                next
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Empty,
            Err(error) => Next::Failed(error),
        }
    }

    /// Whether there is a reserve, which is made again where it could not be before.
    fn is_reserved(&mut self) -> bool {
        if self.reserve.is_none() {
            self.reserve();
        }
        self.reserve.is_some()
    }

    fn reserve(&mut self) {
        self.reserve = File::open("/dev/null").ok();
    }
}

fn are_no_descriptors(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// One connection, by one system call.
fn accept(socket: &TcpListener) -> io::Result<Waiting> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        match acceptfrom_with(socket, flags) {
            Ok((socket, from)) => {
                // A TCP socket gives no others; what has no address is reset.
                if let Some(Ok(from)) = from.map(SocketAddr::try_from) {
                    return Ok(Waiting { socket, from });
                }
            }
            // Of the connection that was to be accepted: they say nothing of the next.
            Err(
                Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::CONNREFUSED
                | Errno::INTR
                | Errno::PROTO
                | Errno::PERM,
            ) => {}
            // The system looks for a descriptor first, and for a connection afterwards.
            Err(Errno::MFILE | Errno::NFILE) if is_empty(socket) => {
                return Err(Errno::WOULDBLOCK.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether nothing waits in the queue.
fn is_empty(socket: &TcpListener) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut asked, Some(&Timespec::default())) == Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn an_empty_queue_is_told_from_one_that_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(is_empty(&listener));
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!is_empty(&listener));
        drop(accept(&listener).unwrap());
        assert!(is_empty(&listener));
    }

    /// Other tests need descriptors, so that this one does as if there were none left.
    #[tokio::test]
    async fn without_descriptors_what_waits_is_refused_and_nothing_is_nothing() {
        let listener = socket::bind("127.0.0.1:0".parse().unwrap(), 1)
            .unwrap()
            .remove(0);
        let address = listener.local_addr().unwrap();
        let mut queue = Queue::new(listener).unwrap();
        let none = |_: &AsyncFd<TcpListener>| Err::<Waiting, _>(Errno::MFILE.into());
        // Somebody else took it: the second look, with the reserve gone, finds nothing.
        let looks = std::cell::Cell::new(0);
        let once = |socket: &AsyncFd<TcpListener>| {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                none(socket)
            } else {
                accept(socket.get_ref())
            }
        };
        assert!(matches!(queue.take(once), Next::Empty));
        assert!(queue.reserve.is_some(), "it is had again");
        let _client = tokio::net::TcpStream::connect(address).await.unwrap();
        queue.ready().await.unwrap();
        looks.set(0);
        let next = queue.take(once);
        assert!(matches!(next, Next::NoDescriptors { refused: true }));
        let next = queue.take(none);
        assert!(matches!(next, Next::NoDescriptors { refused: false }));
        queue.reserve = None;
        let next = queue.take(none);
        assert!(matches!(next, Next::NoDescriptors { refused: false }));
        assert!(queue.reserve.is_some(), "as soon as something closes");
    }
}
