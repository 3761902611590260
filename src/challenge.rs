//! Challenges: what a suspect has to do before it may go on, and how it shows that it has. Who is a
//! suspect is decided elsewhere.
//!
//! A [`Challenge`] is one rung of the ladder. Whoever solves one gets a clearance in a cookie, sealed
//! for its network and host; nothing about a visitor is kept here but the ids of challenges that
//! were solved, until they expire.

pub mod proof_of_work;
mod spent;

use crate::{config::model, reply::Reply};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ALLOW, CONTENT_TYPE, COOKIE, SET_COOKIE},
};
use proof_of_work::ProofOfWork;
use ring::rand::SecureRandom;
use std::{sync::Arc, time::Duration};
use verdict::{
    clearance::{Clearance, Grant},
    decision::Rung,
    prefix::Prefix,
    seal::Key,
};

/// Paths below this are answered here and never forwarded.
pub const RESERVED: &str = "/.rempart/";

/// Where answers are posted to.
pub const ANSWER_PATH: &str = "/.rempart/challenge";

/// The longest answer, in bytes; longer ones need not be read.
pub const MAX_ANSWER: usize = 4 * 1024;

/// How long a challenge may be worked on, in seconds.
const PATIENCE: u64 = 300;

/// Shorter secrets could be guessed.
pub const MIN_SECRET: usize = 16;

/// A client may hold several cookies of the same name, of several paths; no more are looked at.
const MAX_COOKIES: usize = 4;

/// One rung of the ladder.
pub trait Challenge: std::fmt::Debug + Send + Sync {
    /// What solving it proves.
    fn rung(&self) -> Rung;

    /// A new challenge for this visit: a page, or data for a client that is no browser.
    fn issue(&self, visit: &Visit<'_>, key: &Key) -> Option<Reply>;

    /// Checks an answer and gives the path to return to. Changes nothing.
    ///
    /// # Errors
    /// `Failed`, `Expired` or `Invalid`.
    fn check(&self, visit: &Visit<'_>, answer: &Answer<'_>, key: &Key) -> Result<Solved, Outcome>;
}

/// Who is asking, for what.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// What counts as this client; clearances are bound to it.
    pub network: Prefix,
    /// Lower case, without its port.
    pub host: &'a str,
    /// Path and query, as received.
    pub target: &'a str,
    /// Whether the connection is encrypted: the cookie is `Secure` then.
    pub secure: bool,
    /// Whether a page is wanted: [`crate::reply::wants_html`].
    pub html: bool,
    pub request_id: &'a str,
    /// Unix seconds.
    pub now: u64,
}

/// What was posted to a reserved path.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// The whole body; more than [`MAX_ANSWER`] is refused.
    pub body: &'a [u8],
}

/// A challenge that was solved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solved {
    pub id: [u8; 16],
    pub expires: u64,
    pub target: String,
}

/// What became of a challenge: the `outcome` of `rempart_challenges_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Issued,
    Solved,
    /// The work is wrong.
    Failed,
    /// It came too late.
    Expired,
    /// It was solved before.
    Replayed,
    /// Not ours, not this visitor's, or no answer at all.
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
            Self::Invalid => "invalid",
        }
    }
}

/// Issues challenges and checks clearances; one a generation of the configuration, shared by all
/// workers.
#[derive(Debug)]
pub struct Challenges {
    key: Key,
    /// The process's own secret, when the configuration has none.
    own: Option<[u8; 32]>,
    cookie: String,
    lifetime: Duration,
    proof_of_work: ProofOfWork,
    spent: Arc<spent::Spent>,
}

impl Challenges {
    /// Keeps what was solved, and the process's own secret, from `previous`.
    ///
    /// # Errors
    /// A sentence when the secret is too short, or the system gives no random bytes.
    pub fn build(spec: &model::Challenge, previous: Option<&Self>) -> Result<Self, String> {
        let own = match (&spec.secret, previous.and_then(|previous| previous.own)) {
            (Some(_), _) => None,
            (None, Some(own)) => Some(own),
            (None, None) => Some(random()?),
        };
        let secret = spec.secret.as_ref().map(model::Secret::expose);
        let secret = secret
            .or(own.as_ref().map(<[u8; 32]>::as_slice))
            .filter(|secret| secret.len() >= MIN_SECRET)
            .ok_or_else(|| format!("a challenge's secret has at least {MIN_SECRET} bytes"))?;
        Ok(Self {
            key: Key::new(secret),
            own,
            cookie: spec.cookie.clone(),
            lifetime: spec.lifetime,
            proof_of_work: ProofOfWork::new(spec.effort, random()?),
            spent: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.spent)),
        })
    }

    /// Whether a path is answered by [`Self::answer`] and never forwarded.
    #[must_use]
    pub fn is_reserved(path: &str) -> bool {
        path.starts_with(RESERVED)
    }

    /// The highest rung that the request's cookies prove. Allocates nothing.
    #[must_use]
    pub fn clearance(
        &self,
        headers: &HeaderMap,
        network: Prefix,
        host: &str,
        now: u64,
    ) -> Option<Rung> {
        self.tokens(headers)
            .filter_map(|token| Clearance::verify(token, &self.key, network, host, now))
            .max()
    }

    /// The answer to a request that has to solve something: 403, `rempart-action: challenge`. Counts
    /// as [`Outcome::Issued`].
    #[must_use]
    pub fn page(&self, rung: Rung, visit: &Visit<'_>) -> Reply {
        self.rung(rung)
            .issue(visit, &self.key)
            .unwrap_or_else(|| Reply::refusal(StatusCode::FORBIDDEN, visit.request_id, visit.html))
    }

    /// Answers a request to a reserved path. The outcome is to be counted under the rung; there is
    /// none where no challenge was concerned.
    #[must_use]
    pub fn answer(
        &self,
        visit: &Visit<'_>,
        answer: &Answer<'_>,
    ) -> (Reply, Option<(Rung, Outcome)>) {
        let refusal = |status| Reply::refusal(status, visit.request_id, visit.html);
        let path = visit.target.split('?').next().unwrap_or_default();
        if path != ANSWER_PATH {
            return (refusal(StatusCode::NOT_FOUND), None);
        }
        if answer.method != Method::POST {
            let reply = refusal(StatusCode::METHOD_NOT_ALLOWED);
            return (reply.with(ALLOW, HeaderValue::from_static("POST")), None);
        }
        let challenge = self.rung(Rung::ProofOfWork);
        let rung = challenge.rung();
        if answer.body.len() > MAX_ANSWER {
            let reply = refusal(StatusCode::PAYLOAD_TOO_LARGE);
            return (reply, Some((rung, Outcome::Invalid)));
        }
        let solved = challenge
            .check(visit, answer, &self.key)
            .and_then(|solved| {
                if self.spent.insert(solved.id, solved.expires, visit.now) {
                    Ok(solved)
                } else {
                    Err(Outcome::Replayed)
                }
            });
        match solved.and_then(|solved| self.cleared(rung, visit, answer, &solved)) {
            Ok(reply) => (reply, Some((rung, Outcome::Solved))),
            Err(outcome) => (unsolved(outcome, visit), Some((rung, outcome))),
        }
    }

    /// The cookie, with the way back (303) for a form and nothing more (204) for a script.
    fn cleared(
        &self,
        rung: Rung,
        visit: &Visit<'_>,
        answer: &Answer<'_>,
        solved: &Solved,
    ) -> Result<Reply, Outcome> {
        let grant = Grant {
            network: visit.network,
            issued: visit.now,
            expires: visit.now.saturating_add(self.lifetime.as_secs()),
        };
        let clearance = self
            .tokens(answer.headers)
            .filter_map(|token| Clearance::open(token, &self.key, visit.host))
            .fold(Clearance::new(rung, grant), |new, old| {
                new.after(&old, visit.now)
            });
        let token = clearance
            .seal(&self.key, visit.host)
            .ok_or(Outcome::Invalid)?;
        let cookie = format!(
            "{}={token}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{}",
            self.cookie,
            self.lifetime.as_secs(),
            if visit.secure { "; Secure" } else { "" }
        );
        let cookie = HeaderValue::try_from(cookie).map_err(|_| Outcome::Invalid)?;
        let reply = if is_json(answer.headers) {
            Reply::empty(StatusCode::NO_CONTENT)
        } else {
            Reply::redirect(StatusCode::SEE_OTHER, local_target(&solved.target))
                .ok_or(Outcome::Invalid)?
        };
        Ok(reply.with(SET_COOKIE, cookie))
    }

    fn rung(&self, rung: Rung) -> &dyn Challenge {
        match rung {
            Rung::ProofOfWork => &self.proof_of_work,
        }
    }

    /// The values of our cookie.
    fn tokens<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a [u8]> {
        headers
            .get_all(COOKIE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
            .filter_map(|pair| {
                pair.trim_ascii_start()
                    .strip_prefix(self.cookie.as_bytes())?
                    .strip_prefix(b"=")
            })
            .map(<[u8]>::trim_ascii_end)
            .take(MAX_COOKIES)
    }
}

fn unsolved(outcome: Outcome, visit: &Visit<'_>) -> Reply {
    if visit.html {
        return Reply::refusal(StatusCode::FORBIDDEN, visit.request_id, true);
    }
    let detail = match outcome {
        Outcome::Expired => "The challenge has expired; ask for a new one.",
        Outcome::Replayed => "The challenge was solved before; ask for a new one.",
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

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let name = value.as_bytes().split(|byte| *byte == b';').next();
        name.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"application/json"))
    })
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
