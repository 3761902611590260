//! A client that says exactly what a test wants to say.

use crate::config::model::Certificate;
use bytes::BytesMut;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Fails a test that would hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Trusts these certificates, and offers these protocols.
pub fn client_config(trusted: &[&Certificate], alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.key.cert[0].clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Connects from a loopback address of choice.
pub async fn connect_from(source: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    let stream = socket.connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    connect_from([127, 0, 0, 1].into(), address).await
}

pub async fn handshake(
    tcp: TcpStream,
    name: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    timeout(
        PATIENCE,
        TlsConnector::from(Arc::clone(config)).connect(name, tcp),
    )
    .await
    .expect("a handshake ends")
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name)?;
        Some(value)
    }
}

/// An HTTP/1 client.
pub struct Client {
    pub wire: Box<dyn Wire>,
    buffer: BytesMut,
}

impl Client {
    pub fn new(wire: impl Wire + 'static) -> Self {
        Self {
            wire: Box::new(wire),
            buffer: BytesMut::new(),
        }
    }

    pub async fn send(&mut self, text: &str) {
        self.wire.write_all(text.as_bytes()).await.unwrap();
        self.wire.flush().await.unwrap();
    }

    pub async fn get(&mut self, path: &str) -> Option<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: app.test\r\n\r\n"))
            .await;
        self.answer().await
    }

    /// The next answer; `None` when the connection ends before it.
    pub async fn answer(&mut self) -> Option<Answer> {
        timeout(PATIENCE, self.read_answer())
            .await
            .expect("an answer or an end")
    }

    async fn more(&mut self) -> Option<()> {
        match self.wire.read_buf(&mut self.buffer).await {
            Ok(1..) => Some(()),
            Ok(0) | Err(_) => None,
        }
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Response::new(&mut headers);
            let status = parsed.parse(&self.buffer).unwrap();
            if let httparse::Status::Complete(end) = status {
                let mut answer = Answer {
                    status: parsed.code.unwrap(),
                    headers: parsed
                        .headers
                        .iter()
                        .map(|header| {
                            let value = String::from_utf8_lossy(header.value).into_owned();
                            (header.name.to_ascii_lowercase(), value)
                        })
                        .collect(),
                    body: String::new(),
                };
                drop(self.buffer.split_to(end));
                let length = answer.header("content-length").unwrap_or("0");
                let length: usize = length.parse().unwrap();
                while self.buffer.len() < length {
                    self.more().await?;
                }
                let body = self.buffer.split_to(length);
                answer.body = String::from_utf8(body.to_vec()).unwrap();
                return Some(answer);
            }
            self.more().await?;
        }
    }

    /// Reads until the connection ends: what came, and whether it ended by a reset.
    pub async fn rest(&mut self) -> (Vec<u8>, bool) {
        timeout(PATIENCE, async {
            let mut rest = std::mem::take(&mut self.buffer).to_vec();
            let ended = self.wire.read_to_end(&mut rest).await;
            let by_reset =
                ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
            (rest, by_reset)
        })
        .await
        .expect("the connection ends")
    }
}
