//! What a line says: the fields of the contract, absent ones left out.
//!
//! Of the request, the path is written without its query, and no header is: credentials travel in
//! both. Text from a client is made valid UTF-8 (what isn't becomes U+FFFD) and cut at a bound,
//! marked by a final `…`.
//!
//! Written by hand, since a line is written for every request and a general serializer takes more
//! than twice as long. In each object the first member is always there, so the others open with a
//! comma.

use super::json;
use crate::record::{self, Outcome, Record, timestamp::Timestamp};
use std::io::Write as _;
use verdict::decision::{Action, Finding, Mode};

/// Bytes of host and path that a line keeps.
const LONG: usize = 2048;
/// Bytes of all other texts.
const SHORT: usize = 256;

/// Who wrote the line, as the object that ends it.
#[derive(Clone, Debug)]
pub struct Server(Box<[u8]>);

impl Server {
    #[must_use]
    pub fn new(id: &str) -> Self {
        let mut out = br#","server":{"id":"#.to_vec();
        json::text(&mut out, id, SHORT);
        out.extend_from_slice(br#","version":"#);
        json::text(&mut out, env!("CARGO_PKG_VERSION"), SHORT);
        out.extend_from_slice(b"}}");
        Self(out.into())
    }

    /// This machine, by its name.
    #[must_use]
    pub fn here() -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self::new(name.trim())
    }
}

/// Appends one object, without the line's end.
pub(super) fn write(out: &mut Vec<u8>, record: &Record<'_>, server: &Server) {
    out.extend_from_slice(br#"{"time":""#);
    out.extend_from_slice(&Timestamp(record.time).digits());
    out.extend_from_slice(br#"","request_id":"#);
    json::text(out, record.request_id, SHORT);
    client(out, &record.client);
    user(out, record.user);
    out.extend_from_slice(br#","listener":"#);
    json::text(out, record.listener, SHORT);
    out.extend_from_slice(br#","destination":"#);
    json::socket_address(out, record.destination);
    if let Some(tls) = record.tls {
        out.extend_from_slice(br#","tls":{"version":"#);
        json::text(out, tls.version, SHORT);
        member(out, br#","sni":"#, tls.sni);
        out.push(b'}');
    }
    request(out, &record.request);
    out.extend_from_slice(br#","response":{"status":"#);
    json::number(out, record.response.status.into());
    out.extend_from_slice(br#","bytes":"#);
    json::number(out, record.response.bytes);
    out.push(b'}');
    member(
        out,
        br#","route":"#,
        record.route_name().unwrap_or_default(),
    );
    if let Some(tried) = record.upstream {
        upstream(out, tried);
    }
    out.extend_from_slice(br#","decision":"#);
    decision(out, record.decision);
    if let Some(error) = record.error {
        out.extend_from_slice(br#","error":{"code":"#);
        json::text(out, error.code, SHORT);
        member(out, br#","text":"#, error.text);
        out.push(b'}');
    }
    out.extend_from_slice(br#","duration_ms":"#);
    json::milliseconds(out, record.duration);
    out.extend_from_slice(&server.0);
}

/// A text that is left out when it is empty. `key` comes with its comma and colon.
fn member(out: &mut Vec<u8>, key: &[u8], text: &str) {
    if !text.is_empty() {
        out.extend_from_slice(key);
        json::text(out, text, SHORT);
    }
}

fn client(out: &mut Vec<u8>, client: &record::Client<'_>) {
    out.extend_from_slice(br#","client":{"ip":"#);
    json::address(out, client.ip);
    out.extend_from_slice(br#","network":"#);
    json::prefix(out, client.network);
    member(out, br#","ja4":"#, client.ja4);
    out.extend_from_slice(br#","port":"#);
    json::number(out, client.port.into());
    out.push(b'}');
}

fn user(out: &mut Vec<u8>, user: record::User<'_>) {
    if user.id.is_empty() && user.session.is_empty() {
        return;
    }
    out.extend_from_slice(br#","user":{"#);
    member(out, br#""id":"#, user.id);
    let key: &[u8] = if user.id.is_empty() {
        br#""session":"#
    } else {
        br#","session":"#
    };
    member(out, key, user.session);
    out.push(b'}');
}

fn request(out: &mut Vec<u8>, request: &record::Request<'_>) {
    out.extend_from_slice(br#","request":{"method":"#);
    json::text(out, request.method, SHORT);
    if !request.host.is_empty() {
        out.extend_from_slice(br#","host":"#);
        json::text(out, request.host, LONG);
    }
    out.extend_from_slice(br#","path":"#);
    json::text(out, request.path, LONG);
    out.extend_from_slice(br#","protocol":"#);
    json::text(out, request.protocol, SHORT);
    out.extend_from_slice(br#","bytes":"#);
    json::number(out, request.bytes);
    out.push(b'}');
}

fn upstream(out: &mut Vec<u8>, upstream: record::Upstream<'_>) {
    out.extend_from_slice(br#","upstream":{"name":"#);
    json::text(out, upstream.name, SHORT);
    if let Some(endpoint) = upstream.endpoint {
        out.extend_from_slice(br#","endpoint":"#);
        json::socket_address(out, endpoint);
    }
    out.extend_from_slice(br#","ms":"#);
    json::milliseconds(out, upstream.took);
    out.push(b'}');
}

/// What was done and the finding that made it so. Where nothing bit but something in the shadow
/// would have, the hardest of those is shown as if it bit, with its mode. Findings that are not
/// shown by that are listed as `observed`.
fn decision(out: &mut Vec<u8>, outcome: Outcome<'_>) {
    let shadow = || {
        let shadows = outcome.observed.iter().enumerate();
        shadows
            .filter(|(_, finding)| finding.mode == Mode::Shadow)
            .max_by_key(|(at, finding)| (finding.action, std::cmp::Reverse(*at)))
            .map(|(_, finding)| finding)
    };
    let untouched = outcome.finding.is_none() && outcome.action == Action::Allow;
    let (action, mode, finding, observed) = match (untouched.then(shadow).flatten(), outcome) {
        (Some(shadow), Outcome { observed: [_], .. }) => {
            (shadow.action, shadow.mode, Some(shadow), [].as_slice())
        }
        (Some(shadow), _) => (shadow.action, shadow.mode, Some(shadow), outcome.observed),
        (None, _) => (
            outcome.action,
            Mode::Enforce,
            outcome.finding,
            outcome.observed,
        ),
    };
    judged(out, action, mode, finding);
    if !observed.is_empty() {
        // Once more into the object that `judged` has closed.
        out.pop();
        for (at, finding) in observed.iter().enumerate() {
            let before: &[u8] = if at == 0 { br#","observed":["# } else { b"," };
            out.extend_from_slice(before);
            judged(out, finding.action, finding.mode, Some(finding));
        }
        out.extend_from_slice(b"]}");
    }
}

fn judged(out: &mut Vec<u8>, action: Action, mode: Mode, finding: Option<&Finding>) {
    // These words are this program's own: nothing in them needs escaping.
    let _ = write!(
        out,
        r#"{{"action":"{}","mode":"{}""#,
        action.name(),
        mode.name()
    );
    if let Some(finding) = finding {
        let _ = write!(out, r#","source":"{}","name":"#, finding.source.name());
        json::text(out, &*finding.name, SHORT);
        let _ = write!(out, r#","reason":"{}""#, finding.reason.name());
    }
    out.push(b'}');
}
