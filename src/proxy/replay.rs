//! Bodies of challenged requests: read and handed to the visitor, and unwrapped when they come back.
//! What may be kept, and for whom, is `challenge::replay`'s to say.

use crate::{
    challenge::{
        Outcome, RESERVED, Visit, local_target,
        replay::{Form, START, declared_length},
    },
    decide::{self, Suspect},
    edge::Edge,
    exchange::{Arrival, Exchange},
    forward::target::Target,
    reply::{Reply, wants_html},
};
use bytes::Bytes;
use http::StatusCode;
use pingora_core::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::time::Duration;
use verdict::decision::Rung;

/// Browsers send forms at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// When there is room again.
pub const FULL: Duration = Duration::from_secs(1);

/// A challenge, with what the visitor posted where there is room to keep it.
///
/// # Errors
/// The client's: it left, broke the framing, or took too long.
pub async fn keep(
    edge: &Edge,
    session: &mut Session,
    exchange: &mut Exchange,
    rung: Rung,
    effort: u32,
) -> Result<Reply> {
    let Some(arrival) = exchange.arrival.clone() else {
        return Ok(Reply::empty(StatusCode::BAD_REQUEST));
    };
    let challenges = &arrival.generation.challenges;
    let share = visiting(session.req_header(), &arrival, |visit| {
        let length = challenges.replays().wants(visit)?;
        Some((length, challenges.replays().share(visit, length)?))
    });
    let mut body = None;
    if let Some((length, _share)) = &share {
        let read = &mut exchange.read_ahead;
        body = read.whole(session, patience(&arrival), *length).await?;
    }
    let reply = visiting(session.req_header(), &arrival, |visit| {
        if let Some(body) = &body
            && let Some(reply) = challenges.without_cookies(visit, body)
        {
            let metrics = edge.recorder.metrics();
            metrics.challenge(rung.name(), Outcome::Failed.name());
            return Some(reply);
        }
        let kept = body.and_then(|body| challenges.keep(visit, &body));
        let visit = Visit {
            replay: kept.as_deref().unwrap_or_default(),
            effort,
            ..*visit
        };
        Some(decide::challenge(edge, &arrival, rung, &visit))
    });
    Ok(reply.unwrap_or_else(|| Reply::empty(StatusCode::BAD_REQUEST)))
}

/// Makes a request that carries a kept body the one that was challenged: its content type, length and
/// body. From here on it is judged and forwarded as that, and challenged again with its body where no
/// clearance came with it. Anything else is left as it is.
///
/// What is returned is the answer where the request would be forwarded: a body that was kept but is not
/// for this visitor now leads to the page without it, and one there is no room for has to come again.
/// The application is never sent what was wrapped here.
///
/// # Errors
/// As [`keep`].
pub async fn unwrap(
    edge: &Edge,
    session: &mut Session,
    exchange: &mut Exchange,
) -> Result<Option<Reply>> {
    let marked = |arrival: &&Arrival| {
        let request = session.req_header();
        let replays = arrival.generation.challenges.replays();
        replays.is_marked(&request.method, &request.headers)
    };
    let Some(arrival) = exchange.arrival.as_ref().filter(marked).cloned() else {
        return Ok(None);
    };
    let challenges = &arrival.generation.challenges;
    let length = visiting(session.req_header(), &arrival, |visit| {
        let reserved = visit.target.starts_with(RESERVED);
        let may = !reserved && challenges.replays().is_from_here(visit);
        may.then(|| declared_length(visit.headers)).flatten()
    });
    let Some(length) = length.filter(|_| !decide::is_banned(edge, &arrival)) else {
        return Ok(None);
    };
    let patience = patience(&arrival);
    let read = &mut exchange.read_ahead;
    // A form of the application's own costs no room.
    if read.begins_with(session, patience, START).await? == Some(false) {
        return Ok(None);
    }
    let share = visiting(session.req_header(), &arrival, |visit| {
        challenges.replays().share_again(visit, length)
    });
    let Some(_share) = share else {
        let html = wants_html(&session.req_header().headers);
        let reply = Reply::throttled(arrival.id(), html, FULL, None);
        return Ok(Some(reply));
    };
    let Some(form) = read.whole(session, patience, length).await? else {
        return Ok(None);
    };
    let (unwrapped, back) = visiting(session.req_header(), &arrival, |visit| {
        let back = Reply::redirect(StatusCode::SEE_OTHER, local_target(visit.target));
        Some((challenges.unwrap(visit, &form), back))
    })
    .unwrap_or((Form::Foreign, None));
    match unwrapped {
        Form::Foreign => Ok(None),
        Form::Stale => Ok(back),
        Form::Kept(replay) => {
            let request = session.req_header_mut();
            for (name, value) in challenges.replays().restore(&replay, &request.headers) {
                match value {
                    Some(value) => request.insert_header(name, value)?,
                    None => drop(request.remove_header(&name)),
                }
            }
            exchange.read_ahead.replace(Bytes::from(replay.body));
            Ok(None)
        }
    }
}

/// Asks something of the request as a challenge sees it; nothing of one that can't be classified.
pub fn visiting<T>(
    request: &RequestHeader,
    arrival: &Arrival,
    ask: impl FnOnce(&Visit<'_>) -> Option<T>,
) -> Option<T> {
    let target = Target::of(request).ok()?;
    ask(&decide::visit(&Suspect {
        request,
        target: &target,
        arrival,
        user: None,
        route: None,
    }))
}

fn patience(arrival: &Arrival) -> Duration {
    let timeouts = &arrival.generation.config.connections.timeouts;
    timeouts.request.min(PATIENCE)
}
