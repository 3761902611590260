//! Listening sockets that this process did not open: from the process before it, or from whoever
//! started it. Matches them to the configured addresses and spreads them over the workers, so that
//! every one of them is accepted on by someone. How they came here is left to the caller.

use super::socket;
use std::{
    io,
    net::{SocketAddr, TcpListener},
};

/// The sockets of one address.
#[derive(Debug)]
pub struct Group {
    /// As the configuration writes it (with port 0, if so), not as it was bound.
    pub address: SocketAddr,
    pub sockets: Vec<TcpListener>,
}

/// Sockets by address, until listeners take them.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Group>);

impl Inherited {
    #[must_use]
    pub fn new(groups: Vec<Group>) -> Self {
        Self(groups)
    }

    /// The sockets of this address; each group is taken once, so that two listeners with port 0 get
    /// one each.
    pub fn take(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let at = self.0.iter().position(|group| group.address == address);
        at.map_or_else(Vec::new, |at| self.0.remove(at).sockets)
    }

    /// What nobody took.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|group| group.address).collect()
    }
}

/// Gives each worker at least one of `sockets` while they last, in turns; workers that go empty are
/// for [`further`].
///
/// # Errors
/// When a socket can't be made non-blocking.
pub(super) fn deal(sockets: Vec<TcpListener>, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut hands: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    let mut turn = 0;
    for socket in sockets {
        socket.set_nonblocking(true)?;
        if let Some(hand) = hands.get_mut(turn) {
            hand.push(socket);
        }
        turn = (turn + 1) % workers.max(1);
    }
    Ok(hands)
}

/// One more socket for the address of `known`: its own, if they share the port (`SO_REUSEPORT`), or
/// else the same one again, which workers then accept on together. Says whether it is a new one.
///
/// Connections may come to it from now on, and are lost if nobody accepts.
///
/// # Errors
/// What the system says.
pub(super) fn further(known: &TcpListener) -> io::Result<(TcpListener, bool)> {
    if socket2::SockRef::from(known).reuse_port()? {
        let address = known.local_addr()?;
        match socket::open(address) {
            Ok(socket) => return Ok((socket, true)),
            Err(error) => {
                tracing::info!(%address, %error, "workers share a socket, since no further one can be opened");
            }
        }
    }
    Ok((known.try_clone()?, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(count: usize) -> Vec<TcpListener> {
        socket::bind("127.0.0.1:0".parse().unwrap(), count).unwrap()
    }

    #[test]
    fn every_socket_is_somebodys_and_every_worker_has_one() {
        for (sockets, workers, expected) in [
            (self::sockets(3), 3, vec![1, 1, 1]),
            (self::sockets(5), 2, vec![3, 2]),
            (self::sockets(1), 3, vec![1, 0, 0]),
            (Vec::new(), 2, vec![0, 0]),
        ] {
            let hands = deal(sockets, workers).unwrap();
            let counts: Vec<usize> = hands.iter().map(Vec::len).collect();
            assert_eq!(counts, expected);
        }
    }

    #[test]
    fn groups_with_port_zero_are_taken_one_by_one() {
        let zero = "127.0.0.1:0".parse().unwrap();
        let group = |sockets| Group {
            address: zero,
            sockets,
        };
        let (first, second) = (sockets(1), sockets(2));
        let port = first[0].local_addr().unwrap();
        let mut inherited = Inherited::new(vec![group(first), group(second)]);
        let taken = inherited.take(zero);
        assert_eq!(taken[0].local_addr().unwrap(), port);
        assert_eq!(inherited.addresses(), [zero]);
        assert_eq!(inherited.take(zero).len(), 2);
        assert!(inherited.take(zero).is_empty());
        assert!(inherited.addresses().is_empty());
    }

    #[test]
    fn a_further_socket_shares_the_port_or_is_the_same() {
        let own = &sockets(1)[0];
        let (other, is_new) = further(own).unwrap();
        assert!(is_new);
        assert_eq!(other.local_addr().unwrap(), own.local_addr().unwrap());
        // std binds without SO_REUSEPORT, as systemd does.
        let alone = TcpListener::bind("127.0.0.1:0").unwrap();
        let (shared, is_new) = further(&alone).unwrap();
        assert!(!is_new);
        assert_eq!(shared.local_addr().unwrap(), alone.local_addr().unwrap());
        shared.set_nonblocking(true).unwrap();
        // One file description: a flag set on one holds for both.
        let error = alone.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
