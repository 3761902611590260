//! From what pingora knows of a request to its record: failures get their names and statuses here,
//! and the record is filled in once, at the end.

use crate::{
    clock,
    exchange::{Arrival, Exchange},
    forward::{
        host,
        target::{self, Target},
    },
    listener::conduct::Conduct,
    record::{self, Record, Recorder, metrics::UpstreamResult},
};
use http::{StatusCode, Version};
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::time::Duration;
use verdict::{
    decision::{Action, Finding, Rung, Source},
    policy::{KeyPart, LimitSpec},
    prefix::Prefix,
};

/// What an upstream's failure counts as, and a sentence for the operator.
#[must_use]
pub fn of_upstream_error(error: &Error) -> (UpstreamResult, &'static str) {
    use ErrorType as E;
    match error.etype() {
        E::ConnectTimedout => (
            UpstreamResult::ConnectFailed,
            "the upstream did not accept the connection in time",
        ),
        E::ConnectRefused => (
            UpstreamResult::ConnectFailed,
            "the upstream refused the connection",
        ),
        E::ConnectNoRoute => (
            UpstreamResult::ConnectFailed,
            "there is no network route to the upstream",
        ),
        E::TLSHandshakeFailure | E::HandshakeError | E::TLSWantX509Lookup => (
            UpstreamResult::TlsFailed,
            "the TLS handshake with the upstream failed; check its certificate against `ca` and `server_name`",
        ),
        E::InvalidCert => (
            UpstreamResult::TlsFailed,
            "the upstream's certificate is not trusted or names another host; check `ca` and `server_name`",
        ),
        E::TLSHandshakeTimedout => (
            UpstreamResult::TlsFailed,
            "the upstream did not finish the TLS handshake in time",
        ),
        E::ConnectError | E::SocketError | E::BindError | E::ConnectProxyFailure => (
            UpstreamResult::ConnectFailed,
            "the upstream could not be connected to",
        ),
        E::ReadTimedout => (
            UpstreamResult::Timeout,
            "the upstream did not answer in time",
        ),
        E::WriteTimedout => (
            UpstreamResult::Timeout,
            "the upstream did not take the request in time",
        ),
        E::InvalidHTTPHeader | E::H1Error | E::InvalidH2 => {
            (UpstreamResult::Broken, "the upstream's answer is malformed")
        }
        _ => (
            UpstreamResult::Broken,
            "the upstream closed the connection before its answer was complete",
        ),
    }
}

/// What a failure on the client's side, or of our own, is called.
#[must_use]
pub fn of_client_error(error: &Error) -> (&'static str, &'static str) {
    use ErrorType as E;
    match (error.esource(), error.etype()) {
        (ErrorSource::Internal | ErrorSource::Unset, _) => {
            ("internal", "something went wrong in Rempart itself")
        }
        (_, E::ReadTimedout) => ("client_slow", "the client did not send its body in time"),
        (_, E::WriteTimedout) => ("client_slow", "the client did not read the answer in time"),
        (_, E::ReadError | E::WriteError | E::ConnectionClosed | E::H2Error) => (
            "client_gone",
            "the client left before the answer was complete",
        ),
        _ => ("bad_request", "the request is malformed"),
    }
}

/// What the client is told of a failure; `None` when there is nobody left to tell.
#[must_use]
pub fn status_of(error: &Error) -> Option<StatusCode> {
    use ErrorType as E;
    match (error.esource(), error.etype()) {
        (_, E::HTTPStatus(code)) => StatusCode::from_u16(*code).ok(),
        (
            ErrorSource::Upstream,
            E::ReadTimedout | E::WriteTimedout | E::ConnectTimedout | E::TLSHandshakeTimedout,
        ) => Some(StatusCode::GATEWAY_TIMEOUT),
        (ErrorSource::Upstream, _) => Some(StatusCode::BAD_GATEWAY),
        (ErrorSource::Downstream, E::ReadTimedout) => Some(StatusCode::REQUEST_TIMEOUT),
        (
            ErrorSource::Downstream,
            E::WriteError | E::WriteTimedout | E::ReadError | E::ConnectionClosed | E::H2Error,
        ) => None,
        (ErrorSource::Downstream, _) => Some(StatusCode::BAD_REQUEST),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// What is done with requests that come to no decision: those of banned clients.
const UNDECIDED: Action = Action::Ban(Duration::ZERO);

/// Writes the record of a request that has ended.
pub fn write(recorder: &Recorder, session: &Session, exchange: &Exchange) {
    let request = session.req_header();
    let (path, _query) = target::split(request);
    let asked = record::Request {
        method: request.method.as_str(),
        host: host::written(request).unwrap_or_default(),
        path,
        protocol: protocol(request.version),
        bytes: session.body_bytes_read() as u64,
    };
    let answered = record::Response {
        status: session
            .response_written()
            .map_or(0, |response| response.status.as_u16()),
        bytes: session.body_bytes_sent() as u64,
    };
    fill(recorder, exchange, asked, answered, None);
}

/// Notes what a request that has ended says of its client, for the handshakes to come: good conduct is
/// to be let through and answered by an upstream with no error, or to carry a clearance; bad conduct is
/// to be refused for what the client itself did. It is the other end of the socket that is noted, be it a trusted proxy.
pub fn conduct(conduct: &Conduct, request: &RequestHeader, exchange: &Exchange) {
    let Some(arrival) = &exchange.arrival else {
        return;
    };
    let connection = &*arrival.connection;
    let peer = || {
        let lengths = arrival.generation.config.clients.prefix;
        Prefix::of(connection.peer.ip(), lengths)
    };
    let decision = exchange.decision.as_ref();
    match decision.map_or(UNDECIDED, |decision| decision.action) {
        Action::Allow | Action::Delay(_) => {
            if connection.standing.is_open(arrival.began)
                && (was_served(exchange) || has_clearance(arrival, request))
            {
                conduct.good(peer(), &connection.standing, arrival.began);
            }
        }
        Action::Challenge(_) => {}
        Action::Throttle | Action::Tarpit(_) | Action::Deny | Action::Drop | Action::Ban(_) => {
            let limits = arrival.generation.policy.limits();
            let finding = decision.and_then(|decision| decision.finding.as_ref());
            // A proxy does not answer for those it speaks for.
            if !arrival.is_proxied() && finding.is_none_or(|finding| blames(finding, limits)) {
                conduct.bad(peer(), &connection.standing);
            }
        }
    }
}

/// Whether this was the client's own doing: not so with a limit that others fill with it, as bulkheads
/// are, and limits by route or network.
fn blames(finding: &Finding, limits: &[LimitSpec]) -> bool {
    match finding.source {
        Source::List | Source::Rule => true,
        Source::Limit => limits.iter().any(|limit| {
            let of_one = |part: &KeyPart| matches!(part, KeyPart::ClientIp | KeyPart::UserId);
            limit.name == finding.name && limit.key.iter().any(of_one)
        }),
    }
}

fn was_served(exchange: &Exchange) -> bool {
    let status = exchange.attempt.as_ref().and_then(|attempt| attempt.status);
    exchange.failure.is_none() && status.is_some_and(|status| status < 400)
}

fn has_clearance(arrival: &Arrival, request: &RequestHeader) -> bool {
    Target::of(request).is_ok_and(|target| {
        let clearances = arrival.generation.challenges.clearances();
        let rung = clearances.rung(&arrival.bearer(&request.headers, &target.host));
        // A cookie alone proves nothing of conduct.
        rung > Some(Rung::Silent)
    })
}

/// Writes the record of a request that was given up before it ended; what it asked for is gone.
pub fn write_abandoned(exchange: &Exchange) {
    let Some(arrival) = &exchange.arrival else {
        return;
    };
    let asked = record::Request {
        method: "",
        host: b"",
        path: b"",
        protocol: "",
        bytes: 0,
    };
    let answered = record::Response {
        status: 0,
        bytes: 0,
    };
    let error = record::Error {
        code: "abandoned",
        text: "the request was given up: it took longer than `timeouts.request`, or Rempart failed",
    };
    let recorder = &arrival.generation.recorder;
    fill(recorder, exchange, asked, answered, Some(error));
}

fn fill(
    recorder: &Recorder,
    exchange: &Exchange,
    request: record::Request<'_>,
    response: record::Response,
    abandoned: Option<record::Error<'_>>,
) {
    let Some(arrival) = &exchange.arrival else {
        return;
    };
    let now = clock::now();
    let connection = &*arrival.connection;
    let decision = exchange.decision.as_ref();
    let failure = exchange.failure.as_ref().map(|failure| record::Error {
        code: failure.code,
        text: &failure.text,
    });
    let credential = exchange.credential_error.map(|error| record::Error {
        code: error.code(),
        text: error.text(),
    });
    let user = exchange.user.as_ref();
    let attempt = exchange.attempt.as_ref();
    recorder.record(&Record {
        time: arrival.time,
        request_id: arrival.id(),
        client: record::Client {
            ip: arrival.client.ip,
            network: arrival.client.network,
            ja4: connection.tls.as_ref().map_or("", |tls| tls.ja4.as_str()),
            port: connection.peer.port(),
        },
        user: user.map_or(record::User::default(), |user| record::User {
            id: &user.id,
            session: user.session.as_deref().unwrap_or_default(),
        }),
        listener: &connection.listener,
        destination: connection.local,
        tls: connection.tls.as_ref().map(|tls| record::Tls {
            version: tls.version,
            sni: &tls.sni,
        }),
        request,
        response,
        route: arrival.generation.route_metrics(exchange.route),
        upstream: attempt.map(|attempt| record::Upstream {
            name: attempt.picked.upstream(),
            endpoint: Some(attempt.picked.address()),
            took: exchange
                .forwarded
                .map(|began| now.since(began))
                .unwrap_or_default(),
        }),
        decision: record::Outcome {
            action: decision.map_or(UNDECIDED, |decision| decision.action),
            finding: decision.and_then(|decision| decision.finding.as_ref()),
            observed: decision.map_or(&[], |decision| &decision.observed),
        },
        error: failure.or(abandoned).or(credential),
        duration: now.since(arrival.began),
    });
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests;
