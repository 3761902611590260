//! The admin listener: metrics, health, and an API for operators.
//!
//! | path | needs | answers |
//! |---|---|---|
//! | `GET /metrics` | | Prometheus' text format |
//! | `GET /healthz` | | 200 while the process lives |
//! | `GET /readyz` | | 200 when requests may be sent here, 503 with the reason otherwise |
//! | `/api/bans` | token | `GET` lists, `POST` adds, `DELETE` removes |
//! | `GET /api/bans/export` | token | all of them as a plain list |
//! | `POST /api/bans/import` | token | places all of a plain list, or nothing |
//! | `POST /api/clearances/revoke` | token | takes clearances back, of a `prefix` or a `ja4` |
//! | `GET /api/clearances/revoked` | token | lists what was taken back |
//! | `GET /api/pressure` | token | what the network does to this host, and how sure that is |
//! | `GET /api/config` | token | the configuration in force, secrets masked |
//!
//! What the answers say is read from others through [`AdminState`]; this stage owns no state but
//! its connections, which are bounded in number, time and size.

mod api;
mod bans;
mod clearances;
pub mod client;
mod now;
mod pressure;
mod problem;

use crate::{
    bans::{Bans, below::Below},
    challenge::clearance::revoked::Revoked,
    config::Config,
    pressure::Pressure,
    record::metrics::Metrics,
};
use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use problem::Problem;
use serde_json::json;
use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time,
};

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: u32 = 256;
/// Bytes of a request's body.
const BODY_LIMIT: usize = 64 << 10;
/// Bytes of a request's head.
const HEAD_LIMIT: usize = 16 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// For one request, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections end after this, so that idle ones can't hold every place.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(120);
/// What a request under way may still take when its connection or the listener ends.
const LAST_REQUEST: Duration = Duration::from_secs(2);
/// Before accepting again after an error (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether requests should be sent here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Listeners are not bound yet.
    Starting,
    Ready,
    /// Open requests end; new ones belong elsewhere.
    Draining,
}

/// What the admin listener reads, and the tables that it writes.
pub struct AdminState {
    /// The configuration in force.
    pub config: Box<dyn Fn() -> Arc<Config> + Send + Sync>,
    pub bans: Arc<Bans>,
    /// What drops their packets in the kernel, where that is configured.
    pub kernel: Arc<OnceLock<Below>>,
    pub revoked: Arc<Revoked>,
    pub metrics: Arc<Metrics>,
    pub pressure: Arc<Pressure>,
    pub readiness: watch::Receiver<Readiness>,
    /// Each upstream with its endpoints and their health, for `/readyz`.
    pub upstreams: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
}

impl std::fmt::Debug for AdminState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminState").finish_non_exhaustive()
    }
}

/// The other end of an admin connection.
#[derive(Clone, Copy, Debug)]
struct Peer(SocketAddr);

/// Serves until `shutdown` turns true, and a moment more for requests under way.
pub async fn serve(listener: TcpListener, state: AdminState, shutdown: watch::Receiver<bool>) {
    let app = router(Arc::new(state));
    let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let mut ended = pin!(ended(shutdown.clone()));
    loop {
        let accept = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accept => accepted,
            () = &mut ended => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let app = app.clone().layer(Extension(Peer(peer)));
                let shutdown = shutdown.clone();
                tokio::spawn(async move {
                    connection(stream, app, shutdown).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener can't accept");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let _ = time::timeout(LAST_REQUEST, places.acquire_many(CONNECTIONS)).await;
}

async fn connection(stream: TcpStream, app: Router, shutdown: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = pin!(connection);
    // Errors are the other end's: a broken connection, a malformed request. hyper has answered.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = time::sleep(CONNECTION_LIFETIME) => {}
        () = ended(shutdown) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = time::timeout(LAST_REQUEST, connection).await;
}

async fn ended(mut shutdown: watch::Receiver<bool>) {
    // A sender that is gone ends the listener as well.
    let _ = shutdown.wait_for(|shutdown| *shutdown).await;
}

fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .merge(api::router(&state))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(bounded))
        .with_state(state)
}

/// Every answer: in time, and kept by no cache.
async fn bounded(request: Request, next: Next) -> Response {
    let mut response = match time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

async fn metrics(State(state): State<Arc<AdminState>>) -> Response {
    const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, FORMAT)], state.metrics.render()).into_response()
}

/// An upstream without a healthy endpoint does not make this process unready: its other routes
/// serve on, and taking every gate away would not heal it.
async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    let (status, reason) = match *state.readiness.borrow() {
        Readiness::Ready => (StatusCode::OK, None),
        Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, Some("starting")),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, Some("draining")),
    };
    let mut body = json!({ "ready": reason.is_none(), "upstreams": (state.upstreams)() });
    if let (Some(reason), Some(body)) = (reason, body.as_object_mut()) {
        body.insert("reason".into(), reason.into());
    }
    (status, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests;
