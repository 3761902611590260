//! What needs the token: bans, the configuration, and what is beside it in a file of its name. Whoever changes something is logged.

use super::{AdminState, Peer, clearances, pressure, problem::Problem};
use crate::{
    bans::{self, AddError, Ban},
    clock,
    record::timestamp::Timestamp,
};
use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{
        Path, Query, Request, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use verdict::Nanos;

/// Bans that one answer lists unless more are asked for, and at the most.
const LISTED: usize = 1000;
const LISTED_AT_MOST: usize = 10_000;

pub(super) fn router(state: &Arc<AdminState>) -> Router<Arc<AdminState>> {
    Router::new()
        .route("/api/bans", get(list).post(add).delete(remove_queried))
        .route("/api/bans/{*prefix}", delete(remove_named))
        .route("/api/config", get(config))
        .merge(clearances::router())
        .merge(pressure::router())
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(state),
            authorized,
        ))
}

async fn authorized(
    State(state): State<Arc<AdminState>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let config = (state.config)();
    let Some(token) = config.admin.as_ref().and_then(|admin| admin.token.as_ref()) else {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "the API is off: `admin.token_file` names no token",
        ));
    };
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.and_then(|value| bearer(value.as_bytes()));
    if !given.is_some_and(|given| token.matches(given)) {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "`authorization: Bearer` must carry the admin token",
        ));
    }
    Ok(next.run(request).await)
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

async fn config(State(state): State<Arc<AdminState>>) -> Response {
    Json(&(state.config)().masked).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
}

async fn list(
    State(state): State<Arc<AdminState>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let limit = query.limit.unwrap_or(LISTED).min(LISTED_AT_MOST);
    let now = Now::read();
    let (bans, beyond) = state.bans.list(limit, now.monotonic);
    let total = bans.len().saturating_add(beyond);
    let bans: Vec<_> = bans.iter().map(|ban| Shown::new(ban, now)).collect();
    Ok(Json(json!({ "bans": bans, "total": total })).into_response())
}

/// A ban in JSON.
#[derive(Serialize)]
struct Shown<'a> {
    prefix: IpNet,
    source: &'a str,
    comment: Option<&'a str>,
    since: Timestamp,
    until: Timestamp,
    seconds_left: u64,
    offences: u32,
    hits: u64,
}

impl<'a> Shown<'a> {
    fn new(ban: &'a Ban, now: Now) -> Self {
        Self {
            prefix: ban.network,
            source: &ban.source,
            comment: ban.comment.as_deref(),
            since: now.wall(ban.since),
            until: now.wall(ban.until),
            seconds_left: ban.until.since(now.monotonic).as_secs(),
            offences: ban.offences,
            hits: ban.hits,
        }
    }
}

/// The same moment by both clocks, to show one by the other.
#[derive(Clone, Copy)]
pub(super) struct Now {
    monotonic: Nanos,
    wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self {
            monotonic: clock::now(),
            wall: SystemTime::now(),
        }
    }

    pub(super) fn wall(self, at: Nanos) -> Timestamp {
        let (ago, ahead) = (self.monotonic.since(at), at.since(self.monotonic));
        let wall = self.wall.checked_sub(ago).unwrap_or(self.wall);
        Timestamp(wall.checked_add(ahead).unwrap_or(wall))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddRequest {
    prefix: String,
    duration: String,
    comment: Option<String>,
}

async fn add(
    State(state): State<Arc<AdminState>>,
    Extension(Peer(peer)): Extension<Peer>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let asked: AddRequest = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is not a ban: {error}")))?;
    let network = parse_network(&asked.prefix).map_err(Problem::bad_request)?;
    let duration = parse_duration(&asked.duration).map_err(Problem::bad_request)?;
    let comment = asked.comment.as_deref();
    let now = Now::read();
    let banned = state
        .bans
        .add(network, duration, comment, now.monotonic)
        .map_err(|error| {
            let status = match error {
                AddError::Protected(_) => StatusCode::CONFLICT,
                AddError::Full => StatusCode::INSUFFICIENT_STORAGE,
                AddError::TooWide | AddError::Duration | AddError::Comment => {
                    StatusCode::BAD_REQUEST
                }
            };
            Problem::new(status, format!("{network} was not banned: {error}"))
        })?;
    state.metrics.ban_placed(bans::ADMIN);
    tracing::info!(%peer, prefix = %banned, ?duration, comment, "an operator placed a ban");
    let body = json!({
        "prefix": banned,
        "until": now.wall(now.monotonic.after(duration)),
        "seconds_left": duration.as_secs(),
    });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    prefix: String,
}

async fn remove_queried(
    State(state): State<Arc<AdminState>>,
    peer: Extension<Peer>,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    remove(&state, peer, &query.prefix)
}

async fn remove_named(
    State(state): State<Arc<AdminState>>,
    peer: Extension<Peer>,
    Path(prefix): Path<String>,
) -> Result<Response, Problem> {
    remove(&state, peer, &prefix)
}

fn remove(
    state: &AdminState,
    Extension(Peer(peer)): Extension<Peer>,
    prefix: &str,
) -> Result<Response, Problem> {
    let network = parse_network(prefix).map_err(Problem::bad_request)?;
    let now = clock::now();
    let removed = state.bans.remove(network, now);
    let covering = state.bans.covering(network, now);
    if let (0, Some(wider)) = (removed, covering.first()) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            format!("{network} has no ban of its own; that of {wider} covers it"),
        ));
    }
    if removed == 0 {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            format!("{network} is not banned"),
        ));
    }
    tracing::info!(%peer, prefix = %network, removed, "an operator removed bans");
    let body = json!({ "prefix": network, "removed": removed, "still_covered_by": covering });
    Ok(Json(body).into_response())
}

/// An address, or a network in CIDR notation.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network
        .map_err(|_| "a prefix is written like 203.0.113.7, 203.0.113.0/24 or 2001:db8::/64".into())
}

/// Durations as the configuration writes them: `500ms`, `10s`, `10m`, `24h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .and_then(|end| text.split_at_checked(end));
    let milliseconds = digits.and_then(|(digits, unit)| {
        let number: u64 = digits.parse().ok()?;
        number.checked_mul(match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        })
    });
    milliseconds
        .map(Duration::from_millis)
        .ok_or_else(|| "a duration is written like 500ms, 10s, 10m or 24h".into())
}
