//! `/api/bans`: who is banned, and what operators change about it.

mod export;

use super::{
    AdminState, Peer,
    api::{parse_duration, parse_network},
    now::Now,
    problem::Problem,
};
use crate::{
    bans::{
        AddError, Ban, Feed, Kind, Wanted,
        below::Below,
        plain::{self, Mistake, Unsaid},
    },
    clock,
    record::timestamp::Timestamp,
};
use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::HashMap, fmt::Write as _, sync::Arc, time::SystemTime};
use tokio::sync::Semaphore;

/// Bans that one answer lists unless more are asked for, and at the most.
const LISTED: usize = 1000;
const LISTED_AT_MOST: usize = 10_000;
/// Bytes of a list to import: more than half a million bans.
const IMPORT_LIMIT: usize = 64 << 20;

/// One at a time: a list and what is made of it are large.
static IMPORTS: Semaphore = Semaphore::const_new(1);

pub(super) fn router() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/api/bans", get(list).post(add).delete(remove_queried))
        .route("/api/bans/export", get(export::export))
        .route(
            "/api/bans/import",
            post(import).layer(DefaultBodyLimit::max(IMPORT_LIMIT)),
        )
        .route("/api/bans/{*prefix}", delete(remove_named))
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
    let kernel = state.kernel.get();
    let below = match kernel {
        Some(kernel) => {
            let direct = bans.iter().filter(|ban| ban.direct);
            kernel.hits(direct.map(|ban| ban.network).collect()).await
        }
        None => None,
    };
    let status = kernel.map(Below::status);
    let backend = status.as_ref().and_then(|status| status.backend);
    let bans: Vec<_> = bans
        .iter()
        .map(|ban| Shown::new(ban, now, backend, below.as_ref()))
        .collect();
    let feeds: Vec<_> = state
        .bans
        .feeds()
        .iter()
        .map(|feed| shown_feed(feed, backend))
        .collect();
    Ok(
        Json(json!({ "bans": bans, "total": total, "feeds": feeds, "kernel": status }))
            .into_response(),
    )
}

fn shown_feed(feed: &Feed, backend: Option<&'static str>) -> Value {
    json!({
        "list": *feed.name,
        "networks": feed.networks.len(),
        "backend": backend.unwrap_or(USER_SPACE),
    })
}

/// What enforces a ban that the kernel does not.
const USER_SPACE: &str = "user_space";

/// A ban in JSON.
#[derive(Serialize)]
struct Shown<'a> {
    prefix: IpNet,
    kind: &'static str,
    source: &'a str,
    comment: Option<&'a str>,
    since: Timestamp,
    until: Timestamp,
    seconds_left: u64,
    offences: u32,
    /// Connections and requests refused, and packets that the kernel dropped.
    hits: u64,
    backend: &'static str,
    /// A proxy spoke for the client: the kernel does not see its address.
    proxied: bool,
}

impl<'a> Shown<'a> {
    fn new(
        ban: &'a Ban,
        now: Now,
        backend: Option<&'static str>,
        below: Option<&HashMap<IpNet, u64>>,
    ) -> Self {
        let dropped = below.and_then(|below| below.get(&ban.network)).copied();
        Self {
            prefix: ban.network,
            kind: ban.reason.kind.name(),
            source: &ban.reason.name,
            comment: ban.comment.as_deref(),
            since: now.ago(ban.age),
            until: now.wall(ban.until),
            seconds_left: ban.until.since(now.monotonic).as_secs(),
            offences: ban.offences,
            hits: ban.hits.saturating_add(dropped.unwrap_or(0)),
            backend: backend.filter(|_| ban.direct).unwrap_or(USER_SPACE),
            proxied: !ban.direct,
        }
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
                AddError::Protected(..) => StatusCode::CONFLICT,
                AddError::Full | AddError::TooMany(_) => StatusCode::INSUFFICIENT_STORAGE,
                AddError::TooWide | AddError::Duration | AddError::Comment => {
                    StatusCode::BAD_REQUEST
                }
            };
            Problem::new(status, format!("{network} was not banned: {error}"))
        })?;
    state.metrics.ban_placed(Kind::Admin.name());
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportQuery {
    /// For lines that don't say until when.
    r#for: Option<String>,
    /// For lines that have none.
    comment: Option<String>,
}

async fn import(
    State(state): State<Arc<AdminState>>,
    Extension(Peer(peer)): Extension<Peer>,
    query: Result<Query<ImportQuery>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let duration = query.r#for.as_deref().map(parse_duration).transpose();
    let duration = duration.map_err(Problem::bad_request)?;
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let Ok(alone) = IMPORTS.try_acquire() else {
        let busy = "another list is being imported: try again when that is done";
        return Err(Problem::new(StatusCode::CONFLICT, busy));
    };
    let importing = tokio::task::spawn_blocking(move || {
        // For as long as it takes, also when nobody waits for the answer any more.
        let _alone = alone;
        let unsaid = Unsaid {
            duration,
            comment: query.comment.as_deref(),
        };
        let imported = place(&state, &body, unsaid)?;
        for _ in 0..imported.bans {
            state.metrics.ban_placed(Kind::Admin.name());
        }
        tracing::info!(%peer, bans = imported.bans, ended = imported.ended, "an operator imported bans");
        Ok(imported)
    });
    let imported = importing.await;
    let imported = imported
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??;
    Ok((StatusCode::CREATED, Json(imported)).into_response())
}

#[derive(Serialize)]
struct Imported {
    bans: usize,
    /// Lines whose time is over.
    ended: usize,
}

/// All of a list, or nothing.
fn place(state: &AdminState, body: &[u8], unsaid: Unsaid<'_>) -> Result<Imported, Problem> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Problem::bad_request(format!("the list is not UTF-8 text: {error}")))?;
    let listed = plain::read(text, unsaid, SystemTime::now()).map_err(|wrong| refused(&wrong))?;
    let (lines, bans): (Vec<usize>, Vec<Wanted>) = listed.bans.into_iter().unzip();
    state.bans.import(&bans, clock::now()).map_err(|errors| {
        let wrong = errors.iter().take(MOST_TOLD).map(|(index, error)| Mistake {
            line: lines.get(*index).copied().unwrap_or(0),
            message: match bans.get(*index) {
                Some(ban) => format!("{} can't be banned: {error}", ban.network),
                None => error.to_string(),
            },
        });
        refused(&wrong.collect::<Vec<_>>())
    })?;
    Ok(Imported {
        bans: bans.len(),
        ended: listed.ended,
    })
}

/// Lines that are told of at once.
const MOST_TOLD: usize = 100;

fn refused(wrong: &[Mistake]) -> Problem {
    let mut detail = String::from("nothing was imported");
    for Mistake { line, message } in wrong {
        let _ = write!(detail, "\nline {line}: {message}");
    }
    if wrong.len() >= MOST_TOLD {
        detail.push_str("\nand there may be more");
    }
    Problem::bad_request(detail)
}

#[cfg(test)]
mod tests;
