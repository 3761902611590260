//! What the upstream sees of a request's headers, and the client of an answer's.
//!
//! Pingora strips hop-by-hop fields from requests (and those that `connection` names) before
//! `upstream_request_filter`, keeps WebSocket upgrades, and keeps the client's `host`. What it leaves
//! is done here: names that only Rempart may set never pass, however they are spelt.

use super::target;
use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use std::{
    fmt::Write as _,
    io::{Cursor, Write as _},
    net::IpAddr,
};

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static USER: HeaderName = HeaderName::from_static("x-rempart-user");
static ROLES: HeaderName = HeaderName::from_static("x-rempart-roles");
static REQUEST_ID_NAME: HeaderName = HeaderName::from_static(REQUEST_ID);
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Ties an answer, a block page and every record of a request together.
pub const REQUEST_ID: &str = "x-request-id";

/// What upstreams are told of a request, whoever sent it.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// The client, as identified.
    pub client: IpAddr,
    /// The other end of the connection: the client, or a trusted proxy in front of it.
    pub peer: IpAddr,
    /// Whether the client's side is encrypted.
    pub https: bool,
    /// The host as the client wrote it, port and all.
    pub host: &'a [u8],
    pub request_id: &'a HeaderValue,
    /// Empty when anonymous.
    pub user: &'a str,
    pub roles: &'a [String],
}

/// Makes a request fit to be sent upstream; called from `upstream_request_filter`.
///
/// `x-forwarded-for` becomes the client, then the trusted proxies that the request came through; what
/// stands left of the client in the received one was never checked by anyone and goes.
pub fn prepare_request(request: &mut RequestHeader, told: &Forwarded<'_>) -> Result<()> {
    target::make_origin_form(request)?;
    edit_request(request, |headers| {
        let chain = chain(headers, told.client, told.peer);
        strip_reserved(headers);
        headers.insert(&FORWARDED_FOR, chain);
        let scheme = HeaderValue::from_static(if told.https { "https" } else { "http" });
        headers.insert(&FORWARDED_PROTO, scheme);
        let host = headers.get(header::HOST).cloned();
        let host = host.filter(|host| host.as_bytes() == told.host);
        if let Some(host) = host.or_else(|| HeaderValue::from_bytes(told.host).ok()) {
            headers.insert(&FORWARDED_HOST, host);
        }
        headers.insert(&REQUEST_ID_NAME, told.request_id.clone());
        if !told.user.is_empty() {
            headers.insert(&USER, escaped([told.user]));
            if !told.roles.is_empty() {
                headers.insert(&ROLES, escaped(told.roles.iter().map(String::as_str)));
            }
        }
    })
}

/// Edits headers without pingora's map of spellings beside them, which costs two allocations for each
/// name: what goes out is lower case, but for the names that pingora knows. An RFC 9110 server can't
/// tell, and HTTP/2 clients never had a spelling.
fn edit_request(request: &mut RequestHeader, edit: impl FnOnce(&mut HeaderMap)) -> Result<()> {
    // The two things that the URI and the headers don't say.
    let raw = (!request.raw_path_is_utf8()).then(|| request.raw_path().to_vec());
    let end_stream = request.send_end_stream();
    let empty = RequestHeader::from(Request::new(()).into_parts().0);
    let mut parts = http::request::Parts::from(std::mem::replace(request, empty));
    edit(&mut parts.headers);
    *request = RequestHeader::from(parts);
    if let Some(end_stream) = end_stream {
        request.set_send_end_stream(end_stream);
    }
    match raw {
        Some(raw) => request.set_raw_path(&raw),
        None => Ok(()),
    }
}

/// Makes an upstream's answer fit for the client; called from `response_filter`.
///
/// Pingora sets `connection` and the framing itself, for the protocol that the client speaks.
pub fn prepare_response(response: &mut ResponseHeader, request_id: &HeaderValue) -> Result<()> {
    let status = response.status;
    edit_response(response, |headers| {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(&KEEP_ALIVE);
        headers.remove(&PROXY_CONNECTION);
        if status != StatusCode::SWITCHING_PROTOCOLS {
            headers.remove(header::CONNECTION);
            if status != StatusCode::UPGRADE_REQUIRED {
                headers.remove(header::UPGRADE);
            }
        }
        headers.insert(&REQUEST_ID_NAME, request_id.clone());
    })
}

/// Gives the values of a response a buffer of their own, no longer than they are. As they came they
/// are pieces of the 4 KiB that the head was read into, and whoever keeps one of them keeps all: an
/// HTTP/2 connection does, in its table of headers sent (RFC 7541, section 2.3.2), some dozens of them.
pub fn compact(response: &mut ResponseHeader) -> Result<()> {
    edit_response(response, |headers| {
        let length = headers.values().map(HeaderValue::len).sum();
        let mut values = BytesMut::with_capacity(length);
        for value in headers.values_mut() {
            values.extend_from_slice(value.as_bytes());
            let copy = HeaderValue::from_maybe_shared(values.split().freeze());
            // They were valid before.
            if let Ok(mut copy) = copy {
                copy.set_sensitive(value.is_sensitive());
                *value = copy;
            }
        }
    })
}

/// As [`edit_request`].
fn edit_response(response: &mut ResponseHeader, edit: impl FnOnce(&mut HeaderMap)) -> Result<()> {
    let reason = response.get_reason_phrase();
    let unusual = reason.filter(|reason| Some(*reason) != response.status.canonical_reason());
    let unusual = unusual.map(str::to_owned);
    let empty = ResponseHeader::from(Response::new(()).into_parts().0);
    let mut parts = http::response::Parts::from(std::mem::replace(response, empty));
    edit(&mut parts.headers);
    *response = ResponseHeader::from(parts);
    match unusual {
        Some(reason) => response.set_reason_phrase(Some(&reason)),
        None => Ok(()),
    }
}

/// Whether only Rempart may say this to an upstream. Underscores count as hyphens: CGI-like servers
/// make one variable of both.
fn is_reserved(name: &str) -> bool {
    const WHOLE: [&str; 10] = [
        "forwarded",
        "x-forwarded",
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "x-request-id",
        // CVE-2016-5385: becomes HTTP_PROXY in CGI-like servers.
        "proxy",
        // Some frameworks route by these instead of the path that the rules have judged.
        "x-original-url",
        "x-rewrite-url",
        "x-original-uri",
    ];
    const FAMILIES: [&str; 2] = ["x-forwarded-", "x-rempart-"];
    // Most names are done with here.
    if !matches!(name.as_bytes().first(), Some(b'f' | b'p' | b't' | b'x')) {
        return false;
    }
    let is = |wanted: &str| name.len() == wanted.len() && begins(name, wanted);
    WHOLE.iter().any(|whole| is(whole)) || FAMILIES.iter().any(|family| begins(name, family))
}

/// `name` is lower case already.
fn begins(name: &str, wanted: &str) -> bool {
    let hyphenated = |byte| if byte == b'_' { b'-' } else { byte };
    name.len() >= wanted.len()
        && name
            .bytes()
            .map(hyphenated)
            .zip(wanted.bytes())
            .all(|(a, b)| a == b)
}

fn strip_reserved(headers: &mut HeaderMap) {
    let reserved = |name: &&HeaderName| is_reserved(name.as_str());
    while let Some(name) = headers.keys().find(reserved).cloned() {
        headers.remove(name);
    }
}

/// The client, then what the received `x-forwarded-for` lists behind it, then the peer.
fn chain(received: &HeaderMap, client: IpAddr, peer: IpAddr) -> HeaderValue {
    let client = client.to_canonical();
    let peer = peer.to_canonical();
    if client == peer {
        return single(client);
    }
    let mut text = client.to_string();
    // Read from the right, as identify does: what follows the last mention of the client.
    let mut hops = Vec::new();
    let values = received.get_all(&FORWARDED_FOR);
    let entries = values.iter().filter_map(|value| value.to_str().ok());
    let entries: Vec<&str> = entries.flat_map(|value| value.split(',')).collect();
    let mut found = false;
    for entry in entries.iter().rev() {
        match address(entry.trim()) {
            Some(hop) if hop == client => {
                found = true;
                break;
            }
            Some(hop) => hops.push(hop),
            None => break,
        }
    }
    if found {
        for hop in hops.iter().rev() {
            let _ = write!(text, ", {hop}");
        }
    }
    let _ = write!(text, ", {peer}");
    header_value(&text)
}

/// An address as a value: one allocation.
fn single(address: IpAddr) -> HeaderValue {
    let mut text = Cursor::new([0_u8; 48]);
    // The longest IPv6 address takes 39 bytes.
    let _ = write!(text, "{address}");
    let length = usize::try_from(text.position()).unwrap_or_default();
    let text = text.get_ref().get(..length).unwrap_or_default();
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
}

/// An address as proxies write it: bare, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.parse().ok();
    let address: IpAddr = bare.or_else(|| {
        text.parse::<std::net::SocketAddr>()
            .ok()
            .map(|with_port| with_port.ip())
    })?;
    Some(address.to_canonical())
}

/// Everything but visible ASCII, and what separates values.
const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b',').add(b'%');

/// Comma-separated, percent-encoded where a byte could be taken for something else.
fn escaped<'a>(values: impl IntoIterator<Item = &'a str>) -> HeaderValue {
    let mut text = String::new();
    for value in values {
        if !text.is_empty() {
            text.push(',');
        }
        text.extend(utf8_percent_encode(value, UNSAFE));
    }
    header_value(&text)
}

/// `text` is visible ASCII and spaces.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// End-to-end fields that an answer's `connection` declares to be hop-by-hop; at most 16.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .take(16)
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| {
            !matches!(
                *name,
                header::CONNECTION
                    | header::UPGRADE
                    | header::TRANSFER_ENCODING
                    | header::CONTENT_LENGTH
                    | header::CONTENT_TYPE
                    | header::SET_COOKIE
            ) && name.as_str() != "close"
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<'a>(request_id: &'a HeaderValue, roles: &'a [String]) -> Forwarded<'a> {
        Forwarded {
            client: "192.0.2.7".parse().unwrap(),
            peer: "192.0.2.7".parse().unwrap(),
            https: true,
            host: b"app.example:8443",
            request_id,
            user: "",
            roles,
        }
    }

    fn request(headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request
                .append_header((*name).to_owned(), (*value).to_owned())
                .unwrap();
        }
        request
    }

    fn shown(request: &RequestHeader) -> Vec<String> {
        let mut lines: Vec<String> = request
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_clients_claim_never_passes() {
        let mut request = request(&[
            ("host", "app.example:8443"),
            ("X-Forwarded-For", "1.1.1.1"),
            ("X-Forwarded-For", "2.2.2.2"),
            ("X_Forwarded_For", "1.1.1.1"),
            ("x-forwarded_port", "1"),
            ("x-forwarded-prefix", "/admin"),
            ("Forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("x-request-id", "mine"),
            ("X-Rempart-User", "root"),
            ("x-rempart_user", "root"),
            ("x_rempart_roles", "admin"),
            ("x-rempart-anything", "x"),
            ("proxy", "http://evil"),
            ("x-original-url", "/admin"),
            ("x-forwards", "kept"),
            ("accept", "*/*"),
        ]);
        let id = HeaderValue::from_static("0190");
        prepare_request(&mut request, &told(&id, &[])).unwrap();
        assert_eq!(
            shown(&request),
            [
                "accept: */*",
                "host: app.example:8443",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: app.example:8443",
                "x-forwarded-proto: https",
                "x-forwards: kept",
                "x-request-id: 0190",
            ]
        );
    }

    #[test]
    fn the_chain_starts_at_the_client() {
        let id = HeaderValue::from_static("0190");
        for (received, chain) in [
            (
                "6.6.6.6, 192.0.2.7, 10.0.0.2",
                "192.0.2.7, 10.0.0.2, 10.0.0.1",
            ),
            ("192.0.2.7", "192.0.2.7, 10.0.0.1"),
            ("192.0.2.7:5000", "192.0.2.7, 10.0.0.1"),
            (
                "192.0.2.7, 6.6.6.6, nonsense, 10.0.0.2",
                "192.0.2.7, 10.0.0.1",
            ),
            ("", "192.0.2.7, 10.0.0.1"),
        ] {
            let mut request = request(&[("x-forwarded-for", received)]);
            let told = Forwarded {
                peer: "::ffff:10.0.0.1".parse().unwrap(),
                https: false,
                ..told(&id, &[])
            };
            prepare_request(&mut request, &told).unwrap();
            assert_eq!(request.headers["x-forwarded-for"], chain);
            assert_eq!(request.headers["x-forwarded-proto"], "http");
        }
    }

    #[test]
    fn users_and_roles_cannot_inject() {
        let id = HeaderValue::from_static("0190");
        let roles = [
            "admin".to_owned(),
            "a,b".to_owned(),
            "é%\r\nx: y".to_owned(),
        ];
        let mut request = request(&[]);
        let told = Forwarded {
            user: "zoë smith",
            ..told(&id, &roles)
        };
        prepare_request(&mut request, &told).unwrap();
        assert_eq!(request.headers["x-rempart-user"], "zo%C3%AB%20smith");
        assert_eq!(
            request.headers["x-rempart-roles"],
            "admin,a%2Cb,%C3%A9%25%0D%0Ax:%20y"
        );
    }

    #[test]
    fn what_else_a_header_holds_stays() {
        let id = HeaderValue::from_static("0190");
        let mut request = RequestHeader::build("GET", b"/\xff?q", None).unwrap();
        request.insert_header("host", "app.example").unwrap();
        request.set_version(http::Version::HTTP_2);
        request.set_send_end_stream(false);
        prepare_request(&mut request, &told(&id, &[])).unwrap();
        assert_eq!(request.raw_path(), b"/\xff?q");
        assert_eq!(request.send_end_stream(), Some(false));
        assert_eq!(request.version, http::Version::HTTP_2);

        let mut response = ResponseHeader::build(200, None).unwrap();
        response.set_reason_phrase(Some("Fine")).unwrap();
        prepare_response(&mut response, &id).unwrap();
        assert_eq!(response.get_reason_phrase(), Some("Fine"));
    }

    #[test]
    fn compact_values_say_what_they_said() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        response.set_reason_phrase(Some("Fine")).unwrap();
        let head = bytes::Bytes::from(vec![b'x'; 4096]);
        let piece = HeaderValue::from_maybe_shared(head.slice(10..14)).unwrap();
        let mut secret = HeaderValue::from_static("hidden");
        secret.set_sensitive(true);
        response.append_header("a", piece).unwrap();
        response.append_header("b", "").unwrap();
        response.append_header("a", secret).unwrap();
        assert!(!head.is_unique());
        compact(&mut response).unwrap();
        assert!(head.is_unique(), "nothing holds the buffer any more");
        let a: Vec<_> = response.headers.get_all("a").iter().collect();
        assert_eq!(a, ["xxxx", "hidden"]);
        assert!(!a[0].is_sensitive() && a[1].is_sensitive());
        assert_eq!(response.headers["b"], "");
        assert_eq!(response.get_reason_phrase(), Some("Fine"));
    }

    #[test]
    fn answers_lose_their_hop_by_hop_fields() {
        let id = HeaderValue::from_static("0190");
        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("connection", "close, x-hop, Content-Length"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("content-length", "3"),
            ("x-request-id", "theirs"),
            ("server", "kept"),
        ] {
            response.append_header(name, value).unwrap();
        }
        prepare_response(&mut response, &id).unwrap();
        let mut names: Vec<&str> = response.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "server", "x-request-id"]);
        assert_eq!(response.headers["x-request-id"], "0190");

        let mut switching = ResponseHeader::build(101, None).unwrap();
        switching.append_header("connection", "Upgrade").unwrap();
        switching.append_header("upgrade", "websocket").unwrap();
        prepare_response(&mut switching, &id).unwrap();
        assert_eq!(switching.headers["upgrade"], "websocket");
        assert_eq!(switching.headers["connection"], "Upgrade");
    }

    /// A request as pingora hands it on: parsed from HTTP/1, then cloned.
    fn from_a_browser() -> RequestHeader {
        request(&[
            ("Host", "app.example:8443"),
            ("User-Agent", "Mozilla/5.0"),
            ("Accept", "text/html"),
            ("Accept-Language", "en"),
            ("Accept-Encoding", "gzip"),
            ("Cookie", "a=b"),
        ])
        .clone()
    }

    #[test]
    fn the_usual_request_costs_few_allocations() {
        let id = HeaderValue::from_str("0190").unwrap();
        // The first clone of a value makes it a shared one.
        let _shared = id.clone();
        let told = told(&id, &[]);
        let mut request = from_a_browser();
        let seen = allocation_counter::measure(|| prepare_request(&mut request, &told).unwrap());
        // The value of x-forwarded-for; the header map grows.
        assert!(seen.count_total <= 2, "{}", seen.count_total);

        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [("Content-Type", "text/html"), ("Server", "app")] {
            response.append_header(name, value).unwrap();
        }
        let seen = allocation_counter::measure(|| prepare_response(&mut response, &id).unwrap());
        assert_eq!(seen.count_total, 0);
    }
}
