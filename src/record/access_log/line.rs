//! What a line says: the fields of the contract, absent ones left out.
//!
//! Of the request, the path is written without its query, and no header is: credentials travel in
//! both. Text from a client is made valid UTF-8 (what isn't becomes U+FFFD) and cut at a bound,
//! marked by a final `…`.

use crate::record::{Outcome, Record, timestamp::Timestamp};
use serde::{Serialize, Serializer};
use std::net::SocketAddr;
use verdict::{
    decision::{Action, Finding, Mode},
    prefix::Prefix,
};

/// Bytes of host and path that a line keeps.
const LONG: usize = 2048;
/// Bytes of other texts that a client chose.
const SHORT: usize = 256;

/// Who wrote the line.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    pub id: String,
    pub version: &'static str,
}

impl Server {
    /// This machine's name and this program's version.
    #[must_use]
    pub fn here() -> Self {
        let id = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            id: id.trim().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Appends one object, without the line's end.
pub(super) fn write(
    out: &mut Vec<u8>,
    record: &Record<'_>,
    server: &Server,
) -> serde_json::Result<()> {
    serde_json::to_writer(out, &Line::new(record, server))
}

#[derive(Serialize)]
struct Line<'a> {
    time: Timestamp,
    request_id: &'a str,
    client: Client<'a>,
    #[serde(skip_serializing_if = "User::is_empty")]
    user: User<'a>,
    listener: &'a str,
    destination: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Tls<'a>>,
    request: Request<'a>,
    response: Response,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<Upstream<'a>>,
    decision: Decision<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error<'a>>,
    duration_ms: f64,
    server: &'a Server,
}

#[derive(Serialize)]
struct Client<'a> {
    ip: std::net::IpAddr,
    #[serde(serialize_with = "as_text")]
    network: Prefix,
    #[serde(skip_serializing_if = "Text::is_empty")]
    ja4: Text<'a>,
    port: u16,
}

#[derive(Serialize)]
struct User<'a> {
    #[serde(skip_serializing_if = "Text::is_empty")]
    id: Text<'a>,
    #[serde(skip_serializing_if = "Text::is_empty")]
    session: Text<'a>,
}

impl User<'_> {
    fn is_empty(&self) -> bool {
        self.id.is_empty() && self.session.is_empty()
    }
}

#[derive(Serialize)]
struct Tls<'a> {
    version: &'a str,
    #[serde(skip_serializing_if = "Text::is_empty")]
    sni: Text<'a>,
}

#[derive(Serialize)]
struct Request<'a> {
    method: Text<'a>,
    #[serde(skip_serializing_if = "Text::is_empty")]
    host: Text<'a>,
    path: Text<'a>,
    protocol: &'a str,
    bytes: u64,
}

#[derive(Serialize)]
struct Response {
    /// 0: closed without an answer.
    status: u16,
    bytes: u64,
}

#[derive(Serialize)]
struct Upstream<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    ms: f64,
}

#[derive(Serialize)]
struct Decision<'a> {
    action: &'static str,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// Findings that this object doesn't show already.
    #[serde(
        skip_serializing_if = "<[Finding]>::is_empty",
        serialize_with = "observed"
    )]
    observed: &'a [Finding],
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'static str,
    #[serde(skip_serializing_if = "Text::is_empty")]
    text: Text<'a>,
}

impl<'a> Line<'a> {
    fn new(record: &Record<'a>, server: &'a Server) -> Self {
        Self {
            time: Timestamp(record.time),
            request_id: record.request_id,
            client: Client {
                ip: record.client.ip,
                network: record.client.network,
                ja4: Text::short(record.client.ja4),
                port: record.client.port,
            },
            user: User {
                id: Text::short(record.user.id),
                session: Text::short(record.user.session),
            },
            listener: record.listener,
            destination: record.destination,
            tls: record.tls.map(|tls| Tls {
                version: tls.version,
                sni: Text::short(tls.sni),
            }),
            request: Request {
                method: Text::short(record.request.method),
                host: Text::long(record.request.host),
                path: Text::long(record.request.path),
                protocol: record.request.protocol,
                bytes: record.request.bytes,
            },
            response: Response {
                status: record.response.status,
                bytes: record.response.bytes,
            },
            route: record.route_name(),
            upstream: record.upstream.map(|upstream| Upstream {
                name: upstream.name,
                endpoint: upstream.endpoint,
                ms: milliseconds(upstream.took),
            }),
            decision: Decision::new(record.decision),
            error: record.error.map(|error| Error {
                code: error.code,
                text: Text::short(error.text),
            }),
            duration_ms: milliseconds(record.duration),
            server,
        }
    }
}

impl<'a> Decision<'a> {
    /// Shows what was done and the finding that made it so. Where nothing bit but something in the
    /// shadow would have, that one is shown as if it bit, with its mode.
    fn new(decision: Outcome<'a>) -> Self {
        let hardest = || {
            let shadows = decision.observed.iter().enumerate();
            shadows
                .filter(|(_, finding)| finding.mode == Mode::Shadow)
                .max_by_key(|(at, finding)| (finding.action, std::cmp::Reverse(*at)))
        };
        if decision.finding.is_none()
            && decision.action == Action::Allow
            && let Some((_, finding)) = hardest()
        {
            let observed = match decision.observed {
                [_] => &[],
                all => all,
            };
            return Self::of(finding.action, finding.mode, Some(finding), observed);
        }
        Self::of(
            decision.action,
            Mode::Enforce,
            decision.finding,
            decision.observed,
        )
    }

    fn of(
        action: Action,
        mode: Mode,
        finding: Option<&'a Finding>,
        observed: &'a [Finding],
    ) -> Self {
        Self {
            action: action.name(),
            mode: mode.name(),
            source: finding.map(|finding| finding.source.name()),
            name: finding.map(|finding| &*finding.name),
            reason: finding.map(|finding| finding.reason.name()),
            observed,
        }
    }
}

fn observed<S: Serializer>(findings: &[Finding], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(
        findings
            .iter()
            .map(|finding| Decision::of(finding.action, finding.mode, Some(finding), &[])),
    )
}

/// Bytes from outside as text: cut to a bound, and valid.
#[derive(Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    cut: bool,
}

impl<'a> Text<'a> {
    fn long<T: AsRef<[u8]> + ?Sized>(text: &'a T) -> Self {
        Self::bounded(text.as_ref(), LONG)
    }

    fn short<T: AsRef<[u8]> + ?Sized>(text: &'a T) -> Self {
        Self::bounded(text.as_ref(), SHORT)
    }

    fn bounded(text: &'a [u8], limit: usize) -> Self {
        match text.get(..limit) {
            None => Self {
                bytes: text,
                cut: false,
            },
            Some(start) => Self {
                bytes: start,
                cut: text.len() > limit,
            },
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.bytes) {
            Ok(text) if !self.cut => to.serialize_str(text),
            _ => to.collect_str(self),
        }
    }
}

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for chunk in self.bytes.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        if self.cut { f.write_str("…") } else { Ok(()) }
    }
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "durations stay far below 2^52 microseconds"
)]
fn milliseconds(duration: std::time::Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
