//! Challenges: what a suspect has to do before it may go on, and how it shows that it has. Who is a
//! suspect is decided elsewhere.
//!
//! A [`Challenge`] is one rung of the ladder, in a file of its name. Each hands out a sealed
//! [ticket](verdict::ticket) and checks what comes back with it; all that tickets have in common (their
//! seal, host, network, time, and that each is answered once) is checked here. Whoever solves one gets
//! a [clearance](clearance::Clearances) in a cookie. Nothing about a visitor is kept but the ids of
//! challenges that were answered, until they expire.

pub mod answer;
pub mod clearance;
mod ids;
pub mod page;
pub mod proof_of_work;
pub mod silent;
mod spent;

use crate::{config::model, reply::Reply};
use answer::Answer;
use async_trait::async_trait;
use clearance::Clearances;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ALLOW, SET_COOKIE},
};
use ids::Ids;
use proof_of_work::ProofOfWork;
use ring::rand::SecureRandom;
use silent::Silent;
use std::sync::Arc;
use verdict::{
    decision::Rung,
    prefix::Prefix,
    seal::Keyring,
    ticket::{Detail, Kind, MAX_TARGET, Opened, Ticket},
};

/// Paths below this are answered here and never forwarded.
pub const RESERVED: &str = "/.rempart/";

/// Where answers are posted to.
pub const ANSWER_PATH: &str = "/.rempart/challenge";

/// The longest answer, in bytes; longer ones need not be read.
pub const MAX_ANSWER: usize = 4 * 1024;

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
    /// Whether the connection is encrypted: the cookie is `Secure` then.
    pub secure: bool,
    /// Whether a page is wanted: [`crate::reply::wants_html`].
    pub html: bool,
    pub request_id: &'a str,
    /// Unix milliseconds.
    pub now: u64,
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
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::ForeignNetwork => "foreign_network",
            Self::ForeignHost => "foreign_host",
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
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
        let older = spec.secrets.iter().skip(1).map(model::Secret::expose);
        let keys = Keyring::new(secret, older);
        Ok(Self {
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
            proof_of_work: ProofOfWork::new(spec.proof_of_work.effort, &look),
            spent: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.spent)),
        })
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

    /// The answer to a request that has to solve something: 403, `rempart-action: challenge`. Counts
    /// as [`Outcome::Issued`].
    #[must_use]
    pub fn page(&self, rung: Rung, visit: &Visit<'_>) -> Reply {
        let rung = Self::suited(rung, visit);
        let reply = self
            .challenge(kind_of(rung))
            .issue(visit, rung, &self.common)
            .unwrap_or_else(|| Reply::refusal(StatusCode::FORBIDDEN, visit.request_id, visit.html));
        match rung {
            Rung::Silent => match self.clearances.grant(visit, rung) {
                Some(cookie) => reply.with(SET_COOKIE, cookie),
                None => reply,
            },
            _ => reply,
        }
    }

    /// Answers a request to a reserved path. The outcome is to be counted under the kind; there is
    /// none where no challenge was concerned.
    pub async fn answer(
        &self,
        visit: &Visit<'_>,
        answer: &Answer<'_>,
    ) -> (Reply, Option<(Rung, Outcome)>) {
        let refusal = |status| Reply::refusal(status, visit.request_id, visit.html);
        let path = visit.target.split('?').next().unwrap_or_default();
        if path != ANSWER_PATH {
            return (refusal(StatusCode::NOT_FOUND), None);
        }
        if matches!(*answer.method, Method::GET | Method::HEAD)
            && let Some(token) = silent::ticket_in(visit.target)
        {
            let (reply, counted) = self.returned(visit, token);
            return (reply, Some(counted));
        }
        if answer.method != Method::POST {
            let reply = refusal(StatusCode::METHOD_NOT_ALLOWED);
            return (reply.with(ALLOW, HeaderValue::from_static("POST")), None);
        }
        if answer.body.len() > MAX_ANSWER {
            let reply = refusal(StatusCode::PAYLOAD_TOO_LARGE);
            return (reply, Some((Rung::ProofOfWork, Outcome::TooLarge)));
        }
        let opened = match self.open(visit, answer) {
            Ok(opened) => opened,
            Err((rung, outcome)) => return (unsolved(outcome, visit), Some((rung, outcome))),
        };
        let ticket = &opened.ticket;
        let challenge = self.challenge(ticket.kind);
        let mut solved = challenge.check(visit, &opened, answer).await;
        if solved.is_ok() && !self.spend(ticket, visit.now) {
            solved = Err(Outcome::Replayed);
        }
        match solved.and_then(|()| self.cleared(visit, answer, ticket)) {
            Ok(reply) => (reply, Some((ticket.worth, Outcome::Solved))),
            Err(outcome) => (unsolved(outcome, visit), Some((ticket.worth, outcome))),
        }
    }

    /// The ticket of an answer, if it is good here and now.
    fn open(&self, visit: &Visit<'_>, answer: &Answer<'_>) -> Result<Opened, (Rung, Outcome)> {
        let token = answer.text("token");
        let opened = token.and_then(|token| Ticket::open(token.as_bytes(), &self.common.keys));
        let opened = opened.ok_or((Rung::ProofOfWork, Outcome::Invalid))?;
        // Before anybody looks at an answer again, which costs more.
        let replayed = || {
            self.spent
                .is_spent(&opened.ticket.id)
                .then_some(Outcome::Replayed)
        };
        match misplaced(&opened.ticket, visit).or_else(replayed) {
            Some(outcome) => Err((opened.ticket.worth, outcome)),
            None => Ok(opened),
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

    /// The cookie, with the way back (303) for a form and nothing more (204) for a script.
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
        } else {
            Reply::redirect(StatusCode::SEE_OTHER, local_target(&ticket.target))
                .ok_or(Outcome::Invalid)?
        };
        Ok(reply.with(SET_COOKIE, cookie))
    }

    fn challenge(&self, kind: Kind) -> &dyn Challenge {
        match kind {
            Kind::Silent => &self.silent,
            Kind::ProofOfWork | Kind::Image | Kind::Question | Kind::ThirdParty => {
                &self.proof_of_work
            }
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

/// The puzzle that a rung begins with.
fn kind_of(rung: Rung) -> Kind {
    match rung {
        Rung::Silent => Kind::Silent,
        Rung::ProofOfWork => Kind::ProofOfWork,
        Rung::Captcha => Kind::Image,
        Rung::ThirdParty => Kind::ThirdParty,
    }
}

/// The answer to a client that is no browser: problem details with the challenge in them. `members` are
/// JSON text.
#[must_use]
pub fn data(visit: &Visit<'_>, members: &str) -> Reply {
    page::challenged(Reply::problem(
        StatusCode::FORBIDDEN,
        "Forbidden",
        "Solve the challenge and send the request again with the cookie that you get.",
        visit.request_id,
        Some(&format!(r#""challenge":{{{members}}}"#)),
    ))
}

fn unsolved(outcome: Outcome, visit: &Visit<'_>) -> Reply {
    if visit.html {
        return Reply::refusal(StatusCode::FORBIDDEN, visit.request_id, true);
    }
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
fn local_target(target: &str) -> &str {
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
