//! TLS settings of a listener: versions, protocols, tickets, and certificates picked by SNI. They are
//! swapped on reload; the ticket keys stay, so that sessions resume across reloads and workers.

use crate::config::model::{Certificate, Protocols, Tls, TlsVersion};
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{collections::HashMap, io, sync::Arc};

/// Makes the tickets of a listener: keys turn every six hours, a ticket lives twelve at most.
///
/// # Errors
/// When the system has no randomness to give.
pub fn ticketer() -> io::Result<Arc<dyn ProducesTickets>> {
    ring::Ticketer::new().map_err(io::Error::other)
}

/// The settings for one listener.
///
/// # Errors
/// When the versions and cipher suites don't fit, which they do unless the library changed.
pub fn server_config(
    tls: &Tls,
    protocols: Protocols,
    ticketer: &Arc<dyn ProducesTickets>,
) -> io::Result<Arc<ServerConfig>> {
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.minimum_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(BySni::new(&tls.certificates)));
    if protocols.h2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    if protocols.http1 {
        config.alpn_protocols.push(b"http/1.1".to_vec());
    }
    // Sessions live in tickets alone: nothing per client is kept here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::clone(ticketer);
    config.send_tls13_tickets = 1;
    // Early data can be replayed.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Certificates by the names in them: the exact name, then the wildcard for it, then the first.
#[derive(Debug)]
struct BySni {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By the part after `*`, with its dot.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl BySni {
    fn new(certificates: &[Certificate]) -> Self {
        let mut exact = HashMap::new();
        let mut wildcard = HashMap::new();
        for certificate in certificates {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix('*') {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, name.as_str()),
                };
                // The first certificate that has a name serves it.
                map.entry(name.to_ascii_lowercase())
                    .or_insert_with(|| Arc::clone(&certificate.key));
            }
        }
        Self {
            exact,
            wildcard,
            first: certificates.first().map(|first| Arc::clone(&first.key)),
        }
    }

    fn pick(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let Some(name) = name.map(str::to_ascii_lowercase) else {
            return self.first.as_ref();
        };
        self.exact
            .get(&name)
            .or_else(|| {
                // A wildcard stands for exactly one label (RFC 6125, section 6.4.3).
                let dot = name.find('.').filter(|dot| *dot > 0)?;
                self.wildcard.get(name.get(dot..)?)
            })
            .or(self.first.as_ref())
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pick(hello.server_name()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::testing::certificate;

    #[test]
    fn names_pick_their_certificate() {
        let certificates = [
            certificate(&["first.test"]),
            certificate(&["*.example.test", "example.test"]),
            certificate(&["app.example.test"]),
        ];
        let by_sni = BySni::new(&certificates);
        for (name, expected) in [
            (None, 0),
            (Some("first.test"), 0),
            (Some("unknown.test"), 0),
            (Some("example.test"), 1),
            (Some("www.example.test"), 1),
            (Some("WWW.Example.Test"), 1),
            (Some("app.example.test"), 2),
            (Some("a.b.example.test"), 0),
            (Some(".example.test"), 0),
            (Some(""), 0),
        ] {
            let picked = by_sni.pick(name).unwrap();
            assert!(
                Arc::ptr_eq(picked, &certificates[expected].key),
                "{name:?} should pick certificate {expected}"
            );
        }
    }
}
