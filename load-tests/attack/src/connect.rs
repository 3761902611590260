//! Connections to the target: from a source address, with TLS or without.

use crate::attack::Attack;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpSocket, TcpStream},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long the kernel may take to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// Opens the connection with this number.
///
/// # Errors
/// When it can't be had.
pub async fn tcp(attack: &Attack, number: usize, receive: Option<u32>) -> io::Result<TcpStream> {
    let target = attack.target();
    let socket = if target.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(sources) = attack.sources
        && target.is_ipv4()
    {
        socket.bind(SocketAddr::new(IpAddr::V4(sources.address(number)), 0))?;
    }
    if let Some(bytes) = receive {
        // Before connecting: it decides the window that is offered.
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = timeout(CONNECT, socket.connect(target))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// TLS settings of a client that takes any certificate and resumes nothing.
///
/// # Errors
/// When the library knows no versions, which it does.
pub fn settings(protocols: &[&[u8]]) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(provider)))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// # Errors
/// When it is no name.
pub fn server_name(attack: &Attack) -> io::Result<ServerName<'static>> {
    ServerName::try_from(attack.name.clone()).map_err(io::Error::other)
}

/// Shakes hands.
///
/// # Errors
/// What the other side said or did instead.
pub async fn tls<S: AsyncRead + AsyncWrite + Unpin>(
    attack: &Attack,
    stream: S,
    protocol: &[u8],
) -> io::Result<TlsStream<S>> {
    let connector = TlsConnector::from(settings(&[protocol])?);
    connector.connect(server_name(attack)?, stream).await
}

/// Either kind of connection.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

/// A connection as the attack wants it.
///
/// # Errors
/// What the other side said or did instead.
pub async fn open(attack: &Attack, number: usize, protocol: &[u8]) -> io::Result<Box<dyn Io>> {
    let tcp = tcp(attack, number, None).await?;
    Ok(if attack.plain {
        Box::new(tcp)
    } else {
        Box::new(tls(attack, tcp, protocol).await?)
    })
}

/// A connection whose incoming bytes trickle once [`Self::slow_down`] was called.
pub struct Trickle {
    inner: TcpStream,
    slow: Option<(f64, Pin<Box<Sleep>>)>,
    /// Bytes that came slowly, TLS and all.
    pub received: usize,
}

impl Trickle {
    pub fn new(inner: TcpStream) -> Self {
        Self {
            inner,
            slow: None,
            received: 0,
        }
    }

    /// Takes no more than this many bytes a second from now on.
    pub fn slow_down(&mut self, rate: f64) {
        self.slow = Some((rate.max(0.1), Box::pin(sleep_until(Instant::now()))));
    }

    /// Whether the other side has closed, with bytes left to read or not.
    ///
    /// # Errors
    /// A reset is an error.
    pub async fn is_over(&self) -> io::Result<bool> {
        // Does not wait: a connection that is written to seldom is writable.
        let ready = self
            .inner
            .ready(Interest::READABLE | Interest::WRITABLE)
            .await?;
        if let Some(error) = self.inner.take_error()? {
            return Err(error);
        }
        Ok(ready.is_read_closed())
    }
}

impl AsyncRead for Trickle {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some((rate, sleep)) = &mut this.slow else {
            return Pin::new(&mut this.inner).poll_read(cx, buffer);
        };
        ready!(sleep.as_mut().poll(cx));
        // A tenth of a second's worth.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let few = ((*rate / 10.0) as usize).max(1);
        let mut small = buffer.take(few);
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut small))?;
        let got = small.filled().len();
        // What the part has filled is filled in the whole.
        let part = small.filled().to_vec();
        buffer.put_slice(&part);
        this.received = this.received.saturating_add(got);
        #[allow(clippy::cast_precision_loss)]
        let pause = Duration::from_secs_f64(got as f64 / *rate);
        sleep.as_mut().reset(Instant::now() + pause);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// Takes any certificate: whom it attacks is settled by the address.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
