//! The PROXY protocol, versions 1 and 2, as its specification of 2020 has it: pure functions over the
//! bytes received so far, and the read that feeds them. Whom to believe is left to the accept loop.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// Longest version 1 header, with its CRLF.
const V1_MAXIMUM: usize = 107;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// Most bytes of addresses and TLVs that a version 2 header may carry here.
const V2_MAXIMUM: usize = 2048;

/// What a header says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// On behalf of this client, which connected to this address.
    For {
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// The proxy speaks for itself (a health check), or for a client of no IP family.
    Local,
}

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header of this many bytes.
    Complete(Proxied, usize),
    /// At least this many bytes more are needed.
    Needs(usize),
    /// No header, or a malformed or oversized one.
    Invalid,
}

/// Parses the beginning of `bytes`, whichever the version.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let common = bytes.len().min(V2_SIGNATURE.len());
    // Of nothing, the least is needed that a header of either version can be behind.
    if !bytes.is_empty() && bytes.get(..common) == V2_SIGNATURE.get(..common) {
        return if bytes.len() < V2_FIXED {
            Parsed::Needs(V2_FIXED.saturating_sub(bytes.len()))
        } else {
            parse_v2(bytes)
        };
    }
    parse_v1(bytes)
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    const PREFIX: &[u8] = b"PROXY ";
    let common = bytes.len().min(PREFIX.len());
    if bytes.get(..common) != PREFIX.get(..common) {
        return Parsed::Invalid;
    }
    let window = bytes.get(..bytes.len().min(V1_MAXIMUM)).unwrap_or_default();
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_MAXIMUM {
            Parsed::Needs(1)
        } else {
            Parsed::Invalid
        };
    };
    let length = end.saturating_add(2);
    let line = bytes
        .get(..end)
        .and_then(|line| std::str::from_utf8(line).ok());
    match line.and_then(parse_v1_line) {
        Some(proxied) => Parsed::Complete(proxied, length),
        None => Parsed::Invalid,
    }
}

fn parse_v1_line(line: &str) -> Option<Proxied> {
    let mut words = line.split(' ');
    if words.next()? != "PROXY" {
        return None;
    }
    let family = words.next()?;
    if family == "UNKNOWN" {
        // What follows is to be ignored.
        return Some(Proxied::Local);
    }
    let (source, destination): (IpAddr, IpAddr) = match family {
        "TCP4" => (
            words.next()?.parse::<Ipv4Addr>().ok()?.into(),
            words.next()?.parse::<Ipv4Addr>().ok()?.into(),
        ),
        "TCP6" => (
            words.next()?.parse::<Ipv6Addr>().ok()?.into(),
            words.next()?.parse::<Ipv6Addr>().ok()?.into(),
        ),
        _ => return None,
    };
    let source = SocketAddr::new(source, port(words.next()?)?);
    let destination = SocketAddr::new(destination, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    Some(Proxied::For {
        source,
        destination,
    })
}

/// Decimal without sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let leading = word.len() > 1 && word.starts_with('0');
    (plain && !leading).then(|| word.parse().ok()).flatten()
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let Some(&[version_command, family, high, low]) = bytes
        .get(V2_SIGNATURE.len()..V2_FIXED)
        .and_then(|fixed| <&[u8; 4]>::try_from(fixed).ok())
    else {
        return Parsed::Invalid;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 || length > V2_MAXIMUM {
        return Parsed::Invalid;
    }
    let total = V2_FIXED.saturating_add(length);
    let Some(body) = bytes.get(V2_FIXED..total) else {
        return Parsed::Needs(total.saturating_sub(bytes.len()));
    };
    let proxied = match (version_command & 0x0f, family) {
        // LOCAL, or a client of no family: the rest is to be ignored.
        (0, _) | (1, 0x00) => Some(Proxied::Local),
        // TCP over IPv4, TCP over IPv6. Anything after the addresses is TLVs, of which none is needed.
        (1, 0x11) => addresses::<4>(body),
        (1, 0x21) => addresses::<16>(body),
        // UDP, Unix sockets or something new can't be a client here; unknown commands are refused.
        _ => None,
    };
    match proxied {
        Some(proxied) => Parsed::Complete(proxied, total),
        None => Parsed::Invalid,
    }
}

/// Source and destination addresses of `N` bytes each, then their ports.
fn addresses<const N: usize>(body: &[u8]) -> Option<Proxied>
where
    IpAddr: From<[u8; N]>,
{
    let (source, body) = body.split_first_chunk::<N>()?;
    let (destination, body) = body.split_first_chunk::<N>()?;
    let (source_port, body) = body.split_first_chunk()?;
    let (destination_port, _) = body.split_first_chunk()?;
    Some(Proxied::For {
        source: SocketAddr::new((*source).into(), u16::from_be_bytes(*source_port)),
        destination: SocketAddr::new((*destination).into(), u16::from_be_bytes(*destination_port)),
    })
}

/// Reads one header and not a byte more. The caller sets the deadline.
///
/// # Errors
/// `InvalidData` for anything but a header, `UnexpectedEof` when the peer leaves, or what the socket
/// says.
pub async fn read(stream: &mut TcpStream) -> io::Result<Proxied> {
    let mut buffer = vec![0; V2_FIXED.saturating_add(V2_MAXIMUM)];
    // Bytes taken from the socket: part of the header for sure. What follows the header is only
    // peeked at, so that it need not be carried along.
    let mut taken = 0;
    loop {
        let got = stream
            .peek(buffer.get_mut(taken..).unwrap_or_default())
            .await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let seen = taken.saturating_add(got);
        let (header, proxied) = match parse(buffer.get(..seen).unwrap_or_default()) {
            Parsed::Complete(proxied, length) => (length, Some(proxied)),
            Parsed::Needs(_) => (seen, None),
            Parsed::Invalid => return Err(io::ErrorKind::InvalidData.into()),
        };
        stream
            .read_exact(buffer.get_mut(taken..header).unwrap_or_default())
            .await?;
        taken = header;
        if let Some(proxied) = proxied {
            return Ok(proxied);
        }
    }
}

#[cfg(test)]
mod tests;
