//! One spelling for each path (RFC 3986, 6.2.2), so that no spelling escapes a rule or a route.
//!
//! This is the path that routes and rules see. What is sent upstream stays as the client wrote it.

use std::borrow::Cow;

/// The normal form of a request path (without its query).
///
/// Escapes of unreserved characters are decoded, other escapes are written in upper case, a `%` that
/// begins no escape becomes `%25`, doubled slashes are merged, and then dot segments are removed
/// (also those that were escaped). The result starts with `/`, or is `*`.
///
/// Borrows when the path is normal already.
#[must_use]
pub fn normalise(path: &[u8]) -> Cow<'_, [u8]> {
    if path == b"*" || is_normal(path) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(remove_dot_segments(&decode(path)))
}

/// Whether a path that [`normalise`] made would still climb in the hands of a server that takes
/// `%2F`, `\` or `%5C` for a slash, or cuts `;parameters` off a segment. No honest client sends one.
#[must_use]
pub fn hides_dot_segments(normal: &[u8]) -> bool {
    if !normal.contains(&b'%') && !normal.contains(&b'\\') && !normal.contains(&b';') {
        return false;
    }
    let mut rest = normal;
    loop {
        let (segment, after) = split_loosely(rest);
        let name = segment.split(|byte| *byte == b';').next().unwrap_or(b"");
        if name == b".." || (name == b"." && segment != b".") {
            return true;
        }
        match after {
            Some(after) => rest = after,
            None => return false,
        }
    }
}

/// Cuts at the first thing that some server takes for a slash.
fn split_loosely(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    for (at, byte) in path.iter().enumerate() {
        let length = match byte {
            b'/' | b'\\' => 1,
            b'%' => match path.get(at..at.saturating_add(3)) {
                Some(b"%2F" | b"%5C") => 3,
                _ => continue,
            },
            _ => continue,
        };
        return (
            path.get(..at).unwrap_or_default(),
            path.get(at.saturating_add(length)..),
        );
    }
    (path, None)
}

/// Conservative: a path with an escape, a doubled slash or a segment that starts with a dot is not.
fn is_normal(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    let mut before = 0;
    for &byte in path {
        if byte == b'%' || (before == b'/' && (byte == b'/' || byte == b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len().saturating_add(1));
    if path.first() != Some(&b'/') {
        decoded.push(b'/');
    }
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let byte = if first == b'%' {
            match after {
                [high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    rest = after;
                    let byte = (hex(*high) << 4) | hex(*low);
                    if !is_unreserved(byte) {
                        decoded.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
                        continue;
                    }
                    byte
                }
                _ => {
                    decoded.extend(b"%25");
                    continue;
                }
            }
        } else {
            first
        };
        if byte == b'/' && decoded.last() == Some(&b'/') {
            continue;
        }
        decoded.push(byte);
    }
    if decoded.is_empty() {
        decoded.push(b'/');
    }
    decoded
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit.wrapping_sub(b'0'),
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10) & 0xf,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986, 5.2.4, for a path that starts with `/` and has no doubled slash.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path
        .get(1..)
        .unwrap_or_default()
        .split(|byte| *byte == b'/')
        .peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                if segment == b".." {
                    let parent = kept.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    kept.truncate(parent);
                }
                if last {
                    kept.push(b'/');
                }
            }
            _ => {
                kept.push(b'/');
                kept.extend_from_slice(segment);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_fall_together() {
        for (spelling, normal) in [
            ("/", "/"),
            ("", "/"),
            ("*", "*"),
            ("a", "/a"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/%61dmin", "/admin"),
            ("/%7euser", "/~user"),
            ("/a%2fb", "/a%2Fb"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/../../a", "/a"),
            ("//a///b", "/a/b"),
            ("/a//../b", "/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a%", "/a%25"),
            ("/a%4", "/a%254"),
            ("/a%zz", "/a%25zz"),
            ("/%%34%31", "/%2541"),
            ("/%00", "/%00"),
            ("/%252e%252e/a", "/%252e%252e/a"),
        ] {
            assert_eq!(
                String::from_utf8_lossy(&normalise(spelling.as_bytes())),
                normal,
                "{spelling}"
            );
        }
    }

    #[test]
    fn normal_paths_are_borrowed() {
        assert!(matches!(normalise(b"/a/b.c/d-e_f~g"), Cow::Borrowed(_)));
        assert!(matches!(normalise(b"/"), Cow::Borrowed(_)));
    }

    #[test]
    fn climbing_in_disguise_is_seen() {
        for path in [
            "/public/..%2fadmin",
            "/public/..%5Cadmin",
            "/public/..\\admin",
            "/public/..;/admin",
            "/public/..;x=y/admin",
            "/public%2f../admin",
            "/public/.;/admin",
        ] {
            assert!(hides_dot_segments(&normalise(path.as_bytes())), "{path}");
        }
        for path in [
            "/@scope%2Fname",
            "/a;b=c",
            "/a..b%2F",
            "/..a",
            "/%2E",
            "/100%25",
        ] {
            assert!(!hides_dot_segments(&normalise(path.as_bytes())), "{path}");
        }
    }

    proptest! {
        #[test]
        fn normal_form_is_normal(path in "[/.%a2-f;*\\\\\u{0}-\u{ff}]{0,40}") {
            let once = normalise(path.as_bytes()).into_owned();
            prop_assert_eq!(&*normalise(&once), &*once);
            prop_assert!(once.first() == Some(&b'/') || once == b"*");
            prop_assert!(!once.windows(2).any(|pair| pair == b"//"));
            prop_assert!(!once.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b".."));
        }

        #[test]
        fn any_bytes_are_survived(path in proptest::collection::vec(any::<u8>(), 0..200)) {
            let once = normalise(&path).into_owned();
            prop_assert_eq!(&*normalise(&once), &*once);
            let _ = hides_dot_segments(&once);
        }
    }
}
