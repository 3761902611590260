//! How a captcha's ticket is answered, which is unlike others': once, right or wrong, with a new one for who
//! was wrong; and how one is had in place of another puzzle.

use super::Notice;
use crate::{
    challenge::{Answer, Challenge, Challenges, Outcome, Settled, Visit, misplaced},
    reply::Reply,
};
use http::StatusCode;
use std::time::Duration;
use verdict::ticket::{Kind, Opened, Ticket};

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
    /// The answer to a captcha, or to the wish for one in place of another puzzle; `None` where neither
    /// is meant, or the ticket is not good here.
    pub(in crate::challenge) async fn answer_by_hand(
        &self,
        visit: &Visit<'_>,
        opened: &Opened,
        answer: &Answer<'_>,
    ) -> Option<Answered> {
        let ticket = &opened.ticket;
        let wanted = wanted(answer);
        match misplaced(ticket, visit) {
            Some(Outcome::Expired) if is_captcha(ticket.kind) => {
                let kind = wanted.unwrap_or(ticket.kind);
                return Some(self.again(visit, ticket, kind, Notice::Late));
            }
            Some(_) => return None,
            None => {}
        }
        if let Some(kind) = wanted {
            return Some(self.instead(visit, ticket, kind));
        }
        if is_captcha(ticket.kind) {
            return Some(self.answer_captcha(visit, opened, answer).await);
        }
        None
    }

    /// A captcha in place of the puzzle of a good ticket, for the same target and worth as much.
    fn instead(&self, visit: &Visit<'_>, ticket: &Ticket, kind: Kind) -> Answered {
        let spent = self.spent.is_spent(&ticket.id);
        if spent && !is_captcha(ticket.kind) {
            let reply = self.unsolved(Outcome::Replayed, visit);
            return (reply, Some(Settled::new(ticket.worth, Outcome::Replayed)));
        }
        // Of a captcha that was answered, nothing is left but the wish to see another one.
        let notice = spent.then_some(Notice::Used);
        if let Err(wait) = self.captcha.instead.take(visit) {
            return self.refused(visit, ticket, wait);
        }
        self.another(visit, ticket, kind, notice, Outcome::Issued)
    }

    /// Judges the answer to a captcha whose ticket is good. A visitor that was wrong too often is not
    /// listened to.
    async fn answer_captcha(
        &self,
        visit: &Visit<'_>,
        opened: &Opened,
        answer: &Answer<'_>,
    ) -> Answered {
        let ticket = &opened.ticket;
        let captcha = &self.captcha;
        if let Some(wait) = captcha.wrong.wait(visit) {
            return self.refused(visit, ticket, wait);
        }
        // Before it is looked at: many answers at once are one answer.
        if !self.spent.fail(ticket.id, ticket.expires, visit.now) {
            return self.again(visit, ticket, ticket.kind, Notice::Used);
        }
        if let Err(outcome) = captcha.check(visit, opened, answer).await {
            captcha.wrong.count(visit);
            return self.another(visit, ticket, ticket.kind, Some(Notice::Wrong), outcome);
        }
        self.spent.keep(ticket.id, ticket.expires, visit.now);
        if ticket.kind == Kind::Question && captcha.questions.take(visit).is_err() {
            return self.again(visit, ticket, ticket.kind, Notice::NoQuestions);
        }
        match self.cleared(visit, answer, ticket) {
            Ok(reply) => (reply, Some(self.solved(visit, ticket))),
            Err(outcome) => (
                self.unsolved(outcome, visit),
                Some(Settled::new(ticket.worth, outcome)),
            ),
        }
    }

    /// Another one for a ticket that was not looked at; of those, a visitor has so many.
    fn again(&self, visit: &Visit<'_>, ticket: &Ticket, kind: Kind, notice: Notice) -> Answered {
        match self.captcha.instead.take(visit) {
            Ok(()) => self.another(visit, ticket, kind, Some(notice), notice.outcome()),
            Err(wait) => self.refused(visit, ticket, wait),
        }
    }

    fn refused(&self, visit: &Visit<'_>, ticket: &Ticket, wait: Duration) -> Answered {
        (
            self.captcha.too_many(visit, wait),
            Some(Settled::new(ticket.worth, Outcome::TooMany)),
        )
    }

    fn another(
        &self,
        visit: &Visit<'_>,
        ticket: &Ticket,
        kind: Kind,
        notice: Option<Notice>,
        outcome: Outcome,
    ) -> Answered {
        let reply = self
            .captcha
            .show(visit, ticket.worth, &self.common, kind, notice)
            .map_or_else(
                || Reply::refusal(StatusCode::FORBIDDEN, visit.request_id, visit.html),
                |reply| self.marked(reply, visit),
            );
        (reply, Some(Settled::new(ticket.worth, outcome)))
    }
}
