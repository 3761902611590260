//! The silent rung: a cookie comes with the page, and the browser shows that it keeps cookies by
//! coming back with it at once. No script runs; a `refresh` leads on, and so does a link.
//!
//! Coming back grants nothing, the cookie did: so the way back may be taken twice, as by who presses
//! reload. It counts as solved once. A client that is no browser gets the cookie and a sentence.

use super::{
    ANSWER_PATH, Challenge, Challenges, Common, Outcome, Visit,
    answer::Answer,
    clearance::Bearer,
    local_target,
    page::{self, Look, Sheet, Templates, escape},
};
use crate::reply::Reply;
use async_trait::async_trait;
use http::{HeaderValue, Method, StatusCode, header::REFRESH};
use std::sync::Arc;
use verdict::{
    decision::Rung,
    ticket::{Detail, Kind, Opened, Ticket},
};

const WAIT: Sheet<'_> = Sheet {
    title: "silent.title",
    body: include_str!("silent/wait.html"),
    script: "",
    policy: "",
};

const COOKIES: Sheet<'_> = Sheet {
    title: "silent.cookies_title",
    body: include_str!("silent/cookies.html"),
    ..WAIT
};

const LAPSED: Sheet<'_> = Sheet {
    title: "silent.lapsed_title",
    body: include_str!("silent/lapsed.html"),
    ..WAIT
};

/// The pages of this rung.
#[derive(Debug)]
pub struct Silent {
    wait: Templates,
    cookies: Templates,
    lapsed: Templates,
}

impl Silent {
    #[must_use]
    pub fn new(look: &Arc<Look>) -> Self {
        Self {
            wait: Templates::build(&WAIT, look),
            cookies: Templates::build(&COOKIES, look),
            lapsed: Templates::build(&LAPSED, look),
        }
    }
}

/// Whether the rung can lead this visitor back: a browser only by GET, others by themselves.
#[must_use]
pub fn suits(visit: &Visit<'_>) -> bool {
    !visit.html || matches!(*visit.method, Method::GET | Method::HEAD)
}

/// The ticket in the query of a request that comes back.
#[must_use]
pub fn ticket_in(target: &str) -> Option<&str> {
    let (path, query) = target.split_once('?')?;
    let ticket = query.split('&').find_map(|pair| pair.strip_prefix("t="));
    ticket.filter(|_| path == ANSWER_PATH)
}

#[async_trait]
impl Challenge for Silent {
    /// The cookie is put in by [`Challenges::page`].
    fn issue(&self, visit: &Visit<'_>, worth: Rung, common: &Common) -> Option<Reply> {
        if !visit.html {
            return Some(page::challenged(Reply::problem(
                StatusCode::FORBIDDEN,
                "Forbidden",
                "Send the request again with the cookie that comes with this answer.",
                visit.request_id,
                Some(r#""challenge":{"kind":"silent"}"#),
            )));
        }
        let token = common.ticket(visit, Kind::Silent, worth, Detail::new())?;
        let next = format!("{ANSWER_PATH}?t={token}");
        let refresh = HeaderValue::try_from(format!("0; url={next}")).ok()?;
        let reply = self.wait.render(visit, &[("next", &next)]);
        Some(reply.with(REFRESH, refresh))
    }

    /// Nothing is posted for this rung: it is a cookie that comes back, by GET.
    async fn check(&self, _: &Visit<'_>, _: &Opened, _: &Answer<'_>) -> Result<(), Outcome> {
        Err(Outcome::Invalid)
    }
}

impl Challenges {
    /// A browser that comes back: to its page when the cookie came with it, and to a word on what to do
    /// otherwise. Nothing refreshes by itself from here, so nothing loops.
    pub(super) fn returned(&self, visit: &Visit<'_>, token: &str) -> (Reply, (Rung, Outcome)) {
        let opened = Ticket::open(token.as_bytes(), &self.common.keys);
        // Another kind is worth more than a cookie.
        let ticket = opened
            .map(|opened| opened.ticket)
            .filter(|ticket| ticket.kind == Kind::Silent);
        let Some(ticket) = ticket else {
            return (
                told(&self.silent.lapsed, "/", Outcome::Invalid, visit),
                (Rung::Silent, Outcome::Invalid),
            );
        };
        let target = local_target(&ticket.target);
        if let Some(outcome) = super::misplaced(&ticket, visit) {
            let target = if outcome == Outcome::ForeignHost {
                "/"
            } else {
                target
            };
            let reply = told(&self.silent.lapsed, target, outcome, visit);
            return (reply, (ticket.worth, outcome));
        }
        let holds = self.clearances.rung(&Bearer {
            headers: visit.headers,
            network: visit.network,
            ja4: visit.ja4,
            // The cookie was given to this very visitor, and is bound to no more than is seen of it.
            proxied: false,
            host: visit.host,
            now: visit.seconds(),
        });
        let back = holds.and_then(|_| Reply::redirect(StatusCode::SEE_OTHER, target));
        back.map_or_else(
            || {
                let reply = told(&self.silent.cookies, target, Outcome::Failed, visit);
                (reply, (ticket.worth, Outcome::Failed))
            },
            |reply| {
                let first = self.spend(&ticket, visit.now);
                let outcome = if first {
                    Outcome::Solved
                } else {
                    Outcome::Replayed
                };
                (reply, (ticket.worth, outcome))
            },
        )
    }
}

/// What to do now, as a page with a link to `next`.
fn told(page: &Templates, next: &str, outcome: Outcome, visit: &Visit<'_>) -> Reply {
    if visit.html {
        page.render(visit, &[("next", &escape(next))])
    } else {
        super::unsolved(outcome, visit)
    }
}

#[cfg(test)]
mod tests;
