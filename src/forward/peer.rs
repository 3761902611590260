//! How to reach an endpoint, in pingora's words: timeouts, protocol, TLS with verification always on.
//!
//! A peer is built once for each endpoint and cloned for each request (one allocation, two with TLS).

use crate::config::model::{ClientCertificate, Upstream, UpstreamProtocol, UpstreamTls};
use pingora_core::{
    protocols::{ALPN, TcpKeepalive},
    upstreams::peer::HttpPeer,
    utils::tls::{CertKey, WrappedX509, parse_x509},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

/// How long an unused connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(60);
/// Requests at once on one h2 connection.
const H2_STREAMS: usize = 100;
/// Small windows a stream under a large one a connection: slow clients can't use up the connection's
/// and so block the others on it.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
const H2_PING: Duration = Duration::from_secs(30);

/// What all endpoints of an upstream share.
#[derive(Debug)]
pub struct PeerTemplate {
    connect: Duration,
    response: Duration,
    h2: bool,
    tls: Option<TlsTemplate>,
    /// Connections are shared by peers of equal groups only. Pingora's own key leaves out the CA and
    /// all of a client certificate but its serial number.
    group: u64,
}

#[derive(Debug)]
struct TlsTemplate {
    server_name: String,
    ca: Option<Arc<[WrappedX509]>>,
    client: Option<Arc<CertKey>>,
}

/// TLS material that pingora would panic on, found when the configuration is loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct BadPeer {
    pub upstream: Arc<str>,
    pub problem: &'static str,
}

impl std::fmt::Display for BadPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "upstream {}: {}", self.upstream, self.problem)
    }
}

impl std::error::Error for BadPeer {}

impl PeerTemplate {
    pub fn build(upstream: &Upstream) -> Result<Self, BadPeer> {
        let bad = |problem| BadPeer {
            upstream: Arc::clone(&upstream.name),
            problem,
        };
        let h2 = upstream.protocol == UpstreamProtocol::H2;
        let mut group = DefaultHasher::new();
        h2.hash(&mut group);
        if let Some(tls) = &upstream.tls {
            tls.server_name.hash(&mut group);
            tls.ca.hash(&mut group);
            if let Some(client) = &tls.client {
                client.chain.hash(&mut group);
            }
        }
        Ok(Self {
            connect: upstream.timeouts.connect,
            response: upstream.timeouts.response,
            h2,
            tls: match &upstream.tls {
                Some(tls) => Some(TlsTemplate::build(tls).map_err(bad)?),
                None => None,
            },
            group: group.finish(),
        })
    }

    /// The peer for ordinary requests to `address`.
    #[must_use]
    pub fn peer(&self, address: SocketAddr) -> HttpPeer {
        let server_name = self.tls.as_ref().map(|tls| tls.server_name.clone());
        // Never empty with TLS: an empty one would turn pingora's verification off.
        let mut peer = HttpPeer::new(
            address,
            server_name.is_some(),
            server_name.unwrap_or_default(),
        );
        peer.group_key = self.group;
        peer.client_cert_key = self.tls.as_ref().and_then(|tls| tls.client.clone());
        let options = &mut peer.options;
        options.connection_timeout = Some(self.connect);
        options.total_connection_timeout = Some(self.connect);
        options.read_timeout = Some(self.response);
        options.write_timeout = Some(self.response);
        options.idle_timeout = Some(IDLE);
        options.verify_cert = true;
        options.verify_hostname = true;
        options.ca = self.tls.as_ref().and_then(|tls| tls.ca.clone());
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_secs(30),
            interval: Duration::from_secs(10),
            count: 3,
            user_timeout: Duration::ZERO,
        });
        options.alpn = if self.h2 { ALPN::H2 } else { ALPN::H1 };
        if self.h2 {
            options.max_h2_streams = H2_STREAMS;
            options.h2_stream_window_size = Some(H2_STREAM_WINDOW);
            options.h2_connection_window_size = Some(H2_CONNECTION_WINDOW);
            options.h2_ping_interval = Some(H2_PING);
        }
        peer
    }
}

/// For requests that become a stream (WebSocket, server-sent events, gRPC): so much silence between
/// two reads or writes is no failure there. It bounds the wait for the response's headers, too.
pub fn allow_silence(peer: &mut HttpPeer, silence: Duration) {
    let longer = |timeout: Option<Duration>| timeout.map(|timeout| timeout.max(silence));
    peer.options.read_timeout = longer(peer.options.read_timeout);
    peer.options.write_timeout = longer(peer.options.write_timeout);
}

impl TlsTemplate {
    fn build(tls: &UpstreamTls) -> Result<Self, &'static str> {
        if rustls::pki_types::ServerName::try_from(tls.server_name.as_str()).is_err() {
            return Err("`server_name` is neither a DNS name nor an address");
        }
        let ca = match &tls.ca {
            Some(certificates) => {
                let mut store = rustls::RootCertStore::empty();
                for certificate in certificates {
                    if store.add(certificate.clone()).is_err() {
                        return Err("`ca` holds a certificate that can't sign");
                    }
                }
                if store.is_empty() {
                    return Err("`ca` holds no certificate");
                }
                Some(wrapped(certificates)?.into())
            }
            None => None,
        };
        let client = match tls.client.as_deref() {
            Some(client) => Some(Arc::new(cert_key(client)?)),
            None => None,
        };
        Ok(Self {
            server_name: tls.server_name.clone(),
            ca,
            client,
        })
    }
}

fn wrapped(certificates: &[CertificateDer<'static>]) -> Result<Vec<WrappedX509>, &'static str> {
    if certificates.iter().any(|certificate| !is_x509(certificate)) {
        return Err("a certificate is malformed");
    }
    Ok(certificates
        .iter()
        .map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509))
        .collect())
}

fn cert_key(client: &ClientCertificate) -> Result<CertKey, &'static str> {
    if client.chain.is_empty() || client.chain.iter().any(|link| !is_x509(link)) {
        return Err("the client certificate is malformed");
    }
    let key = client.key.secret_der().to_vec();
    // Pingora guesses the kind of key again from its bytes, at each connection.
    let usable = PrivateKeyDer::try_from(key.as_slice())
        .is_ok_and(|key| rustls::crypto::ring::sign::any_supported_type(&key).is_ok());
    if !usable {
        return Err("the client certificate's key is of no supported kind");
    }
    let chain = client.chain.iter().map(|link| link.to_vec()).collect();
    Ok(CertKey::new(chain, key))
}

fn is_x509(der: &[u8]) -> bool {
    x509_parser::parse_x509_certificate(der).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::{testing::Certificates, upstream::tests::upstream};
    use pingora_core::upstreams::peer::Peer;

    #[test]
    fn connections_are_shared_only_under_the_same_trust() {
        let address: SocketAddr = "10.0.0.1:443".parse().unwrap();
        let certificates = [
            Certificates::new("app.internal"),
            Certificates::new("app.internal"),
        ];
        let hash = |ca: Option<usize>, client: Option<usize>| {
            let mut spec = upstream("app", &[]);
            spec.tls = Some(UpstreamTls {
                ca: ca.map(|index| vec![certificates[index].ca.clone()]),
                server_name: "app.internal".into(),
                client: client.map(|index| {
                    Arc::new(ClientCertificate {
                        chain: vec![certificates[index].leaf.clone()],
                        key: certificates[index].key.clone_key(),
                    })
                }),
            });
            PeerTemplate::build(&spec)
                .unwrap()
                .peer(address)
                .reuse_hash()
        };
        let all = [
            hash(None, None),
            hash(Some(0), None),
            hash(Some(1), None),
            hash(Some(0), Some(0)),
            hash(Some(0), Some(1)),
        ];
        let different: std::collections::HashSet<u64> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(hash(Some(1), Some(1)), hash(Some(1), Some(1)));
    }

    #[test]
    fn unusable_material_is_refused_at_load() {
        let good = Certificates::new("app.internal");
        let client = |chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>| {
            Some(Arc::new(ClientCertificate { chain, key }))
        };
        let junk = CertificateDer::from(vec![1, 2, 3]);
        let key = || good.key.clone_key();
        let bad_key = rustls::pki_types::PrivatePkcs8KeyDer::from(vec![0x30, 0]);
        for (ca, server_name, client) in [
            (None, "", None),
            (None, "a b", None),
            (Some(vec![]), "a", None),
            (Some(vec![junk.clone()]), "a", None),
            (None, "a", client(vec![], key())),
            (None, "a", client(vec![junk], key())),
            (None, "a", client(vec![good.leaf.clone()], bad_key.into())),
        ] {
            let mut spec = upstream("app", &[]);
            spec.tls = Some(UpstreamTls {
                ca,
                server_name: server_name.into(),
                client,
            });
            assert!(PeerTemplate::build(&spec).is_err(), "{spec:?}");
        }
    }
}
