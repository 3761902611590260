//! What the tests of this stage share: a tiny HTTP/1 upstream, a proxy on a real socket, an h2 client.

use async_trait::async_trait;
use bytes::Bytes;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::{
        op::{Message, OpCode, ResponseCode},
        rr::{
            Name, RData, Record,
            rdata::{PTR, SRV},
        },
    },
};
use parking_lot::Mutex;
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    protocols::{http::ServerSession, l4::stream::Stream},
    server::{ShutdownWatch, configuration::ServerConf},
};
use pingora_proxy::{HttpProxy, ProxyHttp};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

/// A request as an upstream heard it.
#[derive(Clone, Debug)]
pub struct Heard {
    pub head: String,
    pub body: Vec<u8>,
}

impl Heard {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

/// Answers everything with 200 and keeps what it heard.
pub struct Upstream {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    status: Arc<AtomicU16>,
}

impl Upstream {
    /// The first `fail_first` requests are heard, and their connection closed without an answer.
    pub async fn start(fail_first: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&heard);
        let status = Arc::new(AtomicU16::new(200));
        let to_say = Arc::clone(&status);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (told, to_say) = (Arc::clone(&told), Arc::clone(&to_say));
                tokio::spawn(async move {
                    while let Some(request) = read_request(&mut stream).await {
                        let nth = {
                            let mut told = told.lock();
                            told.push(request);
                            told.len()
                        };
                        if nth <= fail_first {
                            return;
                        }
                        let status = to_say.load(Relaxed);
                        let body = if status == 204 {
                            "\r\n"
                        } else {
                            "content-length: 2\r\n\r\nok"
                        };
                        let answer = format!("HTTP/1.1 {status} Said\r\n{body}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            heard,
            status,
        }
    }

    /// What is answered from now on.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Relaxed);
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().clone()
    }
}

/// Reads a request, decoding `content-length` or `chunked`. `None` when the peer is done.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Heard> {
    let mut read = Vec::new();
    let mut heard = loop {
        if let Some(end) = read.windows(4).position(|end| end == b"\r\n\r\n") {
            break Heard {
                head: String::from_utf8(read[..end].to_vec()).unwrap(),
                body: read.split_off(end + 4),
            };
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    };
    if heard.header("transfer-encoding") == Some("chunked") {
        let mut body = Vec::new();
        loop {
            let Some(line) = heard.body.windows(2).position(|end| end == b"\r\n") else {
                (stream.read_buf(&mut heard.body).await.ok()? > 0).then_some(())?;
                continue;
            };
            let size = std::str::from_utf8(&heard.body[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            let end = line + 2 + size + 2;
            while heard.body.len() < end {
                (stream.read_buf(&mut heard.body).await.ok()? > 0).then_some(())?;
            }
            body.extend(&heard.body[line + 2..end - 2]);
            heard.body.drain(..end);
            if size == 0 {
                heard.body = body;
                return Some(heard);
            }
        }
    }
    let length = heard
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    while heard.body.len() < length {
        (stream.read_buf(&mut heard.body).await.ok()? > 0).then_some(())?;
    }
    Some(heard)
}

/// Reads one response head (and its declared body); its status code.
pub async fn read_status(stream: &mut (impl AsyncRead + Unpin)) -> u16 {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8(read).unwrap();
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length:")?
            .trim()
            .parse()
            .ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.unwrap();
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

struct App<P> {
    proxy: Arc<HttpProxy<P>>,
    options: HttpServerOptions,
}

#[async_trait]
impl<P> HttpServerApp for App<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.proxy.process_new_http(session, shutdown).await
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// Serves a proxy on a port of its own, for HTTP/1 and for h2 with prior knowledge.
pub async fn serve<P>(proxy: P) -> SocketAddr
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut proxy = HttpProxy::new(proxy, Arc::new(ServerConf::default()));
    proxy.handle_init_modules();
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    let app = Arc::new(App {
        proxy: Arc::new(proxy),
        options,
    });
    tokio::spawn(async move {
        let (_alive, shutdown) = tokio::sync::watch::channel(false);
        while let Ok((stream, _)) = listener.accept().await {
            let (app, shutdown) = (Arc::clone(&app), shutdown.clone());
            tokio::spawn(async move {
                let mut stream = Box::new(Stream::from(stream)) as _;
                while let Some(again) = app.process_new(stream, &shutdown).await {
                    stream = again;
                }
            });
        }
    });
    address
}

/// One `PUT` over h2; its status code.
pub async fn send_h2(proxy: SocketAddr, body: &[u8], declare: bool) -> u16 {
    let stream = TcpStream::connect(proxy).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut request = http::Request::put("http://a.example/x");
    if declare {
        request = request.header("content-length", body.len());
    }
    let (response, mut sender) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let mut rest = Bytes::copy_from_slice(body);
    while !rest.is_empty() {
        sender.reserve_capacity(rest.len());
        let room = std::future::poll_fn(|cx| sender.poll_capacity(cx)).await;
        let chunk = rest.split_to(room.unwrap().unwrap().min(rest.len()));
        sender.send_data(chunk, rest.is_empty()).unwrap();
    }
    let status = response.await.unwrap().status().as_u16();
    connection.abort();
    status
}

/// A CA of its own, and a certificate of it for servers and clients.
pub struct Certificates {
    pub ca: CertificateDer<'static>,
    pub leaf: CertificateDer<'static>,
    pub key: PrivateKeyDer<'static>,
}

impl Certificates {
    pub fn new(name: &str) -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        Self {
            ca: ca_certificate.der().clone(),
            leaf: leaf.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }
}

/// A TLS server that wants a client certificate of its own CA, and says 200 to everything.
pub async fn tls_server(ours: &Certificates, h2: bool) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ours.ca.clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    );
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![ours.leaf.clone()], ours.key.clone_key())
        .unwrap();
    if h2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                if h2 {
                    answer_h2(stream).await;
                } else if read_request(&mut stream).await.is_some() {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    address
}

pub async fn h2c_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_h2(stream));
        }
    });
    address
}

/// Refuses each stream without looking at it.
pub async fn refusing_h2c_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    address
}

async fn answer_h2(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let _ = respond.send_response(http::Response::new(()), true);
    }
}

/// A DNS server over UDP that knows what it is told.
pub struct NameServer {
    address: SocketAddr,
    records: Arc<Mutex<Vec<Record>>>,
    failing: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: socket.local_addr().unwrap(),
            records: Arc::default(),
            failing: Arc::default(),
            asked: Arc::default(),
        };
        let records = Arc::clone(&server.records);
        let (failing, asked) = (Arc::clone(&server.failing), Arc::clone(&server.asked));
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let query = question.queries[0].clone();
                let mut answer = Message::response(question.metadata.id, OpCode::Query);
                answer.add_query(query.clone());
                if failing.load(Relaxed) {
                    answer.metadata.response_code = ResponseCode::ServFail;
                } else {
                    let fits = |record: &&Record| {
                        record.name == *query.name() && record.record_type() == query.query_type()
                    };
                    let records: Vec<Record> =
                        records.lock().iter().filter(fits).cloned().collect();
                    answer.add_answers(records);
                }
                asked.fetch_add(1, Relaxed);
                let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
            }
        });
        server
    }

    pub fn set(&self, name: &str, addresses: &[&str], ttl: u32) {
        let name = Name::from_ascii(name).unwrap();
        let mut records = self.records.lock();
        records.retain(|record| record.name != name);
        records.extend(addresses.iter().map(|address| {
            let data = match address.parse::<IpAddr>().unwrap() {
                IpAddr::V4(v4) => RData::A(v4.into()),
                IpAddr::V6(v6) => RData::AAAA(v6.into()),
            };
            Record::from_rdata(name.clone(), ttl, data)
        }));
    }

    pub fn set_services(&self, name: &str, services: &[(u16, u16, &str)]) {
        let name = Name::from_ascii(name).unwrap();
        self.records
            .lock()
            .extend(services.iter().map(|(priority, port, target)| {
                let target = Name::from_ascii(target).unwrap();
                let data = RData::SRV(SRV::new(*priority, 1, *port, target));
                Record::from_rdata(name.clone(), 60, data)
            }));
    }

    /// The names of an address.
    pub fn set_reverse(&self, address: &str, names: &[&str]) {
        let address = Name::from(address.parse::<IpAddr>().unwrap());
        self.records.lock().extend(names.iter().map(|name| {
            let name = Name::from_ascii(name).unwrap();
            Record::from_rdata(address.clone(), 60, RData::PTR(PTR(name)))
        }));
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Relaxed);
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    pub fn resolver(&self) -> Arc<TokioResolver> {
        let mut server = NameServerConfig::udp(self.address.ip());
        server.connections[0].port = self.address.port();
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        builder.options_mut().cache_size = 0;
        builder.options_mut().attempts = 1;
        Arc::new(builder.build().unwrap())
    }
}
