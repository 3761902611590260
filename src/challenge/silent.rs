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
use std::{borrow::Cow, sync::Arc};
use verdict::{
    decision::Rung,
    ticket::{Detail, Kind, MAX_TARGET, Opened, Ticket},
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

/// Whether the rung can lead this visitor back: a browser only by GET, and to what a ticket can hold;
/// others go by themselves.
#[must_use]
pub fn suits(visit: &Visit<'_>) -> bool {
    let bodiless = matches!(*visit.method, Method::GET | Method::HEAD);
    !visit.html || (bodiless && visit.target.len() <= MAX_TARGET)
}

/// The ticket in the query of a request that comes back.
#[must_use]
pub fn ticket_in(target: &str) -> Option<&str> {
    parameter(target, "t=")
}

/// The same of a request that comes back from [`Challenges::way_back`].
#[must_use]
pub fn solved_in(target: &str) -> Option<&str> {
    parameter(target, "solved=")
}

fn parameter<'a>(target: &'a str, start: &str) -> Option<&'a str> {
    let (path, query) = target.split_once('?')?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(start));
    value.filter(|_| path == ANSWER_PATH)
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
                self.lapsed("/", Outcome::Invalid, visit),
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
            let reply = self.lapsed(target, outcome, visit);
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
                let reply = self.no_cookies(target, Outcome::Failed, visit);
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

    /// Leads a form that solved something to what it was for: a browser by way of [`Self::returned`],
    /// which says so when it keeps no cookies, where it would solve one captcha after the other.
    pub(super) fn way_back(&self, visit: &Visit<'_>) -> Option<Reply> {
        let ticket = || {
            let (kind, worth) = (Kind::Silent, Rung::Silent);
            self.common.ticket(visit, kind, worth, Detail::new())
        };
        let next = match visit.html.then(ticket).flatten() {
            Some(token) => Cow::Owned(format!("{ANSWER_PATH}?solved={token}")),
            None => Cow::Borrowed(local_target(visit.target)),
        };
        Reply::redirect(StatusCode::SEE_OTHER, &next)
    }

    /// The answer to who did not solve it and is given no other one.
    pub(super) fn unsolved(&self, outcome: Outcome, visit: &Visit<'_>) -> Reply {
        self.lapsed(local_target(visit.target), outcome, visit)
    }

    /// There is nothing to be done here, but at `next`.
    pub(super) fn lapsed(&self, next: &str, outcome: Outcome, visit: &Visit<'_>) -> Reply {
        told(&self.silent.lapsed, next, outcome, visit)
    }

    /// Nothing goes on without cookies.
    pub(super) fn no_cookies(&self, next: &str, outcome: Outcome, visit: &Visit<'_>) -> Reply {
        told(&self.silent.cookies, next, outcome, visit)
    }
}

/// What to do now, as a page with a link to `next`.
fn told(page: &Templates, next: &str, outcome: Outcome, visit: &Visit<'_>) -> Reply {
    if visit.html {
        let reply = page.render(visit, &[("next", &escape(next))]);
        page::unchallenged(reply)
    } else {
        super::refused(outcome, visit)
    }
}

#[cfg(test)]
mod tests;
