//! What the upstream sees of a request's headers, and the client of an answer's.
//!
//! Pingora strips hop-by-hop fields from requests (and those that `connection` names) before
//! `upstream_request_filter`, keeps WebSocket upgrades, and keeps the client's `host`. What it leaves
//! is done here: names that only Rempart may set never pass, however they are spelt.

use super::target;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use std::{fmt::Write, net::IpAddr};

// As text: pingora would copy a `HeaderName` for its map of spellings.
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_HOST: &str = "x-forwarded-host";
const USER: &str = "x-rempart-user";
const ROLES: &str = "x-rempart-roles";
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
    let chain = chain(&request.headers, told.client, told.peer);
    strip_reserved(request);
    request.insert_header(FORWARDED_FOR, chain)?;
    let scheme = HeaderValue::from_static(if told.https { "https" } else { "http" });
    request.insert_header(FORWARDED_PROTO, scheme)?;
    if let Ok(host) = HeaderValue::from_bytes(told.host) {
        request.insert_header(FORWARDED_HOST, host)?;
    }
    request.insert_header(REQUEST_ID, told.request_id)?;
    if !told.user.is_empty() {
        request.insert_header(USER, escaped([told.user]))?;
        if !told.roles.is_empty() {
            request.insert_header(ROLES, escaped(told.roles.iter().map(String::as_str)))?;
        }
    }
    Ok(())
}

/// Makes an upstream's answer fit for the client; called from `response_filter`.
///
/// Pingora sets `connection` and the framing itself, for the protocol that the client speaks.
pub fn prepare_response(response: &mut ResponseHeader, request_id: &HeaderValue) -> Result<()> {
    for name in named_by_connection(&response.headers) {
        response.remove_header(&name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        if response.headers.contains_key(name) {
            response.remove_header(name);
        }
    }
    if response.status != StatusCode::SWITCHING_PROTOCOLS {
        response.remove_header(&header::CONNECTION);
        if response.status != StatusCode::UPGRADE_REQUIRED {
            response.remove_header(&header::UPGRADE);
        }
    }
    response.insert_header(REQUEST_ID, request_id)
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

fn strip_reserved(request: &mut RequestHeader) {
    while let Some(name) = request
        .headers
        .keys()
        .find(|name| is_reserved(name.as_str()))
        .cloned()
    {
        request.remove_header(&name);
    }
}

/// The client, then what the received `x-forwarded-for` lists behind it, then the peer.
fn chain(received: &HeaderMap, client: IpAddr, peer: IpAddr) -> HeaderValue {
    let client = client.to_canonical();
    let peer = peer.to_canonical();
    let mut text = client.to_string();
    if client != peer {
        // Read from the right, as identify does: what follows the last mention of the client.
        let mut hops = Vec::new();
        let values = received.get_all(FORWARDED_FOR);
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
    }
    header_value(&text)
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
}
