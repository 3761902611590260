//! What a proxy and the guard say to each other, and its bounds: frames of a length (four bytes,
//! little-endian) and a message in postcard's encoding.
//!
//! The first message of a client is `Hello`; the guard answers with its own. `Changes` are not
//! answered; a `Report` that follows is answered when they are in force. A `Refused` ends the
//! connection. `Hello` and `Refused` come first in their enums and keep their shape in every version,
//! so that strangers can tell each other so.

use crate::filter::{Backend, Reflector};
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{io, time::Duration};

/// The version of everything but `Hello` and `Refused`.
pub const VERSION: u16 = 1;
pub const MAGIC: [u8; 8] = *b"rempart\n";
/// Bytes of a message.
pub const MAX_FRAME: usize = 256 * 1024;
/// Changes of a message: what the guard does for one client before it looks at the next.
pub const MAX_CHANGES: usize = 1024;
/// Networks that a client may ask the hits of, in one message.
pub const MAX_ASKED: usize = 1024;
/// Networks that a client may protect.
pub const MAX_PROTECTED: usize = 10_000;

/// Bytes of a frame's length.
pub(super) const HEAD: usize = 4;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Hello { magic: [u8; 8], version: u16 },
    Changes(Vec<Change>),
    Report { networks: Vec<IpNet> },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Why the guard hangs up.
    Refused(String),
    Hello(Hello),
    Report(Report),
}

/// What the guard says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub backend: Backend,
    /// Where packets are dropped; empty when on all interfaces.
    pub interfaces: Vec<String>,
    /// Bans at once, of all clients together.
    pub capacity: u32,
    /// Why a better backend was not taken.
    pub notes: Vec<String>,
}

/// What a proxy wants changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A full statement follows: what is not said again until `End` is let go.
    Begin,
    /// Drops what comes from a network, for a while or until it is unbanned.
    Ban {
        network: IpNet,
        remaining: Option<Duration>,
    },
    /// Lets go of exactly this network.
    Unban {
        network: IpNet,
    },
    /// Replaces what this client protects: never dropped, whatever is banned around it.
    Protect {
        networks: Vec<IpNet>,
    },
    End,
}

/// What the guard's filter did so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Dropped for bans, since the guard started.
    pub packets: u64,
    pub bytes: u64,
    /// Packets dropped for each network that was asked for, in that order.
    pub hits: Vec<u64>,
    /// Networks that are banned, of all clients.
    pub entries: u64,
    /// Bans that found no room, since the guard started.
    pub refused: u64,
    /// What came from ports that floods are reflected from; empty where the backend cannot tell.
    pub reflectors: Vec<Reflector>,
}

/// A message with its length before it.
pub(super) fn frame<M: Serialize>(message: &M) -> io::Result<Vec<u8>> {
    let mut frame = postcard::to_extend(message, vec![0; HEAD]).map_err(io::Error::other)?;
    let length = frame.len() - HEAD;
    if length > MAX_FRAME {
        let why = format!("a message of {length} bytes; at most {MAX_FRAME} may be sent at once");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let length = u32::try_from(length).map_err(io::Error::other)?;
    if let Some(head) = frame.first_chunk_mut::<HEAD>() {
        *head = length.to_le_bytes();
    }
    Ok(frame)
}

/// How long the message after a head is; an error if longer than may be.
pub(super) fn length(head: [u8; HEAD]) -> io::Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    if length > MAX_FRAME {
        let why = format!("a message of {length} bytes; at most {MAX_FRAME} are taken");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(length)
}

pub(super) fn message<M: DeserializeOwned>(bytes: &[u8]) -> io::Result<M> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "a message that can't be read");
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(unknown()),
    }
}
