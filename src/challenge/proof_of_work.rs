//! Proof of work: the browser computes for a second or two, and the visitor does nothing. A client that
//! is no browser gets the puzzle as data. The arithmetic is `verdict`'s.

use super::{
    ANSWER_PATH, Challenge, Common, Outcome, PATIENCE, Visit,
    answer::Answer,
    page::{Look, Sheet, Templates},
};
use crate::reply::Reply;
use async_trait::async_trait;
use std::sync::Arc;
use verdict::{
    decision::Rung,
    proof_of_work::{self, PUZZLES},
    ticket::{Detail, Kind, Opened},
};

const SHEET: Sheet<'_> = Sheet {
    title: "proof_of_work.title",
    body: include_str!("proof_of_work.html"),
    script: include_str!("proof_of_work.js"),
    policy: "script-src 'wasm-unsafe-eval'; worker-src blob:; connect-src 'self'",
};

/// Issues and checks proofs of work.
#[derive(Debug)]
pub struct ProofOfWork {
    effort: u32,
    templates: Templates,
}

impl ProofOfWork {
    /// `effort`: the mean number of hashes that solving takes.
    #[must_use]
    pub fn new(effort: u32, look: &Arc<Look>) -> Self {
        Self {
            effort,
            templates: Templates::build(&SHEET, look),
        }
    }
}

#[async_trait]
impl Challenge for ProofOfWork {
    fn issue(&self, visit: &Visit<'_>, worth: Rung, common: &Common) -> Option<Reply> {
        let detail = self.effort.to_be_bytes();
        let detail = Detail::try_from(detail.as_slice()).ok()?;
        let token = common.ticket(visit, Kind::ProofOfWork, worth, detail)?;
        let limit = proof_of_work::limit(self.effort);
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
        let effort = opened.ticket.detail.as_slice().try_into();
        let effort = effort.map_or(u32::MAX, u32::from_be_bytes);
        let nonces = answer.numbers("nonces").ok_or(Outcome::Invalid)?;
        if proof_of_work::is_solved(&opened.seed, effort, &nonces) {
            Ok(())
        } else {
            Err(Outcome::Failed)
        }
    }
}
