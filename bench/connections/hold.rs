//! TLS connections that made one request each and then say nothing.

use super::source;
use h2::client::SendRequest;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    fs,
    io::Read,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU32, atomic::Ordering::Relaxed},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime, task,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Handshakes at a time.
const AT_ONCE: u32 = 8;

/// A connection kept open.
enum Held {
    H1(Box<TlsStream<TcpStream>>),
    H2(SendRequest<bytes::Bytes>),
}

pub fn run(address: SocketAddr, count: u32, protocol: &str, ca: &str, network: u8) {
    let h2 = protocol == "h2";
    let connector = connector(h2, ca);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tasks = task::LocalSet::new();
    let held = tasks.block_on(&runtime, async {
        let next = Arc::new(AtomicU32::new(0));
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (next, connector) = (Arc::clone(&next), connector.clone());
                task::spawn_local(async move {
                    let mut held = Vec::new();
                    loop {
                        let nth = next.fetch_add(1, Relaxed);
                        if nth >= count {
                            return held;
                        }
                        held.push(open(address, source(network, nth), &connector, h2).await);
                    }
                })
            })
            .collect();
        let mut held = Vec::new();
        for worker in workers {
            held.extend(worker.await.unwrap());
        }
        held
    });
    println!("held {}", held.len());
    // HTTP/2 connections answer meanwhile what is asked of them (SETTINGS, PING).
    let waiting = std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    });
    tasks.block_on(&runtime, async {
        while !waiting.is_finished() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    println!("alive {}", held.into_iter().filter(is_open).count());
}

fn connector(h2: bool, ca: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let ca = fs::read(ca).expect("the certificate of the authority");
    roots
        .add(CertificateDer::from_pem_slice(&ca).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![if h2 {
        b"h2".to_vec()
    } else {
        b"http/1.1".to_vec()
    }];
    // Each is a full handshake.
    config.resumption = rustls::client::Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

async fn open(address: SocketAddr, from: SocketAddr, tls: &TlsConnector, h2: bool) -> Held {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from).unwrap();
    let tcp = socket.connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tls.connect(name, tcp).await.expect("a handshake");
    if h2 {
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        task::spawn_local(async move {
            // How it ends shows in the client's next use.
            let _ = connection.await;
        });
        let request = http::Request::get("https://localhost/").body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let mut body = answer.await.expect("an answer").into_body();
        while let Some(data) = body.data().await {
            let length = data.unwrap().len();
            body.flow_control().release_capacity(length).unwrap();
        }
        return Held::H2(client);
    }
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // Answers here are complete in one piece, or in two: head and body.
    loop {
        let end = memchr::memmem::find(&answer, b"\r\n\r\n").map(|at| at + 4);
        if let Some(end) = end
            && answer.len() >= end + length(&answer[..end])
        {
            return Held::H1(Box::new(stream));
        }
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "no answer");
    }
}

/// The declared length of an answer's body.
fn length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head.split("content-length:").nth(1).expect("a length");
    value.split("\r\n").next().unwrap().trim().parse().unwrap()
}

fn is_open(held: &Held) -> bool {
    match held {
        Held::H1(stream) => {
            let tcp = stream.get_ref().0;
            matches!(tcp.try_read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        }
        Held::H2(client) => {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            matches!(
                client.clone().poll_ready(&mut context),
                std::task::Poll::Ready(Ok(()))
            )
        }
    }
}
