//! The clients of `bench/refuse` and `bench/memory`: connections from many addresses of the loopback
//! range, bounded in number.
//!
//! ```text
//! connections knock ADDRESS COUNT NETWORK RATE        RATE a second, 0: as fast as it goes
//! connections hold  ADDRESS COUNT NETWORK h1|h2 CA    until standard input ends
//! ```
//!
//! NETWORK is the second byte of the addresses: 10 means 127.10.0.1 to 127.10.255.254.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)] // the arguments

mod hold;
mod knock;

use std::net::{Ipv4Addr, SocketAddr};

/// The `nth` client's address.
fn source(network: u8, nth: u32) -> SocketAddr {
    let [.., high, low] = (nth % 65_000 + 1).to_be_bytes();
    (Ipv4Addr::new(127, network, high, low), 0).into()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments[at].parse::<u32>().expect("a number");
    let address: SocketAddr = arguments[1].parse().expect("an address");
    let network = arguments[3].parse().expect("a byte");
    match arguments[0].as_str() {
        "knock" => knock::run(address, number(2), number(4), network),
        "hold" => hold::run(address, number(2), &arguments[4], &arguments[5], network),
        other => panic!("{other}: knock or hold"),
    }
}
