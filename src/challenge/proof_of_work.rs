//! Proof of work: the browser computes for a second or two, and the visitor does nothing. A client that
//! is no browser gets the puzzle as data. The arithmetic is `verdict`'s.

use super::{
    ANSWER_PATH, Challenge, Common, Outcome, PATIENCE, Visit,
    answer::Answer,
    effort::Effort,
    page::{Look, Sheet, Templates},
};
use crate::{config::model, reply::Reply};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::sync::Arc;
use verdict::{
    decision::Rung,
    proof_of_work::{self, PUZZLES},
    ticket::{Detail, Kind, Opened, Ticket},
};

const BODY: &str = include_str!("proof_of_work.html");

const SHEET: Sheet<'_> = Sheet {
    title: "proof_of_work.title",
    body: BODY,
    script: include_str!("proof_of_work.js"),
    policy: "script-src 'wasm-unsafe-eval'; worker-src blob:; connect-src 'self'",
};

/// Assembled by the build script from `proof_of_work/solver.wat`.
const SOLVER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/solver.wasm"));

/// Issues and checks proofs of work.
#[derive(Debug)]
pub struct ProofOfWork {
    effort: Effort,
    templates: Templates,
}

impl ProofOfWork {
    /// The effort goes on where it was in `previous`.
    #[must_use]
    pub fn build(spec: &model::ProofOfWork, previous: Option<&Self>, look: &Arc<Look>) -> Self {
        // The same for everybody: compressed once.
        let sheet = Sheet {
            body: &BODY.replace("{{solver}}", &STANDARD.encode(SOLVER)),
            ..SHEET
        };
        Self {
            effort: Effort::build(spec, previous.map(|previous| &previous.effort)),
            templates: Templates::build(&sheet, look),
        }
    }

    /// Mean hashes of what is issued now, before the visitor's risk.
    #[must_use]
    pub fn effort(&self) -> u32 {
        self.effort.now()
    }

    /// A visitor solved one, in so many milliseconds.
    pub fn solved(&self, visit: &Visit<'_>, ticket: &Ticket, took: u64) {
        let effort = effort_of(ticket);
        self.effort.solved(ticket.network, effort, took, visit.now);
    }
}

#[async_trait]
impl Challenge for ProofOfWork {
    fn issue(&self, visit: &Visit<'_>, worth: Rung, common: &Common) -> Option<Reply> {
        let effort = self.effort().saturating_mul(visit.effort);
        let detail = Detail::try_from(effort.to_be_bytes().as_slice()).ok()?;
        let token = common.ticket(visit, Kind::ProofOfWork, worth, detail)?;
        let limit = proof_of_work::limit(effort);
        if visit.html {
            let values = [
                ("answer", ANSWER_PATH),
                ("puzzles", &PUZZLES.to_string()),
                ("limit", &limit.to_string()),
                ("token", &token),
            ];
            return Some(self.templates.render(visit, &values));
        }
        let data = format!(
            r#""kind":"proof_of_work","token":"{token}","puzzles":{PUZZLES},"limit":{limit},"answer":"{ANSWER_PATH}","expires_in":{}"#,
            PATIENCE / 1000
        );
        Some(super::data(visit, &data))
    }

    async fn check(
        &self,
        _: &Visit<'_>,
        opened: &Opened,
        answer: &Answer<'_>,
    ) -> Result<(), Outcome> {
        let effort = effort_of(&opened.ticket);
        let nonces = answer.numbers("nonces").ok_or(Outcome::Invalid)?;
        if proof_of_work::is_solved(&opened.seed, effort, &nonces) {
            Ok(())
        } else {
            Err(Outcome::Failed)
        }
    }
}

fn effort_of(ticket: &Ticket) -> u32 {
    let effort = ticket.detail.as_slice().try_into();
    effort.map_or(u32::MAX, u32::from_be_bytes)
}
