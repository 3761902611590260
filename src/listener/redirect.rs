//! The listener that sends everybody to HTTPS: one request, one 308, the end.

use super::{Shared, answer, close, head};
use crate::config::model::Http1Limits;
use bytes::BytesMut;
use http::StatusCode;
use std::{net::Ipv6Addr, str::FromStr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Most bytes of a request that is only to be redirected.
const MAXIMUM: usize = 16 * 1024;

/// Answers one request.
pub async fn serve(mut tcp: TcpStream, shared: &Shared) {
    let config = shared.config.load_full();
    let port = https_port(&config);
    let limit = config.connections.timeouts.headers;
    let mut limits = config.connections.http1.clone();
    limits.header_bytes = limits.header_bytes.min(MAXIMUM);
    drop(config);
    let mut request = BytesMut::new();
    let answered = timeout(limit, async {
        let Some(end) = read(&mut tcp, &mut request, &limits).await else {
            return;
        };
        let request = request.get(..end).unwrap_or_default();
        let answer = match location(request, port, &limits) {
            Ok(location) => answer::redirect(&location),
            Err(status) => {
                shared.metrics.connection_refused(head::reason(status));
                answer::refusal(status)
            }
        };
        if tcp.write_all(&answer).await.is_ok() && tcp.shutdown().await.is_ok() {
            close::discard(tcp).await;
        }
    })
    .await;
    // Browsers open connections that they may not need.
    if answered.is_err() && !request.is_empty() {
        shared.metrics.connection_refused("timeout");
    }
}

/// The port of the first TLS listener: where to redirect to.
fn https_port(config: &crate::config::Config) -> u16 {
    config
        .listeners
        .iter()
        .find(|listener| matches!(listener.kind, crate::config::model::ListenerKind::Tls(_)))
        .map_or(443, |listener| listener.address.port())
}

/// Where a whole head ends, or as much as there is when it gets too large; `None` when the client
/// leaves.
async fn read(tcp: &mut TcpStream, request: &mut BytesMut, limits: &Http1Limits) -> Option<usize> {
    request.reserve(1024);
    let mut scanned = 0;
    loop {
        if let Some(end) = head::end(request, &mut scanned) {
            return Some(end);
        }
        if head::size(request, limits).is_err() {
            return Some(request.len());
        }
        if tcp.read_buf(request).await.ok()? == 0 {
            return None;
        }
    }
}

/// Where this request belongs.
fn location(request: &[u8], port: u16, limits: &Http1Limits) -> Result<String, StatusCode> {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    head::framing(request, limits)?;
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(request).map_err(|_| BAD)?;
    let (host, named_port) = parsed
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("host"))
        .and_then(|header| std::str::from_utf8(header.value).ok())
        .and_then(host_name)
        .ok_or(BAD)?;
    // Absolute form (RFC 9112, section 3.2.2): the path of it; the Host header says the same host.
    let target = parsed.path.ok_or(BAD)?;
    let target = match http::Uri::from_str(target) {
        Ok(uri) => uri
            .path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string),
        Err(_) => return Err(BAD),
    };
    if !target.starts_with('/') {
        return Err(BAD);
    }
    // Visible ASCII only: whatever could break out of a header or confuse a browser is encoded.
    let target: String = percent_encoding::utf8_percent_encode(&target, ODD).to_string();
    // A host without a port means that the client came to port 80, so that whatever leads from there
    // to this listener leads from 443 to the one with TLS.
    Ok(if port == 443 || !named_port {
        format!("https://{host}{target}")
    } else {
        format!("https://{host}:{port}{target}")
    })
}

const ODD: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The name in a Host header and whether a port other than 80 stood there, if it is a DNS name or an
/// IP address.
fn host_name(host: &str) -> Option<(&str, bool)> {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        address.parse::<Ipv6Addr>().ok()?;
        let name = host.get(..address.len().saturating_add(2))?;
        (
            name,
            rest.strip_prefix(':').or(rest.is_empty().then_some("")),
        )
    } else {
        let (name, port) = host.split_once(':').unwrap_or((host, ""));
        let labels = name.strip_suffix('.').unwrap_or(name).split('.');
        for label in labels {
            let plain = label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            if label.is_empty() || label.len() > 63 || !plain {
                return None;
            }
        }
        (name, Some(port))
    };
    let port = port?;
    let named_port = !matches!(port, "" | "80");
    (name.len() <= 255 && (port.is_empty() || port.parse::<u16>().is_ok()))
        .then_some((name, named_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Http1Limits {
        Http1Limits {
            header_bytes: MAXIMUM,
            ..Http1Limits::default()
        }
    }

    fn redirected(target: &str, host: &str) -> Result<String, u16> {
        location(
            format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes(),
            8443,
            &limits(),
        )
        .map_err(|status| status.as_u16())
    }

    #[test]
    fn requests_go_to_the_same_place_on_https() {
        for (target, host, expected) in [
            ("/", "example.com", "https://example.com/"),
            (
                "/a/b?c=d",
                "example.com:8080",
                "https://example.com:8443/a/b?c=d",
            ),
            ("/", "192.0.2.1:8080", "https://192.0.2.1:8443/"),
            ("/", "[2001:db8::1]:80", "https://[2001:db8::1]/"),
            (
                "http://example.com/x",
                "example.com",
                "https://example.com/x",
            ),
            (
                "//evil.test/",
                "example.com",
                "https://example.com//evil.test/",
            ),
            ("/a\"b", "example.com", "https://example.com/a%22b"),
        ] {
            assert_eq!(
                redirected(target, host).as_deref(),
                Ok(expected),
                "{target} {host}"
            );
        }
        let https = location(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", 443, &limits());
        assert_eq!(https.unwrap(), "https://a/");
    }

    #[test]
    fn odd_hosts_are_refused() {
        for host in [
            "",
            "a b",
            "a/b",
            "a@b",
            "user@example.com",
            "example.com:99999",
            "example.com:80:80",
            "a..b",
            ".a",
            "<script>",
            "ex\u{e4}mple.com",
            "[::1",
            "[example]",
            "[::1]x",
            "a%0d%0ab",
            "a\\b",
        ] {
            assert_eq!(redirected("/", host), Err(400), "{host:?}");
        }
        let without = location(b"GET / HTTP/1.0\r\n\r\n", 443, &limits());
        assert_eq!(without.unwrap_err().as_u16(), 400);
        assert_eq!(redirected("*", "a"), Err(400));
        let long = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(MAXIMUM));
        let long = location(long.as_bytes(), 443, &limits());
        assert_eq!(long.unwrap_err().as_u16(), 431);
    }
}
