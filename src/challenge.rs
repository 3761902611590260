//! Challenges: what a suspect has to do before it may go on, and how it shows that it has. Who is a
//! suspect is decided elsewhere.
//!
//! A [`Challenge`] is one rung of the ladder, in a file of its name. Each hands out a sealed
//! [ticket](verdict::ticket) and checks what comes back with it; all that tickets have in common (their
//! seal, host, network, time, and that each is answered once) is checked here. Whoever solves one gets
//! a [clearance](clearance::Clearances) in a cookie. Nothing about a visitor is kept but the ids of
//! challenges that were answered, until they expire.

pub mod answer;
pub mod captcha;
pub mod clearance;
pub mod effort;
mod ids;
pub mod page;
pub mod proof_of_work;
pub mod replay;
pub mod risk;
pub mod silent;
mod spent;
pub mod third_party;

use crate::{
    config::model,
    reply::{Grpc, Reply},
};
use answer::Answer;
use async_trait::async_trait;
use captcha::Captcha;
use clearance::Clearances;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ALLOW, SET_COOKIE, VARY},
};
use ids::Ids;
use page::Templates;
use proof_of_work::ProofOfWork;
use replay::{FIELD, Form, Replays};
use ring::rand::SecureRandom;
use risk::Risks;
use silent::Silent;
use std::{sync::Arc, time::Duration};
use third_party::ThirdParty;
use tokio::runtime::Handle;
use verdict::{
    decision::Rung,
    prefix::Prefix,
    replay::Replay,
    seal::Keyring,
    ticket::{Detail, Kind, MAX_TARGET, Opened, Ticket},
};

/// Paths below this are answered here and never forwarded.
pub const RESERVED: &str = "/.rempart/";

/// Where answers are posted to.
pub const ANSWER_PATH: &str = "/.rempart/challenge";

/// The longest answer, in bytes, without the body that it may carry along ([`replay`]): a ticket with the
/// longest target has 6 KiB, and what a provider gives some more.
pub const MAX_ANSWER: usize = 12 * 1024;

/// How long a challenge may be worked on, in milliseconds.
const PATIENCE: u64 = 300_000;

/// Shorter secrets could be guessed.
pub const MIN_SECRET: usize = 16;

/// One kind of puzzle.
#[async_trait]
pub trait Challenge: std::fmt::Debug + Send + Sync {
    /// A new one for this visit: a page, or data for a client that is no browser. Solving it is to
    /// bring a clearance of the rung `worth`.
    fn issue(&self, visit: &Visit<'_>, worth: Rung, common: &Common) -> Option<Reply>;

    /// Whether the answer is right; that the ticket is good was checked. Changes nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    async fn check(
        &self,
        visit: &Visit<'_>,
        opened: &Opened,
        answer: &Answer<'_>,
    ) -> Result<(), Outcome>;
}

/// Who is asking, for what.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// What counts as one client.
    pub client: Prefix,
    /// The /24 or /48 around it; clearances are bound to it.
    pub network: Prefix,
    /// Of the client's own TLS; empty when not known.
    pub ja4: &'a str,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// Lower case, without its port.
    pub host: &'a str,
    /// Path and query, as received.
    pub target: &'a str,
    /// The request's body, sealed ([`replay`]); empty when none is kept.
    pub replay: &'a str,
    /// Whether the connection is encrypted: the cookie is `Secure` then.
    pub secure: bool,
    /// Whether a page is wanted: [`crate::reply::wants_html`].
    pub html: bool,
    pub request_id: &'a str,
    /// Unix milliseconds.
    pub now: u64,
    /// How many times the usual work it is to do, by its [risk].
    pub effort: u32,
}

impl Visit<'_> {
    /// Unix seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.now / 1000
    }
}

/// What became of a challenge: the `outcome` of `rempart_challenges_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Issued,
    Solved,
    /// The answer is wrong.
    Failed,
    /// Whoever was to check it did not answer.
    ProviderFailed,
    /// It came too late.
    Expired,
    /// It was answered before.
    Replayed,
    /// The ticket was given to another network.
    ForeignNetwork,
    /// The ticket was given for another host.
    ForeignHost,
    /// Longer than any answer.
    TooLarge,
    /// Wrong too often, or asked for too many: not looked at.
    TooMany,
    /// No ticket of ours, or no answer at all.
    Invalid,
}

impl Outcome {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Solved => "solved",
            Self::Failed => "failed",
            Self::ProviderFailed => "provider_failed",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::ForeignNetwork => "foreign_network",
            Self::ForeignHost => "foreign_host",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::Invalid => "invalid",
        }
    }
}

/// How an answer ended, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Of the clearance that it was for.
    pub rung: Rung,
    pub outcome: Outcome,
    /// When it was solved: which puzzle, and how long that took.
    pub solve: Option<(Kind, Duration)>,
}

impl Settled {
    /// What is no solution.
    #[must_use]
    pub fn new(rung: Rung, outcome: Outcome) -> Self {
        Self {
            rung,
            outcome,
            solve: None,
        }
    }
}

/// What all rungs issue with.
#[derive(Debug)]
pub struct Common {
    keys: Keyring,
    ids: Ids,
}

impl Common {
    /// A sealed ticket for this visit; `None` when its host is none.
    #[must_use]
    pub fn ticket(
        &self,
        visit: &Visit<'_>,
        kind: Kind,
        worth: Rung,
        detail: Detail,
    ) -> Option<String> {
        // Too long to be carried about: a script returns to it all the same.
        let target = Some(visit.target).filter(|target| target.len() <= MAX_TARGET);
        let ticket = Ticket {
            kind,
            worth,
            id: self.ids.next(),
            host: visit.host.to_owned(),
            network: visit.network,
            issued: visit.now,
            expires: visit.now.saturating_add(PATIENCE),
            target: local_target(target.unwrap_or("/")).to_owned(),
            detail,
        };
        ticket.seal(&self.keys)
    }
}

/// Issues challenges and checks clearances; one a generation of the configuration, shared by all
/// workers.
#[derive(Debug)]
pub struct Challenges {
    common: Common,
    /// The process's own secret, when the configuration has none.
    own: Option<[u8; 32]>,
    clearances: Clearances,
    silent: Silent,
    proof_of_work: ProofOfWork,
    risks: Risks,
    replays: Replays,
    /// The way on for who carries a body and has no script.
    replay_page: Templates,
    third_party: ThirdParty,
    captcha: Captcha,
    spent: Arc<spent::Spent>,
}

impl Challenges {
    /// Keeps what was solved, and the process's own secret, from `previous`.
    ///
    /// # Errors
    /// A sentence when the secret is too short, or the system gives no random bytes.
    pub fn build(spec: &model::Challenge, previous: Option<&Self>) -> Result<Self, String> {
        let own = match (
            spec.secrets.first(),
            previous.and_then(|previous| previous.own),
        ) {
            (Some(_), _) => None,
            (None, Some(own)) => Some(own),
            (None, None) => Some(random()?),
        };
        let secret = spec.secrets.first().map(model::Secret::expose);
        let secret = secret
            .or(own.as_ref().map(<[u8; 32]>::as_slice))
            .filter(|secret| secret.len() >= MIN_SECRET)
            .ok_or_else(|| format!("a challenge's secret has at least {MIN_SECRET} bytes"))?;
        let look = page::Look::new(&spec.page);
        let older = || spec.secrets.iter().skip(1).map(model::Secret::expose);
        let keys = Keyring::new(secret, older());
        let captcha = Captcha::new(
            spec.captcha,
            std::iter::once(secret).chain(older()),
            &look,
            previous.map(|previous| &previous.captcha),
        );
        Ok(Self {
            captcha,
            clearances: Clearances::new(
                keys.clone(),
                spec,
                previous.map(|previous| &previous.clearances),
            )?,
            common: Common {
                keys,
                ids: Ids::new()?,
            },
            own,
            silent: Silent::new(&look),
            proof_of_work: ProofOfWork::build(
                &spec.proof_of_work,
                previous.map(|previous| &previous.proof_of_work),
                &look,
            ),
            risks: Risks::build(spec, previous.map(|previous| &previous.risks)),
            replays: Replays::new(spec, previous.map(|previous| &previous.replays)),
            replay_page: Templates::build(&replay::SHEET, &look),
            third_party: ThirdParty::default(),
            spent: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.spent)),
        })
    }

    /// With this provider; there is none without.
    #[must_use]
    pub fn with_third_party(self, third_party: ThirdParty) -> Self {
        Self {
            third_party,
            ..self
        }
    }

    #[must_use]
    pub fn third_party(&self) -> &ThirdParty {
        &self.third_party
    }

    /// Begins what goes on in the background.
    pub fn spawn_tasks(&self, control: &Handle) {
        self.captcha.spawn_tasks(control);
    }

    /// Whether a path is answered by [`Self::answer`] and never forwarded.
    #[must_use]
    pub fn is_reserved(path: &str) -> bool {
        path.starts_with(RESERVED)
    }

    /// What visitors hold.
    #[must_use]
    pub fn clearances(&self) -> &Clearances {
        &self.clearances
    }

    /// The rung that a visitor is really given: the silent one leads nobody back who sent a body.
    #[must_use]
    pub fn suited(rung: Rung, visit: &Visit<'_>) -> Rung {
        match rung {
            Rung::Silent if !silent::suits(visit) => Rung::ProofOfWork,
            rung => rung,
        }
    }

    /// How suspect visitors are.
    #[must_use]
    pub fn risks(&self) -> &Risks {
        &self.risks
    }

    /// Mean hashes of a proof of work that is issued now, before the visitor's risk.
    #[must_use]
    pub fn effort(&self) -> u32 {
        self.proof_of_work.effort()
    }

    /// What becomes of bodies that challenged visitors posted.
    #[must_use]
    pub fn replays(&self) -> &Replays {
        &self.replays
    }

    /// The longest answer that is read.
    #[must_use]
    pub fn longest_answer(&self) -> usize {
        MAX_ANSWER.saturating_add(self.replays.longest_form())
    }

    /// Seals a body for [`Visit::replay`]; `None` when it can't be kept.
    #[must_use]
    pub fn keep(&self, visit: &Visit<'_>, body: &[u8]) -> Option<String> {
        self.replays.keep(&self.common.keys, visit, body)
    }

    /// The answer to who sends on, by a page of ours, what was kept, and shows that the cookie that came
    /// with the page was not: no challenge leads such a visitor anywhere. `None` for everybody else.
    #[must_use]
    pub fn without_cookies(&self, visit: &Visit<'_>, form: &[u8]) -> Option<Reply> {
        let wrapped = || matches!(self.unwrap(visit, form), Form::Kept(_));
        let without = !self.replays.has_mark(visit.headers) && wrapped();
        without.then(|| self.no_cookies(local_target(visit.target), Outcome::Failed, visit))
    }

    /// What a form holds that was posted to a page.
    #[must_use]
    pub fn unwrap(&self, visit: &Visit<'_>, form: &[u8]) -> Form {
        self.replays.unwrap(&self.common.keys, visit, form)
    }

    /// The answer to a request that has to solve something: 403, `rempart-action: challenge`. Counts
    /// as [`Outcome::Issued`]. 429 for who was wrong too often; counts as [`Outcome::TooMany`].
    #[must_use]
    pub fn page(&self, rung: Rung, visit: &Visit<'_>) -> Reply {
        if let Some(grpc) = Grpc::of(visit.headers) {
            return page::challenged(Reply::grpc_denied(grpc, GRPC_MESSAGE));
        }
        let rung = Self::suited(rung, visit);
        let reply = self
            .issue(self.kind_of(rung, visit), rung, visit)
            .unwrap_or_else(|| Reply::refusal(StatusCode::FORBIDDEN, visit.request_id, visit.html));
        match rung {
            Rung::Silent => match self.clearances.grant(visit, rung) {
                Some(cookie) => reply.with(SET_COOKIE, cookie),
                None => reply,
            },
            _ => reply,
        }
    }

    fn issue(&self, kind: Kind, worth: Rung, visit: &Visit<'_>) -> Option<Reply> {
        let reply = self.challenge(kind).issue(visit, worth, &self.common)?;
        Some(self.marked(reply, visit))
    }

    /// With the cookie that lets a carried body through, where there is one.
    fn marked(&self, reply: Reply, visit: &Visit<'_>) -> Reply {
        let carries = Some(visit).filter(|visit| !visit.replay.is_empty());
        match carries.and_then(|visit| self.replays.mark(visit)) {
            Some(mark) => reply.with(SET_COOKIE, mark),
            None => reply,
        }
    }

    /// Answers a request to a reserved path. The outcome is to be counted under the kind; there is
    /// none where no challenge was concerned.
    pub async fn answer(&self, visit: &Visit<'_>, answer: &Answer<'_>) -> (Reply, Option<Settled>) {
        let counted = |rung, outcome| Some(Settled::new(rung, outcome));
        let refusal = |status| Reply::refusal(status, visit.request_id, visit.html);
        let path = visit.target.split('?').next().unwrap_or_default();
        if path != ANSWER_PATH {
            return (refusal(StatusCode::NOT_FOUND), None);
        }
        if matches!(*answer.method, Method::GET | Method::HEAD)
            && let Some(token) = silent::ticket_in(visit.target)
        {
            let (reply, (rung, outcome)) = self.returned(visit, token);
            return (reply, counted(rung, outcome));
        }
        if matches!(*answer.method, Method::GET | Method::HEAD)
            && let Some(token) = silent::solved_in(visit.target)
        {
            let (reply, (rung, outcome)) = self.returned(visit, token);
            // That it was solved is counted already, and reloading is nothing to be counted.
            let is_back = matches!(outcome, Outcome::Solved | Outcome::Replayed);
            let counted = counted(rung, outcome).filter(|_| !is_back);
            return (reply, counted);
        }
        if answer.method != Method::POST {
            let mut reply = if visit.html {
                // Kept as a bookmark, or gone back to.
                self.lapsed("/", Outcome::Invalid, visit)
            } else {
                refusal(StatusCode::METHOD_NOT_ALLOWED)
            };
            reply.status = StatusCode::METHOD_NOT_ALLOWED;
            return (reply.with(ALLOW, HeaderValue::from_static("POST")), None);
        }
        let token = answer.raw(FIELD);
        if answer.body.len().saturating_sub(token.len()) > MAX_ANSWER
            || token.len() > self.replays.longest_token()
        {
            let reply = refusal(StatusCode::PAYLOAD_TOO_LARGE);
            return (reply, counted(Rung::ProofOfWork, Outcome::TooLarge));
        }
        let Some(opened) = self.open(answer) else {
            let outcome = Outcome::Invalid;
            return (
                self.lapsed("/", outcome, visit),
                counted(Rung::ProofOfWork, outcome),
            );
        };
        let ticket = &opened.ticket;
        let carried = self.carried(visit, ticket, token);
        // What the visitor came for, not where the answer goes.
        let visit = &Visit {
            target: match &carried {
                Some((replay, _)) => &replay.target,
                None if ticket.host == visit.host => &ticket.target,
                None => "/",
            },
            replay: carried.as_ref().map_or("", |(_, token)| token),
            method: carried.as_ref().map_or(&Method::GET, |_| &Method::POST),
            ..*visit
        };
        if let Some(answered) = self.answer_by_hand(visit, &opened, answer).await {
            return answered;
        }
        match self.check(visit, &opened, answer).await {
            Ok(reply) => (reply, Some(self.solved(visit, ticket))),
            Err(outcome) => {
                let kind = self.next_kind(ticket, outcome, visit);
                let again = || self.issue(kind, ticket.worth, visit);
                // Scripts and programs ask for a new one themselves, but do not know that another
                // kind takes the place of a provider's.
                let page = visit.html && !answer.is_json();
                let given = page || ticket.kind == Kind::ThirdParty;
                let reply = given.then(again).flatten();
                let reply = reply.unwrap_or_else(|| self.unsolved(outcome, visit));
                (reply, counted(ticket.worth, outcome))
            }
        }
    }

    /// The body that an answer carries, with its token: this visitor's own, and posted by a page of this
    /// very site. Another site could have somebody's browser post what it likes here, and the page that
    /// follows would send it on as the visitor's own. Looked into only once the ticket beside it is
    /// known to be of this place; one that has expired is answered with another, and keeps its body.
    fn carried<'a>(
        &self,
        visit: &Visit<'_>,
        ticket: &Ticket,
        token: &'a [u8],
    ) -> Option<(Replay, &'a str)> {
        let here = matches!(misplaced(ticket, visit), None | Some(Outcome::Expired));
        if token.is_empty() || !here || !self.replays.is_from_here(visit) {
            return None;
        }
        let replay = self.replays.carried(&self.common.keys, visit, token)?;
        Some((replay, std::str::from_utf8(token).ok()?))
    }

    /// What is learnt from a solution.
    fn solved(&self, visit: &Visit<'_>, ticket: &Ticket) -> Settled {
        let took = visit.now.saturating_sub(ticket.issued);
        if ticket.kind == Kind::ProofOfWork {
            self.proof_of_work.solved(visit, ticket, took);
        }
        Settled {
            rung: ticket.worth,
            outcome: Outcome::Solved,
            solve: Some((ticket.kind, Duration::from_millis(took))),
        }
    }

    /// The ticket of an answer, wherever it is good.
    fn open(&self, answer: &Answer<'_>) -> Option<Opened> {
        let token = answer.text("token")?;
        Ticket::open(token.as_bytes(), &self.common.keys)
    }

    /// The clearance, if the ticket is good here and now and the answer right.
    async fn check(
        &self,
        visit: &Visit<'_>,
        opened: &Opened,
        answer: &Answer<'_>,
    ) -> Result<Reply, Outcome> {
        let ticket = &opened.ticket;
        if let Some(outcome) = misplaced(ticket, visit) {
            return Err(outcome);
        }
        // Before anybody looks at an answer again, which costs more.
        if self.spent.is_spent(&ticket.id) {
            return Err(Outcome::Replayed);
        }
        // A provider is asked once a ticket, and not once for each of many answers at once.
        let is_asked = ticket.kind == Kind::ThirdParty;
        if is_asked && !self.spent.fail(ticket.id, ticket.expires, visit.now) {
            return Err(Outcome::Replayed);
        }
        let challenge = self.challenge(ticket.kind);
        challenge.check(visit, opened, answer).await?;
        if is_asked {
            self.spent.keep(ticket.id, ticket.expires, visit.now);
        } else if !self.spend(ticket, visit.now) {
            return Err(Outcome::Replayed);
        }
        self.cleared(visit, answer, ticket)
    }

    /// The puzzle after one that was not solved: the same kind again, or the captcha where the provider
    /// refused the visitor or could not be asked.
    fn next_kind(&self, ticket: &Ticket, outcome: Outcome, visit: &Visit<'_>) -> Kind {
        match (ticket.kind, outcome) {
            (Kind::ThirdParty, Outcome::Failed) if self.third_party.can_be_retried() => {
                self.kind_of(Rung::ThirdParty, visit)
            }
            (Kind::ThirdParty, Outcome::Failed | Outcome::ProviderFailed | Outcome::TooMany) => {
                Kind::Image
            }
            (Kind::ThirdParty, _) => self.kind_of(Rung::ThirdParty, visit),
            (kind, _) => kind,
        }
    }

    /// Marks a ticket as answered; false when it was before.
    fn spend(&self, ticket: &Ticket, now: u64) -> bool {
        match ticket.kind {
            // It costs nothing, and must not push out what was worked for.
            Kind::Silent => self.spent.fail(ticket.id, ticket.expires, now),
            _ => self.spent.insert(ticket.id, ticket.expires, now),
        }
    }

    /// The cookie, with the way back for a form and nothing more (204) for a script: 303
    /// ([`Self::way_back`]), or the page that sends on what the form carried.
    fn cleared(
        &self,
        visit: &Visit<'_>,
        answer: &Answer<'_>,
        ticket: &Ticket,
    ) -> Result<Reply, Outcome> {
        let cookie = self.clearances.grant(visit, ticket.worth);
        let cookie = cookie.ok_or(Outcome::Invalid)?;
        let reply = if answer.is_json() {
            Reply::empty(StatusCode::NO_CONTENT)
        } else if visit.replay.is_empty() {
            self.way_back(visit).ok_or(Outcome::Invalid)?
        } else {
            let mut reply = page::unchallenged(self.replay_page.render(visit, &[]));
            reply.status = StatusCode::OK;
            self.marked(reply, visit)
        };
        Ok(reply.with(SET_COOKIE, cookie))
    }

    /// The puzzle that a rung begins with.
    fn kind_of(&self, rung: Rung, visit: &Visit<'_>) -> Kind {
        match rung {
            Rung::Silent => Kind::Silent,
            Rung::ProofOfWork => Kind::ProofOfWork,
            // While the provider fails, our own captcha is worth as much.
            Rung::ThirdParty if self.third_party.is_available(visit) => Kind::ThirdParty,
            Rung::Captcha | Rung::ThirdParty => Kind::Image,
        }
    }

    fn challenge(&self, kind: Kind) -> &dyn Challenge {
        match kind {
            Kind::Silent => &self.silent,
            Kind::ProofOfWork => &self.proof_of_work,
            Kind::Image | Kind::Question => &self.captcha,
            Kind::ThirdParty => &self.third_party,
        }
    }
}

/// Why a ticket is not good here and now.
fn misplaced(ticket: &Ticket, visit: &Visit<'_>) -> Option<Outcome> {
    if ticket.host != visit.host {
        Some(Outcome::ForeignHost)
    } else if ticket.network != visit.network {
        Some(Outcome::ForeignNetwork)
    } else if visit.now >= ticket.expires {
        Some(Outcome::Expired)
    } else {
        None
    }
}

/// Percent-encoded, as `grpc-message` is.
const GRPC_MESSAGE: &str = "This request has to solve a challenge first, which gRPC has no way for";

/// The answer to a client that is no browser: problem details with the challenge in them. `members` are
/// JSON text.
#[must_use]
pub fn data(visit: &Visit<'_>, members: &str) -> Reply {
    let reply = Reply::problem(
        StatusCode::FORBIDDEN,
        "Forbidden",
        "Solve the challenge and send the request again with the cookie that you get.",
        visit.request_id,
        Some(&format!(r#""challenge":{{{members}}}"#)),
    );
    // For caches that heed no `no-store`: what tells a program from a browser, and the clearance.
    let vary = HeaderValue::from_static("accept, cookie, origin, sec-fetch-dest, sec-fetch-mode");
    page::challenged(reply.with(VARY, vary))
}

/// The answer to a program that did not solve it.
fn refused(outcome: Outcome, visit: &Visit<'_>) -> Reply {
    let detail = match outcome {
        Outcome::Expired => "The challenge has expired; ask for a new one.",
        Outcome::Replayed => "The challenge was answered before; ask for a new one.",
        Outcome::Failed => "This does not solve the challenge.",
        _ => "This is no answer to a challenge of this visitor.",
    };
    let outcome = format!(r#""outcome":"{}""#, outcome.name());
    Reply::problem(
        StatusCode::FORBIDDEN,
        "Forbidden",
        detail,
        visit.request_id,
        Some(&outcome),
    )
}

/// A path of this very site. Browsers take `//host` and `/\host` for another site, and leave out
/// tabs and line ends.
#[must_use]
pub fn local_target(target: &str) -> &str {
    let local = target.starts_with('/')
        && !matches!(target.as_bytes().get(1), Some(b'/' | b'\\'))
        && target.bytes().all(|byte| byte.is_ascii_graphic());
    if local { target } else { "/" }
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| "the system gives no random bytes".to_owned())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
