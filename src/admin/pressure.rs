//! `GET /api/pressure`: what the network does to this host, with the figures and how sure it is.

use super::{AdminState, now::Now};
use crate::pressure::View;
use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use verdict::pressure::{Finding, Standing};

pub(super) fn router() -> Router<Arc<AdminState>> {
    Router::new().route("/api/pressure", get(show))
}

async fn show(State(state): State<Arc<AdminState>>) -> Json<Value> {
    let View {
        standings,
        rates,
        half_open,
        read,
    } = state.pressure.view();
    let now = Now::read();
    let states: Map<String, Value> = standings
        .iter()
        .map(|(state, standing)| (state.name().to_owned(), shown(standing, now)))
        .collect();
    let rates: Map<String, Value> = rates
        .iter()
        .map(|(event, rate)| ((*event).to_owned(), json!(rate)))
        .collect();
    let half_open = half_open.map(|half_open| {
        json!({
            "count": half_open.count,
            "at_least": half_open.at_least,
            "unanswered": half_open.unanswered,
            "source_spread": half_open.spread,
        })
    });
    Json(json!({
        "read": read.map(|at| now.wall(at)),
        "states": states,
        "rates": rates,
        "half_open": half_open,
    }))
}

fn shown(standing: &Standing, now: Now) -> Value {
    let seen = standing.last.as_ref().map(|(at, _)| now.wall(*at));
    let finding = standing.last.as_ref().map(|(_, finding)| found(finding));
    json!({
        "raised": standing.raised.is_some(),
        "since": standing.raised.map(|at| now.wall(at)),
        "last_seen": seen,
        "finding": finding,
    })
}

fn found(finding: &Finding) -> Value {
    let figures: Map<String, Value> = finding
        .figures
        .iter()
        .map(|(name, figure)| ((*name).to_owned(), json!(figure)))
        .collect();
    json!({
        "confidence": finding.confidence,
        "because": finding.because,
        "forged_sources": finding.forged,
        "figures": figures,
        "advice": crate::pressure::advice(finding.state, finding.forged),
    })
}
