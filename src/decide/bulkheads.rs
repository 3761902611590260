//! The bulkheads' side of deciding: slots are taken when a request is complete enough to be sent on,
//! and a full bulkhead refuses like any limit.

use crate::{
    exchange::{Arrival, Exchange},
    forward::bulkhead::Permit,
    reply::Reply,
};
use std::sync::Arc;
use verdict::{
    decision::{Finding, Reason, Source},
    policy::LimitSpec,
};

/// Takes a slot of each bulkhead that the request passes; waits where there is a queue. Gives the
/// answer when one is full; slots taken before it are free again.
pub async fn take_slots(arrival: &Arrival, exchange: &mut Exchange, html: bool) -> Option<Reply> {
    let generation = &arrival.generation;
    let route = exchange.route?;
    for &index in generation.policy.bulkheads(exchange.route) {
        let Some(limit) = generation.policy.limits().get(index) else {
            continue;
        };
        match generation.bulkheads.acquire(index, route).await {
            Ok(None) => {}
            Ok(Some(permit)) => {
                if permit.is_over() {
                    observe(exchange, finding(limit, permit.in_flight()));
                }
                exchange.permits.push(permit);
            }
            Err(refused) => {
                exchange.permits.drain(..).for_each(Permit::unused);
                if let Some(decision) = &mut exchange.decision {
                    decision.action = limit.over;
                    decision.finding = Some(finding(limit, refused.in_flight));
                }
                let wait = refused.retry_after;
                return Some(Reply::throttled(arrival.id(), html, wait, None));
            }
        }
    }
    None
}

fn observe(exchange: &mut Exchange, finding: Finding) {
    if let Some(decision) = &mut exchange.decision {
        // What does not fit is not worth an allocation.
        let _ = decision.observed.try_push(finding);
    }
}

fn finding(limit: &LimitSpec, in_flight: u32) -> Finding {
    Finding {
        source: Source::Limit,
        name: Arc::clone(&limit.name),
        action: limit.over,
        mode: limit.mode,
        reason: Reason::OverConcurrency { in_flight },
    }
}
