//! The TLS handshake, under a deadline, and what it settled. Which certificate is served is left to
//! [`super::tls`].

use crate::connection::TlsInfo;
use pingora_core::protocols::tls::SslDigest;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use std::{io, sync::Arc};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How a handshake failed.
#[derive(Debug)]
pub enum Failure {
    Timeout,
    Failed(io::Error),
}

/// A connection whose handshake is done.
pub struct Secured {
    pub stream: Box<TlsStream<TcpStream>>,
    pub info: TlsInfo,
    pub digest: Arc<SslDigest>,
    pub resumed: bool,
}

/// Shakes hands before `deadline`.
///
/// # Errors
/// When the client is too slow, leaves, or offers nothing that fits.
pub async fn shake(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    deadline: Instant,
) -> Result<Secured, Failure> {
    let stream = timeout_at(deadline, TlsAcceptor::from(config).accept(tcp))
        .await
        .map_err(|_| Failure::Timeout)?
        .map_err(Failure::Failed)?;
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
        ja4: String::new(),
    };
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    Ok(Secured {
        digest: Arc::new(SslDigest::new(cipher, version, None, None, Vec::new())),
        info,
        resumed,
        stream: Box::new(stream),
    })
}
