//! The cookie that shows a solved challenge: read from a request, and granted. The token in it, and
//! what it proves, is `verdict`'s; here is what it can't know: which clearances were
//! [revoked](revoked), and which one more network [adopted](adopted).

pub mod adopted;
pub mod revoked;

use super::{Visit, ids::Ids};
use crate::config::model;
use adopted::Adopted;
use http::{HeaderMap, HeaderValue, header::COOKIE};
use revoked::Revoked;
use std::{sync::Arc, time::Duration};
use verdict::{
    clearance::{self, Clearance, Fault, Fingerprint, Grant, Shown, Standing},
    decision::Rung,
    prefix::Prefix,
    seal::Keyring,
};

/// A client may hold several cookies of the same name, of several paths; no more are looked at.
const MAX_COOKIES: usize = 4;

/// What a client may hold on one network more without solving again. A lower clearance costs
/// nothing, and so would filling the table with it.
const ADOPTED_FROM: Rung = Rung::ProofOfWork;

/// Who asks to be let through.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    pub headers: &'a HeaderMap,
    pub network: Prefix,
    /// Of the client's own TLS; empty when not known.
    pub ja4: &'a str,
    /// Whether a trusted proxy speaks for the client, so that its own TLS can't be known.
    pub proxied: bool,
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
    ids: Ids,
    adopted: Arc<Adopted>,
    revoked: Arc<Revoked>,
}

impl Clearances {
    /// Keeps what was adopted and what was revoked from `previous`.
    ///
    /// # Errors
    /// A sentence when the system gives no random bytes.
    pub fn new(
        keys: Keyring,
        spec: &model::Challenge,
        previous: Option<&Self>,
    ) -> Result<Self, String> {
        let revoked = previous.map_or_else(Arc::default, |old| Arc::clone(&old.revoked));
        revoked.lives(spec.lifetime);
        Ok(Self {
            keys,
            cookie: spec.cookie.clone(),
            lifetime: spec.lifetime,
            ids: Ids::new()?,
            adopted: previous.map_or_else(Arc::default, |old| Arc::clone(&old.adopted)),
            revoked,
        })
    }

    /// What was taken back; the same for as long as the process lives.
    #[must_use]
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// The highest rung that the request's cookies prove.
    #[must_use]
    pub fn rung(&self, bearer: &Bearer<'_>) -> Option<Rung> {
        self.shown(bearer)?.ok()
    }

    /// The same, or why they prove none; `None` where none is shown. Allocates nothing, and takes no lock
    /// unless a good clearance of the other address family is shown.
    #[must_use]
    pub fn shown(&self, bearer: &Bearer<'_>) -> Option<Result<Rung, Fault>> {
        let mut tokens = self.tokens(bearer.headers).peekable();
        // Most requests of strangers have none, and nothing else to be looked at.
        tokens.peek()?;
        let held = clearance::Bearer {
            network: bearer.network,
            shown: match Fingerprint::of(bearer.ja4) {
                _ if bearer.proxied => Shown::Proxied,
                Some(fingerprint) => Shown::Fingerprint(fingerprint),
                None => Shown::Nothing,
            },
            host: bearer.host,
            now: bearer.now,
        };
        let revoked = |clearance: &Clearance, grant: &Grant| {
            let covers = |network| {
                self.revoked
                    .covers(network, clearance.fingerprint, grant.issued)
            };
            // Also where it is shown, which is another network when it is adopted.
            covers(grant.network) || covers(bearer.network)
        };
        let (mut best, mut elsewhere) = (None, None);
        for token in tokens {
            let judged = match Clearance::verify(token, &self.keys, &held, revoked) {
                Standing::Holds(rung) => Ok(rung),
                Standing::Elsewhere { id, grant } => {
                    elsewhere = Some((id, grant));
                    Err(Fault::ForeignNetwork)
                }
                Standing::Nothing(fault) => Err(fault),
            };
            best = best.max(Some((judged.ok(), judged.err())));
        }
        let (rung, fault) = best?;
        let adopted = || {
            let (id, grant) = elsewhere.filter(|(_, grant)| grant.rung >= ADOPTED_FROM)?;
            self.adopted
                .adopt(id, bearer.network, grant.expires, bearer.now)
                .then_some(grant.rung)
        };
        let rung = rung.or_else(adopted);
        Some(rung.ok_or(fault.unwrap_or(Fault::Invalid)))
    }

    /// The value of `set-cookie` for a visitor that climbed a rung.
    #[must_use]
    pub fn grant(&self, visit: &Visit<'_>, rung: Rung) -> Option<HeaderValue> {
        let now = visit.seconds();
        let grant = Grant {
            rung,
            network: visit.network,
            issued: now,
            expires: now.saturating_add(self.lifetime.as_secs()),
        };
        let new = Clearance::new(self.ids.next(), Fingerprint::of(visit.ja4), grant);
        let clearance = self
            .tokens(visit.headers)
            .filter_map(|token| Clearance::open(token, &self.keys, visit.host).ok())
            .fold(new, |new, old| new.after(&old, now));
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

#[cfg(test)]
mod tests;
