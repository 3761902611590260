//! The sample app: what stands behind the proxy in the demo. It listens on loopback alone.

use axum::{
    Json, Router,
    body::{Body, Bytes},
    http::{HeaderMap, Method, Uri, header},
    response::{Html, IntoResponse, Response},
    routing::{any, get, post},
};
use hyper::body::{Body as HttpBody, Frame};
use serde_json::{Map, Value, json};
use std::{
    convert::Infallible,
    net::TcpListener,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{self, Interval};

const HOME: &str = include_str!("home.html");
/// How long `/slow` takes.
const SLOW: Duration = Duration::from_millis(1500);
const TICK: Duration = Duration::from_millis(500);
const TICKS: u32 = 10;
/// Bytes of a form that the sample app reads.
const FORM_LIMIT: usize = 16 << 10;

/// Serves until the process ends.
pub(super) fn run(listener: TcpListener) {
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(serve(listener)));
    if let Err(error) = served {
        tracing::error!(%error, "the sample app stopped");
    }
}

pub(super) async fn serve(listener: TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router()).await
}

fn router() -> Router {
    Router::new()
        .route("/", get(async || Html(HOME)))
        .route("/healthz", get(async || "ok\n"))
        .route("/api/hello", any(hello))
        .route("/login", post(login))
        .route("/protected", get(protected))
        .route("/slow", any(slow))
        .route("/stream", get(stream))
        .layer(axum::extract::DefaultBodyLimit::max(FORM_LIMIT))
}

/// Says what reached the app, so that one sees what the proxy adds and takes away.
async fn hello(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let headers: Map<String, Value> = headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.into())
        })
        .collect();
    let body = json!({
        "hello": "from the sample app",
        "method": method.as_str(),
        "path": uri.path(),
        "query": uri.query(),
        "headers": headers,
    });
    Json(body).into_response()
}

/// Refuses every password.
async fn login(_form: Bytes) -> Response {
    let body = json!({ "error": "wrong user or password" });
    (axum::http::StatusCode::UNAUTHORIZED, Json(body)).into_response()
}

async fn protected() -> Html<&'static str> {
    Html(
        "<!doctype html><meta charset=utf-8><title>Protected</title>\
         <h1>You are in</h1><p>This browser has solved a challenge, and holds a clearance for a while.",
    )
}

async fn slow() -> &'static str {
    time::sleep(SLOW).await;
    "that took a while\n"
}

async fn stream() -> Response {
    let ticks = Ticks {
        interval: time::interval(TICK),
        sent: 0,
    };
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (kind, Body::new(ticks)).into_response()
}

/// A body that comes a line at a time.
struct Ticks {
    interval: Interval,
    sent: u32,
}

impl HttpBody for Ticks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent >= TICKS {
            return Poll::Ready(None);
        }
        ready!(self.interval.poll_tick(context));
        self.sent = self.sent.saturating_add(1);
        let line = format!("tick {} of {TICKS}\n", self.sent);
        Poll::Ready(Some(Ok(Frame::data(line.into()))))
    }
}
