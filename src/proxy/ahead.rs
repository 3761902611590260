//! Gives the silent clearance with pages on their way to visitors, so that it is there when a
//! challenge would ask for it. Off unless the configuration says so.

use crate::{
    decide::{self, Suspect},
    exchange::Arrival,
    forward::target::Target,
    reply::wants_html,
};
use http::{HeaderValue, Method, header};
use pingora_http::{RequestHeader, ResponseHeader};
use verdict::decision::Rung;

/// The `set-cookie` for a page that a browser asked for, when its visitor holds no clearance. None
/// with pages that shared caches are told to store.
pub fn cookie(
    request: &RequestHeader,
    response: &ResponseHeader,
    arrival: &Arrival,
) -> Option<HeaderValue> {
    let generation = &arrival.generation;
    let page = generation.config.challenge.silent.ahead
        && request.method == Method::GET
        && response.status.is_success()
        && is_page(response)
        && !is_shared(response)
        && wants_html(&request.headers);
    if !page {
        return None;
    }
    let target = Target::of(request).ok()?;
    let clearances = generation.challenges.clearances();
    let bearer = arrival.bearer(&request.headers, &target.host);
    if clearances.rung(&bearer).is_some() {
        return None;
    }
    let visit = decide::visit(&Suspect {
        request,
        target: &target,
        arrival,
        user: None,
        route: None,
    });
    clearances.grant(&visit, Rung::Silent)
}

fn is_page(response: &ResponseHeader) -> bool {
    let kind = response.headers.get(header::CONTENT_TYPE);
    let kind = kind.map(HeaderValue::as_bytes).unwrap_or_default();
    kind.get(..9)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"text/html"))
}

/// Whether shared caches are invited to store it (RFC 9111, 5.2.2).
fn is_shared(response: &ResponseHeader) -> bool {
    let lines = response.headers.get_all(header::CACHE_CONTROL).iter();
    let mut directives = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    directives.any(|directive| {
        let name = directive.split(|byte| *byte == b'=').next();
        let name = name.unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(b"public") || name.eq_ignore_ascii_case(b"s-maxage")
    })
}
