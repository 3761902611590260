//! Gathers the facts of a request, asks `verdict`, and carries out what it says. The only place
//! that acts on a decision: guards find, this acts, `record` writes.

pub mod bulkheads;

use crate::{
    bans::By,
    challenge::{
        Challenges, Outcome, Settled, Visit,
        risk::{Risks, Visitor},
    },
    clock,
    edge::Edge,
    exchange::Arrival,
    forward::target::{self, Target},
    identify,
    record::metrics::Metrics,
    reply::{RateLimit, Reply, wants_html},
};
use http::{HeaderMap, StatusCode, header};
use pingora_http::RequestHeader;
use std::{sync::OnceLock, time::Duration};
use verdict::{
    clearance::Fault,
    decision::{Action, Decision, Reason, Rung},
    facts::{Client, Facts, Headers, Ladder, Request, Tls, User},
    risk::{Risk, Signs},
};

/// What happens to the request next.
#[derive(Debug)]
pub enum Next {
    Forward,
    Answer(Reply),
    /// Answer with a [challenge], and keep what was posted for after it.
    Keep {
        rung: Rung,
        effort: u32,
    },
    /// It posts the answer to a challenge.
    Solve,
    /// Close the connection without a word.
    Close,
}

/// A request, with what the stages before this one found out.
#[derive(Clone, Copy)]
pub struct Suspect<'a> {
    pub request: &'a RequestHeader,
    pub target: &'a Target<'a>,
    pub arrival: &'a Arrival,
    /// `None`: anonymous.
    pub user: Option<&'a identify::User>,
    pub route: Option<usize>,
}

/// Whether the client is banned: nothing else is asked then.
#[must_use]
pub fn is_banned(edge: &Edge, arrival: &Arrival) -> bool {
    let bans = &edge.bans;
    bans.until(arrival.client.prefix, arrival.began).is_some()
}

/// Judges the request and carries out the effects: bans, waits, challenges, refusals.
pub async fn decide(edge: &Edge, suspect: Suspect<'_>) -> (Decision, Next) {
    let shown = shown(&suspect);
    if let Some(shown) = shown {
        let worth = shown.map_or_else(Fault::name, |_| "good");
        edge.recorder.metrics().clearance(worth);
    }
    let ladder = ByRisk {
        edge,
        suspect: &suspect,
        clearance: shown.and_then(Result::ok),
        signs: OnceLock::new(),
    };
    let decision = judge(&ladder);
    let next = carry_out(&ladder, &decision).await;
    (decision, next)
}

/// What the request's clearance is worth, if it shows one.
fn shown(suspect: &Suspect<'_>) -> Option<Result<Rung, Fault>> {
    let arrival = suspect.arrival;
    let bearer = arrival.bearer(&suspect.request.headers, &suspect.target.host);
    arrival.generation.challenges.clearances().shown(&bearer)
}

fn judge(ladder: &ByRisk<'_>) -> Decision {
    let ByRisk { edge, suspect, .. } = *ladder;
    let headers = RequestHeaders(&suspect.request.headers);
    let crawler = crawler(edge, suspect);
    let facts = facts(ladder, &headers, crawler);
    let policy = &suspect.arrival.generation.policy;
    if !Metrics::decision_is_sampled() {
        return policy.decide(&facts, suspect.arrival.began);
    }
    let began = clock::now();
    let decision = policy.decide(&facts, suspect.arrival.began);
    let took = clock::now().since(began);
    edge.recorder.metrics().decision_took(took);
    decision
}

async fn carry_out(ladder: &ByRisk<'_>, decision: &Decision) -> Next {
    let ByRisk { edge, suspect, .. } = *ladder;
    let solves = is_reserved(&suspect.target.path);
    match decision.action {
        // Who is on the way to solve a challenge can't be asked to solve one first.
        Action::Allow | Action::Challenge(_) if solves => Next::Solve,
        Action::Allow => Next::Forward,
        Action::Delay(wait) => {
            let Some(_place) = edge.held.enter() else {
                return Next::Answer(throttle(suspect, decision));
            };
            tokio::time::sleep(wait.unwrap_or_default()).await;
            if solves { Next::Solve } else { Next::Forward }
        }
        Action::Challenge(rung) => {
            let reason = decision.finding.as_ref().map(|finding| finding.reason);
            let risk = ladder.risk(reason.unwrap_or(Reason::Matched));
            let visit = Visit {
                effort: risk.effort(),
                ..visit(suspect)
            };
            let rung = Challenges::suited(rung.unwrap_or(Rung::ProofOfWork), &visit);
            let arrival = suspect.arrival;
            if arrival
                .generation
                .challenges
                .replays()
                .wants(&visit)
                .is_some()
            {
                let effort = visit.effort;
                return Next::Keep { rung, effort };
            }
            Next::Answer(challenge(edge, arrival, rung, &visit))
        }
        Action::Throttle => Next::Answer(throttle(suspect, decision)),
        Action::Tarpit(wait) => {
            if let Some(_place) = edge.held.enter() {
                tokio::time::sleep(wait).await;
            }
            deny(suspect)
        }
        Action::Deny => deny(suspect),
        Action::Drop => Next::Close,
        Action::Ban(base) => ban(edge, suspect, decision, base),
    }
}

/// Issues a challenge, and counts it. Who may have none now (429) was not given one.
pub fn challenge(edge: &Edge, arrival: &Arrival, rung: Rung, visit: &Visit<'_>) -> Reply {
    let challenges = &arrival.generation.challenges;
    let reply = challenges.page(rung, visit);
    let outcome = if reply.status == StatusCode::TOO_MANY_REQUESTS {
        Outcome::TooMany
    } else {
        let risks = challenges.risks();
        risks.issued(visit.client, visit.network, visit.html, arrival.began);
        Outcome::Issued
    };
    let metrics = edge.recorder.metrics();
    metrics.challenge(rung.name(), outcome.name());
    reply
}

fn deny(suspect: &Suspect<'_>) -> Next {
    let html = wants_html(&suspect.request.headers);
    let id = suspect.arrival.id();
    Next::Answer(Reply::refusal(StatusCode::FORBIDDEN, id, html))
}

/// Bans the client, unless it is one that can't be banned: that one is refused once.
fn ban(edge: &Edge, suspect: &Suspect<'_>, decision: &Decision, base: Duration) -> Next {
    let Some(finding) = &decision.finding else {
        return deny(suspect);
    };
    let by = By {
        kind: finding.source.into(),
        name: &finding.name,
        direct: suspect.arrival.is_direct(),
    };
    let client = suspect.arrival.client.prefix;
    if edge.bans.ban(client, base, by, clock::now()).is_zero() {
        return deny(suspect);
    }
    edge.recorder.metrics().ban_placed(by.name);
    Next::Close
}

/// 429 with the true wait, and the state of the bucket that is empty.
fn throttle(suspect: &Suspect<'_>, decision: &Decision) -> Reply {
    let wait = match decision.finding.as_ref().map(|finding| finding.reason) {
        Some(Reason::OverRate { wait }) => wait,
        _ => Duration::from_secs(1),
    };
    let arrival = suspect.arrival;
    let rate = decision.quota.and_then(|quota| {
        let limit = arrival.generation.policy.limits().get(quota.limit)?;
        let kind = if quota.cleared {
            limit.cleared_kind()
        } else {
            limit.kind
        };
        RateLimit::new(&kind, quota.remaining, quota.reset)
    });
    let html = wants_html(&suspect.request.headers);
    Reply::throttled(arrival.id(), html, wait, rate)
}

fn is_reserved(path: &[u8]) -> bool {
    path.starts_with(crate::challenge::RESERVED.as_bytes())
        && std::str::from_utf8(path).is_ok_and(Challenges::is_reserved)
}

/// The request as a challenge sees it.
#[must_use]
pub fn visit<'a>(suspect: &Suspect<'a>) -> Visit<'a> {
    let origin = target::origin(suspect.request).unwrap_or_default();
    let origin = std::str::from_utf8(origin).unwrap_or_default();
    Visit {
        client: suspect.arrival.client.prefix,
        network: suspect.arrival.client.network,
        ja4: suspect.arrival.ja4(),
        method: &suspect.request.method,
        headers: &suspect.request.headers,
        host: &suspect.target.host,
        target: if origin.starts_with('/') { origin } else { "/" },
        replay: "",
        secure: suspect.arrival.connection.tls.is_some(),
        html: wants_html(&suspect.request.headers),
        request_id: suspect.arrival.id(),
        now: suspect.arrival.unix_milliseconds(),
        effort: 1,
    }
}

/// Counts what became of an answer, for the metrics and for the client's standing.
pub fn settled(edge: &Edge, arrival: &Arrival, settled: Settled) {
    let metrics = edge.recorder.metrics();
    metrics.challenge(settled.rung.name(), settled.outcome.name());
    if let Some((kind, took)) = settled.solve {
        metrics.challenge_solved(kind.name(), took);
    }
    if settled.outcome == Outcome::Solved {
        let risks = arrival.generation.challenges.risks();
        risks.solved(arrival.client.prefix, settled.rung, arrival.began);
    }
}

/// Picks the rung where the configuration leaves it to the risk. Nothing is looked up until it is
/// asked, and then once.
struct ByRisk<'a> {
    edge: &'a Edge,
    suspect: &'a Suspect<'a>,
    /// What the request's cookies prove.
    clearance: Option<Rung>,
    signs: OnceLock<Signs>,
}

impl ByRisk<'_> {
    fn risk(&self, reason: Reason) -> Risk {
        Risks::weigh(*self.signs.get_or_init(|| self.signs()), reason)
    }

    fn signs(&self) -> Signs {
        let Suspect {
            request, arrival, ..
        } = *self.suspect;
        let client = arrival.client;
        let visitor = Visitor {
            client: client.prefix,
            network: client.network,
            headers: &request.headers,
            html: wants_html(&request.headers),
            cleared: self.clearance.is_some(),
            behaved: self.edge.conduct.is_good(client.prefix, arrival.began),
            now: arrival.began,
        };
        arrival.generation.challenges.risks().signs(&visitor)
    }
}

impl Ladder for ByRisk<'_> {
    fn rung(&self, reason: Reason) -> Rung {
        let risks = self.suspect.arrival.generation.challenges.risks();
        risks.rung(self.risk(reason))
    }
}

/// The verified crawler that sent the request; empty for everybody else.
fn crawler<'a>(edge: &Edge, suspect: &Suspect<'a>) -> &'a str {
    let arrival = suspect.arrival;
    let Some(crawlers) = &arrival.generation.crawlers else {
        return "";
    };
    let headers = &suspect.request.headers;
    let crawler = crawlers.identify(headers, arrival.client.ip, arrival.began);
    if !crawler.is_empty() {
        edge.recorder.metrics().crawler_request();
    }
    crawler
}

fn facts<'a>(
    ladder: &'a ByRisk<'a>,
    headers: &'a RequestHeaders<'a>,
    crawler: &'a str,
) -> Facts<'a> {
    let Suspect {
        request,
        target,
        arrival,
        user,
        route,
    } = *ladder.suspect;
    let generation = &arrival.generation;
    let config = &generation.config;
    let entry = route.and_then(|route| config.routes.get(route));
    let upstream = entry.and_then(|entry| config.upstreams.get(entry.upstream));
    let tls = arrival.connection.tls.as_ref();
    Facts {
        client: Client {
            ip: arrival.client.ip,
            prefix: arrival.client.prefix,
            network: arrival.client.network,
            ja4: tls.map_or("", |tls| tls.ja4.as_str()),
            crawler,
        },
        request: Request {
            method: request.method.as_str(),
            host: target.host.as_bytes(),
            path: &target.path,
            query: target.query,
            headers,
            size: declared_length(&request.headers),
        },
        user: user.map_or(User::default(), |user| User {
            id: &user.id,
            roles: &user.roles,
        }),
        tls: tls.map_or(Tls::default(), |tls| Tls {
            version: tls.version,
            sni: &tls.sni,
            alpn: tls.alpn,
        }),
        route,
        route_name: entry.map_or("", |entry| &entry.name),
        upstream: upstream.map_or("", |upstream| &upstream.name),
        pressure: ladder.edge.pressure.states(),
        clearance: ladder.clearance,
        unchallenged: !crawler.is_empty() || entry.is_some_and(|entry| !entry.challenge),
        ladder,
    }
}

fn declared_length(headers: &HeaderMap) -> u64 {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse().ok())
        .unwrap_or(0)
}

/// The headers as verdict asks for them.
struct RequestHeaders<'a>(&'a HeaderMap);

impl Headers for RequestHeaders<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(http::HeaderValue::as_bytes)
    }

    /// The first cookie of this name (RFC 6265, 4.2.1; HTTP/2 may send several `cookie` lines).
    fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.0
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
            .find_map(|pair| {
                let pair = pair.trim_ascii();
                pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
            })
    }
}
