//! The lowest rung: the browser computes for a second or two, and the visitor does nothing. The page
//! is one file with its script; a client without JavaScript is told so, one that is no browser gets
//! the puzzle as data. The arithmetic is `verdict`'s.

use super::{
    ANSWER_PATH, Answer, Challenge, Outcome, PATIENCE, Solved, Visit, is_json, local_target,
};
use crate::reply::{Reply, page};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use percent_encoding::percent_decode;
use serde::Deserialize;
use std::{
    fmt::Write,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};
use verdict::{
    decision::Rung,
    proof_of_work::{self, MAX_TARGET, PUZZLES},
    seal::Key,
};

const SCRIPT: &str = include_str!("proof_of_work.js");

/// The page up to the token, and from the request's id on.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let before = format!(
        "{}<div id=\"challenge\" data-answer=\"{ANSWER_PATH}\" data-puzzles=\"{PUZZLES}\"",
        page::head("One moment, please", page::STYLE)
    );
    let after = format!("</code></p></main><script>{SCRIPT}</script></body></html>\n");
    (before, after)
});

const BODY: &str = "\"><div id=\"work\" hidden><h1 id=\"title\">One moment, please</h1>\
    <p id=\"intro\">Your browser is solving a small puzzle, to show that this visit is not part of \
    a flood. There is nothing for you to do: the page opens by itself.</p>\
    <progress id=\"bar\" value=\"0\" max=\"1\" aria-label=\"Progress\"></progress>\
    <p id=\"say\" class=\"dim\" role=\"status\"></p>\
    <button id=\"again\" type=\"button\" hidden>Try again</button></div>\
    <noscript><h1>JavaScript is needed</h1><p>This site checks that visits are not part of a flood, \
    and your browser has JavaScript turned off. Please turn it on for this site and load the page \
    again.</p></noscript></div>\
    <p class=\"id\">Request <code>";

static CSP: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; worker-src blob:; connect-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        page::source_hash(SCRIPT),
        page::source_hash(page::STYLE)
    );
    HeaderValue::from_str(&policy)
        .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// Issues and checks proofs of work.
#[derive(Debug)]
pub struct ProofOfWork {
    effort: u32,
    /// Tells this process's challenges from those of others that share its secret.
    process: [u8; 8],
    issued: AtomicU64,
}

/// An answer, from a script or a form.
#[derive(Debug, Deserialize)]
struct Work {
    token: String,
    nonces: Vec<u32>,
}

impl ProofOfWork {
    /// `effort`: the mean number of hashes that solving takes. `process`: random.
    #[must_use]
    pub fn new(effort: u32, process: [u8; 8]) -> Self {
        Self {
            effort,
            process,
            issued: AtomicU64::new(0),
        }
    }

    /// Unique is enough: what must not be guessed is the seal.
    fn next_id(&self) -> [u8; 16] {
        let count = self.issued.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 16];
        let parts = self.process.into_iter().chain(count.to_be_bytes());
        for (to, from) in id.iter_mut().zip(parts) {
            *to = from;
        }
        id
    }
}

impl Challenge for ProofOfWork {
    fn rung(&self) -> Rung {
        Rung::ProofOfWork
    }

    fn issue(&self, visit: &Visit<'_>, key: &Key) -> Option<Reply> {
        // Too long to be carried about: the script returns to it all the same.
        let target = Some(visit.target).filter(|target| target.len() <= MAX_TARGET);
        let challenge = proof_of_work::Challenge {
            id: self.next_id(),
            host: visit.host.to_owned(),
            network: visit.network,
            issued: visit.now,
            expires: visit.now.saturating_add(PATIENCE),
            effort: self.effort,
            target: local_target(target.unwrap_or("/")).to_owned(),
        };
        let token = challenge.seal(key)?;
        let limit = proof_of_work::limit(self.effort);
        let reply = if visit.html {
            Reply {
                status: StatusCode::FORBIDDEN,
                headers: page::headers_with(CSP.clone()),
                body: render(&token, limit, crate::reply::safe(visit.request_id)),
            }
        } else {
            let data = format!(
                r#""challenge":{{"kind":"{}","token":"{token}","puzzles":{PUZZLES},"limit":{limit},"answer":"{ANSWER_PATH}","expires_in":{PATIENCE}}}"#,
                self.rung().name()
            );
            Reply::problem(
                StatusCode::FORBIDDEN,
                "Forbidden",
                "Solve the challenge and send the request again with the cookie that you get.",
                visit.request_id,
                Some(&data),
            )
        };
        Some(reply.with(
            HeaderName::from_static("rempart-action"),
            HeaderValue::from_static("challenge"),
        ))
    }

    fn check(&self, visit: &Visit<'_>, answer: &Answer<'_>, key: &Key) -> Result<Solved, Outcome> {
        let work = if is_json(answer.headers) {
            serde_json::from_slice(answer.body).ok()
        } else {
            form(answer.body)
        };
        let work: Work = work.ok_or(Outcome::Invalid)?;
        let opened = proof_of_work::Challenge::open(work.token.as_bytes(), key)
            .filter(|opened| opened.challenge.network == visit.network)
            .filter(|opened| opened.challenge.host == visit.host)
            .ok_or(Outcome::Invalid)?;
        if visit.now >= opened.challenge.expires {
            return Err(Outcome::Expired);
        }
        if !opened.is_solved_by(&work.nonces) {
            return Err(Outcome::Failed);
        }
        Ok(Solved {
            id: opened.challenge.id,
            expires: opened.challenge.expires,
            target: opened.challenge.target,
        })
    }
}

/// `token` is base64url and `request_id` was made here: neither needs escaping.
fn render(token: &str, limit: u32, request_id: &str) -> Bytes {
    let (before, after) = &*PAGE;
    let length = before.len().saturating_add(after.len());
    let mut page = String::with_capacity(length.saturating_add(BODY.len()).saturating_add(2400));
    page.push_str(before);
    // Writing to a string does not fail.
    let _ = write!(page, " data-limit=\"{limit}\" data-token=\"{token}");
    page.push_str(BODY);
    page.push_str(request_id);
    page.push_str(after);
    page.into()
}

/// `token=…&nonces=1,2,3` (application/x-www-form-urlencoded).
fn form(body: &[u8]) -> Option<Work> {
    let value = |name: &[u8]| {
        let mut pairs = body.split(|byte| *byte == b'&');
        let raw = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))?;
        let text = percent_decode(raw).decode_utf8().ok()?;
        Some(text.into_owned())
    };
    let nonces = value(b"nonces")?
        .split(',')
        .map(|nonce| nonce.trim().parse().ok())
        .collect::<Option<Vec<u32>>>()?;
    Some(Work {
        token: value(b"token")?,
        nonces,
    })
}
