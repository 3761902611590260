//! The host that a request is for: from `:authority` or `Host`, lower case, without port or final dot.

use http::{Uri, header};
use pingora_http::RequestHeader;
use std::{borrow::Cow, net::Ipv6Addr};

/// Why a request names no usable host; answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHost {
    /// Neither `:authority` nor `Host`.
    Missing,
    /// More than one `Host`.
    Several,
    /// Not a DNS name or address with an optional port.
    Malformed,
}

impl std::fmt::Display for BadHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "the request names no host",
            Self::Several => "the request has several Host headers",
            Self::Malformed => "the request's host is malformed",
        })
    }
}

impl std::error::Error for BadHost {}

/// The host as the client wrote it, port and all: the authority of an h2 request or an absolute
/// target, which wins over `Host` (RFC 9112, 3.2.2); else `Host`.
pub fn written(request: &RequestHeader) -> Result<&[u8], BadHost> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(BadHost::Several);
    }
    match authority(&request.uri) {
        Some(authority) => Ok(authority.as_bytes()),
        None => host
            .map(http::HeaderValue::as_bytes)
            .ok_or(BadHost::Missing),
    }
}

fn authority(uri: &Uri) -> Option<&str> {
    uri.authority().map(http::uri::Authority::as_str)
}

/// The normal form of a written host: lower case, without port and final dot. An IPv6 address keeps
/// its brackets and is written as RFC 5952 says.
pub fn normalise(written: &[u8]) -> Result<Cow<'_, str>, BadHost> {
    let written = std::str::from_utf8(written).map_err(|_| BadHost::Malformed)?;
    if let Some(rest) = written.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(BadHost::Malformed)?;
        let address: Ipv6Addr = address.parse().map_err(|_| BadHost::Malformed)?;
        if !(after.is_empty() || after.strip_prefix(':').is_some_and(is_port)) {
            return Err(BadHost::Malformed);
        }
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let name = match written.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return Err(BadHost::Malformed),
        None => written,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = (1..=253).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && !name
            .split('.')
            .any(|label| label.is_empty() || label.len() > 63);
    if !fits {
        return Err(BadHost::Malformed);
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Ok(Cow::Owned(name.to_ascii_lowercase()))
    } else {
        Ok(Cow::Borrowed(name))
    }
}

/// May be empty (RFC 3986, 3.2.3).
fn is_port(text: &str) -> bool {
    text.is_empty()
        || (text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_fall_together() {
        for (written, normal) in [
            ("example.com", "example.com"),
            ("EXAMPLE.com", "example.com"),
            ("example.com.", "example.com"),
            ("example.com:8443", "example.com"),
            ("example.com.:8443", "example.com"),
            ("example.com:", "example.com"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[0:0::1]:443", "[::1]"),
            ("a_b.local", "a_b.local"),
        ] {
            assert_eq!(normalise(written.as_bytes()).as_deref(), Ok(normal));
        }
        assert!(matches!(
            normalise(b"example.com:443"),
            Ok(Cow::Borrowed(_))
        ));
    }

    #[test]
    fn anything_else_is_malformed() {
        let long = "a".repeat(64);
        let longer = ["abcdefg"; 40].join(".");
        for written in [
            "", ".", ":80", "a..b", ".a", "a b", "a/b", "user@a", "a:b", "a:99999", "a:80:80",
            "::1", "[::1", "[::1]x", "[::g]", "a,b", "a%2e", "ä", &long, &longer,
        ] {
            assert_eq!(
                normalise(written.as_bytes()),
                Err(BadHost::Malformed),
                "{written}"
            );
        }
        assert_eq!(normalise(&[0xff]), Err(BadHost::Malformed));
    }

    #[test]
    fn authority_wins_and_two_hosts_are_refused() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        assert_eq!(super::written(&request), Err(BadHost::Missing));
        request.insert_header("host", "a.example").unwrap();
        assert_eq!(super::written(&request), Ok(b"a.example".as_slice()));
        request.set_uri("http://b.example/".parse().unwrap());
        assert_eq!(super::written(&request), Ok(b"b.example".as_slice()));
        request.append_header("host", "c.example").unwrap();
        assert_eq!(super::written(&request), Err(BadHost::Several));
    }
}
