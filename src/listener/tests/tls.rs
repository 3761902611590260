//! Certificates, versions, tickets, reloads.

use crate::{
    config::model::{Certificate, ListenerKind, TlsVersion},
    listener::testing::{
        certificate,
        client::{Client, client_config, connect, handshake},
        edge::{Edge, config, tls},
    },
};
use rustls::{ClientConfig, HandshakeKind};
use std::{net::SocketAddr, sync::Arc};

/// One request over a new connection: how the handshake went, and with which certificate.
async fn visit(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> (HandshakeKind, Vec<u8>) {
    let wire = handshake(connect(address).await, name, config)
        .await
        .unwrap();
    let certificate = wire.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let kind = wire.get_ref().1.handshake_kind().unwrap();
    let mut client = Client::new(wire);
    // The ticket comes with the answer, or before it.
    assert_eq!(client.get("/").await.unwrap().status, 200);
    (kind, certificate)
}

fn is(certificate: &Certificate, der: &[u8]) -> bool {
    certificate.key.cert[0].as_ref() == der
}

#[tokio::test]
async fn sni_picks_the_certificate() {
    let one = certificate(&["one.test"]);
    let two = certificate(&["*.two.test"]);
    let edge = Edge::start(config(vec![tls(vec![one.clone(), two.clone()])]), 1).await;
    let trusting = client_config(&[&one, &two], &[]);
    for (name, expected) in [("one.test", &one), ("a.two.test", &two)] {
        let (_, served) = visit(edge.addresses[0], name, &trusting).await;
        assert!(is(expected, &served), "{name}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn sessions_resume_on_any_worker_and_across_reloads() {
    let old = certificate(&["app.test"]);
    let new = certificate(&["app.test"]);
    let edge = Edge::start(config(vec![tls(vec![old.clone()])]), 2).await;
    let address = edge.addresses[0];
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        edge.listeners
            .reload(&config(vec![tls(vec![old.clone()])]))
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(old.key.cert[0].clone()).unwrap();
        roots.add(new.key.cert[0].clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trusting = Arc::new(
            ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth(),
        );
        assert_eq!(
            visit(address, "app.test", &trusting).await.0,
            HandshakeKind::Full
        );
        // Enough for the kernel to have picked both workers.
        for _ in 0..12 {
            assert_eq!(
                visit(address, "app.test", &trusting).await.0,
                HandshakeKind::Resumed
            );
        }
        let restart = edge
            .listeners
            .reload(&config(vec![tls(vec![new.clone()])]))
            .unwrap();
        assert!(restart.is_empty());
        assert_eq!(
            visit(address, "app.test", &trusting).await.0,
            HandshakeKind::Resumed
        );
        let fresh = client_config(&[&old, &new], &[]);
        let (kind, served) = visit(address, "app.test", &fresh).await;
        assert!(
            kind == HandshakeKind::Full && is(&new, &served),
            "the new certificate is served"
        );
    }
    edge.stop().await;
}

#[tokio::test]
async fn the_minimum_version_holds() {
    let certificate = certificate(&["app.test"]);
    let mut listener = tls(vec![certificate.clone()]);
    if let ListenerKind::Tls(tls) = &mut listener.kind {
        tls.minimum_version = TlsVersion::Tls13;
    }
    let edge = Edge::start(config(vec![listener]), 1).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.key.cert[0].clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let old = Arc::new(
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    );
    let refused = handshake(connect(edge.addresses[0]).await, "app.test", &old).await;
    assert!(refused.is_err());
    visit(
        edge.addresses[0],
        "app.test",
        &client_config(&[&certificate], &[]),
    )
    .await;
    edge.stop().await;
}

#[tokio::test]
async fn no_common_protocol_is_refused_in_the_handshake() {
    let certificate = certificate(&["app.test"]);
    let edge = Edge::start(config(vec![tls(vec![certificate.clone()])]), 1).await;
    let odd = client_config(&[&certificate], &["spdy/1"]);
    assert!(
        handshake(connect(edge.addresses[0]).await, "app.test", &odd)
            .await
            .is_err()
    );
    edge.stop().await;
}
