//! What needs the token: the configuration, and what is beside it in files of their names. Whoever
//! changes something is logged.

use super::{AdminState, bans, clearances, pressure, problem::Problem};
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use ipnet::IpNet;
use std::{net::IpAddr, sync::Arc, time::Duration};

pub(super) fn router(state: &Arc<AdminState>) -> Router<Arc<AdminState>> {
    Router::new()
        .route("/api/config", get(config))
        .merge(bans::router())
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
