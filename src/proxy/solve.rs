//! Reads the answer to a challenge and has it judged.

use super::replay::{FULL, visiting};
use crate::{
    challenge::{
        ANSWER_PATH, Challenges, MAX_ANSWER, Outcome, Settled,
        answer::Answer,
        page,
        replay::{Share, declared_length},
    },
    decide::{self, Suspect},
    edge::Edge,
    exchange::{Arrival, Exchange},
    forward::target::Target,
    reply::{Reply, wants_html},
};
use http::{Method, StatusCode};
use pingora_proxy::Session;
use std::time::Duration;
use verdict::decision::Rung;

/// For the answer to a challenge to arrive.
const SOLUTION_TIME: Duration = Duration::from_secs(5);

/// The reply to a request for a reserved path.
pub async fn solve(edge: &Edge, session: &mut Session, exchange: &Exchange) -> Reply {
    let Some(arrival) = &exchange.arrival else {
        return Reply::empty(StatusCode::BAD_REQUEST);
    };
    let challenges = &arrival.generation.challenges;
    let Some((body, _share)) = read(session, arrival, challenges).await else {
        let settled = Settled::new(Rung::ProofOfWork, Outcome::TooMany);
        decide::settled(edge, arrival, settled);
        let html = wants_html(&session.req_header().headers);
        return Reply::throttled(arrival.id(), html, FULL, None);
    };
    let Some((reply, settled)) = judge(session, arrival, challenges, &body).await else {
        return Reply::empty(StatusCode::BAD_REQUEST);
    };
    if let Some(settled) = settled {
        let (rung, outcome) = (settled.rung, settled.outcome);
        decide::settled(edge, arrival, settled);
        // Who failed is given another one.
        let again = reply.headers.iter().any(|(name, _)| *name == page::ACTION);
        if again && outcome != Outcome::Issued {
            let metrics = edge.recorder.metrics();
            metrics.challenge(rung.name(), Outcome::Issued.name());
        }
    }
    reply
}

async fn judge(
    session: &Session,
    arrival: &Arrival,
    challenges: &Challenges,
    body: &[u8],
) -> Option<(Reply, Option<Settled>)> {
    let request = session.req_header();
    let target = Target::of(request).ok()?;
    let visit = decide::visit(&Suspect {
        request,
        target: &target,
        arrival,
        user: None,
        route: None,
    });
    let answer = Answer::new(&request.method, &request.headers, body);
    Some(challenges.answer(&visit, &answer).await)
}

/// The answer to a challenge, or as much of it as shows that it is none: one byte too many. Of what
/// declares to be too long, nothing is read. With the room that the body takes which it carries; `None`
/// where there is none.
async fn read(
    session: &mut Session,
    arrival: &Arrival,
    challenges: &Challenges,
) -> Option<(Vec<u8>, Option<Share>)> {
    let request = session.req_header();
    if request.method != Method::POST || request.uri.path() != ANSWER_PATH {
        return Some((Vec::new(), None));
    }
    let declared = declared_length(&request.headers).filter(|length| *length > MAX_ANSWER);
    let most = declared.unwrap_or(MAX_ANSWER);
    let mut share = None;
    if let Some(length) = declared {
        let may = visiting(request, arrival, |visit| {
            let may = challenges.replays().is_from_here(visit);
            (may && length <= challenges.longest_answer()).then_some(())
        });
        if may.is_none() {
            return Some((vec![0; MAX_ANSWER.saturating_add(1)], None));
        }
        share = Some(visiting(request, arrival, |visit| {
            challenges.replays().share_again(visit, length)
        })?);
    }
    let mut body = Vec::new();
    let reading = async {
        while body.len() <= most {
            match session.read_request_body().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) | Err(_) => return,
            }
        }
    };
    // What has not come by then is a wrong answer.
    let _ = tokio::time::timeout(SOLUTION_TIME, reading).await;
    Some((body, share))
}
