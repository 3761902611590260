//! A stream lent to pingora for a request, or for an HTTP/2 connection, and its way back.

use super::{ClientStream, Expected};
use parking_lot::Mutex;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
};
use std::{
    fmt,
    io::{self, IoSlice},
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where a lent stream comes back to.
pub type Home = Arc<Mutex<Option<Box<ClientStream>>>>;

/// A [`ClientStream`] lent to pingora. However pingora ends it, by handing it back, by dropping it or
/// by a panic, the stream comes home, to serve the next request or to be closed properly.
pub struct Lent {
    stream: Option<Box<ClientStream>>,
    home: Home,
}

impl Lent {
    #[must_use]
    pub fn new(stream: Box<ClientStream>, home: &Home) -> Self {
        Self {
            stream: Some(stream),
            home: Arc::clone(home),
        }
    }

    /// Lends it again, another time.
    pub fn lend(&mut self, stream: Box<ClientStream>) {
        self.stream = Some(stream);
    }

    /// Takes the stream back, when pingora has handed this back.
    #[must_use]
    pub fn take_back(&mut self) -> Option<Box<ClientStream>> {
        self.stream.take()
    }

    fn stream(&mut self) -> io::Result<Pin<&mut ClientStream>> {
        match &mut self.stream {
            Some(stream) => Ok(Pin::new(stream.as_mut())),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            *self.home.lock() = Some(stream);
        }
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream()?.poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_shutdown(cx)
    }
}

#[async_trait::async_trait]
impl Shutdown for Lent {
    async fn shutdown(&mut self) {
        // An error here means that the connection is gone already.
        let _ = tokio::io::AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Lent {
    fn id(&self) -> UniqueIDType {
        self.stream
            .as_ref()
            .map_or(-1, |stream| stream.transport.tcp().as_raw_fd())
    }
}

impl Ssl for Lent {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.as_ref()?.ssl_digest.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(match self.stream.as_ref()?.expected {
            Expected::Frames(_) => ALPN::H2,
            _ => ALPN::H1,
        })
    }
}

impl GetTimingDigest for Lent {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Lent {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.stream.as_ref()?.proxy_digest))
    }
}

/// Addresses are in [`crate::connection::Connection`]; pingora's digest costs half a KiB and knows no PROXY protocol.
impl GetSocketDigest for Lent {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for Lent {}
