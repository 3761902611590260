//! Stories of cookies: whom they let through, and whom not.

use super::*;
use crate::challenge::Challenges;
use http::Method;
use revoked::Whose;
use std::sync::LazyLock;
use verdict::prefix::PrefixLengths;

const NOW: u64 = 1_700_000_000;
const CHROME: &str = "t13d1516h2_8daaf6152771_02713d6af862";
const CHROME_WEBSOCKET: &str = "t13d1515h1_8daaf6152771_b1ff8ab2d16f";
const FIREFOX: &str = "t13d1715h2_5b57614c22b0_7121afd63204";
const FIRST: &[u8] = b"the first secret of the tests, long enough";
const SECOND: &[u8] = b"the second secret of the tests, long enough";

fn spec(secrets: &[&[u8]]) -> model::Challenge {
    model::Challenge {
        secrets: secrets
            .iter()
            .map(|secret| model::Secret::new(*secret))
            .collect(),
        lifetime: Duration::from_secs(3600),
        ..model::Challenge::default()
    }
}

fn build(secrets: &[&[u8]], previous: Option<&Challenges>) -> Challenges {
    Challenges::build(&spec(secrets), previous).unwrap()
}

fn network(address: &str) -> Prefix {
    Prefix::of(address.parse().unwrap(), PrefixLengths::NETWORK)
}

/// Somebody, somewhere, with a browser.
#[derive(Clone)]
struct Visitor {
    address: &'static str,
    ja4: &'static str,
    proxied: bool,
    host: &'static str,
    now: u64,
    headers: HeaderMap,
}

fn visitor() -> Visitor {
    Visitor {
        address: "192.0.2.7",
        ja4: CHROME,
        proxied: false,
        host: "app.example.com",
        now: NOW,
        headers: HeaderMap::new(),
    }
}

impl Visitor {
    fn at(&self, address: &'static str) -> Self {
        Self {
            address,
            ..self.clone()
        }
    }

    fn with(&self, ja4: &'static str) -> Self {
        Self {
            ja4,
            ..self.clone()
        }
    }

    /// Solves something, and keeps the cookie in place of those it has.
    fn climb(mut self, challenges: &Challenges, rung: Rung) -> Self {
        let visit = Visit {
            client: network(self.address),
            network: network(self.address),
            ja4: self.ja4,
            method: &Method::GET,
            headers: &self.headers,
            host: self.host,
            target: "/",
            replay: "",
            effort: 1,
            secure: true,
            html: true,
            request_id: "",
            now: self.now * 1000,
        };
        let set = challenges.clearances().grant(&visit, rung).unwrap();
        let pair = set.to_str().unwrap().split(';').next().unwrap();
        let pair = HeaderValue::from_str(pair).unwrap();
        self.headers = HeaderMap::new();
        self.headers.insert(COOKIE, pair);
        self
    }

    fn shown(&self, challenges: &Challenges) -> Option<Result<Rung, Fault>> {
        challenges.clearances().shown(&Bearer {
            headers: &self.headers,
            network: network(self.address),
            ja4: self.ja4,
            proxied: self.proxied,
            host: self.host,
            now: self.now,
        })
    }

    fn rung(&self, challenges: &Challenges) -> Option<Rung> {
        self.shown(challenges)?.ok()
    }
}

const HELD: Option<Rung> = Some(Rung::ProofOfWork);

static CHALLENGES: LazyLock<Challenges> = LazyLock::new(|| build(&[FIRST], None));

#[test]
fn a_cookie_is_bound_to_its_visitor() {
    let owner = visitor().climb(&CHALLENGES, Rung::ProofOfWork);
    let proxied = |address| Visitor {
        proxied: true,
        ja4: "",
        ..owner.at(address)
    };
    for (story, bearer, held) in [
        ("its owner", owner.clone(), HELD),
        ("in the same network", owner.at("192.0.2.250"), HELD),
        ("over a WebSocket", owner.with(CHROME_WEBSOCKET), HELD),
        ("by way of a trusted proxy", proxied("192.0.2.7"), HELD),
        ("stolen, in another network", owner.at("198.51.100.7"), None),
        (
            "stolen by a neighbour with another client",
            owner.with(FIREFOX),
            None,
        ),
        ("stolen by a neighbour in plaintext", owner.with(""), None),
        (
            "stolen, by way of a trusted proxy",
            proxied("198.51.100.7"),
            None,
        ),
        (
            "of IPv6, by way of a trusted proxy",
            proxied("2001:db8::7"),
            None,
        ),
        (
            "at another site",
            Visitor {
                host: "shop.example.com",
                ..owner.clone()
            },
            None,
        ),
        (
            "too late",
            Visitor {
                now: NOW + 3600,
                ..owner.clone()
            },
            None,
        ),
        (
            "long before it was issued",
            Visitor {
                now: NOW - 3600,
                ..owner.clone()
            },
            None,
        ),
    ] {
        assert_eq!(bearer.rung(&CHALLENGES), held, "{story}");
    }
}

#[test]
fn without_tls_the_network_alone_binds() {
    let owner = visitor().with("").climb(&CHALLENGES, Rung::ProofOfWork);
    assert_eq!(owner.rung(&CHALLENGES), HELD);
    assert_eq!(owner.with(CHROME).rung(&CHALLENGES), HELD);
    assert_eq!(owner.at("198.51.100.7").rung(&CHALLENGES), None);
    // Nothing tells a visitor from a thief in the other family: nobody has it there.
    for ja4 in ["", CHROME] {
        assert_eq!(owner.at("2001:db8::7").with(ja4).rung(&CHALLENGES), None);
    }
}

#[test]
fn a_dual_stack_visitor_solves_once_and_a_thief_gets_nothing() {
    for (home, other, elsewhere) in [
        ("192.0.2.7", "2001:db8:1::7", "2001:db8:2::7"),
        ("2001:db8:1::7", "192.0.2.7", "198.51.100.7"),
    ] {
        let challenges = build(&[FIRST], None);
        let owner = visitor().at(home).climb(&challenges, Rung::Captcha);
        for _ in 0..3 {
            assert_eq!(owner.rung(&challenges), Some(Rung::Captcha));
            let flipped = owner.at(other).with(CHROME_WEBSOCKET);
            assert_eq!(flipped.rung(&challenges), Some(Rung::Captcha));
            assert_eq!(owner.at(elsewhere).rung(&challenges), None);
        }
        assert_eq!(owner.at(other).with(FIREFOX).rung(&challenges), None);
        // A reload remembers, and who solves in a third place holds that one too.
        let reloaded = build(&[FIRST], Some(&challenges));
        assert_eq!(owner.at(elsewhere).rung(&reloaded), None);
        assert_eq!(owner.at(other).rung(&reloaded), Some(Rung::Captcha));
        let moved = owner.at(elsewhere).climb(&reloaded, Rung::Captcha);
        assert_eq!(moved.rung(&reloaded), Some(Rung::Captcha));
        assert_eq!(moved.at(home).rung(&reloaded), Some(Rung::Captcha));
        // Nothing is for ever.
        let late = Visitor {
            now: NOW + 3600,
            ..owner.at(other)
        };
        assert_eq!(late.rung(&reloaded), None);
    }
}

#[test]
fn one_solved_cookie_that_is_sold_opens_one_network_more() {
    let challenges = build(&[FIRST], None);
    let sold = visitor().climb(&challenges, Rung::ProofOfWork);
    let buyers = (0..1000_u16).map(|n| {
        let address = format!("2001:db8:{n:x}::1");
        let headers = &sold.headers;
        challenges.clearances().rung(&Bearer {
            headers,
            network: network(&address),
            ja4: CHROME,
            proxied: false,
            host: sold.host,
            now: NOW,
        })
    });
    assert_eq!(buyers.flatten().count(), 1);
}

#[test]
fn what_costs_nothing_is_not_adopted() {
    let challenges = build(&[FIRST], None);
    let owner = visitor().climb(&challenges, Rung::Silent);
    assert_eq!(owner.rung(&challenges), Some(Rung::Silent));
    assert_eq!(owner.at("2001:db8::7").rung(&challenges), None);
}

#[test]
fn what_comes_along_from_an_older_cookie_is_not_lent_again() {
    for free in [None, Some(Rung::Silent)] {
        let challenges = build(&[FIRST], None);
        let stolen = visitor().climb(&challenges, Rung::Captcha);
        let thieves = ["198.51.100.7", "203.0.113.7", "192.0.3.7"];
        let elsewhere = ["2001:db8:1::7", "2001:db8:2::7", "2001:db8:3::7"];
        let mut lent = 0;
        for (home, other) in thieves.into_iter().zip(elsewhere) {
            let shown = stolen.at(home);
            // With a free cookie of its own network the token has a fresh id.
            let shown = match free {
                Some(rung) => shown.climb(&challenges, rung),
                None => shown,
            };
            lent += usize::from(shown.at(other).rung(&challenges).is_some());
        }
        assert_eq!(lent, usize::from(free.is_none()));
    }
    // Who earns one lends that one, and not the higher one that came along.
    let challenges = build(&[FIRST], None);
    let stolen = visitor().climb(&challenges, Rung::Captcha);
    let earned = stolen
        .at("198.51.100.7")
        .climb(&challenges, Rung::ProofOfWork);
    assert_eq!(earned.at("2001:db8:1::7").rung(&challenges), HELD);
}

#[test]
fn who_holds_one_adopts_no_other() {
    let challenges = build(&[FIRST], None);
    let first = visitor().climb(&challenges, Rung::ProofOfWork);
    let six = visitor()
        .at("2001:db8:1::7")
        .climb(&challenges, Rung::ProofOfWork);
    let mut both = six.clone();
    both.headers.append(COOKIE, first.headers[COOKIE].clone());
    assert_eq!(both.rung(&challenges), HELD);
    // The first is still free to go with its owner.
    assert_eq!(first.at("2001:db8:9::7").rung(&challenges), HELD);
    assert_eq!(first.at("2001:db8:1::7").rung(&challenges), None);
}

#[test]
fn what_is_revoked_is_gone_until_the_visitor_solves_again() {
    let of = |text: &str| Whose::network(text.parse().unwrap());
    let chrome = Whose::Fingerprint(Fingerprint::of(CHROME).unwrap());
    for (whose, owner_left, neighbour_left) in [
        (of("192.0.2.0/24"), false, false),
        (of("192.0.0.0/16"), false, false),
        (of("192.0.3.0/24"), true, true),
        (of("2001:db8::/32"), true, true),
        (chrome, false, true),
    ] {
        let challenges = build(&[FIRST], None);
        let owner = visitor().climb(&challenges, Rung::ProofOfWork);
        let neighbour = visitor()
            .with(FIREFOX)
            .climb(&challenges, Rung::ProofOfWork);
        let revoked = challenges.clearances().revoked();
        revoked.revoke(whose, NOW).unwrap();
        let reloaded = build(&[FIRST], Some(&challenges));
        for challenges in [&challenges, &reloaded] {
            assert_eq!(owner.rung(challenges).is_some(), owner_left, "{whose}");
            let left = neighbour.rung(challenges).is_some();
            assert_eq!(left, neighbour_left, "{whose}");
        }
        let again = Visitor {
            now: NOW + 1,
            ..owner
        };
        let again = again.climb(&reloaded, Rung::ProofOfWork);
        assert_eq!(again.rung(&reloaded), HELD, "{whose}");
    }
}

#[test]
fn what_was_adopted_goes_with_either_network() {
    for revoke in ["192.0.2.0/24", "2001:db8:1::/48"] {
        let challenges = build(&[FIRST], None);
        let owner = visitor().climb(&challenges, Rung::ProofOfWork);
        let six = owner.at("2001:db8:1::7");
        assert_eq!(six.rung(&challenges), HELD);
        let whose = Whose::network(revoke.parse().unwrap());
        let revoked = challenges.clearances().revoked();
        revoked.revoke(whose, NOW).unwrap();
        assert_eq!(six.rung(&challenges), None, "{revoke}");
    }
}

#[test]
fn a_rotated_secret_loses_nobody_and_a_replaced_one_everybody() {
    let before = build(&[FIRST], None);
    let owner = visitor().climb(&before, Rung::ProofOfWork);
    let rotated = build(&[SECOND, FIRST], Some(&before));
    assert_eq!(owner.rung(&rotated), HELD);
    let newer = visitor().climb(&rotated, Rung::ProofOfWork);
    let replica = build(&[SECOND], None);
    assert_eq!(newer.rung(&replica), HELD, "replicas share the file");
    let replaced = build(&[SECOND], Some(&rotated));
    assert_eq!(newer.rung(&replaced), HELD);
    assert_eq!(owner.rung(&replaced), None);
}

#[test]
fn an_enormous_cookie_or_hundreds_of_them_hide_nothing_and_open_nothing() {
    let owner = visitor().climb(&CHALLENGES, Rung::ProofOfWork);
    let good = owner.headers[COOKIE].to_str().unwrap().to_owned();
    let with = |cookie: String| {
        let mut bearer = owner.clone();
        let cookie = HeaderValue::from_str(&cookie).unwrap();
        bearer.headers.insert(COOKIE, cookie);
        bearer.rung(&CHALLENGES)
    };
    let enormous = format!("rempart-clearance={}", "A".repeat(60_000));
    assert_eq!(with(enormous.clone()), None);
    assert_eq!(with(format!("{enormous}; {good}")), HELD);
    let others = "theme=dark; ".repeat(500);
    assert_eq!(with(format!("{others}{good}; {others}")), HELD);
    let planted = "rempart-clearance=x; ".repeat(MAX_COOKIES - 1);
    assert_eq!(with(format!("{planted}{good}")), HELD);
    // No more are looked at: a subdomain that plants cookies can make visitors solve, not pass.
    let planted = "rempart-clearance=x; ".repeat(500);
    assert_eq!(with(format!("{planted}{good}")), None);
    assert_eq!(with(format!("{good}; {planted}")), HELD);
}

#[test]
fn stolen_cookies_add_nothing_to_ones_own() {
    let challenges = build(&[FIRST], None);
    let victim = visitor().climb(&challenges, Rung::Captcha);
    let mut thief = visitor().at("198.51.100.7").with(FIREFOX);
    thief.headers = victim.headers.clone();
    let thief = thief.climb(&challenges, Rung::ProofOfWork);
    assert_eq!(thief.rung(&challenges), HELD);
    assert_eq!(thief.at("192.0.2.7").rung(&challenges), None);
}

/// What is counted of a request is what its best cookie was worth, or the nearest that one came to it.
#[test]
fn of_several_cookies_the_best_is_told() {
    let challenges = build(&[FIRST], None);
    let cookie =
        |visitor: Visitor| visitor.climb(&challenges, Rung::Captcha).headers[COOKIE].clone();
    let good = cookie(visitor());
    let stolen = cookie(visitor().at("203.0.113.7"));
    let old = cookie(Visitor {
        now: NOW - 7200,
        ..visitor()
    });
    let elsewhere = cookie(Visitor {
        host: "else.example",
        ..visitor()
    });
    let script = cookie(visitor().with(FIREFOX));
    let cut = HeaderValue::from_str(&good.to_str().unwrap()[..90]).unwrap();
    for (cookies, told) in [
        (&[][..], None),
        (&[&cut], Some(Err(Fault::Invalid))),
        (&[&elsewhere, &cut], Some(Err(Fault::ForeignHost))),
        (&[&elsewhere, &script], Some(Err(Fault::ForeignClient))),
        (&[&stolen, &script], Some(Err(Fault::ForeignNetwork))),
        (&[&old, &stolen], Some(Err(Fault::Expired))),
        (&[&old, &good, &cut], Some(Ok(Rung::Captcha))),
    ] {
        let mut bearer = visitor();
        for cookie in cookies {
            bearer.headers.append(COOKIE, (*cookie).clone());
        }
        assert_eq!(bearer.shown(&challenges), told);
    }
}
