//! Bearer tokens that are JWTs (RFC 7519, with the advice of RFC 8725): is the signature right, by a
//! key and an algorithm that the operator allows. What the claims say is judged in `claims`, where
//! the keys come from in `jwks` and `jwks_fetch`.

use super::{
    CredentialError, User,
    claims::{Accepted, Rules},
    jwks::{Candidates, KeySet},
    jwks_fetch::{self, Fetch},
    token_cache::{TokenCache, TokenHash},
};
use crate::config::model;
use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header::AUTHORIZATION};
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use std::{borrow::Cow, str::FromStr, sync::Arc};
use tokio::{sync::mpsc, task::AbortHandle};

/// Longer tokens are refused unread.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Keys, and what was found out under them: swapped together, so that no verdict outlives its keys.
#[derive(Debug, Default)]
pub struct Keyring {
    pub keys: Arc<KeySet>,
    cache: TokenCache,
}

impl Keyring {
    #[must_use]
    pub fn new(keys: Arc<KeySet>) -> Self {
        Self {
            keys,
            cache: TokenCache::default(),
        }
    }
}

/// Verifies the bearer token of a request.
#[derive(Debug)]
pub struct TokenVerifier {
    rules: Rules,
    algorithms: Vec<Algorithm>,
    keyring: Arc<ArcSwap<Keyring>>,
    remote: Option<Remote>,
}

/// Keys that come from a URL.
#[derive(Debug)]
struct Remote {
    url: String,
    /// Asks for a refetch; holds one wish at most.
    wishes: mpsc::Sender<()>,
    /// Taken when the fetching starts.
    fetch: Mutex<Option<Fetch>>,
    /// Set then.
    task: Mutex<Option<AbortHandle>>,
}

impl TokenVerifier {
    #[must_use]
    pub fn build(spec: &model::Jwt, previous: Option<&Self>) -> Self {
        let (keys, remote) = match &spec.keys {
            model::JwksSource::File(set) => (Arc::new(KeySet::new(set.keys.clone())), None),
            model::JwksSource::Url { url, refresh } => {
                let (wishes, receiver) = mpsc::channel(1);
                let remote = Remote {
                    url: url.clone(),
                    wishes,
                    fetch: Mutex::new(Some(Fetch::new(url.clone(), *refresh, receiver))),
                    task: Mutex::new(None),
                };
                let keys = previous
                    .filter(|previous| {
                        let theirs = previous.remote.as_ref();
                        theirs.is_some_and(|theirs| theirs.url == *url)
                    })
                    .map(|previous| Arc::clone(&previous.keyring.load().keys));
                (keys.unwrap_or_default(), Some(remote))
            }
        };
        Self {
            rules: Rules::new(spec),
            algorithms: spec.algorithms.clone(),
            keyring: Arc::new(ArcSwap::from_pointee(Keyring::new(keys))),
            remote,
        }
    }

    /// Starts fetching, once.
    pub fn spawn_fetch(&self, runtime: &tokio::runtime::Handle) {
        if let Some(remote) = &self.remote
            && let Some(fetch) = remote.fetch.lock().take()
        {
            let task = runtime.spawn(jwks_fetch::run(fetch, Arc::downgrade(&self.keyring)));
            *remote.task.lock() = Some(task.abort_handle());
        }
    }

    /// Stops fetching for good; the keys stay.
    pub fn retire(&self) {
        if let Some(remote) = &self.remote {
            // It may not have begun.
            drop(remote.fetch.lock().take());
            if let Some(task) = remote.task.lock().take() {
                task.abort();
            }
        }
    }

    #[cfg(test)]
    pub fn hurry(&self) {
        if let Some(remote) = &self.remote
            && let Some(fetch) = remote.fetch.lock().as_mut()
        {
            fetch.hurry();
        }
    }

    /// The user that the token of the request names; `None` without a bearer token.
    pub fn identify(
        &self,
        headers: &HeaderMap,
        now: u64,
    ) -> Result<Option<Arc<User>>, CredentialError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(CredentialError::TokenRepeated);
        }
        match bearer(value.as_bytes()) {
            Some(token) => self.verify_cached(token, now).map(Some),
            None => Ok(None),
        }
    }

    fn verify_cached(&self, token: &[u8], now: u64) -> Result<Arc<User>, CredentialError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(CredentialError::TokenTooLong);
        }
        let keyring = self.keyring.load();
        let hash = sha256(token);
        if let Some(verdict) = keyring.cache.get(&hash, now) {
            return verdict;
        }
        let verdict = self.verify(&keyring.keys, token, now);
        match verdict {
            Ok(accepted) => {
                let user = Arc::new(accepted.user);
                keyring
                    .cache
                    .accept(hash, Arc::clone(&user), accepted.until);
                Ok(user)
            }
            Err(Refused { error, costly }) => {
                if costly {
                    keyring.cache.refuse(hash, error, now);
                }
                if error == CredentialError::UnknownKey
                    && let Some(remote) = &self.remote
                {
                    // Full: somebody has asked already.
                    let _ = remote.wishes.try_send(());
                }
                Err(error)
            }
        }
    }

    fn verify(&self, keys: &KeySet, token: &[u8], now: u64) -> Result<Accepted, Refused> {
        let parts = Parts::split(token).ok_or(CredentialError::TokenMalformed)?;
        let header = URL_SAFE_NO_PAD
            .decode(parts.header)
            .map_err(|_| CredentialError::TokenMalformed)?;
        let header: Header<'_> =
            serde_json::from_slice(&header).map_err(|_| CredentialError::TokenMalformed)?;
        if header.crit {
            return Err(CredentialError::TokenCritical.into());
        }
        if header.typ.is_some_and(|typ| !is_access_token(&typ)) {
            return Err(CredentialError::TokenType.into());
        }
        let algorithm = Algorithm::from_str(&header.alg)
            .ok()
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or(CredentialError::TokenAlgorithm)?;
        if keys.is_empty() {
            return Err(CredentialError::KeysUnavailable.into());
        }
        let (candidates, named) = match keys.candidates(header.kid.as_deref(), algorithm) {
            Candidates::Keys { keys, named } => (keys, named),
            Candidates::Unfit => return Err(CredentialError::TokenAlgorithm.into()),
            Candidates::Unknown => return Err(CredentialError::UnknownKey.into()),
        };
        let signed = candidates.into_iter().any(|key| {
            jsonwebtoken::crypto::verify(parts.signature, parts.signed.as_bytes(), key, algorithm)
                .unwrap_or(false)
        });
        if !signed {
            // A token that names a key which nobody here has may come from a key that is new.
            let error = if named || header.kid.is_none() {
                CredentialError::TokenSignature
            } else {
                CredentialError::UnknownKey
            };
            return Err(Refused {
                error,
                costly: true,
            });
        }
        let payload = URL_SAFE_NO_PAD
            .decode(parts.payload)
            .map_err(|_| CredentialError::TokenMalformed)?;
        self.rules.check(&payload, now).map_err(|error| Refused {
            error,
            costly: true,
        })
    }
}

/// Why a token was refused, and whether that took a signature's verification to find out.
struct Refused {
    error: CredentialError,
    costly: bool,
}

impl From<CredentialError> for Refused {
    fn from(error: CredentialError) -> Self {
        Self {
            error,
            costly: false,
        }
    }
}

/// A JWS in compact form (RFC 7515, section 7.1).
struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// Header and payload with the dot between them.
    signed: &'a str,
}

impl<'a> Parts<'a> {
    fn split(token: &'a [u8]) -> Option<Self> {
        let token = std::str::from_utf8(token).ok()?;
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        (!payload.contains('.')).then_some(Self {
            header,
            payload,
            signature,
            signed,
        })
    }
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    typ: Option<Cow<'a, str>>,
    /// Whether it is there at all, whatever it says: no extension is understood here.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// Tokens of other kinds (`logout+jwt`, `dpop+jwt`, …) may be signed with the same key and are no
/// credentials (RFC 8725, 3.11; RFC 9068, 2.1).
fn is_access_token(typ: &str) -> bool {
    let typ = typ
        .get(..12)
        .filter(|start| start.eq_ignore_ascii_case("application/"))
        .and_then(|start| typ.get(start.len()..))
        .unwrap_or(typ);
    typ.eq_ignore_ascii_case("jwt") || typ.eq_ignore_ascii_case("at+jwt")
}

/// The token of `Bearer TOKEN` (RFC 6750, section 2.1); `None` for another scheme.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    match rest.first() {
        Some(b' ') => Some(rest.trim_ascii()),
        None => Some(rest),
        Some(_) => None,
    }
}

fn sha256(token: &[u8]) -> TokenHash {
    let mut hash = [0; 32];
    let digest = ring::digest::digest(&ring::digest::SHA256, token);
    hash.copy_from_slice(digest.as_ref());
    hash
}
