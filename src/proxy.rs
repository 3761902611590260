//! Where pingora calls the stages, one call a phase. What a stage does is in the file of its name.

use crate::{
    challenge::{Answer, MAX_ANSWER},
    clock,
    connection::Connection,
    decide::{self, Next},
    edge::Edge,
    exchange::{Arrival, Attempt, Client, Exchange},
    forward::{
        self, Failure, Outcome, Stage,
        bulkhead::Permit,
        headers::{self, Forwarded, REQUEST_ID},
        host,
        target::Target,
    },
    generation::Generation,
    identify,
    record::metrics::UpstreamResult,
    reply::{Reply, wants_html},
    report,
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora_core::{
    Error, ErrorSource, ErrorType, Result, modules::http::HttpModules, upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};
use uuid::{ContextV7, Timestamp, Uuid};

/// How long and how much of an unread body is read away before an answer of our own, so that the
/// client sees the answer and not a reset.
const DRAIN_TIME: Duration = Duration::from_millis(500);
const DRAIN_BYTES: usize = 64 * 1024;
/// For the answer to a challenge to arrive.
const ANSWER_TIME: Duration = Duration::from_secs(5);

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

    /// The first stage: which generation, which connection, which client, which id.
    fn arrive(&self, session: &Session) -> Result<Arrival> {
        let generation: Arc<Generation> = self.edge.generation.load_full();
        let Some(connection) = Connection::of(session.digest()) else {
            return Error::e_explain(ErrorType::InternalError, "not a connection of ours");
        };
        let request = session.req_header();
        let forwarded = request.headers.get_all("x-forwarded-for").iter();
        let ip = identify::client_address(
            connection.peer.ip(),
            forwarded.map(HeaderValue::as_bytes),
            &generation.trusted,
        );
        Ok(Arrival {
            began: clock::now(),
            time: SystemTime::now(),
            client: Client::new(ip, generation.config.clients.prefix),
            connection: Arc::clone(connection),
            id: request_id(),
            generation,
        })
    }

    /// Identify, route, decide.
    async fn judge(&self, request: &RequestHeader, exchange: &mut Exchange) -> Next {
        let Some(arrival) = exchange.arrival.clone() else {
            return Next::Close;
        };
        let html = wants_html(&request.headers);
        let target = match Target::of(request) {
            Ok(target) => target,
            Err(bad) => {
                exchange.fail(bad.code(), bad.to_string());
                let reply = Reply::refusal(StatusCode::BAD_REQUEST, arrival.id(), html);
                return Next::Answer(reply);
            }
        };
        let generation = &arrival.generation;
        let identified = generation
            .identifier
            .identify(&request.headers, clock::unix_seconds());
        exchange.user = identified.user;
        exchange.credential_error = identified.error;
        exchange.route =
            generation
                .router
                .find(target.host.as_bytes(), &target.path, &request.method);
        let next = decide::decide(&self.edge, request, &target, &arrival, exchange).await;
        if matches!(next, Next::Forward) && exchange.route.is_none() {
            exchange.fail("no_route", "no route takes this host, path and method");
            return Next::Answer(Reply::refusal(StatusCode::NOT_FOUND, arrival.id(), html));
        }
        next
    }

    /// Reads and judges the answer to a challenge.
    async fn solve(&self, session: &mut Session, exchange: &Exchange) -> Reply {
        let body = read_answer(session).await;
        let request = session.req_header();
        let (Some(arrival), Ok(target)) = (&exchange.arrival, Target::of(request)) else {
            return Reply::empty(StatusCode::BAD_REQUEST);
        };
        let visit = decide::visit(request, &target, arrival);
        let answer = Answer {
            method: &request.method,
            headers: &request.headers,
            body: &body,
        };
        let (reply, outcome) = arrival.generation.challenges.answer(&visit, &answer);
        if let Some((rung, outcome)) = outcome {
            let metrics = self.edge.recorder.metrics();
            metrics.challenge(rung.name(), outcome.name());
        }
        reply
    }

    /// Awaits the body, or as much of it as is kept, and then slots of the bulkheads on the way; the
    /// answer when one is full.
    async fn admit(&self, session: &mut Session, exchange: &mut Exchange) -> Result<Option<Reply>> {
        let Some(arrival) = exchange.arrival.clone() else {
            return Ok(None);
        };
        let generation = &arrival.generation;
        if generation.policy.bulkheads(exchange.route).is_empty() {
            return Ok(None);
        }
        let patience = generation.config.connections.timeouts.request;
        exchange.read_ahead.read(session, patience).await?;
        let html = wants_html(&session.req_header().headers);
        Ok(decide::bulkheads::take_slots(&arrival, exchange, html).await)
    }

    /// Sends an answer of our own.
    async fn answer(&self, session: &mut Session, id: &HeaderValue, reply: Reply) -> Result<()> {
        if !drained(session).await {
            session.set_keepalive(None);
        }
        let mut header = ResponseHeader::build(reply.status, Some(reply.headers.len() + 2))?;
        for (name, value) in reply.headers {
            header.append_header(name, value)?;
        }
        header.insert_header(REQUEST_ID, id)?;
        let bodiless = matches!(
            reply.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        if !bodiless {
            header.insert_header(header::CONTENT_LENGTH, reply.body.len())?;
        }
        let body = if session.req_header().method == Method::HEAD {
            Bytes::new()
        } else {
            reply.body
        };
        session
            .write_response_header(Box::new(header), body.is_empty())
            .await?;
        if !body.is_empty() {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }

    /// Ends the connection without a word.
    fn close<T>(exchange: &mut Exchange) -> Result<T> {
        exchange.close = true;
        if let Some(arrival) = &exchange.arrival {
            arrival.connection.drop.store(true, Ordering::Relaxed);
        }
        Error::e_explain(ErrorType::Custom("closed"), "closed by decision")
    }

    /// Counts how a try ended, once, and tells the endpoint's health.
    fn conclude(exchange: &mut Exchange, result: UpstreamResult, outcome: Option<Outcome>) {
        let Some(attempt) = exchange.attempt.as_mut().filter(|attempt| !attempt.counted) else {
            return;
        };
        attempt.counted = true;
        if let Some(outcome) = outcome {
            attempt.picked.report(outcome);
        }
        count(exchange, result);
    }
}

fn count(exchange: &Exchange, result: UpstreamResult) {
    let Some(arrival) = &exchange.arrival else {
        return;
    };
    let generation = &arrival.generation;
    let route = exchange
        .route
        .and_then(|route| generation.config.routes.get(route));
    if let Some(metrics) = route.and_then(|route| generation.upstream_metrics(route.upstream)) {
        metrics.request(result);
    }
}

/// A new `x-request-id`: a UUID of version 7, so that ids sort by time.
fn request_id() -> HeaderValue {
    thread_local! {
        static CONTEXT: ContextV7 = const { ContextV7::new() };
    }
    let id = CONTEXT.with(|context| Uuid::new_v7(Timestamp::now(context)));
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Reads away what is left of a request's body; `false` when that would take too long.
async fn drained(session: &mut Session) -> bool {
    if session.is_body_done() {
        return true;
    }
    if session.req_header().headers.contains_key(header::EXPECT) {
        // The client waits for a word before it sends the body.
        return false;
    }
    let draining = async {
        let mut read = 0;
        while read <= DRAIN_BYTES {
            match session.read_request_body().await {
                Ok(Some(chunk)) => read += chunk.len(),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
        false
    };
    tokio::time::timeout(DRAIN_TIME, draining)
        .await
        .unwrap_or(false)
}

/// The answer to a challenge, or as much of it as shows that it is none.
async fn read_answer(session: &mut Session) -> Vec<u8> {
    let mut body = Vec::new();
    let reading = async {
        while body.len() <= MAX_ANSWER {
            match session.read_request_body().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) | Err(_) => return,
            }
        }
    };
    // What has not come by then is a wrong answer.
    let _ = tokio::time::timeout(ANSWER_TIME, reading).await;
    body
}

/// Whether a request opens a stream that may be silent for long: WebSocket, gRPC, server-sent events.
fn is_stream(request: &RequestHeader) -> bool {
    let starts = |name, prefix: &[u8]| {
        request
            .headers
            .get(name)
            .is_some_and(|value| value.as_bytes().starts_with(prefix))
    };
    request.headers.contains_key(header::UPGRADE)
        || starts(header::CONTENT_TYPE, b"application/grpc")
        || starts(header::ACCEPT, b"text/event-stream")
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
        let arrival = self.arrive(session)?;
        let id = arrival.id.clone();
        exchange.arrival = Some(arrival);
        match self.judge(session.req_header(), exchange).await {
            Next::Forward => match self.admit(session, exchange).await? {
                None => Ok(false),
                Some(reply) => {
                    self.answer(session, &id, reply).await?;
                    Ok(true)
                }
            },
            Next::Answer(reply) => {
                self.answer(session, &id, reply).await?;
                Ok(true)
            }
            Next::Solve => {
                let reply = self.solve(session, exchange).await;
                self.answer(session, &id, reply).await?;
                Ok(true)
            }
            Next::Close => Self::close(exchange),
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        let Some(arrival) = &exchange.arrival else {
            return Error::e_explain(ErrorType::InternalError, "no arrival");
        };
        let generation = &arrival.generation;
        let Some(route) = exchange
            .route
            .and_then(|route| generation.config.routes.get(route))
        else {
            return Error::e_explain(ErrorType::InternalError, "no route");
        };
        exchange.forwarded.get_or_insert_with(clock::now);
        let picked =
            generation
                .upstreams
                .pick(route.upstream, arrival.client.prefix, &mut exchange.tries);
        match picked {
            Ok(picked) => {
                let peer = picked.peer(is_stream(session.req_header()));
                exchange.attempt = Some(Attempt {
                    picked,
                    status: None,
                    counted: false,
                });
                Ok(peer)
            }
            Err(none) => {
                exchange.retry_after = none.retry_after;
                exchange.fail(
                    "no_endpoint",
                    "no endpoint of the upstream can take requests",
                );
                count(exchange, UpstreamResult::NoEndpoint);
                Error::e_explain(ErrorType::HTTPStatus(503), "no endpoint")
            }
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.read_ahead.begin_try();
        let Some(arrival) = &exchange.arrival else {
            return Ok(());
        };
        let user = exchange.user.as_deref();
        let told = Forwarded {
            client: arrival.client.ip,
            peer: arrival.connection.peer.ip(),
            https: arrival.connection.tls.is_some(),
            host: host::written(session.req_header()).unwrap_or_default(),
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
        _end_of_stream: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.read_ahead.filter(body);
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

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if let Some(attempt) = &mut exchange.attempt {
            attempt.status = Some(response.status.as_u16());
        }
        match &exchange.arrival {
            Some(arrival) => headers::prepare_response(response, &arrival.id),
            None => Ok(()),
        }
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let retry = may_retry(session, exchange, &error, Stage::Connecting);
        error.set_retry(retry);
        let (result, text) = report::of_upstream_error(&error);
        exchange.fail(result.name(), text);
        Self::conclude(exchange, result, Some(Outcome::ConnectFailed));
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
        let retry = may_retry(session, exchange, &error, stage);
        error.set_retry(retry);
        if *error.esource() == ErrorSource::Upstream {
            let (result, text) = report::of_upstream_error(&error);
            exchange.fail(result.name(), text);
            let outcome = match result {
                UpstreamResult::Timeout => Outcome::Timeout,
                _ => Outcome::Reset,
            };
            Self::conclude(exchange, result, Some(outcome));
        } else {
            exchange.fail(
                "client_gone",
                "the client left before the answer was complete",
            );
            Self::conclude(exchange, UpstreamResult::ClientGone, None);
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        let nothing = FailToProxy {
            error_code: 0,
            can_reuse_downstream: false,
        };
        let Some(arrival) = exchange.arrival.as_ref().filter(|_| !exchange.close) else {
            return nothing;
        };
        let Some(status) = report::status_of(error) else {
            return nothing;
        };
        if session
            .response_written()
            .is_some_and(|written| !written.status.is_informational())
        {
            return nothing;
        }
        let html = wants_html(&session.req_header().headers);
        let reply = match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                Reply::unavailable(arrival.id(), html, exchange.retry_after)
            }
            status => Reply::refusal(status, arrival.id(), html),
        };
        let id = arrival.id.clone();
        if exchange.failure.is_none() {
            exchange.fail("request_failed", error.etype().as_str());
        }
        let answered = self.answer(session, &id, reply).await.is_ok();
        FailToProxy {
            error_code: status.as_u16(),
            can_reuse_downstream: answered && session.is_body_done(),
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        if error.is_none()
            && let Some(status) = exchange.attempt.as_ref().and_then(|attempt| attempt.status)
        {
            let result = if status >= 500 {
                UpstreamResult::ServerError
            } else {
                UpstreamResult::Ok
            };
            Self::conclude(exchange, result, Some(Outcome::Status(status)));
        }
        settle(exchange, error);
        report::write(&self.edge.recorder, session, exchange);
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

/// Gives back the slots that are still held. Where the upstream may still be working on the answer
/// (it was too slow, or the client left), they are dropped, which holds them for as long as its
/// answers usually take.
fn settle(exchange: &mut Exchange, error: Option<&Error>) {
    let permits = exchange.permits.drain(..);
    match error {
        None => permits.for_each(Permit::answered),
        Some(_) if exchange.attempt.is_none() => permits.for_each(Permit::unused),
        Some(error) if *error.esource() == ErrorSource::Upstream => match error.etype() {
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => drop(permits),
            _ => permits.for_each(Permit::unused),
        },
        Some(_) => drop(permits),
    }
}

fn may_retry(session: &Session, exchange: &mut Exchange, error: &Error, stage: Stage) -> bool {
    let Some(attempt) = &exchange.attempt else {
        return false;
    };
    let failure = Failure {
        error,
        stage,
        method: &session.req_header().method,
        body_kept: forward::body::is_kept(session),
        answered: session.response_written().is_some(),
    };
    attempt.picked.may_retry(&failure, &mut exchange.tries)
}
