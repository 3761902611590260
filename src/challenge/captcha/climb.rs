//! How a captcha's ticket is answered, which is unlike others': once, right or wrong, with a new one for who
//! was wrong; and how one is had in place of another puzzle.

use super::{Notice, too_many};
use crate::{
    challenge::{Answer, Challenge, Challenges, Outcome, Settled, Visit, unsolved},
    reply::Reply,
};
use http::StatusCode;
use verdict::{
    decision::Rung,
    ticket::{Kind, Opened, Ticket},
};

/// What is answered, and what is counted.
type Answered = (Reply, Option<Settled>);

/// Whether the ticket of this kind is answered by [`Challenges::answer_captcha`].
#[must_use]
pub fn is_captcha(kind: Kind) -> bool {
    matches!(kind, Kind::Image | Kind::Question)
}

/// The captcha that is asked for in place of the ticket's puzzle.
#[must_use]
pub fn wanted(answer: &Answer<'_>) -> Option<Kind> {
    match answer.text("instead")?.as_ref() {
        "image" => Some(Kind::Image),
        "question" => Some(Kind::Question),
        _ => None,
    }
}

impl Challenges {
    /// A captcha in place of the puzzle of a good ticket, for the same target and worth as much.
    pub(in crate::challenge) fn instead(
        &self,
        visit: &Visit<'_>,
        ticket: &Ticket,
        kind: Kind,
    ) -> Answered {
        let spent = self.spent.contains(ticket.id);
        if spent && !is_captcha(ticket.kind) {
            let reply = unsolved(Outcome::Replayed, visit);
            return (reply, counted(ticket.worth, Outcome::Replayed));
        }
        // Of a captcha that was answered, nothing is left but the wish to see another one.
        let notice = spent.then_some(Notice::Used);
        if let Err(wait) = self.captcha.instead.take(visit) {
            return (
                too_many(visit, wait),
                Some((ticket.worth, Outcome::TooMany)),
            );
        }
        self.another(visit, ticket, kind, notice, Outcome::Issued)
    }

    /// Judges the answer to a captcha whose ticket is good. A visitor that was wrong too often is not
    /// listened to.
    pub(in crate::challenge) async fn answer_captcha(
        &self,
        visit: &Visit<'_>,
        opened: &Opened,
        answer: &Answer<'_>,
    ) -> Answered {
        let ticket = &opened.ticket;
        let captcha = &self.captcha;
        if let Some(wait) = captcha.wrong.wait(visit) {
            return (
                too_many(visit, wait),
                Some((ticket.worth, Outcome::TooMany)),
            );
        }
        if !self.spent.insert(ticket.id, ticket.expires, visit.now) {
            return self.again(visit, ticket, Notice::Used);
        }
        if let Err(outcome) = captcha.check(visit, opened, answer).await {
            captcha.wrong.count(visit);
            return self.another(visit, ticket, ticket.kind, Some(Notice::Wrong), outcome);
        }
        if ticket.kind == Kind::Question && captcha.questions.take(visit).is_err() {
            return self.again(visit, ticket, Notice::NoQuestions);
        }
        match self.cleared(visit, answer, ticket) {
            Ok(reply) => (reply, Some(self.solved(visit, ticket))),
            Err(outcome) => (unsolved(outcome, visit), counted(ticket.worth, outcome)),
        }
    }

    /// A new captcha for who was slow with one; `None` when it was none, or another's.
    pub(in crate::challenge) fn late(
        &self,
        visit: &Visit<'_>,
        answer: &Answer<'_>,
    ) -> Option<Answered> {
        let token = answer.text("token")?;
        let Opened { ticket, .. } = Ticket::open(token.as_bytes(), &self.common.keys)?;
        let same = ticket.host == visit.host && ticket.network == visit.network;
        if !same || !is_captcha(ticket.kind) {
            return None;
        }
        let kind = wanted(answer).unwrap_or(ticket.kind);
        let ticket = Ticket { kind, ..ticket };
        Some(self.again(visit, &ticket, Notice::Late))
    }

    fn again(&self, visit: &Visit<'_>, ticket: &Ticket, notice: Notice) -> Answered {
        self.another(visit, ticket, ticket.kind, Some(notice), notice.outcome())
    }

    fn another(
        &self,
        visit: &Visit<'_>,
        ticket: &Ticket,
        kind: Kind,
        notice: Option<Notice>,
        outcome: Outcome,
    ) -> Answered {
        let visit = Visit {
            target: &ticket.target,
            ..*visit
        };
        let reply = self
            .captcha
            .show(&visit, ticket.worth, &self.common, kind, notice)
            .unwrap_or_else(|| Reply::refusal(StatusCode::FORBIDDEN, visit.request_id, visit.html));
        (reply, counted(ticket.worth, outcome))
    }
}

/// What is counted where nothing was solved.
fn counted(rung: Rung, outcome: Outcome) -> Option<Settled> {
    Some(Settled {
        rung,
        outcome,
        solve: None,
    })
}
