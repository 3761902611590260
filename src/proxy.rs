//! Where pingora calls the stages, one call a phase. What a stage does is in the file of its name.

mod ahead;
mod answer;
mod arrival;
mod failure;
mod replay;
mod solve;

use crate::{
    clock,
    decide::{self, Next, Suspect, bulkheads},
    edge::Edge,
    exchange::{Arrival, Attempt, Exchange},
    forward::{
        Outcome, Picked, Stage,
        bulkhead::Permit,
        headers::{self, Forwarded},
        host,
        target::{BadTarget, Target},
    },
    listener::http2::Lasting,
    record::metrics::UpstreamResult,
    reply::{Reply, wants_html},
    report,
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, Version, header};
use pingora_core::{
    Error, ErrorSource, ErrorType, Result, modules::http::HttpModules, protocols::ALPN,
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Pingora's view of the edge.
#[derive(Debug)]
pub struct Proxy {
    edge: Arc<Edge>,
}

impl Proxy {
    #[must_use]
    pub fn new(edge: Arc<Edge>) -> Self {
        Self { edge }
    }

    /// Identify, route, decide.
    async fn judge(&self, request: &RequestHeader, exchange: &mut Exchange) -> Next {
        let Some(arrival) = &exchange.arrival else {
            return Next::Close;
        };
        if decide::is_banned(&self.edge, arrival) {
            exchange.fail("banned", "the client is banned");
            return Next::Close;
        }
        let generation = &arrival.generation;
        let (target, bad) = match Target::of(request) {
            Ok(target) => (target, None),
            // Limited as what it is, a request that can't be classified, before it is refused.
            Err(bad) => (NOWHERE, Some(bad)),
        };
        let identified = generation
            .identifier
            .identify(&request.headers, arrival.unix_seconds());
        let route = if bad.is_some() {
            None
        } else {
            let (host, path) = (target.host.as_bytes(), &target.path);
            generation.router.find(host, path, &request.method)
        };
        let suspect = Suspect {
            request,
            target: &target,
            arrival,
            user: identified.user.as_deref(),
            route,
        };
        let (decision, mut next) = decide::decide(&self.edge, suspect).await;
        let mut failure = None;
        if matches!(next, Next::Forward) && route.is_none() {
            let (status, why) = nowhere_to_go(bad);
            let html = wants_html(&request.headers);
            next = Next::Answer(Reply::refusal(status, arrival.id(), html));
            failure = Some(why);
        }
        exchange.user = identified.user;
        exchange.credential_error = identified.error;
        exchange.route = route;
        exchange.decision = Some(decision);
        if let Some((code, text)) = failure {
            exchange.fail(code, text);
        }
        next
    }

    /// Awaits the body, or as much of it as is kept, and then slots of the bulkheads on the way; the
    /// answer when one is full.
    async fn admit(session: &mut Session, exchange: &mut Exchange) -> Result<Option<Reply>> {
        let guarded = |arrival: &&Arrival| {
            let policy = &arrival.generation.policy;
            !policy.bulkheads(exchange.route).is_empty()
        };
        let Some(arrival) = exchange.arrival.as_ref().filter(guarded).cloned() else {
            return Ok(None);
        };
        let patience = arrival.generation.config.connections.timeouts.request;
        exchange.read_ahead.read(session, patience).await?;
        let html = wants_html(&session.req_header().headers);
        let refused = bulkheads::take_slots(&arrival, exchange, html).await;
        if !session.is_body_done() {
            exchange.permits.iter_mut().for_each(Permit::uploading);
        }
        Ok(refused)
    }

    fn pick(exchange: &mut Exchange) -> Result<Picked, Duration> {
        let nobody = Duration::from_secs(1);
        let arrival = exchange.arrival.as_ref().ok_or(nobody)?;
        let generation = &arrival.generation;
        let route = exchange
            .route
            .and_then(|route| generation.config.routes.get(route))
            .ok_or(nobody)?;
        let client = arrival.client.prefix;
        let picked = generation
            .upstreams
            .pick(route.upstream, client, &mut exchange.tries);
        picked.map_err(|none| {
            failure::count(exchange, UpstreamResult::NoEndpoint);
            exchange.fail(
                "no_endpoint",
                "no endpoint of the upstream can take requests",
            );
            none.retry_after
        })
    }

    /// Ends the connection without a word, where it is the client's own. One that a trusted proxy
    /// shares among clients stays: there the request alone is refused.
    async fn close(session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        match &exchange.arrival {
            Some(arrival) if arrival.is_proxied() => {
                let html = wants_html(&session.req_header().headers);
                let reply = Reply::refusal(StatusCode::FORBIDDEN, arrival.id(), html);
                answer::send(session, &arrival.id, reply).await?;
                Ok(true)
            }
            Some(arrival) => {
                arrival.connection.drop.store(true, Ordering::Relaxed);
                exchange.close = true;
                Error::e_explain(ErrorType::Custom("closed"), "closed by decision")
            }
            None => Ok(false),
        }
    }
}

/// What a request asks for that can't be told.
const NOWHERE: Target<'static> = Target {
    host: Cow::Borrowed(""),
    path: Cow::Borrowed(b""),
    query: b"",
};

type Why = (&'static str, Cow<'static, str>);

fn nowhere_to_go(bad: Option<BadTarget>) -> (StatusCode, Why) {
    match bad {
        Some(bad) => (
            StatusCode::BAD_REQUEST,
            (bad.code(), bad.to_string().into()),
        ),
        None => (
            StatusCode::NOT_FOUND,
            (
                "no_route",
                "no route takes this host, path and method".into(),
            ),
        ),
    }
}

/// Whether a request opens a stream that may be silent for longer than an answer may take:
/// WebSocket, gRPC, server-sent events.
fn is_stream(request: &RequestHeader) -> bool {
    let is = |name, wanted: &[u8]| {
        request.headers.get(name).is_some_and(|value| {
            let value = value.as_bytes();
            value.len() >= wanted.len()
                && value
                    .iter()
                    .zip(wanted)
                    .all(|(byte, wanted)| byte.eq_ignore_ascii_case(wanted))
        })
    };
    (request.version == Version::HTTP_11 && is(header::UPGRADE, b"websocket"))
        || is(header::CONTENT_TYPE, b"application/grpc")
        || is(header::ACCEPT, b"text/event-stream")
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::default()
    }

    /// None: compression is the upstream's.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        exchange.arrival = Some(arrival::arrive(&self.edge, session)?);
        let instead = replay::unwrap(&self.edge, session, exchange).await?;
        let mut next = self.judge(session.req_header(), exchange).await;
        if let (Next::Forward, Some(reply)) = (&next, instead) {
            next = Next::Answer(reply);
        }
        if matches!(next, Next::Forward)
            && let Some(reply) = Self::admit(session, exchange).await?
        {
            next = Next::Answer(reply);
        }
        let reply = match next {
            Next::Forward => return Ok(false),
            Next::Answer(reply) => reply,
            Next::Keep { rung, effort } => {
                replay::keep(&self.edge, session, exchange, rung, effort).await?
            }
            Next::Solve => solve::solve(&self.edge, session, exchange).await,
            Next::Close => return Self::close(session, exchange).await,
        };
        if reply.status == StatusCode::BAD_REQUEST {
            session.set_keepalive(None);
        }
        if let Some(arrival) = &exchange.arrival {
            answer::send(session, &arrival.id, reply).await?;
        }
        Ok(true)
    }

    /// Picks the first endpoint, while an answer of our own still leaves the connection in use.
    async fn proxy_upstream_filter(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<bool> {
        match Self::pick(exchange) {
            Ok(picked) => {
                exchange.picked = Some(picked);
                Ok(true)
            }
            Err(retry_after) => {
                exchange.permits.drain(..).for_each(Permit::unused);
                if let Some(arrival) = &exchange.arrival {
                    let html = wants_html(&session.req_header().headers);
                    let reply = Reply::unavailable(arrival.id(), html, retry_after);
                    answer::send(session, &arrival.id, reply).await?;
                }
                Ok(false)
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        let picked = match exchange.picked.take() {
            Some(picked) => picked,
            None => match Self::pick(exchange) {
                Ok(picked) => picked,
                Err(_) => return Error::e_explain(ErrorType::HTTPStatus(503), "no endpoint"),
            },
        };
        exchange.forwarded.get_or_insert_with(clock::now);
        // How an earlier try failed is no reason any more: this one says how it went.
        exchange.failure = None;
        let arrival = exchange.arrival.as_ref();
        let lasting = Lasting::of(session.req_header());
        // On HTTP/2 nobody would see to the wait without it.
        let bounded = lasting.is_some() || !session.is_http2();
        let arrival = arrival.filter(|_| bounded && is_stream(session.req_header()));
        let silence = arrival.map(|arrival| {
            // Pingora has one timeout for the wait and for the stream: the listener sees to the wait.
            arrival.connection.progress.awaits(picked.patience());
            let timeouts = &arrival.generation.config.connections.timeouts;
            // The listener is the first to end it, and counts why.
            timeouts.stream_idle + Duration::from_secs(1)
        });
        let peer = picked.peer(silence);
        if let Some(lasting) = lasting.filter(|_| silence.is_some()) {
            let http2 = matches!(peer.options.alpn, ALPN::H2);
            lasting.forwarded(picked.patience(), http2);
        }
        exchange.attempt = Some(Attempt {
            picked,
            status: None,
            counted: false,
        });
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.read_ahead.begin_try();
        exchange.sent = true;
        let Some(arrival) = &exchange.arrival else {
            return Ok(());
        };
        let request = session.req_header();
        let peer = arrival.connection.peer.ip();
        let user = exchange.user.as_deref();
        let told = Forwarded {
            client: arrival.client.ip,
            peer,
            https: arrival.connection.tls.is_some()
                || (says_https(request) && arrival.generation.trusted.contains(peer)),
            host: host::written(request).unwrap_or_default(),
            request_id: &arrival.id,
            user: user.map_or("", |user| &user.id),
            roles: user.map_or(&[], |user| &user.roles),
        };
        headers::prepare_request(upstream_request, &told)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.read_ahead.filter(body);
        if end_of_stream {
            exchange.permits.iter_mut().for_each(Permit::sent);
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if let Some(attempt) = &mut exchange.attempt {
            attempt.status = Some(response.status.as_u16());
        }
        if !response.status.is_informational() {
            exchange.permits.iter_mut().for_each(Permit::answering);
            if let Some(lasting) = Lasting::of(session.req_header()) {
                lasting.answered(&response.headers);
            }
        }
        if let Some(arrival) = &exchange.arrival {
            headers::prepare_response(response, &arrival.id)?;
            if let Some(cookie) = ahead::cookie(session.req_header(), response, arrival) {
                response.append_header(header::SET_COOKIE, cookie)?;
            }
        }
        if session.is_http2() {
            headers::compact(response)?;
        }
        Ok(())
    }

    /// An upstream that has said its last word holds no slot, however slowly the client reads.
    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        if end_of_stream {
            exchange.permits.drain(..).for_each(Permit::answered);
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let retry = failure::may_retry(session, exchange, &error, Stage::Connecting);
        error.set_retry(retry);
        let (result, text) = report::of_upstream_error(&error);
        exchange.fail(result.name(), text);
        // Running out of sockets is our trouble, not the endpoint's.
        let ours = matches!(
            error.etype(),
            ErrorType::SocketError | ErrorType::BindError | ErrorType::InternalError
        );
        let outcome = (!ours).then_some(Outcome::ConnectFailed);
        failure::conclude(exchange, result, outcome);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        exchange: &mut Exchange,
        reused: bool,
    ) -> Box<Error> {
        let stage = if reused { Stage::Reused } else { Stage::Fresh };
        if *error.esource() == ErrorSource::Upstream
            && *error.etype() == ErrorType::ReadTimedout
            && !session.is_body_done()
        {
            // The upstream waits for a body that the client does not send.
            error.as_down();
        }
        let retry = failure::may_retry(session, exchange, &error, stage);
        error.set_retry(retry);
        if *error.esource() == ErrorSource::Upstream {
            let (result, text) = report::of_upstream_error(&error);
            exchange.fail(result.name(), text);
            let outcome = match (result, stage) {
                (UpstreamResult::Timeout, _) => Some(Outcome::Timeout),
                // A pooled connection may have been closed meanwhile: that says nothing.
                (_, Stage::Reused) => None,
                _ => Some(Outcome::Reset),
            };
            failure::conclude(exchange, result, outcome);
        } else {
            let (code, text) = report::of_client_error(&error);
            exchange.fail(code, text);
            failure::conclude(exchange, UpstreamResult::ClientGone, None);
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        FailToProxy {
            error_code: failure::answer(session, error, exchange).await,
            // Pingora does not look at it after a try at an upstream; before one, the client's
            // framing is in doubt.
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        if error.is_none() {
            failure::conclude_answered(exchange);
        }
        failure::settle(exchange, error);
        report::write(&self.edge.recorder, session, exchange);
        report::conduct(&self.edge.conduct, session.req_header(), exchange);
        exchange.recorded = true;
    }

    /// We record failures ourselves; pingora's log would let attackers fill the disk.
    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Exchange,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// Whether the proxy in front says that it was spoken to over TLS.
fn says_https(request: &RequestHeader) -> bool {
    request
        .headers
        .get("x-forwarded-proto")
        .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}
