//! Connections that are half open at our ports, counted through `inet_diag` (`NETLINK_SOCK_DIAG`), for
//! which no rights are needed.
//!
//! The kernel walks its whole table of connections for it: it is asked on suspicion only. It is bounded
//! in entries and in time; what is left out then is said ([`HalfOpen::at_least`]).

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_SYN_RECV},
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags, Timer},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use socket2::SockRef;
use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};
use verdict::{
    prefix::{Prefix, PrefixLengths},
    pressure::HalfOpen,
};

/// Linux's state of a request that no socket exists for yet; those are what is half open.
const TCP_NEW_SYN_RECV: u32 = 12;
/// Entries that are looked at.
const MOST: u64 = 65_536;
/// What the asking may take; checked between two answers of the kernel.
const LONGEST: Duration = Duration::from_millis(100);
/// One answer of the kernel has many entries, and is no larger than this.
const ANSWER: usize = 64 * 1024;

/// Asks the kernel. Its buffers are kept.
#[derive(Debug)]
pub struct HalfOpenReader {
    buffer: Vec<u8>,
    networks: HashMap<Prefix, u64>,
}

impl Default for HalfOpenReader {
    fn default() -> Self {
        Self {
            buffer: vec![0; ANSWER],
            networks: HashMap::new(),
        }
    }
}

impl HalfOpenReader {
    /// What is half open at these ports, of both families.
    ///
    /// # Errors
    /// When the kernel has no `inet_diag`, or a sandbox forbids it.
    pub fn read(&mut self, ports: &[u16]) -> io::Result<HalfOpen> {
        self.networks.clear();
        let mut count = Count {
            ports,
            entries: 0,
            unanswered: 0,
            networks: &mut self.networks,
        };
        let deadline = Instant::now() + LONGEST;
        let mut complete = true;
        for (family, socket_id) in [
            (AF_INET, SocketId::new_v4()),
            (AF_INET6, SocketId::new_v6()),
        ] {
            complete &= dump(family, socket_id, &mut self.buffer, &mut count, deadline)?;
        }
        let (counted, unanswered) = (count.entries, count.unanswered);
        Ok(HalfOpen {
            count: counted,
            unanswered,
            at_least: !complete,
            spread: spread(self.networks.values().copied(), counted),
        })
    }
}

struct Count<'a> {
    ports: &'a [u16],
    entries: u64,
    unanswered: u64,
    networks: &'a mut HashMap<Prefix, u64>,
}

impl Count<'_> {
    fn add(&mut self, header: &InetResponseHeader) {
        let id = &header.socket_id;
        if self.ports.contains(&id.source_port) {
            self.entries = self.entries.saturating_add(1);
            if matches!(header.timer, Some(Timer::Retransmit(_, 1))) {
                self.unanswered = self.unanswered.saturating_add(1);
            }
            let network = Prefix::of(id.destination_address, PrefixLengths::NETWORK);
            let of_it = self.networks.entry(network).or_default();
            *of_it = of_it.saturating_add(1);
        }
    }
}

/// Counts one family. False: not all of it.
fn dump(
    family: u8,
    socket_id: SocketId,
    buffer: &mut [u8],
    count: &mut Count<'_>,
    deadline: Instant,
) -> io::Result<bool> {
    // One for each dump: what is left of one that was broken off goes with it.
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    SockRef::from(&socket).set_read_timeout(Some(LONGEST))?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(family, socket_id), 0)?;
    loop {
        let mut room = &mut *buffer;
        let received = socket.recv(&mut room, 0)?;
        let mut rest = buffer.get(..received).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    count.add(&response.header);
                }
                _ => {}
            }
            // Messages begin at multiples of four.
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            let length = length.checked_next_multiple_of(4).unwrap_or(usize::MAX);
            if length == 0 {
                return Ok(false);
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        if count.entries >= MOST || Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

fn request(family: u8, socket_id: SocketId) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let states = 1 << TCP_SYN_RECV | 1 << TCP_NEW_SYN_RECV;
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::from_bits_retain(states),
        socket_id,
    });
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Shannon's entropy of the networks by how many are of each, as a share of what it would be if each
/// one were of a network of its own.
#[expect(clippy::cast_precision_loss, reason = "counts are bounded")]
fn spread(networks: impl Iterator<Item = u64>, total: u64) -> f64 {
    if total < 2 {
        return 0.0;
    }
    let total = total as f64;
    let entropy: f64 = networks
        .map(|count| count as f64 / total)
        .map(|share| -share * share.log2())
        .sum();
    (entropy / total.log2()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        let mut reader = HalfOpenReader::default();
        let found = reader.read(&[1]).unwrap();
        assert_eq!((found.count, found.at_least, found.spread), (0, false, 0.0));
    }

    #[test]
    fn the_spread_is_0_for_one_network_and_1_for_a_network_each() {
        let spread = |counts: &[u64]| spread(counts.iter().copied(), counts.iter().sum());
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(spread(&[1000]), 0.0));
        assert!(near(spread(&[1; 1000]), 1.0));
        assert!(near(spread(&[]), 0.0) && near(spread(&[1]), 0.0));
        // A hundred hosts with ten each are no forgers.
        let few = spread(&[10; 100]);
        assert!((0.6..0.7).contains(&few), "{few}");
    }
}
