//! Reads the answer to a challenge and has it judged.

use crate::{
    challenge::{Challenges, Outcome, Settled, answer::Answer, page},
    decide::{self, Suspect},
    edge::Edge,
    exchange::{Arrival, Exchange},
    forward::target::Target,
    reply::Reply,
};
use http::{StatusCode, header};
use pingora_proxy::Session;
use std::time::Duration;

/// For the answer to a challenge to arrive.
const SOLUTION_TIME: Duration = Duration::from_secs(5);

/// The reply to a request for a reserved path.
pub async fn solve(edge: &Edge, session: &mut Session, exchange: &Exchange) -> Reply {
    let Some(arrival) = &exchange.arrival else {
        return Reply::empty(StatusCode::BAD_REQUEST);
    };
    let challenges = &arrival.generation.challenges;
    let body = read(session, challenges.longest_answer()).await;
    let (reply, settled) = match judge(session, arrival, challenges, &body).await {
        Some(judged) => judged,
        None => return Reply::empty(StatusCode::BAD_REQUEST),
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
/// declares to be too long, nothing is read.
async fn read(session: &mut Session, most: usize) -> Vec<u8> {
    let declared = session.req_header().headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.trim().parse::<usize>().ok());
    if declared.is_some_and(|length| length > most) {
        return vec![0; most.saturating_add(1)];
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
    body
}
