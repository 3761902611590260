//! What a request asks for, in one spelling: what routes, rules and limits look at.

use super::{
    host::{self, BadHost},
    path,
};
use http::{Method, Version};
use pingora_core::Result;
use pingora_http::{
    RequestHeader,
    authority::{RawTargetAuthority, raw_target_authority},
};
use std::borrow::Cow;

/// Host, path and query of a request. Borrows unless a spelling had to be changed.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// Lower case, no port; empty when an HTTP/1.0 request names none.
    pub host: Cow<'a, str>,
    /// Normalised, without the query.
    pub path: Cow<'a, [u8]>,
    /// As written, without `?`.
    pub query: &'a [u8],
}

/// Why a request can't be told where it wants to go; answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTarget {
    Host(BadHost),
    /// Neither a path, nor an absolute `http` or `https` target, nor `*` of an `OPTIONS`.
    Form,
    /// Dot segments hidden behind encoded slashes, backslashes or path parameters.
    HiddenDotSegments,
}

impl BadTarget {
    /// The stable name, for the access log's `error.code`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Host(_) => "bad_host",
            Self::Form => "bad_target",
            Self::HiddenDotSegments => "hidden_dot_segments",
        }
    }
}

impl std::fmt::Display for BadTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(bad) => bad.fmt(f),
            Self::Form => f.write_str("the request's target has no form that can be forwarded"),
            Self::HiddenDotSegments => f.write_str("the path hides dot segments"),
        }
    }
}

impl<'a> Target<'a> {
    /// # Errors
    /// A target of a form that is not forwarded; a host that is missing, repeated or malformed; a path
    /// that climbs in disguise.
    pub fn of(request: &'a RequestHeader) -> std::result::Result<Self, BadTarget> {
        let (path, query) = cut(origin(request).ok_or(BadTarget::Form)?);
        let host = match host::written(request) {
            Ok(written) => host::normalise(written).map_err(BadTarget::Host)?,
            Err(BadHost::Missing) if request.version <= Version::HTTP_10 => Cow::Borrowed(""),
            Err(bad) => return Err(BadTarget::Host(bad)),
        };
        let path = path::normalise(path);
        if path::hides_dot_segments(&path) {
            return Err(BadTarget::HiddenDotSegments);
        }
        Ok(Self { host, path, query })
    }
}

/// Path and query as they were written, whatever the target's form.
#[must_use]
pub fn split(request: &RequestHeader) -> (&[u8], &[u8]) {
    cut(origin(request).unwrap_or_else(|| request.raw_path()))
}

fn cut(origin: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = origin.splitn(2, |byte| *byte == b'?');
    let path = parts.next().unwrap_or_default();
    (path, parts.next().unwrap_or_default())
}

/// Path with query; `None` for targets that are not forwarded (RFC 9112, 3.2).
#[must_use]
pub fn origin(request: &RequestHeader) -> Option<&[u8]> {
    let raw = request.raw_path();
    match raw.first() {
        Some(b'/') => Some(raw),
        Some(b'*') if raw == b"*" && request.method == Method::OPTIONS => Some(raw),
        _ => absolute(raw),
    }
}

/// Makes an absolute target the path and query that were judged: some servers would route by the
/// authority in it, or read the whole as a path. To be called before a request is sent on.
///
/// # Errors
/// Pingora's, for a path that no URI can hold.
pub fn make_origin_form(request: &mut RequestHeader) -> Result<()> {
    let raw = request.raw_path();
    if matches!(raw.first(), Some(b'/' | b'*')) {
        return Ok(());
    }
    let Some(origin) = absolute(raw) else {
        return Ok(());
    };
    let mut rooted = Vec::with_capacity(origin.len().saturating_add(1));
    if origin.first() != Some(&b'/') {
        rooted.push(b'/');
    }
    rooted.extend_from_slice(origin);
    request.set_raw_path(&rooted)
}

/// Path and query of an absolute target, by the same reading that pingora compares with `Host`.
fn absolute(raw: &[u8]) -> Option<&[u8]> {
    match raw_target_authority(raw) {
        RawTargetAuthority::Absolute {
            scheme,
            path_and_query,
            ..
        } if scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https") => {
            Some(path_and_query)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, host: Option<&str>) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        if let Some(host) = host {
            request.insert_header("host", host).unwrap();
        }
        request
    }

    #[test]
    fn one_spelling_for_each_target() {
        let table = [
            (
                "/a/%62?q=%62",
                "Example.COM:8443",
                "example.com",
                "/a/b",
                "q=%62",
            ),
            ("/a/../login", "example.com.", "example.com", "/login", ""),
            ("//login?a?b", "example.com", "example.com", "/login", "a?b"),
        ];
        for (target, host, want_host, want_path, want_query) in table {
            let request = request(target, Some(host));
            let found = Target::of(&request).unwrap();
            assert_eq!(found.host, want_host);
            assert_eq!(found.path, want_path.as_bytes());
            assert_eq!(found.query, want_query.as_bytes());
        }
    }

    #[test]
    fn only_targets_that_can_be_judged_are_forwarded() {
        for (method, target, judged, sent) in [
            (
                "GET",
                "http://example.com/a/../b?q",
                Some("/b"),
                "/a/../b?q",
            ),
            ("GET", "HTTPS://example.com/a", Some("/a"), "/a"),
            ("GET", "http://example.com", Some("/"), "/"),
            ("GET", "http://example.com?q=1", Some("/"), "/?q=1"),
            ("OPTIONS", "*", Some("*"), "*"),
            ("GET", "*", None, ""),
            ("GET", "admin", None, ""),
            ("GET", "?q", None, ""),
            ("GET", "ftp://example.com/a", None, ""),
            ("GET", "foo:bar://example.com/admin", None, ""),
            ("GET", "http:/\\example.com/admin", None, ""),
            ("CONNECT", "example.com:443", None, ""),
        ] {
            let mut request = RequestHeader::build(method, target.as_bytes(), None).unwrap();
            request.insert_header("host", "example.com").unwrap();
            let Some(judged) = judged else {
                assert_eq!(
                    Target::of(&request).unwrap_err(),
                    BadTarget::Form,
                    "{target}"
                );
                continue;
            };
            assert_eq!(
                Target::of(&request).unwrap().path,
                judged.as_bytes(),
                "{target}"
            );
            make_origin_form(&mut request).unwrap();
            assert_eq!(request.raw_path(), sent.as_bytes(), "{target}");
            assert_eq!(
                Target::of(&request).unwrap().path,
                judged.as_bytes(),
                "{target}"
            );
        }
    }

    #[test]
    fn disguises_are_refused() {
        let disguised = request("/a/..%2f..%2fetc", Some("example.com"));
        assert_eq!(
            Target::of(&disguised).unwrap_err(),
            BadTarget::HiddenDotSegments
        );
        let nowhere = request("/", None);
        assert_eq!(
            Target::of(&nowhere).unwrap_err(),
            BadTarget::Host(BadHost::Missing)
        );
    }
}
