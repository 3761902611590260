//! Requests that ask for a stream of no foreseeable end: gRPC and server-sent events. They ask for
//! much, so it is the edge that decides: the proxy tells here how it went on with one, and only then
//! the stream's deadlines change.

use super::watch::Watch;
use crate::listener::head;
use http::{HeaderMap, header::CONTENT_TYPE};
use pingora_http::RequestHeader;
use std::{sync::Arc, time::Duration};

/// Rides in the extensions of a request that asks for such a stream.
#[derive(Clone, Debug)]
pub struct Lasting {
    watch: Arc<Watch>,
    stream: u32,
    grpc: bool,
}

impl Lasting {
    /// Makes `request` carry one, if it asks for such a stream.
    pub(super) fn note(request: &mut RequestHeader, watch: &Arc<Watch>, stream: u32) {
        let asks = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            head::is_lasting(name.as_str(), value.as_bytes())
        };
        if request.headers.iter().any(asks) {
            let lasting = Self {
                watch: Arc::clone(watch),
                stream,
                grpc: content_type_begins(&request.headers, b"application/grpc"),
            };
            request.extensions_mut().insert(lasting);
        }
    }

    /// `None` for requests that ask for no such stream, and for all of HTTP/1.
    #[must_use]
    pub fn of(request: &RequestHeader) -> Option<&Self> {
        request.extensions.get()
    }

    /// It goes to an upstream, which has `patience` to begin its answer once the request is complete.
    /// The body of a gRPC stream may pause as it likes, if that upstream speaks gRPC's protocol.
    pub fn forwarded(&self, patience: Duration, http2: bool) {
        let now = self.watch.now();
        let pauses = self.grpc && http2;
        self.watch
            .ledger()
            .forwarded(self.stream, patience, pauses, now);
    }

    /// The final answer has these headers.
    pub fn answered(&self, headers: &HeaderMap) {
        let lasts = content_type_begins(headers, b"text/event-stream")
            || content_type_begins(headers, b"application/grpc");
        let now = self.watch.now();
        self.watch.ledger().answered(self.stream, lasts, now);
    }
}

fn content_type_begins(headers: &HeaderMap, wanted: &[u8]) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .get(..wanted.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(wanted))
    })
}
