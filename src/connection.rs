//! What is known of a connection once it stands: made by the listener, read by every later stage.
//!
//! It rides in pingora's `ProxyDigest.user_data` (h1 and h2 alike).

use crate::listener::{client_hello::ja4::Ja4, conduct::Standing};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// A client's connection, after PROXY protocol and TLS.
#[derive(Debug)]
pub struct Connection {
    /// Label of the listener that accepted it.
    pub listener: Arc<str>,
    /// The address of the other end of the socket, or the one that a trusted PROXY header named.
    pub peer: SocketAddr,
    /// A PROXY header named the peer.
    pub proxied: bool,
    /// Where the connection was made to.
    pub local: SocketAddr,
    /// `None` in plaintext.
    pub tls: Option<TlsInfo>,
    /// Set to close the connection without a word as soon as the current request returns.
    pub drop: AtomicBool,
    /// How its client behaved over it.
    pub standing: Standing,
    pub progress: Progress,
}

/// How far the request in service on an HTTP/1 connection is: what its deadlines go by. HTTP/2, with
/// many in service at once, has no use for it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes moved either way so far; only ever compared.
    pub bytes: AtomicU64,
    /// A final answer has begun, or the connection was upgraded.
    pub answered: AtomicBool,
    /// It is a stream of no foreseeable end: of another protocol (101), or server-sent events that
    /// were asked for.
    pub stream: AtomicBool,
    /// Milliseconds that the upstream may take to begin its answer, where its own timeout is that of
    /// a stream; 0: its own will do.
    pub patience: AtomicU32,
    /// Tries at an upstream that `patience` was set for so far; only ever compared.
    pub tries: AtomicU32,
}

impl Progress {
    /// A try at an upstream begins, which may take `patience` to begin its answer.
    pub fn awaits(&self, patience: Duration) {
        let patience = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        self.patience.store(patience, Relaxed);
        self.tries.fetch_add(1, Relaxed);
    }
}

/// What the handshake settled.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// Lower case; empty when the client sent none.
    pub sni: String,
    /// `h2` or `http/1.1`.
    pub alpn: &'static str,
    /// The fingerprint of the client's hello; empty when that could not be read.
    pub ja4: Ja4,
}

impl Connection {
    /// The connection that a pingora session came in by; `None` for sessions that the listener did
    /// not make.
    #[must_use]
    pub fn of(digest: Option<&pingora_core::protocols::Digest>) -> Option<&Arc<Self>> {
        digest?
            .proxy_digest
            .as_ref()?
            .user_data
            .as_ref()?
            .downcast_ref()
    }
}
