//! What must hold for whatever bytes a peer sends, in whatever pieces they come: called by the fuzz
//! targets through [`crate::fuzzing`], and by a short property test here.

use super::{
    chunked::Chunked,
    head,
    proxy_protocol::{self, Parsed},
    stream::Body,
};
use crate::config::model::Http1Limits;
use pingora_http::RequestHeader;

/// Those of the default configuration.
const LIMITS: Http1Limits = Http1Limits {
    request_line: 16 * 1024,
    header_bytes: 64 * 1024,
    headers: 128,
};

/// The first two bytes say where the rest is cut into pieces.
fn pieces(data: &[u8]) -> Option<(&[u8], [usize; 2])> {
    let (&[first, second], bytes) = data.split_first_chunk::<2>()?;
    let first = usize::from(first).min(bytes.len());
    let second = first.saturating_add(usize::from(second)).min(bytes.len());
    Some((bytes, [first, second]))
}

/// Finds, judges and frames a request, and follows its body.
///
/// # Panics
/// When the end of a head or a body depends on how the bytes are cut, or a refusal has no meaning.
#[allow(clippy::expect_used)] // a finding is told by a panic
pub fn http1_head(data: &[u8]) {
    let Some((bytes, cuts)) = pieces(data) else {
        return;
    };
    let start = head::leading_empty_lines(bytes);
    let bytes = bytes.get(start..).unwrap_or_default();
    let whole = head::end(bytes, &mut 0);
    let mut scanned = 0;
    let piecewise = cuts
        .into_iter()
        .chain([bytes.len()])
        .find_map(|cut| head::end(bytes.get(..cut.min(bytes.len()))?, &mut scanned));
    assert_eq!(whole, piecewise, "a head ends where it ends");
    // What stands there without an end must not be taken for a request either.
    let Some(end) = whole else {
        assert!(
            head::framing(bytes, &LIMITS).is_err(),
            "half a head is not a request"
        );
        return;
    };
    let (head, rest) = bytes.split_at(end);
    match head::framing(head, &LIMITS) {
        Err(status) => assert!(status.is_client_error() || status.is_server_error()),
        Ok(framing) => {
            // A second reading, of less strictness, sees the same request.
            let mut headers = [httparse::EMPTY_HEADER; 256];
            let mut request = httparse::Request::new(&mut headers);
            let read = request.parse(head).expect("it was judged whole");
            assert_eq!(read, httparse::Status::Complete(end));
            let (method, target) = (request.method, request.path.unwrap_or_default());
            RequestHeader::build(method.unwrap_or_default(), target.as_bytes(), None)
                .expect("pingora takes what passes");
            if framing.body == Body::Chunked {
                chunked(rest, cuts);
            }
        }
    }
}

/// Follows a chunked body, at once and in pieces.
fn chunked(bytes: &[u8], cuts: [usize; 2]) {
    let mut whole = Chunked::new();
    let at_once = whole.advance(bytes);
    let mut parts = Chunked::new();
    let mut taken = 0_usize;
    let mut result = Ok(());
    for cut in cuts.into_iter().chain([bytes.len()]) {
        let piece = bytes
            .get(taken..cut.min(bytes.len()).max(taken))
            .unwrap_or_default();
        match parts.advance(piece) {
            Ok(length) => taken = taken.saturating_add(length),
            Err(malformed) => {
                result = Err(malformed);
                break;
            }
        }
    }
    assert_eq!(at_once.is_ok(), result.is_ok());
    if let Ok(at_once) = at_once {
        assert_eq!((at_once, whole.done()), (taken, parts.done()));
        assert!(whole.done() || at_once == bytes.len());
    }
}

/// Reads a PROXY header.
///
/// # Panics
/// When a header is found in some bytes and not in the same bytes with more behind them, or more is
/// asked for than any header has.
#[allow(clippy::panic)] // a finding is told by a panic
pub fn proxy_protocol(data: &[u8]) {
    let Some((bytes, [cut, _])) = pieces(data) else {
        return;
    };
    let whole = proxy_protocol::parse(bytes);
    let early = proxy_protocol::parse(bytes.get(..cut).unwrap_or_default());
    match (early, whole) {
        (Parsed::Complete(..) | Parsed::Invalid, whole) => {
            assert_eq!(early, whole, "more bytes change what stands there");
        }
        (Parsed::Needs(needed), Parsed::Complete(_, length)) => {
            assert!(needed > 0 && cut.saturating_add(needed) <= length);
        }
        (Parsed::Needs(needed), Parsed::Needs(_) | Parsed::Invalid) => assert!(needed > 0),
    }
    if let Parsed::Complete(_, length) = whole {
        let exact = proxy_protocol::parse(bytes.get(..length).unwrap_or_default());
        assert_eq!(exact, whole, "a header needs nothing behind it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pieces of requests in any order: nearer to what matters than any bytes.
    fn request_like() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "GET ",
            "/",
            " ",
            "HTTP/1.1",
            "\r\n",
            "\r",
            "\n",
            "host: a",
            "content-length: ",
            "3",
            "transfer-encoding: chunked",
            ":",
            ";",
            "0\r\n\r\n",
            "a",
            "\t",
            "\0",
            "PROXY TCP4 ",
            "127.0.0.1 ",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
            "\r\n\r\n\0\r\nQUIT\n",
            "!\x11\0\x0c",
        ]);
        (any::<[u8; 2]>(), prop::collection::vec(piece, 0..24))
            .prop_map(|(cuts, pieces)| [cuts.as_slice(), pieces.concat().as_bytes()].concat())
    }

    proptest! {
        #[test]
        fn what_must_hold_holds(like in request_like(), any in prop::collection::vec(any::<u8>(), 0..300)) {
            for bytes in [&like, &any] {
                http1_head(bytes);
                proxy_protocol(bytes);
            }
        }
    }
}
