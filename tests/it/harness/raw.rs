//! Sockets by hand, for what no well-behaved client sends: bytes over TCP and TLS, from any
//! address of the loopback range.

use super::Authority;
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Connects from a source address. Reads and writes fail after 20 s instead of hanging.
pub fn connect(source: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let source: IpAddr = source.parse().expect("an IP address");
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(to),
        socket2::Type::STREAM,
        None,
    )?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Shakes hands over a connection, trusting this authority alone.
pub fn tls(
    tcp: TcpStream,
    name: &str,
    authority: &Authority,
    protocols: &[&[u8]],
) -> io::Result<Tls> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// An HTTP/1 answer read by hand.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Reads the head of an answer, byte by byte so that nothing behind it is taken.
pub fn read_head(stream: &mut impl Read) -> io::Result<Answer> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("closed after {:?}", String::from_utf8_lossy(&head)),
            ));
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
    let headers = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Answer {
        status,
        headers,
        body: Vec::new(),
    })
}

/// Reads a whole answer: by its length, by its chunks, or to the end.
pub fn read_answer(stream: &mut impl Read) -> io::Result<Answer> {
    let mut answer = read_head(stream)?;
    if let Some(length) = answer.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        answer.body = vec![0; length];
        stream.read_exact(&mut answer.body)?;
    } else if answer.header("transfer-encoding").is_some() {
        loop {
            let line = read_line(stream)?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; length];
            stream.read_exact(&mut chunk)?;
            answer.body.extend_from_slice(&chunk);
            read_line(stream)?;
            if length == 0 {
                break;
            }
        }
    } else if answer.status >= 200 && !matches!(answer.status, 204 | 304) {
        stream.read_to_end(&mut answer.body)?;
    }
    Ok(answer)
}

fn read_line(stream: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Sends bytes and reads one answer.
pub fn exchange(stream: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<Answer> {
    stream.write_all(bytes)?;
    stream.flush()?;
    read_answer(stream)
}

/// Reads until the other side closes; true when it did, false when it said something or the
/// deadline of the socket passed first.
pub fn is_closed(stream: &mut impl Read) -> bool {
    let mut byte = [0; 64];
    match stream.read(&mut byte) {
        Ok(read) => read == 0,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ),
    }
}
