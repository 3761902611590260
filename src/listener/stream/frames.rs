//! The stream below HTTP/2: every byte that passes is shown to the connection's ledger, which knows
//! the frames. Deadlines of requests are its business, and the loop's above the h2 crate.

use super::{ClientStream, Expected};
use crate::listener::http2::Watch;
use std::sync::Arc;

impl ClientStream {
    /// The connection speaks HTTP/2 from now on.
    pub fn speak_http2(&mut self, watch: Arc<Watch>) {
        self.expected = Expected::Frames(watch);
    }

    /// Nothing more is to be read: what the client has sent ends the connection.
    pub(super) fn is_over(&self) -> bool {
        match &self.expected {
            Expected::Frames(watch) => watch.is_over(),
            _ => false,
        }
    }

    /// These bytes were taken to be written.
    pub(super) fn show_sent(&self, bytes: &[u8]) {
        if let Expected::Frames(watch) = &self.expected {
            watch.sent(bytes);
        }
    }
}
