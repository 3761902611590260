//! Gathers the facts of a request, asks `verdict`, and carries out what it says. The only place
//! that acts on a decision: guards find, this acts, `record` writes.

pub mod bulkheads;

use crate::{
    challenge::{Challenges, Outcome, Visit},
    clock,
    edge::Edge,
    exchange::{Arrival, Exchange},
    forward::target::Target,
    record::metrics::Metrics,
    reply::{RateLimit, Reply, wants_html},
};
use http::{HeaderMap, StatusCode, header};
use pingora_http::RequestHeader;
use std::time::Duration;
use verdict::{
    decision::{Action, Decision, Reason},
    facts::{Client, Facts, Headers, Request, Tls, User},
};

/// What happens to the request next.
#[derive(Debug)]
pub enum Next {
    Forward,
    Answer(Reply),
    /// It posts the answer to a challenge.
    Solve,
    /// Close the connection without a word.
    Close,
}

/// Judges the request and carries out the effects: bans, waits, refusals.
pub async fn decide(
    edge: &Edge,
    request: &RequestHeader,
    target: &Target<'_>,
    arrival: &Arrival,
    exchange: &mut Exchange,
) -> Next {
    let now = clock::now();
    if edge.bans.until(arrival.client.prefix, now).is_some() {
        exchange.fail("banned", "the client is banned");
        return Next::Close;
    }
    let decision = judge(edge, request, target, arrival, exchange);
    let next = carry_out(edge, request, target, arrival, &decision).await;
    exchange.decision = Some(decision);
    next
}

fn judge(
    edge: &Edge,
    request: &RequestHeader,
    target: &Target<'_>,
    arrival: &Arrival,
    exchange: &Exchange,
) -> Decision {
    let policy = &arrival.generation.policy;
    let headers = RequestHeaders(&request.headers);
    let facts = facts(request, &headers, target, arrival, exchange);
    let now = clock::now();
    let decision = policy.decide(&facts, now);
    if Metrics::decision_is_sampled() {
        let took = clock::now().since(now);
        edge.recorder.metrics().decision_took(took);
    }
    decision
}

async fn carry_out(
    edge: &Edge,
    request: &RequestHeader,
    target: &Target<'_>,
    arrival: &Arrival,
    decision: &Decision,
) -> Next {
    let solves = is_reserved(&target.path);
    let deny = || {
        let html = wants_html(&request.headers);
        Next::Answer(Reply::refusal(StatusCode::FORBIDDEN, arrival.id(), html))
    };
    match decision.action {
        // Who is on the way to solve a challenge can't be asked to solve one first.
        Action::Allow | Action::Challenge(_) if solves => Next::Solve,
        Action::Allow => Next::Forward,
        Action::Delay(wait) => {
            let Some(_place) = edge.held.enter() else {
                return Next::Answer(throttle(request, arrival, decision));
            };
            tokio::time::sleep(wait.unwrap_or_default()).await;
            if solves { Next::Solve } else { Next::Forward }
        }
        Action::Challenge(rung) => {
            let metrics = edge.recorder.metrics();
            metrics.challenge(rung.name(), Outcome::Issued.name());
            let challenges = &arrival.generation.challenges;
            Next::Answer(challenges.page(rung, &visit(request, target, arrival)))
        }
        Action::Throttle => Next::Answer(throttle(request, arrival, decision)),
        Action::Tarpit(wait) => {
            if let Some(_place) = edge.held.enter() {
                tokio::time::sleep(wait).await;
            }
            deny()
        }
        Action::Deny => deny(),
        Action::Drop => Next::Close,
        Action::Ban(base) => {
            let source = decision
                .finding
                .as_ref()
                .map_or("", |finding| &finding.name);
            edge.bans
                .ban(arrival.client.prefix, base, source, clock::now());
            edge.recorder.metrics().ban_placed(source);
            Next::Close
        }
    }
}

fn is_reserved(path: &[u8]) -> bool {
    std::str::from_utf8(path).is_ok_and(Challenges::is_reserved)
}

/// The request as a challenge sees it.
#[must_use]
pub fn visit<'a>(
    request: &'a RequestHeader,
    target: &'a Target<'_>,
    arrival: &'a Arrival,
) -> Visit<'a> {
    let raw = std::str::from_utf8(request.raw_path()).unwrap_or_default();
    Visit {
        network: arrival.client.network,
        host: &target.host,
        target: if raw.starts_with('/') { raw } else { "/" },
        secure: arrival.connection.tls.is_some(),
        html: wants_html(&request.headers),
        request_id: arrival.id(),
        now: clock::unix_seconds(),
    }
}

/// 429 with the true wait, and the state of the bucket that is empty.
fn throttle(request: &RequestHeader, arrival: &Arrival, decision: &Decision) -> Reply {
    let wait = match decision.finding.as_ref().map(|finding| finding.reason) {
        Some(Reason::OverRate { wait }) => wait,
        _ => Duration::from_secs(1),
    };
    let rate = decision.quota.and_then(|quota| {
        let limit = arrival.generation.policy.limits().get(quota.limit)?;
        RateLimit::new(&limit.kind, quota.remaining, quota.reset)
    });
    Reply::throttled(arrival.id(), wants_html(&request.headers), wait, rate)
}

fn facts<'a>(
    request: &'a RequestHeader,
    headers: &'a RequestHeaders<'a>,
    target: &'a Target<'a>,
    arrival: &'a Arrival,
    exchange: &'a Exchange,
) -> Facts<'a> {
    let config = &arrival.generation.config;
    let route = exchange.route.and_then(|route| config.routes.get(route));
    let upstream = route.and_then(|route| config.upstreams.get(route.upstream));
    let tls = arrival.connection.tls.as_ref();
    Facts {
        client: Client {
            ip: arrival.client.ip,
            prefix: arrival.client.prefix,
            network: arrival.client.network,
            ja4: tls.map_or("", |tls| &tls.ja4),
        },
        request: Request {
            method: request.method.as_str(),
            host: target.host.as_bytes(),
            path: &target.path,
            query: target.query,
            headers,
            size: declared_length(&request.headers),
        },
        user: exchange.user.as_ref().map_or(User::default(), |user| User {
            id: &user.id,
            roles: &user.roles,
        }),
        tls: tls.map_or(Tls::default(), |tls| Tls {
            version: tls.version,
            sni: &tls.sni,
            alpn: tls.alpn,
        }),
        route: exchange.route,
        route_name: route.map_or("", |route| &route.name),
        upstream: upstream.map_or("", |upstream| &upstream.name),
        clearance: arrival.generation.challenges.clearance(
            &request.headers,
            arrival.client.network,
            &target.host,
            clock::unix_seconds(),
        ),
    }
}

fn declared_length(headers: &HeaderMap) -> u64 {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse().ok())
        .unwrap_or(0)
}

/// The headers as verdict asks for them.
struct RequestHeaders<'a>(&'a HeaderMap);

impl Headers for RequestHeaders<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(http::HeaderValue::as_bytes)
    }

    fn cookie(&self, name: &str) -> Option<&[u8]> {
        cookie(self.0, name)
    }
}

/// The first cookie of this name (RFC 6265, 4.2.1; HTTP/2 may send several `cookie` lines).
#[must_use]
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .find_map(|pair| {
            let pair = pair.trim_ascii();
            pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
        })
}
