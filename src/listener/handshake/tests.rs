//! Hellos in pieces, hellos that are none, and what a ticket is worth.

use super::*;
use crate::config::model::ListenerKind;
use crate::{
    config::model::Certificate,
    listener::{
        testing::{
            certificate,
            client::{client_config, connect, handshake},
            edge::{BOTH, tls as tls_listener},
        },
        tls,
    },
};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use std::net::{IpAddr, SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use verdict::prefix::PrefixLengths;

/// Next to nothing: what is spent does not come back within a test.
const SHARE: f64 = 0.000_001;
const LONG: Duration = Duration::from_secs(30);

/// What one listener would have, without the accept loop.
struct Server {
    certificate: Certificate,
    config: Arc<ServerConfig>,
    admission: Arc<Admission>,
    conduct: Arc<Conduct>,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    async fn new() -> Self {
        let certificate = certificate(&["app.test"]);
        let ListenerKind::Tls(settings) = tls_listener(vec![certificate.clone()]).kind else {
            unreachable!()
        };
        let config = tls::server_config(&settings, BOTH, &tls::ticketer().unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            certificate,
            config,
            admission: Arc::default(),
            conduct: Arc::default(),
            address: listener.local_addr().unwrap(),
            listener,
        }
    }

    /// Shakes hands with the next client, with next to no budget and room for one to wait.
    async fn next(&self, deadline: Duration) -> JoinHandle<Result<Secured, Failure>> {
        let (tcp, from) = self.listener.accept().await.unwrap();
        let config = Arc::clone(&self.config);
        let (admission, conduct) = (Arc::clone(&self.admission), Arc::clone(&self.conduct));
        tokio::spawn(async move {
            let terms = Terms {
                client: prefix(from.ip()),
                limits: Handshakes {
                    cpu: Some(SHARE),
                    waiting: 1.try_into().unwrap(),
                },
                admission: &admission,
                conduct: &conduct,
                deadline: Instant::now() + deadline,
            };
            shake(tcp, config, terms).await
        })
    }

    /// A whole visit: how the server saw it.
    async fn visit(
        &self,
        client: &Arc<ClientConfig>,
        deadline: Duration,
    ) -> Result<Secured, Failure> {
        let visit = async {
            let mut stream = handshake(connect(self.address).await, "app.test", client).await?;
            // The ticket of TLS 1.3 comes after the handshake.
            let _ = stream.read(&mut [0; 8]).await;
            Ok::<_, io::Error>(())
        };
        let served = async {
            let mut secured = self.next(deadline).await.await.unwrap()?;
            let _ = secured.stream.write_all(b"hello").await;
            Ok(secured)
        };
        let (_, served) = tokio::join!(visit, served);
        served
    }

    fn spend(&self) {
        self.admission.charge(Duration::from_secs(9));
    }
}

fn prefix(ip: IpAddr) -> Prefix {
    Prefix::of(ip, PrefixLengths::CLIENT)
}

fn only(
    trusted: &Certificate,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.key.cert[0].clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Arc::new(
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

/// The hello that this client would send next.
fn hello(client: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("app.test").unwrap();
    let mut session = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn clients_are_told_apart_whatever_pieces_their_hello_comes_in() {
    let server = Server::new().await;
    let client = client_config(&[&server.certificate], &["h2"]);
    let whole = server.visit(&client, LONG).await.unwrap();
    assert!(!whole.resumed);
    assert!(
        whole.info.ja4.as_str().starts_with("t13d"),
        "{}",
        whole.info.ja4
    );
    assert!(whole.info.ja4.as_str()[8..].starts_with("h2_"));

    // Byte by byte, through a pipe between.
    let fresh = client_config(&[&server.certificate], &["h2"]);
    let (near, far) = tokio::io::duplex(1);
    let name = ServerName::try_from("app.test").unwrap();
    let connector = tokio_rustls::TlsConnector::from(fresh);
    let mut pipe = tokio::io::BufWriter::with_capacity(1, connect(server.address).await);
    let shaking = tokio::spawn(async move { connector.connect(name, near).await.map(|_| ()) });
    let piping = tokio::spawn(async move {
        let mut far = far;
        let _ = tokio::io::copy_bidirectional(&mut far, &mut pipe).await;
    });
    let slow = server.next(LONG).await.await.unwrap().unwrap();
    assert_eq!(slow.info.ja4, whole.info.ja4);
    assert_eq!((slow.info.sni.as_str(), slow.info.alpn), ("app.test", "h2"));
    shaking.await.unwrap().unwrap();
    piping.abort();
}

#[tokio::test]
async fn what_is_no_hello_fails_and_what_never_ends_is_late() {
    let server = Server::new().await;
    let sends = async |bytes: &[u8], patience: Duration, leave: bool| {
        let mut tcp = connect(server.address).await;
        tcp.write_all(bytes).await.unwrap();
        if leave {
            drop(tcp);
            return (server.next(patience).await.await.unwrap(), Vec::new());
        }
        let outcome = server.next(patience).await.await.unwrap();
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        (outcome, answer)
    };
    let (failed, alert) = sends(b"GET / HTTP/1.1\r\n\r\n", LONG, false).await;
    assert!(matches!(failed, Err(Failure::Failed(_))));
    assert_eq!(alert.first(), Some(&21), "it is told by an alert");
    let (failed, _) = sends(b"\x16\x03\x01\x02\x00\x01\x00\xff\xff\xff", LONG, false).await;
    assert!(matches!(failed, Err(Failure::Failed(_))), "too large");
    let (failed, _) = sends(b"\x16\x03", LONG, true).await;
    assert!(matches!(failed, Err(Failure::Failed(_))), "left");
    let short = Duration::from_millis(50);
    let (late, _) = sends(b"\x16\x03\x01\x02\x00\x01", short, false).await;
    assert!(matches!(late, Err(Failure::Timeout)));
}

#[tokio::test]
async fn who_is_known_goes_first_when_the_budget_is_spent() {
    let server = Server::new().await;
    let short = Duration::from_millis(100);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = only(&server.certificate, version);
        assert!(!server.visit(&client, LONG).await.unwrap().resumed);
        server.spend();
        let stranger = only(&server.certificate, version);
        assert!(matches!(
            server.visit(&stranger, short).await,
            Err(Failure::Budget)
        ));
        assert!(
            server.visit(&client, LONG).await.unwrap().resumed,
            "{version:?}"
        );

        server.conduct.good(
            prefix([127, 0, 0, 1].into()),
            &crate::listener::conduct::Standing::default(),
            clock::now(),
        );
        assert!(!server.visit(&stranger, LONG).await.unwrap().resumed);
        server.conduct.forget(prefix([127, 0, 0, 1].into()));
        let again = only(&server.certificate, version);
        assert!(matches!(
            server.visit(&again, short).await,
            Err(Failure::Budget)
        ));
        server.admission.refund(Duration::from_secs(9));
    }
}

#[tokio::test]
async fn one_waits_and_the_next_is_refused_at_once() {
    let server = Server::new().await;
    server.spend();
    let client = client_config(&[&server.certificate], &[]);
    let mut first = connect(server.address).await;
    first.write_all(&hello(&client)).await.unwrap();
    let mut waiting = server.next(LONG).await;
    // It waits once it has read the hello; a second that comes later finds the line full.
    let mut second = connect(server.address).await;
    second.write_all(&hello(&client)).await.unwrap();
    let mut refused = server.next(LONG).await;
    let (Err(Failure::Budget), other) = (tokio::select! {
        ended = &mut waiting => (ended.unwrap().map(|_| ()), refused),
        ended = &mut refused => (ended.unwrap().map(|_| ()), waiting),
    }) else {
        panic!("one of two is refused");
    };
    assert!(!other.is_finished());
    // The one that waits leaves, and makes room at once.
    drop((first, second));
    assert!(matches!(other.await.unwrap(), Err(Failure::Failed(_))));
}

#[tokio::test]
async fn tickets_that_are_not_ours_are_worth_nothing() {
    let server = Server::new().await;
    let other = Server::new().await;
    let worth = |server: &Server, hello: &[u8]| has_ticket(hello, &*server.config.ticketer);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = only(&server.certificate, version);
        assert!(!worth(&server, &hello(&client)), "none yet");
        server.visit(&client, LONG).await.unwrap();
        let good = hello(&client);
        assert!(worth(&server, &good));
        assert!(!worth(&other, &good), "another server's");
        server.visit(&client, LONG).await.unwrap();
        // Whatever byte of the ticket is altered: it stands at the end, before a binder of 32 bytes
        // and the lengths around it in 1.3.
        let Parsed::Complete(message) = client_hello::assemble(&good) else {
            panic!()
        };
        let parsed = ClientHello::parse(&message).unwrap();
        let ticket = parsed.ticket().filter(|_| !parsed.offers_tls13());
        let ticket = ticket.or_else(|| parsed.identities().next()).unwrap();
        let at = good
            .windows(ticket.len())
            .position(|part| part == ticket)
            .unwrap();
        for byte in at..at + ticket.len() {
            let mut forged = good.clone();
            forged[byte] ^= 1;
            assert!(!worth(&server, &forged), "byte {}", byte - at);
        }
    }
    // One of TLS 1.2 in a hello that will be answered with TLS 1.3 saves nobody any work.
    let old = only(&server.certificate, &rustls::version::TLS12);
    server.visit(&old, LONG).await.unwrap();
    let bytes = hello(&old);
    let Parsed::Complete(message) = client_hello::assemble(&bytes) else {
        panic!()
    };
    let ticket = ClientHello::parse(&message).unwrap().ticket().unwrap();
    let both = client_hello::tests::with_ticket(ticket, &[0x0304, 0x0303]);
    assert!(!worth(&server, &both));
    let only_old = client_hello::tests::with_ticket(ticket, &[0x0303]);
    assert!(worth(&server, &only_old));
}

#[tokio::test]
async fn a_ticket_that_was_not_made_use_of_is_paid_for() {
    let server = Server::new().await;
    let client = only(&server.certificate, &rustls::version::TLS12);
    server.visit(&client, LONG).await.unwrap();
    let bytes = hello(&client);
    let Parsed::Complete(message) = client_hello::assemble(&bytes) else {
        panic!()
    };
    let ticket = ClientHello::parse(&message).unwrap().ticket().unwrap();
    // Good for the line, but with nothing else that a handshake takes.
    let broken = client_hello::tests::with_ticket(ticket, &[0x0303]);
    server.spend();
    // Half-way out of debt: nobody is let in, and whatever is charged shows.
    server.admission.refund(Duration::from_millis(50));
    assert!(!server.admission.is_open(SHARE));
    let before = server.admission.level();
    let mut tcp = connect(server.address).await;
    tcp.write_all(&broken).await.unwrap();
    let failed = server.next(LONG).await.await.unwrap();
    assert!(matches!(failed, Err(Failure::Failed(_))));
    let charged = before - server.admission.level();
    assert!(charged > 0, "{charged}");
}
