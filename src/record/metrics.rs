//! The metrics of the contract. Labels come from the configuration only, never from a client.

/// Every counter of the process; shared by all workers.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// A connection was accepted by this listener.
    pub fn connection_opened(&self, _listener: &str) {}
    /// An accepted connection ended.
    pub fn connection_closed(&self, _listener: &str) {}
    /// A connection was refused before TLS, or for what it sent: `banned`, `listed`, `per_client`,
    /// `rate`, `total`, `proxy_header`, `handshake`, `timeout`, `malformed`.
    pub fn connection_refused(&self, _reason: &'static str) {}
    /// A handshake ended: `full`, `resumed`, `failed`, `timeout`.
    pub fn handshake(&self, _result: &'static str) {}
}
