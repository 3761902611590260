//! The TLS handshake: the client's hello under the deadline, its turn by the worker's budget, then
//! the rest, and what it settled. Nothing of TLS is built for a client before its turn. Which
//! certificate is served is left to [`super::tls`].

use super::{
    admission::{Admission, Refused, Turn},
    client_hello::{self, ClientHello, Parsed, ja4::Ja4},
    conduct::Conduct,
    socket,
};
use crate::{clock, config::model::Handshakes, connection::TlsInfo};
use pingora_core::protocols::tls::SslDigest;
use rustls::{
    HandshakeKind, ProtocolVersion, ServerConfig,
    server::{Acceptor, ProducesTickets},
};
use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    StartHandshake,
    server::{Accept, TlsStream},
};
use verdict::prefix::Prefix;

/// Tickets that are tried for one client. Browsers offer one.
const TRIED: usize = 2;

/// How a handshake failed.
#[derive(Debug)]
pub enum Failure {
    Timeout,
    /// The budget was spent, and the client unknown: it was not begun, or not ended.
    Budget,
    Failed(io::Error),
}

/// A connection whose handshake is done.
pub struct Secured {
    pub stream: Box<TlsStream<TcpStream>>,
    pub info: TlsInfo,
    pub digest: Arc<SslDigest>,
    pub resumed: bool,
}

/// Who shakes hands, and on which terms.
pub struct Terms<'a> {
    pub client: Prefix,
    pub limits: Handshakes,
    pub admission: &'a Admission,
    pub conduct: &'a Conduct,
    /// Strangers have half of their budget.
    pub known_first: bool,
    /// For all of it, the wait for the budget included.
    pub deadline: Instant,
}

impl Terms<'_> {
    /// What handshakes of strangers may take of `share`.
    fn strangers(&self, share: f64) -> f64 {
        if self.known_first { share / 2.0 } else { share }
    }
}

/// Shakes hands before the deadline.
///
/// # Errors
/// When the client is too slow, leaves, offers nothing that fits, or has to wait for too long.
pub async fn shake(
    mut tcp: TcpStream,
    config: Arc<ServerConfig>,
    terms: Terms<'_>,
) -> Result<Secured, Failure> {
    let mut hello = Vec::new();
    match timeout_at(terms.deadline, read_hello(&mut tcp, &mut hello)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            socket::reset(tcp);
            return Err(Failure::Failed(error));
        }
        Err(_) => {
            socket::reset(tcp);
            return Err(Failure::Timeout);
        }
    }
    let turn = match turn(&tcp, &hello, &*config.ticketer, &terms).await {
        Ok(turn) => turn,
        Err(refused) => {
            socket::reset(tcp);
            return Err(match refused {
                Refused::Full | Refused::Late => Failure::Budget,
                Refused::Gone => Failure::Failed(io::ErrorKind::UnexpectedEof.into()),
            });
        }
    };
    // On the heap, and only from here on: who waits holds its hello and no more.
    let handshake = Box::pin(complete(tcp, hello, config));
    let Some(mut turn) = turn else {
        let ended = timeout_at(terms.deadline, handshake).await;
        return ended
            .map_err(|_| Failure::Timeout)?
            .map_err(Failure::Failed);
    };
    match timeout_at(terms.deadline, turn.metered(handshake)).await {
        Ok(Ok(secured)) => {
            if secured.resumed {
                turn.refund();
            }
            Ok(secured)
        }
        Ok(Err(error)) => Err(Failure::Failed(error)),
        Err(_) if turn.is_waiting() => Err(Failure::Budget),
        Err(_) => Err(Failure::Timeout),
    }
}

/// Waits until this client's handshake may begin. `None`: at nobody's cost.
async fn turn<'a>(
    tcp: &TcpStream,
    hello: &[u8],
    ticketer: &dyn ProducesTickets,
    terms: &Terms<'a>,
) -> Result<Option<Turn<'a>>, Refused> {
    let Some(share) = terms.limits.cpu else {
        return Ok(None);
    };
    if terms.conduct.is_good(terms.client, clock::now()) {
        return Ok(None);
    }
    let admission = terms.admission;
    let strangers = terms.strangers(share);
    if let Some(turn) = admission.at_once(strangers) {
        return Ok(Some(turn));
    }
    if has_ticket(hello, ticketer)
        && let Some(turn) = admission.by_ticket(share)
    {
        return Ok(Some(turn));
    }
    let left = |cx: &mut Context<'_>| poll_left(tcp, cx);
    let turn = admission.wait(terms.client, &terms.limits, strangers, terms.deadline, left);
    turn.await.map(Some)
}

/// Whether the client offers a session that this listener's keys made, in the way of the version that
/// will be agreed on. What was made up or altered does not decrypt.
fn has_ticket(hello: &[u8], ticketer: &dyn ProducesTickets) -> bool {
    let Parsed::Complete(message) = client_hello::assemble(hello) else {
        return false;
    };
    let Some(hello) = ClientHello::parse(&message) else {
        return false;
    };
    let is_ours = |ticket: &[u8]| ticketer.decrypt(ticket).is_some();
    if hello.offers_tls13() {
        hello.identities().take(TRIED).any(is_ours)
    } else {
        hello.ticket().is_some_and(is_ours)
    }
}

/// Ready when the client is gone. With more bytes behind the hello it does not wake the task, which
/// then learns of it at its turn.
fn poll_left(tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    // Nobody who has sent no more than a hello has a reason to end its side.
    if let Poll::Ready(Ok(ready)) = pin!(tcp.ready(Interest::READABLE)).poll(cx)
        && ready.is_read_closed()
    {
        return Poll::Ready(());
    }
    let mut byte = [MaybeUninit::uninit()];
    let peeked = tcp.poll_peek(cx, &mut ReadBuf::uninit(&mut byte));
    match ready!(peeked) {
        Ok(0) | Err(_) => Poll::Ready(()),
        Ok(_) => Poll::Pending,
    }
}

/// Reads until the hello is whole, or can't become one that is read here.
async fn read_hello(tcp: &mut TcpStream, hello: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let missing = match client_hello::assemble(hello) {
            // What is no hello gets its alert from the TLS library.
            Parsed::Complete(_) | Parsed::Invalid => return Ok(()),
            Parsed::Needs(missing) => missing,
            Parsed::TooLarge => return Err(io::ErrorKind::InvalidData.into()),
        };
        // Bytes that drip in one by one are not parsed one by one.
        let wanted = hello.len().saturating_add(missing);
        while hello.len() < wanted {
            let read = std::future::poll_fn(|cx| poll_more(tcp, hello, cx)).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Reads what is there: how many bytes, 0 at the end. The buffer is on the stack, so that nobody who
/// waits holds one that is larger than what was sent.
fn poll_more(
    tcp: &mut TcpStream,
    hello: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut buffer = ReadBuf::uninit(&mut buffer);
    ready!(Pin::new(tcp).poll_read(cx, &mut buffer))?;
    let bytes = buffer.filled();
    hello.reserve_exact(bytes.len());
    hello.extend_from_slice(bytes);
    Poll::Ready(Ok(bytes.len()))
}

/// The handshake proper.
async fn complete(
    tcp: TcpStream,
    hello: Vec<u8>,
    config: Arc<ServerConfig>,
) -> io::Result<Secured> {
    let ja4 = fingerprint(&hello);
    let handshake = begin(tcp, &hello, config)?;
    drop(hello);
    let stream = handshake.await?;
    let session = stream.get_ref().1;
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        Some(ProtocolVersion::TLSv1_2) => "1.2",
        _ => "",
    };
    let cipher = session
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str())
        .unwrap_or_default();
    let info = TlsInfo {
        version,
        sni: session
            .server_name()
            .map(str::to_ascii_lowercase)
            .unwrap_or_default(),
        // A client that names no protocol speaks HTTP/1.1.
        alpn: match session.alpn_protocol() {
            Some(b"h2") => "h2",
            _ => "http/1.1",
        },
        ja4,
    };
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    Ok(Secured {
        digest: Arc::new(SslDigest::new(cipher, version, None, None, Vec::new())),
        info,
        resumed,
        stream: Box::new(stream),
    })
}

fn fingerprint(hello: &[u8]) -> Ja4 {
    let Parsed::Complete(message) = client_hello::assemble(hello) else {
        return Ja4::NONE;
    };
    ClientHello::parse(&message).map_or(Ja4::NONE, |hello| Ja4::of(&hello))
}

/// Hands what was read to the TLS library.
fn begin(tcp: TcpStream, hello: &[u8], config: Arc<ServerConfig>) -> io::Result<Accept<TcpStream>> {
    let mut acceptor = Acceptor::default();
    let mut left = hello;
    while !left.is_empty() {
        if acceptor.read_tls(&mut left)? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => Ok(StartHandshake::from_parts(accepted, tcp).into_stream(config)),
        Ok(None) => Err(io::ErrorKind::InvalidData.into()),
        Err((error, mut alert)) => {
            let mut text = Vec::new();
            alert.write_all(&mut text)?;
            // It fits into an empty socket buffer, or nobody reads it.
            let _ = tcp.try_write(&text);
            Err(io::Error::new(io::ErrorKind::InvalidData, error))
        }
    }
}

#[cfg(test)]
mod tests;
