//! `/api/clearances`: what visitors hold, taken back by network or by fingerprint.

use super::{AdminState, Peer, api::parse_network, problem::Problem};
use crate::{
    challenge::clearance::revoked::{Revocation, Whose},
    clock,
    record::timestamp::Timestamp,
};
use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use verdict::clearance::Fingerprint;

pub(super) fn router() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/api/clearances/revoke", post(revoke))
        .route("/api/clearances/revoked", get(list))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    prefix: Option<String>,
    ja4: Option<String>,
}

impl Asked {
    fn whose(&self) -> Result<Whose, String> {
        match (self.prefix.as_deref(), self.ja4.as_deref()) {
            (Some(prefix), None) => parse_network(prefix).map(Whose::network),
            (None, Some(ja4)) => parse_ja4(ja4).map(Whose::Fingerprint),
            _ => Err("whose? give either `prefix` or `ja4`".into()),
        }
    }
}

async fn revoke(
    State(state): State<Arc<AdminState>>,
    Extension(Peer(peer)): Extension<Peer>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let asked: Asked = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is no revocation: {error}")))?;
    let whose = asked.whose().map_err(Problem::bad_request)?;
    let revocation = state
        .revoked
        .revoke(whose, clock::unix_seconds())
        .map_err(|full| Problem::new(StatusCode::INSUFFICIENT_STORAGE, full.to_string()))?;
    tracing::info!(%peer, whose = %whose, "an operator revoked clearances");
    Ok((StatusCode::CREATED, Json(Shown::from(revocation))).into_response())
}

async fn list(State(state): State<Arc<AdminState>>) -> Response {
    let revoked = state.revoked.list(clock::unix_seconds());
    let shown: Vec<_> = revoked.into_iter().map(Shown::from).collect();
    let total = shown.len();
    Json(json!({ "revoked": shown, "total": total })).into_response()
}

/// A revocation in JSON.
#[derive(Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    /// The cipher part, which is all that clearances are bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    ja4: Option<String>,
    /// What was issued until then counts no more.
    issued_until: Timestamp,
    /// Nothing from before can be good any more then.
    forgotten: Timestamp,
}

impl From<Revocation> for Shown {
    fn from(revocation: Revocation) -> Self {
        let text = revocation.whose.to_string();
        let (prefix, ja4) = match revocation.whose {
            Whose::Network(_) => (Some(text), None),
            Whose::Fingerprint(_) => (None, Some(text)),
        };
        Self {
            prefix,
            ja4,
            issued_until: wall(revocation.at),
            forgotten: wall(revocation.until),
        }
    }
}

/// A JA4, or its cipher part alone.
pub(super) fn parse_ja4(text: &str) -> Result<Fingerprint, String> {
    Fingerprint::of(text).ok_or_else(|| {
        "a JA4 is written like t13d1516h2_8daaf6152771_02713d6af862, or its middle part alone"
            .into()
    })
}

fn wall(seconds: u64) -> Timestamp {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    Timestamp(at.unwrap_or(SystemTime::UNIX_EPOCH))
}
