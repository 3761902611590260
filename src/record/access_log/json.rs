//! Values in JSON (RFC 8259), appended to a buffer.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use verdict::prefix::Prefix;

/// A string of whatever bytes, cut to `limit` of them and made valid.
pub(super) fn text<T: AsRef<[u8]> + ?Sized>(out: &mut Vec<u8>, text: &T, limit: usize) {
    let text = text.as_ref();
    let kept = text.get(..limit).unwrap_or(text);
    out.push(b'"');
    if kept.iter().all(|byte| is_plain(*byte)) {
        out.extend_from_slice(kept);
    } else {
        for chunk in kept.utf8_chunks() {
            escape(out, chunk.valid());
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    if kept.len() < text.len() {
        out.extend_from_slice("…".as_bytes());
    }
    out.push(b'"');
}

/// ASCII that stands for itself.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Control characters are escaped beyond what JSON asks (DEL, C1), so that no terminal obeys them.
fn escape(out: &mut Vec<u8>, text: &str) {
    for letter in text.chars() {
        match letter {
            '"' => out.extend_from_slice(br#"\""#),
            '\\' => out.extend_from_slice(br"\\"),
            '\n' => out.extend_from_slice(br"\n"),
            '\r' => out.extend_from_slice(br"\r"),
            '\t' => out.extend_from_slice(br"\t"),
            letter if letter.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

pub(super) fn address(out: &mut Vec<u8>, address: IpAddr) {
    out.push(b'"');
    bare_address(out, address);
    out.push(b'"');
}

pub(super) fn prefix(out: &mut Vec<u8>, prefix: Prefix) {
    out.push(b'"');
    bare_address(out, prefix.address());
    out.push(b'/');
    number(out, prefix.length().into());
    out.push(b'"');
}

pub(super) fn socket_address(out: &mut Vec<u8>, address: SocketAddr) {
    out.push(b'"');
    if address.is_ipv4() {
        bare_address(out, address.ip());
    } else {
        out.push(b'[');
        bare_address(out, address.ip());
        out.push(b']');
    }
    out.push(b':');
    number(out, address.port().into());
    out.push(b'"');
}

fn bare_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        // Four numbers: several times as fast as the formatter's way.
        IpAddr::V4(address) => {
            for (at, octet) in address.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                number(out, octet.into());
            }
        }
        // Writing to a Vec can't fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

pub(super) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut length = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        length += 1;
        if value == 0 {
            break;
        }
    }
    let start = digits.len().saturating_sub(length);
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// To the microsecond.
pub(super) fn milliseconds(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    number(out, micros / 1000);
    out.push(b'.');
    for place in [100, 10, 1] {
        out.push(b'0' + u8::try_from(micros / place % 10).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verdict::prefix::PrefixLengths;

    #[test]
    fn strings_survive_the_way_through_a_parser() {
        for original in [
            "",
            "plain",
            "a\"b\\c/d",
            "\u{0}\u{1f}\n\r\t\u{8}\u{7f}\u{9b}",
            "é漢🦀\u{2028}",
        ] {
            let mut out = Vec::new();
            text(&mut out, original, 100);
            assert!(!out.iter().any(u8::is_ascii_control), "{original:?}");
            let parsed: String = serde_json::from_slice(&out).unwrap();
            assert_eq!(parsed, original);
        }
    }

    #[test]
    fn every_byte_gives_a_valid_string() {
        for first in 0..=u8::MAX {
            for second in [0, b'"', b'\\', b'a', 0x80, 0xbf, 0xc3, 0xff] {
                let mut out = Vec::new();
                text(&mut out, &[first, second], 100);
                serde_json::from_slice::<String>(&out).unwrap();
            }
        }
    }

    #[test]
    fn addresses_show_as_they_do_elsewhere() {
        for text in ["0.0.0.0", "203.0.113.255", "::", "2001:db8:0:1::a"] {
            let ip: IpAddr = text.parse().unwrap();
            let mut out = Vec::new();
            address(&mut out, ip);
            prefix(&mut out, Prefix::of(ip, PrefixLengths::NETWORK));
            let socket = SocketAddr::new(ip, 8443);
            socket_address(&mut out, socket);
            let network = Prefix::of(ip, PrefixLengths::NETWORK);
            let expected = format!("\"{ip}\"\"{network}\"\"{socket}\"");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn numbers_are_whole() {
        for value in [0, 7, 10, 1024, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
        for (micros, expected) in [(0, "0.000"), (1, "0.001"), (12_345, "12.345")] {
            let mut out = Vec::new();
            milliseconds(&mut out, Duration::from_micros(micros));
            assert_eq!(out, expected.as_bytes());
        }
    }
}
