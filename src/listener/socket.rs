//! Listening sockets: one a worker for each address, sharing the port by `SO_REUSEPORT`, so that the
//! kernel spreads connections and no two workers contend for one queue.

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    time::Duration,
};

/// Connections that the kernel may complete before they are accepted.
pub const BACKLOG: u16 = 4096;

/// Bytes of answers that the kernel takes before it has begun to send them. What a client does not
/// read is noticed here then, instead of in megabytes of the kernel's.
const UNSENT: u32 = 128 * 1024;

/// A peer that says nothing at all is not given up sooner.
const LEAST_SILENCE: Duration = Duration::from_secs(30);

/// The most that the kernel takes of `TCP_USER_TIMEOUT`, in milliseconds, and of keep-alive, in seconds.
const LONGEST_SILENCE: Duration = Duration::from_millis(i32::MAX.unsigned_abs() as u64);
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(i16::MAX.unsigned_abs() as u64);

/// Binds `workers` sockets to `address`. With port 0 the first picks the port for all.
///
/// # Errors
/// What the system says of the address, with the address in front.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    let explain = |error: io::Error| {
        io::Error::new(error.kind(), format!("can't listen on {address}: {error}"))
    };
    let first = open(address)
        .or_else(|error| without_ipv6(address, error))
        .map_err(explain)?;
    let actual = first.local_addr().map_err(explain)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(open(actual).map_err(explain)?);
    }
    tracing::info!(listener = %address, address = %actual, "listening");
    Ok(sockets)
}

/// On a host without IPv6, `[::]` means every address it has.
fn without_ipv6(address: SocketAddr, error: io::Error) -> io::Result<TcpListener> {
    let everywhere = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    if everywhere && error.raw_os_error() == Some(libc::EAFNOSUPPORT) {
        return open((Ipv4Addr::UNSPECIFIED, address.port()).into());
    }
    Err(error)
}

pub(super) fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 as well.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let listener = TcpListener::from(socket);
    // Before the first connection can inherit it.
    prepare(&listener, LEAST_SILENCE)?;
    SockRef::from(&listener).listen(BACKLOG.into())?;
    Ok(listener)
}

/// Sets what accepted connections inherit from their listening socket, which saves setting it on each:
///
/// - no delay of small writes;
/// - closing resets: a connection that is refused costs one system call more than accepting it.
///   [`close_gently`] is for those that are admitted;
/// - `silence` is how long a peer may acknowledge nothing, or keep its window shut, before the kernel
///   gives it up; it is asked for a sign of life halfway, so that those who vanished are noticed;
/// - little is buffered unsent.
///
/// `TCP_DEFER_ACCEPT` is not among them: connections that send nothing would wait in the kernel's
/// queue of half-open ones, outside of every count and deadline, and fill it for everyone.
///
/// Sockets bound here are prepared; it is called again for those that came from elsewhere, and when
/// `silence` changes.
///
/// # Errors
/// When the system knows one of them not.
pub fn prepare(listener: &TcpListener, silence: Duration) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    let silence = silence.clamp(LEAST_SILENCE, LONGEST_SILENCE);
    socket.set_tcp_user_timeout(Some(silence))?;
    // Three signs of life may be lost before the time is over.
    let keepalive = TcpKeepalive::new()
        .with_time((silence / 2).min(LONGEST_KEEPALIVE))
        .with_interval((silence / 6).min(LONGEST_KEEPALIVE));
    socket.set_tcp_keepalive(&keepalive)
}

/// Undoes what would surprise another program that accepts on the same socket later: closing ends
/// connections as it always does.
///
/// # Errors
/// What the system says.
pub fn restore(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).set_linger(None)
}

/// Makes a connection that inherited the reset end as connections do.
///
/// # Errors
/// When it is gone.
pub fn close_gently(connection: &impl AsFd) -> io::Result<()> {
    SockRef::from(connection).set_linger(None)
}

/// Closes a connection so that the client gets a reset and this side keeps nothing: no FIN
/// handshake, no TIME-WAIT.
pub fn reset(stream: tokio::net::TcpStream) {
    // Failing to set the option only means an ordinary close.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn port_zero_is_picked_once_for_all_workers() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<u16> = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap().port())
            .collect();
        assert_ne!(ports[0], 0);
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn the_ipv6_wildcard_takes_ipv4() {
        let sockets = bind("[::]:0".parse().unwrap(), 1).unwrap();
        let port = sockets[0].local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }

    #[test]
    fn connections_inherit_what_their_listening_socket_was_told() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        prepare(&listener, Duration::from_secs(60)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT);
        let silence = socket.tcp_user_timeout().unwrap();
        assert_eq!(silence, Some(Duration::from_secs(60)));
        assert!(socket.keepalive().unwrap());
        let time = socket.tcp_keepalive_time().unwrap();
        assert_eq!(time, Duration::from_secs(30));
        let interval = socket.tcp_keepalive_interval().unwrap();
        assert_eq!(interval, Duration::from_secs(10));
        close_gently(&accepted).unwrap();
        assert_eq!(socket.linger().unwrap(), None);
        restore(&listener).unwrap();
        assert_eq!(SockRef::from(&listener).linger().unwrap(), None);
    }

    #[test]
    fn as_much_silence_as_the_kernel_knows_is_taken() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        for days in [1, 365, 100_000] {
            prepare(&listener, Duration::from_secs(days * 24 * 3600)).unwrap();
        }
        let time = SockRef::from(&listener).tcp_keepalive_time().unwrap();
        assert_eq!(time, LONGEST_KEEPALIVE);
    }

    #[test]
    fn an_address_of_someone_else_is_an_error_that_names_it() {
        let error = bind("192.0.2.1:1".parse().unwrap(), 1).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("can't listen on 192.0.2.1:1: "),
            "{error}"
        );
    }
}
