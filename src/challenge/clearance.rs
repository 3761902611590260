//! The cookie that shows a solved challenge: read from a request, and granted. The token in it is
//! `verdict`'s.

use super::Visit;
use crate::config::model;
use http::{HeaderMap, HeaderValue, header::COOKIE};
use std::time::Duration;
use verdict::{
    clearance::{Clearance, Grant},
    decision::Rung,
    prefix::Prefix,
    seal::Keyring,
};

/// A client may hold several cookies of the same name, of several paths; no more are looked at.
const MAX_COOKIES: usize = 4;

/// Who asks to be let through.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    pub headers: &'a HeaderMap,
    pub network: Prefix,
    /// Of the client's own TLS; empty when not known.
    pub ja4: &'a str,
    /// Lower case, without its port.
    pub host: &'a str,
    /// Unix seconds.
    pub now: u64,
}

/// Reads and grants clearances.
#[derive(Debug)]
pub struct Clearances {
    keys: Keyring,
    cookie: String,
    lifetime: Duration,
}

impl Clearances {
    #[must_use]
    pub fn new(keys: Keyring, spec: &model::Challenge) -> Self {
        Self {
            keys,
            cookie: spec.cookie.clone(),
            lifetime: spec.lifetime,
        }
    }

    /// The highest rung that the request's cookies prove. Allocates nothing.
    #[must_use]
    pub fn rung(&self, bearer: &Bearer<'_>) -> Option<Rung> {
        self.tokens(bearer.headers)
            .filter_map(|token| {
                Clearance::verify(token, &self.keys, bearer.network, bearer.host, bearer.now)
            })
            .max()
    }

    /// The value of `set-cookie` for a visitor that climbed a rung.
    #[must_use]
    pub fn grant(&self, visit: &Visit<'_>, rung: Rung) -> Option<HeaderValue> {
        let now = visit.seconds();
        let grant = Grant {
            network: visit.network,
            issued: now,
            expires: now.saturating_add(self.lifetime.as_secs()),
        };
        let clearance = self
            .tokens(visit.headers)
            .filter_map(|token| Clearance::open(token, &self.keys, visit.host))
            .fold(Clearance::new(rung, grant), |new, old| new.after(&old, now));
        let token = clearance.seal(&self.keys, visit.host)?;
        let cookie = format!(
            "{}={token}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{}",
            self.cookie,
            self.lifetime.as_secs(),
            if visit.secure { "; Secure" } else { "" }
        );
        HeaderValue::try_from(cookie).ok()
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
