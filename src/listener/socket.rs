//! Listening sockets: one a worker for each address, sharing the port by `SO_REUSEPORT`, so that the
//! kernel spreads connections and no two workers contend for one queue.

use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

/// Connections that the kernel may complete before they are accepted.
const BACKLOG: i32 = 4096;

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
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Closes a connection so that the client gets a reset and this side keeps nothing: no FIN
/// handshake, no TIME-WAIT.
pub fn reset(stream: tokio::net::TcpStream) {
    // Failing to set the option only means an ordinary close.
    let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
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
