//! Which rung a visitor is to climb, and how much more work it is to do: gathers the signs that
//! `verdict` adds up, and keeps the counts behind them. Asked only when somebody is to be challenged.

use crate::config::model;
use http::{
    HeaderMap,
    header::{ACCEPT_LANGUAGE, USER_AGENT},
};
use std::sync::Arc;
use verdict::{
    Nanos,
    decision::{Reason, Rung},
    prefix::Prefix,
    risk::{Risk, Signs, Tally},
};

/// Whom to judge.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    pub client: Prefix,
    pub network: Prefix,
    pub headers: &'a HeaderMap,
    /// It says that it wants a page.
    pub html: bool,
    /// It holds a clearance, of any rung.
    pub cleared: bool,
    /// It showed good conduct of late.
    pub behaved: bool,
    pub now: Nanos,
}

/// Judges visitors; one a generation of the configuration, with the counts of the one before.
#[derive(Debug)]
pub struct Risks {
    tally: Arc<Tally>,
    ladder: Vec<Rung>,
    /// Challenges a second that are no load.
    usual: u32,
}

impl Risks {
    #[must_use]
    pub fn build(spec: &model::Challenge, previous: Option<&Self>) -> Self {
        Self {
            tally: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.tally)),
            ladder: spec.ladder.clone(),
            usual: spec.load,
        }
    }

    /// What speaks for and against a visitor, whatever it is to be challenged for.
    #[must_use]
    pub fn signs(&self, visitor: &Visitor<'_>) -> Signs {
        let Visitor { html, now, .. } = *visitor;
        let lacks = |name| html && !visitor.headers.contains_key(name);
        Signs {
            over_limit: false,
            cleared: visitor.cleared,
            unsolved: self.tally.unsolved(visitor.client, html, now),
            network: self.tally.network(visitor.network, html, now),
            no_language: lacks(ACCEPT_LANGUAGE),
            no_agent: lacks(USER_AGENT),
            load: self.tally.load(now),
            behaved: visitor.behaved,
        }
    }

    /// How suspect a visitor is that is to be challenged for this reason.
    #[must_use]
    pub fn weigh(signs: Signs, reason: Reason) -> Risk {
        Risk::of(&Signs {
            over_limit: matches!(
                reason,
                Reason::OverRate { .. } | Reason::OverConcurrency { .. }
            ),
            ..signs
        })
    }

    /// [`Self::signs`] and [`Self::weigh`] in one.
    #[must_use]
    pub fn assess(&self, visitor: &Visitor<'_>, reason: Reason) -> Risk {
        Self::weigh(self.signs(visitor), reason)
    }

    /// The rung of the configured ladder that so much risk calls for.
    #[must_use]
    pub fn rung(&self, risk: Risk) -> Rung {
        risk.rung(&self.ladder)
    }

    /// This client was given a challenge, for a page or for data.
    pub fn issued(&self, client: Prefix, network: Prefix, html: bool, now: Nanos) {
        self.tally.issued(client, network, html, self.usual, now);
    }

    /// This client climbed a rung.
    pub fn solved(&self, client: Prefix, rung: Rung, now: Nanos) {
        self.tally.solved(client, rung, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::time::Duration;
    use verdict::prefix::PrefixLengths;

    fn browser() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("fr"));
        headers.insert(USER_AGENT, HeaderValue::from_static("Mozilla/5.0"));
        headers
    }

    fn visitor(headers: &HeaderMap) -> Visitor<'_> {
        let address = "192.0.2.7".parse().unwrap();
        Visitor {
            client: Prefix::of(address, PrefixLengths::CLIENT),
            network: Prefix::of(address, PrefixLengths::NETWORK),
            headers,
            html: true,
            cleared: false,
            behaved: false,
            now: Nanos(60_000_000_000),
        }
    }

    const OVER: Reason = Reason::OverRate {
        wait: Duration::from_secs(1),
    };

    #[test]
    fn a_visitor_climbs_as_it_goes_on_without_solving() {
        let risks = Risks::build(&model::Challenge::default(), None);
        let headers = browser();
        let visitor = visitor(&headers);
        let rung = |reason| risks.rung(risks.assess(&visitor, reason));
        assert_eq!(rung(Reason::Matched), Rung::Silent);
        assert_eq!(rung(OVER), Rung::ProofOfWork);
        let mut seen = Vec::new();
        for _ in 0..30 {
            let next = rung(Reason::Matched);
            if seen.last() != Some(&next) {
                seen.push(next);
            }
            risks.issued(visitor.client, visitor.network, visitor.html, visitor.now);
        }
        assert_eq!(seen, [Rung::Silent, Rung::ProofOfWork, Rung::Captcha]);
        risks.solved(visitor.client, Rung::Captcha, visitor.now);
        assert_eq!(rung(Reason::Matched), Rung::Silent);
        // Over a reload too.
        (0..30)
            .for_each(|_| risks.issued(visitor.client, visitor.network, visitor.html, visitor.now));
        let reloaded = Risks::build(&model::Challenge::default(), Some(&risks));
        let risk = reloaded.assess(&visitor, Reason::Matched);
        assert_eq!(reloaded.rung(risk), Rung::Captcha);
    }

    #[test]
    fn hundreds_of_cookie_jars_of_one_network_have_to_work() {
        // No load: it is their number that is tested.
        let spec = model::Challenge {
            load: u32::MAX,
            ..model::Challenge::default()
        };
        let risks = Risks::build(&spec, None);
        let headers = browser();
        let visitor = visitor(&headers);
        let mut silent = 0;
        for _ in 0..1000 {
            if risks.rung(risks.assess(&visitor, Reason::Matched)) == Rung::Silent {
                silent += 1;
            }
            risks.issued(visitor.client, visitor.network, visitor.html, visitor.now);
            risks.solved(visitor.client, Rung::Silent, visitor.now);
        }
        assert_eq!(silent, 240);
    }

    #[test]
    fn what_no_browser_leaves_out_counts_where_a_page_is_asked_for() {
        let risks = Risks::build(&model::Challenge::default(), None);
        let none = HeaderMap::new();
        let page = visitor(&none);
        assert_eq!(risks.assess(&page, Reason::Matched), Risk(2));
        let data = Visitor {
            html: false,
            ..page
        };
        assert_eq!(risks.assess(&data, Reason::Matched), Risk(0));
    }

    #[test]
    fn who_asks_for_data_pushes_up_nobody_who_asks_for_pages() {
        let risks = Risks::build(&model::Challenge::default(), None);
        let headers = browser();
        let page = visitor(&headers);
        let data = Visitor {
            html: false,
            ..page
        };
        let rung = |visitor: &Visitor<'_>| risks.rung(risks.assess(visitor, Reason::Matched));
        // One a second, so that it is no load.
        for second in 0..300 {
            let now = page.now.after(Duration::from_secs(second));
            risks.issued(data.client, data.network, data.html, now);
        }
        let now = page.now.after(Duration::from_secs(300));
        assert_eq!(rung(&Visitor { now, ..page }), Rung::Silent);
        assert_eq!(rung(&Visitor { now, ..data }), Rung::Captcha);
    }

    #[test]
    fn a_load_that_others_make_is_no_burden_to_a_quiet_network() {
        let spec = model::Challenge {
            load: 10,
            ..model::Challenge::default()
        };
        let risks = Risks::build(&spec, None);
        let headers = browser();
        let visitor = visitor(&headers);
        let of = |address: &str, lengths| Prefix::of(address.parse().unwrap(), lengths);
        let busy = Visitor {
            client: of("198.51.100.7", PrefixLengths::CLIENT),
            network: of("198.51.100.7", PrefixLengths::NETWORK),
            ..visitor
        };
        for client in 100..150 {
            let client = of(&format!("198.51.100.{client}"), PrefixLengths::CLIENT);
            risks.issued(client, busy.network, true, visitor.now);
        }
        let rung = |visitor: &Visitor<'_>| risks.rung(risks.assess(visitor, Reason::Matched));
        assert_eq!(rung(&visitor), Rung::Silent);
        assert_eq!(rung(&busy), Rung::ProofOfWork);
    }

    #[test]
    fn a_limit_is_never_lifted_by_what_costs_nothing() {
        let risks = Risks::build(&model::Challenge::default(), None);
        let headers = browser();
        let good = Visitor {
            behaved: true,
            ..visitor(&headers)
        };
        let busy = Reason::OverConcurrency { in_flight: 7 };
        for reason in [OVER, busy] {
            assert_eq!(risks.rung(risks.assess(&good, reason)), Rung::ProofOfWork);
        }
    }
}
