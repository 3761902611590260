//! Connects, waits for the reset, closes: no more than the system calls that takes, and without ever
//! sleeping on a socket. On the loopback interface it is the server that wakes a client that sleeps,
//! which on a virtual machine costs more than all the rest: in real life nobody pays that.

use super::source;
use socket2::{Domain, Socket, Type};
use std::{
    collections::VecDeque,
    io::{ErrorKind, Read},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Connections that are open at a time.
const AT_ONCE: usize = 256;
/// How long to wait for a reset.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects `count` times, `rate` times a second (0: as fast as it goes).
pub fn run(address: SocketAddr, count: u32, rate: u32, network: u8) {
    let start = Instant::now();
    let mut open: VecDeque<(Socket, Instant)> = VecDeque::new();
    let (mut begun, mut reset, mut other) = (0, 0, 0);
    let mut slowest = Duration::ZERO;
    while begun < count || !open.is_empty() {
        // Late ones are made up for at once: the rate holds on the whole.
        let due = rate == 0 || start.elapsed().as_secs_f64() * f64::from(rate) >= f64::from(begun);
        if begun < count && due && open.len() < AT_ONCE {
            open.push_back((connect(address, source(network, begun)), Instant::now()));
            begun += 1;
            if rate == 0 && open.len() < AT_ONCE / 2 {
                continue;
            }
        }
        let Some((socket, since)) = open.front() else {
            continue;
        };
        match (&*socket).read(&mut [0; 1]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => reset += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock && since.elapsed() < PATIENCE => {
                continue;
            }
            _ => other += 1,
        }
        slowest = slowest.max(since.elapsed());
        open.pop_front();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{{\"reset\": {reset}, \"other\": {other}, \"seconds\": {seconds:.3}, \"slowest_ms\": {:.1}}}",
        slowest.as_secs_f64() * 1e3,
    );
}

/// Begins to connect; on the loopback interface it is done at once.
fn connect(address: SocketAddr, source: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
    socket.bind(&source.into()).unwrap();
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => panic!("{error}"),
        _ => socket,
    }
}
