//! An HTTP/1.1 upstream that does what a test tells it, well or badly: one thread a connection.

use super::certificates::Pair;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn length(&self) -> usize {
        self.header("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0)
    }
}

/// Both kinds of stream.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// What to do with a request whose head has come. `Ok(true)` waits for the next one on the same
/// connection; anything else closes it.
pub type Handler = dyn Fn(&Request, &mut dyn Stream) -> io::Result<bool> + Send + Sync;

/// A running upstream; it stops listening when dropped.
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Upstream {
    pub fn start(
        handler: impl Fn(&Request, &mut dyn Stream) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::serve(listener, None, Arc::new(handler))
    }

    /// Over TLS; with `clients`, a client certificate of theirs is demanded.
    pub fn start_tls(
        pair: Pair,
        clients: Option<RootCertStore>,
        handler: impl Fn(&Request, &mut dyn Stream) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                rustls::server::WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    provider,
                )
                .build()
                .unwrap(),
            ),
        };
        let config = builder
            .with_single_cert(vec![pair.certificate], pair.key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::serve(listener, Some(Arc::new(config)), Arc::new(handler))
    }

    /// Answers everything with 200 and its name; takes whole bodies first.
    pub fn named(name: &'static str) -> Self {
        Self::start(move |request, stream| {
            drain(request, stream)?;
            answer(stream, 200, name.as_bytes())?;
            Ok(true)
        })
    }

    fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, handler: Arc<Handler>) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let upstream = Self {
            address,
            seen: Arc::clone(&seen),
            stop: Arc::clone(&stop),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (tls, handler) = (tls.clone(), Arc::clone(&handler));
                let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
                    match tls {
                        None => converse(stream, &*handler, &seen, &stop),
                        Some(config) => {
                            let Ok(connection) = ServerConnection::new(config) else {
                                return;
                            };
                            let stream = StreamOwned::new(connection, stream);
                            converse(stream, &*handler, &seen, &stop);
                        }
                    }
                });
            }
        });
        upstream
    }

    /// Requests so far, `/healthz` aside.
    pub fn seen(&self) -> Vec<Request> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|request| request.target != "/healthz")
            .cloned()
            .collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the loop, which then lets go of the port.
        let _ = TcpStream::connect(self.address);
    }
}

fn converse(
    mut stream: impl Stream,
    handler: &Handler,
    seen: &Mutex<Vec<Request>>,
    stop: &AtomicBool,
) {
    while let Ok(request) = read_request(&mut stream) {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        seen.lock().unwrap().push(request.clone());
        if !matches!(handler(&request, &mut stream), Ok(true)) {
            return;
        }
    }
}

fn read_request(stream: &mut dyn Stream) -> io::Result<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    Ok(Request {
        method: first.next().unwrap_or_default().to_owned(),
        target: first.next().unwrap_or_default().to_owned(),
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
    })
}

/// Reads a request's body whole, by its length or its chunks.
pub fn drain(request: &Request, stream: &mut dyn Stream) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if request.header("transfer-encoding").is_some() {
        loop {
            let line = chunk_line(stream)?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; length + 2];
            stream.read_exact(&mut chunk)?;
            body.extend_from_slice(chunk.get(..length).unwrap_or_default());
            if length == 0 {
                break;
            }
        }
    } else {
        body.resize(request.length(), 0);
        stream.read_exact(&mut body)?;
    }
    Ok(body)
}

fn chunk_line(stream: &mut dyn Stream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Sends a complete answer that keeps the connection.
pub fn answer(stream: &mut dyn Stream, status: u16, body: &[u8]) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)?;
    stream.flush()
}
