//! What the tests of this stage share: a tiny HTTP/1 upstream, a proxy on a real socket, an h2 client.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    protocols::{http::ServerSession, l4::stream::Stream},
    server::{ShutdownWatch, configuration::ServerConf},
};
use pingora_proxy::{HttpProxy, ProxyHttp};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
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
}

impl Upstream {
    /// The first `fail_first` requests are heard, and their connection closed without an answer.
    pub async fn start(fail_first: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let told = Arc::clone(&told);
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
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, heard }
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
