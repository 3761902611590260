//! SIGTERM: what runs is finished, what comes is refused, and the end is on time.

use crate::{
    bulkhead::{Gate, ask},
    harness::{Edge, Upstream, raw, upstream::answer, wait_until},
};
use std::{
    io::Write,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

fn edge(address: std::net::SocketAddr, grace: &str) -> Edge {
    Edge::start(&format!(
        "connections: {{ per_client: off, rate_per_client: off }}\n\
         upstreams: {{ app: {{ endpoints: [{address}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         shutdown: {{ grace: {grace} }}\n"
    ))
}

#[test]
fn open_requests_are_finished() {
    let gate = Gate::new();
    let mut edge = edge(gate.address(), "20s");
    let held = ask(&edge, "127.0.0.1", "/held");
    gate.wait_for_held(1);
    edge.signal("TERM");
    let address = edge.tls();
    wait_until("the listener closed", 10, || {
        TcpStream::connect(address).is_err()
    });
    assert!(edge.process().ended().is_none(), "a request is still open");
    gate.open();
    assert_eq!(held.join().unwrap(), 200);
    let status = edge.process().wait(15);
    assert!(status.success(), "{status}");
}

#[test]
fn an_idle_edge_leaves_at_once() {
    let upstream = Upstream::named("app");
    let mut edge = edge(upstream.address, "20s");
    // An idle keep-alive connection is no reason to stay.
    let mut idle = edge.connect("127.0.0.1");
    raw::exchange(
        &mut idle,
        b"GET / HTTP/1.1\r\nhost: app.example.com\r\n\r\n",
    )
    .unwrap();
    let began = Instant::now();
    edge.signal("TERM");
    assert!(edge.process().wait(15).success());
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(raw::is_closed(&mut idle));
}

#[test]
fn an_idle_http2_connection_is_told_and_ended_long_before_the_grace() {
    let upstream = Upstream::named("app");
    let mut edge = edge(upstream.address, "60s");
    let address = edge.tls();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(edge.folder.authority.roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (client, connection) = runtime.block_on(async {
        let wire = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("app.example.com").unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
        let wire = tls.connect(name, wire).await.unwrap();
        let (mut client, connection) = h2::client::handshake(wire).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::get("https://app.example.com/")
            .body(())
            .unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        (client, connection)
    });
    edge.signal("TERM");
    // The client keeps its side open: it is told to go (GOAWAY), without an error.
    let ended = runtime.block_on(async {
        let ended = tokio::time::timeout(Duration::from_secs(30), connection).await;
        ended.expect("the connection ends").unwrap()
    });
    assert!(ended.is_ok(), "{ended:?}");
    drop(client);
    // A third of the grace at the most: the connection's end is the process's.
    assert!(edge.process().wait(20).success());
}

#[test]
fn told_twice_it_ends_at_once() {
    let gate = Gate::new();
    // The gate stays shut for 25 s, and the grace is longer: only the second signal ends this.
    let mut edge = edge(gate.address(), "10m");
    let held = ask(&edge, "127.0.0.1", "/held");
    gate.wait_for_held(1);
    edge.signal("TERM");
    wait_until("draining", 10, || edge.log().contains("draining"));
    assert!(edge.process().ended().is_none());
    edge.signal("INT");
    assert!(edge.process().wait(15).success());
    assert!(edge.log().contains("asked again"));
    assert_ne!(held.join().unwrap(), 200);
}

#[test]
fn the_grace_is_kept() {
    let gate = Gate::new();
    let mut edge = edge(gate.address(), "1s");
    let held = ask(&edge, "127.0.0.1", "/held");
    gate.wait_for_held(1);
    edge.signal("TERM");
    // The gate stays shut for 25 s: only the grace ends this.
    edge.process().wait(15);
    assert_ne!(held.join().unwrap(), 200);
}

#[test]
fn not_one_answer_is_lost_under_load() {
    let upstream = Upstream::start(|_, stream| {
        std::thread::sleep(Duration::from_millis(5));
        answer(stream, 200, b"done")?;
        Ok(true)
    });
    let mut edge = edge(upstream.address, "20s");
    let (answered, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let told = Arc::new(AtomicBool::new(false));
    // Each worker keeps its connection while the edge allows, and opens another when told to go.
    // A connection that can't be opened after the signal is the kernel's refusal, which a client or
    // a load balancer takes elsewhere; a request that was taken and not answered is the failure.
    let workers: Vec<_> = (0..6)
        .map(|_| {
            let (answered, broken) = (Arc::clone(&answered), Arc::clone(&broken));
            let told = Arc::clone(&told);
            let address = edge.plain();
            std::thread::spawn(move || {
                while let Ok(mut stream) = raw::connect("127.0.0.1", address) {
                    loop {
                        let get = b"GET / HTTP/1.1\r\nhost: app.example.com\r\n\r\n";
                        match raw::exchange(&mut stream, get) {
                            Ok(answer) if answer.status == 200 => {
                                answered.fetch_add(1, Ordering::SeqCst);
                                if answer.header("connection") == Some("close") {
                                    break;
                                }
                            }
                            // Closed between requests, unread: HTTP lets a client try again.
                            Err(_) if told.load(Ordering::SeqCst) => break,
                            other => {
                                broken.fetch_add(1, Ordering::SeqCst);
                                eprintln!("{other:?}");
                                return;
                            }
                        }
                    }
                }
            })
        })
        .collect();
    wait_until("load", 20, || answered.load(Ordering::SeqCst) > 100);
    told.store(true, Ordering::SeqCst);
    edge.signal("TERM");
    assert!(edge.process().wait(25).success());
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(broken.load(Ordering::SeqCst), 0);
    // What the upstream was asked, the clients were told.
    assert_eq!(upstream.seen().len(), answered.load(Ordering::SeqCst));
}

#[test]
fn readiness_ends_before_the_end() {
    let gate = Gate::new();
    let edge = edge(gate.address(), "20s");
    assert_eq!(edge.admin_get("/readyz").status(), 200);
    let held = ask(&edge, "127.0.0.1", "/held");
    gate.wait_for_held(1);
    edge.signal("TERM");
    wait_until("not ready", 10, || {
        edge.admin_get("/readyz").send().status != 200
    });
    gate.open();
    held.join().unwrap();
}

#[test]
fn a_request_half_sent_does_not_keep_it() {
    let upstream = Upstream::named("app");
    let mut edge = edge(upstream.address, "2s");
    let mut stream = edge.connect("127.0.0.1");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: app").unwrap();
    stream.flush().unwrap();
    edge.signal("TERM");
    edge.process().wait(15);
}
