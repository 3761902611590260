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
use rustls::{
    ClientConfig, ClientConnection, NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup},
    pki_types::ServerName,
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::timeout,
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
    share: f64,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    async fn new() -> Self {
        let certificate = certificate(&["app.test", "other.test"]);
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
            share: SHARE,
            address: listener.local_addr().unwrap(),
            listener,
        }
    }

    /// Shakes hands with the next client, with next to no budget and room for one to wait.
    async fn next(&self, deadline: Duration) -> JoinHandle<Result<Secured, Failure>> {
        let (tcp, from) = self.listener.accept().await.unwrap();
        let config = Arc::clone(&self.config);
        let share = self.share;
        let (admission, conduct) = (Arc::clone(&self.admission), Arc::clone(&self.conduct));
        tokio::spawn(async move {
            let terms = Terms {
                client: prefix(from.ip()),
                limits: Handshakes {
                    cpu: Some(share),
                    waiting: 1.try_into().unwrap(),
                },
                admission: &admission,
                conduct: &conduct,
                known_first: false,
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

    /// This client's hello is read, and then it stands in line until it leaves.
    async fn has_to_wait(&self, client: &Arc<ClientConfig>) {
        self.waits(&hello(client)).await;
    }

    async fn waits(&self, hello: &[u8]) {
        let mut tcp = connect(self.address).await;
        tcp.write_all(hello).await.unwrap();
        let shaking = self.next(LONG).await;
        self.someone_waits().await;
        drop(tcp);
        let ended = shaking.await.unwrap();
        assert!(matches!(ended, Err(Failure::Failed(_))), "it left");
    }

    async fn someone_waits(&self) {
        timeout(LONG, async {
            while self.admission.waiting() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("someone waits in line");
    }

    fn spend(&self) {
        self.admission.spend();
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
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = only(&server.certificate, version);
        assert!(!server.visit(&client, LONG).await.unwrap().resumed);
        server.spend();
        let stranger = only(&server.certificate, version);
        server.has_to_wait(&stranger).await;
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
        server.has_to_wait(&again).await;
        server.admission.fill();
    }
}

#[test]
fn strangers_have_half_where_known_clients_come_first() {
    let (admission, conduct) = (Admission::default(), Conduct::default());
    let share = |known_first| {
        let terms = Terms {
            client: prefix([192, 0, 2, 7].into()),
            limits: Handshakes {
                cpu: Some(SHARE),
                waiting: 1.try_into().unwrap(),
            },
            admission: &admission,
            conduct: &conduct,
            known_first,
            deadline: Instant::now(),
        };
        terms.strangers(SHARE)
    };
    assert!((share(false) - SHARE).abs() < f64::EPSILON);
    assert!((share(true) - SHARE / 2.0).abs() < f64::EPSILON);
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

/// Sends this, and what the server does with it: how the handshake ended, and what strangers and
/// those with a ticket paid.
async fn paid(server: &Server, hello: &[u8]) -> (Result<(), Failure>, (i64, i64)) {
    let before = server.admission.levels();
    let mut tcp = connect(server.address).await;
    tcp.write_all(hello).await.unwrap();
    let shaking = server.next(LONG).await;
    // Its answer, or its alert.
    let _ = tcp.read(&mut [0; 5]).await;
    drop(tcp);
    let ended = shaking.await.unwrap().map(|_| ());
    let after = server.admission.levels();
    (ended, (before.0 - after.0, before.1 - after.1))
}

#[tokio::test]
async fn tickets_that_are_not_made_use_of_are_paid_for_by_those_with_tickets() {
    let server = Server::new().await;
    // For another name: the library does a full handshake and says nothing.
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut client = Arc::unwrap_or_clone(only(&server.certificate, version));
        client.resumption = Resumption::store(Arc::new(AnyName(ClientSessionMemoryCache::new(8))));
        let client = Arc::new(client);
        server.visit(&client, LONG).await.unwrap();
        let name = ServerName::try_from("other.test").unwrap();
        let mut session = ClientConnection::new(Arc::clone(&client), name).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        assert!(has_ticket(&hello, &*server.config.ticketer), "{version:?}");
        server.spend();
        let (_, (strangers, tickets)) = paid(&server, &hello).await;
        assert!(strangers <= 0 && tickets > 0, "{strangers} {tickets}");
        server.admission.fill();
    }

    // Without psk_dhe_ke (RFC 8446, 4.2.9).
    let client = only(&server.certificate, &rustls::version::TLS13);
    server.visit(&client, LONG).await.unwrap();
    let mut hello = hello(&client);
    let modes = [0, 45, 0, 2, 1, 1];
    let at = hello.windows(6).position(|part| part == modes).unwrap();
    hello[at + 5] = 0;
    assert!(has_ticket(&hello, &*server.config.ticketer));
    server.spend();
    let (_, (strangers, tickets)) = paid(&server, &hello).await;
    assert!(strangers <= 0 && tickets > 0, "{strangers} {tickets}");

    // When that is spent as well, a ticket is worth nothing.
    server.admission.spend_tickets();
    server.waits(&hello).await;
}

#[tokio::test]
async fn who_is_out_of_time_in_line_is_refused_for_want_of_budget() {
    let server = Server::new().await;
    server.spend();
    let client = client_config(&[&server.certificate], &[]);
    // Its hello is there before the clock starts.
    let mut tcp = connect(server.address).await;
    tcp.write_all(&hello(&client)).await.unwrap();
    let refused = server.next(Duration::from_secs(2)).await.await.unwrap();
    assert!(matches!(refused, Err(Failure::Budget)));
}

#[tokio::test]
async fn who_has_left_is_not_served_whatever_it_sent_behind_its_hello() {
    let mut server = Server::new().await;
    server.spend();
    let client = client_config(&[&server.certificate], &[]);
    let mut tcp = connect(server.address).await;
    let mut bytes = hello(&client);
    bytes.push(22);
    tcp.write_all(&bytes).await.unwrap();
    // It ends its side once it stands in line, and is found out at its turn, two seconds later.
    server.share = 0.05;
    let shaking = server.next(LONG).await;
    server.someone_waits().await;
    let (strangers, _) = server.admission.levels();
    tcp.shutdown().await.unwrap();
    let ended = shaking.await.unwrap();
    assert!(matches!(ended, Err(Failure::Failed(_))));
    assert!(server.admission.levels().0 >= strangers, "nothing was done");
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "reset without a word");
}

/// Keeps sessions whatever the name.
#[derive(Debug)]
struct AnyName(ClientSessionMemoryCache);

impl AnyName {
    fn name() -> ServerName<'static> {
        ServerName::try_from("any.test").unwrap()
    }
}

impl ClientSessionStore for AnyName {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(Self::name(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&Self::name())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(Self::name(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::name())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Self::name(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::name())
    }
}

/// A group that the server does not know, with a share that it therefore does not look at.
#[derive(Debug)]
struct Unknown;

impl SupportedKxGroup for Unknown {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        Ok(Box::new(Self))
    }
    fn name(&self) -> NamedGroup {
        NamedGroup::Unknown(0x7777)
    }
}

impl ActiveKeyExchange for Unknown {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, rustls::Error> {
        Err(rustls::Error::General("nobody answers this".into()))
    }
    fn pub_key(&self) -> &[u8] {
        &[7; 32]
    }
    fn group(&self) -> NamedGroup {
        NamedGroup::Unknown(0x7777)
    }
}

/// A client that has to be asked for another key share (RFC 8446, 4.1.4).
fn asked_again(trusted: &Certificate) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.key.cert[0].clone()).unwrap();
    let mut provider = rustls::crypto::ring::default_provider();
    provider.kx_groups.insert(0, &Unknown);
    Arc::new(
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

#[tokio::test]
async fn the_costly_half_after_a_retry_request_waits_for_the_budget_too() {
    let server = Server::new().await;
    let client = asked_again(&server.certificate);
    // There is budget for the first half, and none for the second.
    let mut tcp = connect(server.address).await;
    let name = ServerName::try_from("app.test").unwrap();
    let mut session = ClientConnection::new(Arc::clone(&client), name).unwrap();
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).unwrap();
    tcp.write_all(&bytes).await.unwrap();
    let shaking = server.next(LONG).await;
    let mut header = [0; 5];
    tcp.read_exact(&mut header).await.unwrap();
    assert_eq!(header[0], 22);
    let mut retry = vec![0; u16::from_be_bytes([header[3], header[4]]).into()];
    tcp.read_exact(&mut retry).await.unwrap();
    assert_eq!(retry[6..10], [0xcf, 0x21, 0xad, 0x74], "not asked again");
    server.spend();
    let answer = [&header[..], &retry[..]].concat();
    session.read_tls(&mut answer.as_slice()).unwrap();
    session.process_new_packets().unwrap();
    bytes.clear();
    while session.wants_write() {
        session.write_tls(&mut bytes).unwrap();
    }
    let level = server.admission.levels();
    tcp.write_all(&bytes).await.unwrap();
    server.someone_waits().await;
    assert!(
        server.admission.levels().0 >= level.0,
        "nothing more was done"
    );
    shaking.abort();

    // With a budget that comes back, such a client is served like any.
    let mut server = server;
    server.share = 0.5;
    server.spend();
    assert!(!server.visit(&client, LONG).await.unwrap().resumed);
}
