//! What a request asks for, in one spelling: what routes, rules and limits look at.

use super::{
    host::{self, BadHost},
    path,
};
use http::Version;
use pingora_http::RequestHeader;
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
    /// Dot segments hidden behind encoded slashes, backslashes or path parameters.
    HiddenDotSegments,
}

impl BadTarget {
    /// The stable name, for the access log's `error.code`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Host(_) => "bad_host",
            Self::HiddenDotSegments => "hidden_dot_segments",
        }
    }
}

impl std::fmt::Display for BadTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(bad) => bad.fmt(f),
            Self::HiddenDotSegments => f.write_str("the path hides dot segments"),
        }
    }
}

impl<'a> Target<'a> {
    /// # Errors
    /// A host that is missing, repeated or malformed; a path that climbs in disguise.
    pub fn of(request: &'a RequestHeader) -> Result<Self, BadTarget> {
        let host = match host::written(request) {
            Ok(written) => host::normalise(written).map_err(BadTarget::Host)?,
            Err(BadHost::Missing) if request.version <= Version::HTTP_10 => Cow::Borrowed(""),
            Err(bad) => return Err(BadTarget::Host(bad)),
        };
        let (path, query) = split(request);
        let path = path::normalise(path);
        if path::hides_dot_segments(&path) {
            return Err(BadTarget::HiddenDotSegments);
        }
        Ok(Self { host, path, query })
    }
}

/// Path and query as they were written.
#[must_use]
pub fn split(request: &RequestHeader) -> (&[u8], &[u8]) {
    let raw = request.raw_path();
    if raw.first() == Some(&b'/') || raw == b"*" {
        let mut parts = raw.splitn(2, |byte| *byte == b'?');
        return (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
    }
    // Absolute form: the URI knows where the path begins.
    (
        request.uri.path().as_bytes(),
        request.uri.query().unwrap_or_default().as_bytes(),
    )
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
