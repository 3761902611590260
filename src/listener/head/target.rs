//! Whether a request's target and its Host header name one place, and nothing that parsers read
//! differently (RFC 9112, section 3.2).

use crate::forward::host;
use pingora_core::protocols::http::authority::{RawTargetAuthority, raw_target_authority};

/// What pingora or the proxy would refuse later, uncounted, is refused here already.
///
/// Bytes that a URI can't hold are refused as HAProxy does by default: browsers encode them, and
/// servers disagree about their meaning. So is a fragment, which is never sent.
pub fn is_sound(method: &str, target: &str, host: Option<&[u8]>) -> bool {
    if host.is_some_and(|host| host::normalise(host).is_err()) {
        return false;
    }
    if !is_plain(target.as_bytes()) {
        return false;
    }
    match target.as_bytes() {
        [b'/', ..] => true,
        b"*" => method == "OPTIONS",
        absolute => match raw_target_authority(absolute) {
            RawTargetAuthority::Absolute {
                scheme, authority, ..
            } => {
                (scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https"))
                    && host::normalise(authority).is_ok()
                    && host.is_none_or(|host| host == authority)
            }
            RawTargetAuthority::None | RawTargetAuthority::AmbiguousAuthority => false,
        },
    }
}

/// Whether these are bytes that browsers leave as they are in a path and a query (WHATWG URL), or at
/// least the `http` crate takes in a path.
fn is_plain(target: &[u8]) -> bool {
    let mut parts = target.splitn(2, |byte| *byte == b'?');
    let mut plain = |odd: [u8; 2]| {
        let part = parts.next().unwrap_or_default();
        part.iter().all(|byte| {
            byte.is_ascii_graphic() && !matches!(byte, b'#' | b'<') && !odd.contains(byte)
        })
    };
    plain([b'>', b'`']) && plain([b'>', b'"'])
}
