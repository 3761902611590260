//! Sends the answers that Rempart makes itself, so that they arrive: what is left of a request's body
//! is read away first, within bounds.

use crate::{forward::headers::REQUEST_ID, reply::Reply};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora_core::{Result, protocols::http::ServerSession};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use std::time::Duration;

/// How long and how much of an unread body is read away, so that the client sees the answer and not
/// a reset.
const DRAIN_TIME: Duration = Duration::from_millis(500);
const DRAIN_BYTES: usize = 64 * 1024;

/// Sends a reply as the answer to the session's request.
pub async fn send(session: &mut Session, id: &HeaderValue, reply: Reply) -> Result<()> {
    if !drained(session).await {
        session.set_keepalive(None);
    }
    // Names go out as they are: a map of their spellings would cost more than the rest.
    let mut header = ResponseHeader::build_no_case(reply.status, Some(reply.headers.len() + 2))?;
    for (name, value) in reply.headers {
        header.append_header(name, value)?;
    }
    header.insert_header(REQUEST_ID, id)?;
    let bodiless = matches!(
        reply.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if !bodiless {
        header.insert_header(header::CONTENT_LENGTH, reply.body.len())?;
    }
    let body = if bodiless || session.req_header().method == Method::HEAD {
        Bytes::new()
    } else {
        reply.body
    };
    // A gRPC client takes a status for one only where the stream ends with it.
    if header.headers.contains_key("grpc-status")
        && let ServerSession::H2(http2) = session.as_mut()
    {
        return http2.write_response_header(Box::new(header), true);
    }
    session
        .write_response_header(Box::new(header), false)
        .await?;
    // Also when it is empty: HTTP/2 ends the stream here.
    session.write_response_body(Some(body), true).await
}

/// Reads away what is left of a request's body; `false` when that would take too long.
async fn drained(session: &mut Session) -> bool {
    if session.is_body_done() {
        return true;
    }
    if session.req_header().headers.contains_key(header::EXPECT) {
        // The client waits for a word before it sends the body.
        return false;
    }
    let draining = async {
        let mut read = 0;
        while read <= DRAIN_BYTES {
            match session.read_request_body().await {
                Ok(Some(chunk)) => read += chunk.len(),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
        false
    };
    tokio::time::timeout(DRAIN_TIME, draining)
        .await
        .unwrap_or(false)
}
