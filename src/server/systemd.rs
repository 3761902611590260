//! The words exchanged with whoever supervises this process: `sd_notify(3)` for readiness, reloads,
//! the end and the watchdog, and `sd_listen_fds(3)` for sockets that it opened for us. Without a
//! supervisor nothing is said. What is alive and when to speak is left to the server.

use crate::listener::inherited::Group;
use listenfd::ListenFd;
use rustix::{
    net::sockopt::socket_acceptconn,
    time::{ClockId, clock_gettime},
};
use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::Duration,
};
use tracing::warn;

/// Sockets that are taken at the most.
const MOST_SOCKETS: u64 = 1024;

/// Tells the supervisor how this process is.
#[derive(Debug)]
pub struct Supervisor {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// By `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    #[must_use]
    pub fn from_environment() -> Self {
        let to = env::var_os("NOTIFY_SOCKET").and_then(|name| {
            address(&name)
                .and_then(|address| {
                    let socket = UnixDatagram::unbound()?;
                    // A supervisor that does not read must not hold us up.
                    socket.set_nonblocking(true)?;
                    Ok((socket, address))
                })
                .inspect_err(|error| warn!(socket = ?name, %error, "NOTIFY_SOCKET is of no use"))
                .ok()
        });
        let watchdog = watchdog(number("WATCHDOG_USEC"), number("WATCHDOG_PID"));
        Self { to, watchdog }
    }

    /// Within how long it wants to hear [`alive`](Self::alive), if at all.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.to.is_some())
    }

    /// Connections are served; also after a reload, well or not.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// Begins a reload, or to hand over to another process; ends with [`ready`](Self::ready).
    pub fn reloading(&self, status: &str) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec.saturating_mul(1_000_000) + now.tv_nsec / 1000;
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS={status}"
        ));
    }

    /// Another process is the one to supervise now, and ready.
    pub fn handed_over(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}\nREADY=1"));
    }

    /// The other process is gone: this one, which ends now, is the one whose exit code counts. A
    /// supervisor sees nothing of the other's, whose parent it was not.
    pub fn taken_back(&self, status: &str) {
        let pid = process::id();
        let status = status.replace(char::is_control, " ");
        self.tell(&format!("MAINPID={pid}\nSTATUS={status}"));
    }

    /// The end, and why: a line may have come from elsewhere, and is one line.
    pub fn stopping(&self, status: &str) {
        let status = status.replace(char::is_control, " ");
        self.tell(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// For the watchdog.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, words: &str) {
        if let Some((socket, to)) = &self.to
            && let Err(error) = socket.send_to_addr(words.as_bytes(), to)
        {
            tracing::debug!(%error, words, "the supervisor does not listen");
        }
    }
}

/// A path, or a name of the abstract namespace behind an `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::other("neither a path nor an abstract name")),
    }
}

/// What the environment says under this name.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn watchdog(microseconds: Option<u64>, of: Option<u64>) -> Option<Duration> {
    let meant = of.is_none_or(|of| of == u64::from(process::id()));
    let microseconds = microseconds.filter(|microseconds| meant && *microseconds > 0);
    microseconds.map(Duration::from_micros)
}

/// The listening sockets that were opened for this process. To be called once, while it has a single
/// thread: the variables are taken away, so that no process started later believes them.
#[must_use]
pub fn activated() -> Vec<Group> {
    let meant = number("LISTEN_PID") == Some(u64::from(process::id()));
    let Some(count) = number("LISTEN_FDS").filter(|count| meant && *count > 0) else {
        return Vec::new();
    };
    if count > MOST_SOCKETS {
        warn!(count, "LISTEN_FDS is more than can be true: ignored");
        return Vec::new();
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = ListenFd::from_env();
    let mut groups: Vec<Group> = Vec::new();
    for at in 0..passed.len() {
        let name = names.next().unwrap_or_default();
        let taken = passed.take_tcp_listener(at).and_then(|socket| {
            let socket = socket.ok_or_else(|| io::Error::other("it is not there"))?;
            if !socket_acceptconn(&socket)? {
                return Err(io::Error::other("it does not listen"));
            }
            Ok((socket.local_addr()?, socket))
        });
        match taken {
            Ok((address, socket)) => {
                match groups.iter_mut().find(|group| group.address == address) {
                    Some(group) => group.sockets.push(socket),
                    None => groups.push(Group {
                        address,
                        sockets: vec![socket],
                    }),
                }
            }
            Err(error) => warn!(
                number = at, name, %error,
                "a socket that was passed at the start is no listening TCP socket: it is not used"
            ),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor(address: SocketAddr) -> Supervisor {
        Supervisor {
            to: Some((UnixDatagram::unbound().unwrap(), address)),
            watchdog: None,
        }
    }

    fn heard(socket: &UnixDatagram) -> String {
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut words = [0; 512];
        let length = socket.recv(&mut words).unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("@rempart-test-{}", process::id());
        for name in [path.as_os_str(), OsStr::new(&abstract_name)] {
            let address = address(name).unwrap();
            let socket = UnixDatagram::bind_addr(&address).unwrap();
            let supervisor = supervisor(address);
            supervisor.ready("serving");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=serving");
            supervisor.reloading("a new configuration");
            let told = heard(&socket);
            let (begun, status) = told.rsplit_once('\n').unwrap();
            assert_eq!(status, "STATUS=a new configuration");
            let now = begun.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(now.parse::<u64>().unwrap() > 0);
            supervisor.handed_over(42);
            assert_eq!(heard(&socket), "MAINPID=42\nREADY=1");
            supervisor.taken_back("it is\ngone");
            let back = format!("MAINPID={}\nSTATUS=it is gone", process::id());
            assert_eq!(heard(&socket), back);
            // Nobody listening is no reason to stop.
            drop(socket);
            supervisor.alive();
        }
        assert!(address(OsStr::new("relative")).is_err());
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let second = Some(Duration::from_secs(1));
        let own = Some(u64::from(process::id()));
        assert_eq!(watchdog(Some(1_000_000), own), second);
        assert_eq!(watchdog(Some(1_000_000), None), second);
        assert_eq!(watchdog(Some(1_000_000), Some(1)), None);
        assert_eq!(watchdog(Some(0), None), None);
        assert_eq!(watchdog(None, None), None);
    }
}
