//! Transactions and questions over a netlink socket of netfilter's.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, nftables::NfTablesMessage,
    none::ControlMessage,
};
use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            setsockopt,
            sockopt::{ReceiveTimeout, SndBufForce},
        },
        time::TimeVal,
    },
};
use std::io;

const NETLINK_NETFILTER: isize = 12;
const SUBSYSTEM: u16 = 10;
/// Bytes of a netlink header, of netfilter's after it, and of an error number.
const HEADER: usize = 16;
const FAMILY: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bytes of a transaction: the largest replaces all that is protected, and must take effect at once.
const LARGEST: usize = 8 * 1024 * 1024;
/// How long the kernel may take to answer.
const PATIENCE_S: i64 = 10;

/// A message and its flags.
pub(super) type Message = (NfTablesMessage, u16);

pub(super) struct Netlink {
    socket: Socket,
    /// Of the socket, and of no other in this network namespace.
    port: u32,
    sequence: u32,
}

/// An answer without its headers.
type Answer = Vec<u8>;

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
        // Without the right to, the first transaction says so.
        let _ = setsockopt(&socket, SndBufForce, &LARGEST);
        Ok(Self {
            socket,
            port,
            sequence: 0,
        })
    }

    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// All of these take effect, or none does.
    pub(super) fn transact(&mut self, messages: &[Message]) -> io::Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let begin = self.put(&mut bytes, ControlMessage::BatchBegin.into(), SUBSYSTEM, 0);
        let mut last = begin;
        for (at, (message, flags)) in messages.iter().enumerate() {
            let ack = if at + 1 == messages.len() {
                NLM_F_ACK
            } else {
                0
            };
            last = self.put(&mut bytes, message.clone().into(), 0, flags | ack);
        }
        self.put(&mut bytes, ControlMessage::BatchEnd.into(), SUBSYSTEM, 0);
        self.socket.send(&bytes, 0)?;
        let mut failed = None;
        loop {
            for (sequence, outcome) in self.receive()? {
                if let Outcome::Failed(error) = outcome {
                    failed.get_or_insert(error);
                }
                // An error of the batch itself comes alone.
                if sequence == last || sequence == begin {
                    return failed.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// What the kernel says to a question.
    pub(super) fn ask(
        &mut self,
        question: &NfTablesMessage,
        dump: bool,
    ) -> io::Result<Vec<Answer>> {
        let mut bytes = Vec::new();
        let flags = if dump { NLM_F_DUMP } else { NLM_F_ACK };
        let asked = self.put(&mut bytes, question.clone().into(), 0, flags);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            for (sequence, outcome) in self.receive()? {
                match outcome {
                    _ if sequence != asked => {}
                    Outcome::Failed(error) => return Err(error),
                    Outcome::Done => return Ok(answers),
                    Outcome::Answer(answer) => answers.push(answer),
                }
            }
        }
    }

    fn put(
        &mut self,
        bytes: &mut Vec<u8>,
        message: netlink_packet_netfilter::NetfilterMessageInner,
        resource: u16,
        flags: u16,
    ) -> u32 {
        let family = match resource {
            0 => NetfilterProtoFamily::Inet,
            _ => NetfilterProtoFamily::Unspec,
        };
        let header = NetfilterHeader::new(family, 0, resource);
        let mut head = NetlinkHeader::default();
        head.flags = NLM_F_REQUEST | flags;
        self.sequence = self.sequence.wrapping_add(1);
        head.sequence_number = self.sequence;
        let payload = NetlinkPayload::from(NetfilterMessage::new(header, message));
        let mut message = NetlinkMessage::new(head, payload);
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(bytes.get_mut(start..).unwrap_or_default());
        self.sequence
    }

    fn receive(&mut self) -> io::Result<Vec<(u32, Outcome)>> {
        let (datagram, _) = self.socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        let mut outcomes = Vec::new();
        while let Some((length, kind, sequence)) = head(rest) {
            let Some(body) = rest.get(HEADER..length) else {
                break;
            };
            let outcome = match kind {
                NLMSG_ERROR => match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                    Some(0) => Outcome::Done,
                    code => {
                        Outcome::Failed(Errno::from_raw(code.unwrap_or(0).wrapping_neg()).into())
                    }
                },
                NLMSG_DONE => Outcome::Done,
                _ => Outcome::Answer(body.get(FAMILY..).unwrap_or_default().to_vec()),
            };
            outcomes.push((sequence, outcome));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(outcomes)
    }
}

enum Outcome {
    Done,
    Failed(io::Error),
    Answer(Answer),
}

/// Length, kind and sequence number of a message.
fn head(bytes: &[u8]) -> Option<(usize, u16, u32)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<2>()?;
    let sequence = rest.get(2..)?.first_chunk::<4>()?;
    let length = u32::from_ne_bytes(*length) as usize;
    (length >= HEADER).then_some((
        length,
        u16::from_ne_bytes(*kind),
        u32::from_ne_bytes(*sequence),
    ))
}
