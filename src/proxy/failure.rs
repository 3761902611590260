//! What follows from how a try at an upstream ended: counting it, trying again, giving back slots,
//! and telling the client.

use super::answer;
use crate::{
    exchange::Exchange,
    forward::{Failure, Outcome, Stage, body, bulkhead::Permit},
    record::metrics::UpstreamResult,
    reply::{Reply, wants_html},
    report,
};
use http::StatusCode;
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;
use std::time::Duration;

/// What a client is told to wait when every endpoint has failed it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Counts how a try ended, once, and tells the endpoint's health.
pub fn conclude(exchange: &mut Exchange, result: UpstreamResult, outcome: Option<Outcome>) {
    let attempt = exchange.attempt.as_mut();
    let Some(attempt) = attempt.filter(|attempt| !attempt.counted) else {
        return;
    };
    attempt.counted = true;
    if let Some(outcome) = outcome {
        attempt.picked.report(outcome);
    }
    count(exchange, result);
}

/// Counts a try that was answered in full.
pub fn conclude_answered(exchange: &mut Exchange) {
    let attempt = exchange.attempt.as_ref();
    if let Some(status) = attempt.and_then(|attempt| attempt.status) {
        let result = if status >= 500 {
            UpstreamResult::ServerError
        } else {
            UpstreamResult::Ok
        };
        conclude(exchange, result, Some(Outcome::Status(status)));
    }
}

/// Counts a result for the upstream of the request's route.
pub fn count(exchange: &Exchange, result: UpstreamResult) {
    let Some(arrival) = &exchange.arrival else {
        return;
    };
    let generation = &arrival.generation;
    let routes = &generation.config.routes;
    let route = exchange.route.and_then(|route| routes.get(route));
    if let Some(metrics) = route.and_then(|route| generation.upstream_metrics(route.upstream)) {
        metrics.request(result);
    }
}

/// Whether the request may be tried again.
pub fn may_retry(session: &Session, exchange: &mut Exchange, error: &Error, stage: Stage) -> bool {
    let Some(attempt) = &exchange.attempt else {
        return false;
    };
    let failure = Failure {
        error,
        stage,
        method: &session.req_header().method,
        body_kept: body::is_kept(session),
        answered: is_answered(session),
    };
    attempt.picked.may_retry(&failure, &mut exchange.tries)
}

/// Gives back the slots that are still held. Where the upstream may still be working on the answer
/// (it was too slow, or the client left), they are dropped, which holds them for as long as its
/// answers usually take.
pub fn settle(exchange: &mut Exchange, error: Option<&Error>) {
    let sent = exchange.sent;
    let permits = exchange.permits.drain(..);
    match error {
        None => permits.for_each(Permit::answered),
        Some(_) if !sent => permits.for_each(Permit::unused),
        Some(error) if *error.esource() == ErrorSource::Upstream => match error.etype() {
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => drop(permits),
            _ => permits.for_each(Permit::unused),
        },
        Some(_) => drop(permits),
    }
}

/// Tells the client that its request failed; the status, or 0 when nobody was told.
pub async fn answer(session: &mut Session, error: &Error, exchange: &mut Exchange) -> u16 {
    // Where the connection is closed by decision nothing went wrong.
    if exchange.failure.is_none() && !exchange.close {
        let (code, text) = report::of_client_error(error);
        exchange.fail(code, text);
    }
    let Some(arrival) = exchange.arrival.as_ref().filter(|_| !exchange.close) else {
        return 0;
    };
    let Some(status) = report::status_of(error).filter(|_| !is_answered(session)) else {
        return 0;
    };
    let html = wants_html(&session.req_header().headers);
    let reply = match status {
        StatusCode::SERVICE_UNAVAILABLE => Reply::unavailable(arrival.id(), html, RETRY_AFTER),
        status => Reply::refusal(status, arrival.id(), html),
    };
    // Pingora ends the connection after this, so the client had better know.
    session.set_keepalive(None);
    match answer::send(session, &arrival.id, reply).await {
        Ok(()) => status.as_u16(),
        Err(_) => 0,
    }
}

fn is_answered(session: &Session) -> bool {
    session
        .response_written()
        .is_some_and(|written| !written.status.is_informational() || written.status == 101)
}
