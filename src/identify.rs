//! Who sends a request: the client's address behind trusted proxies, and the user behind a
//! credential. What the two may do is decided elsewhere.
//!
//! A bad credential is no refusal: the request goes on as anonymous, is limited as such, and its
//! [`CredentialError`] stands in the access log.
//!
//! When a request carries both a bearer token and an API key, the token alone counts, also when it
//! is bad: a request has one identity, and a client can't try its luck twice.

pub mod address;
pub mod api_key;
mod claims;
pub mod crawler;
mod jwks;
mod jwks_fetch;
pub mod jwt;
mod token_cache;

use crate::config::model;
use http::HeaderMap;
use std::sync::Arc;

pub use address::{TrustedProxies, client_address};

/// Somebody whose credential was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Never empty, at most 256 bytes, no control characters.
    pub id: String,
    /// From a token: at most 64, each at most 128 bytes, no control characters.
    pub roles: Arc<[String]>,
    /// The token's `sid`, for the log.
    pub session: Option<String>,
}

/// What the credentials of one request say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identified {
    /// `None`: anonymous.
    pub user: Option<Arc<User>>,
    /// Why the credential that was there did not count; never set together with `user`.
    pub error: Option<CredentialError>,
}

/// Why a credential did not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialError {
    ApiKeyRepeated,
    ApiKeyTooLong,
    ApiKeyUnknown,
    TokenRepeated,
    TokenTooLong,
    TokenMalformed,
    TokenType,
    TokenCritical,
    TokenAlgorithm,
    KeysUnavailable,
    UnknownKey,
    TokenSignature,
    TokenClaims,
    TokenExpired,
    TokenNotYetValid,
    TokenIssuer,
    TokenAudience,
    TokenUser,
    TokenRoles,
}

impl CredentialError {
    /// The stable name, for the access log's `error.code`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ApiKeyRepeated => "api_key_repeated",
            Self::ApiKeyTooLong => "api_key_too_long",
            Self::ApiKeyUnknown => "api_key_unknown",
            Self::TokenRepeated => "token_repeated",
            Self::TokenTooLong => "token_too_long",
            Self::TokenMalformed => "token_malformed",
            Self::TokenType => "token_type",
            Self::TokenCritical => "token_critical",
            Self::TokenAlgorithm => "token_algorithm",
            Self::KeysUnavailable => "keys_unavailable",
            Self::UnknownKey => "unknown_key",
            Self::TokenSignature => "token_signature",
            Self::TokenClaims => "token_claims",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::TokenIssuer => "token_issuer",
            Self::TokenAudience => "token_audience",
            Self::TokenUser => "token_user",
            Self::TokenRoles => "token_roles",
        }
    }

    /// One sentence for the operator, for the access log's `error.text`.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::ApiKeyRepeated => "more than one API key was sent",
            Self::ApiKeyTooLong => "the API key is longer than any can be",
            Self::ApiKeyUnknown => "the API key is not known",
            Self::TokenRepeated => "more than one authorization header was sent",
            Self::TokenTooLong => "the bearer token is longer than 8 KiB",
            Self::TokenMalformed => "the bearer token is not a JWT",
            Self::TokenType => "the JWT's typ is not that of an access token",
            Self::TokenCritical => {
                "the JWT has critical header parameters, which are not supported"
            }
            Self::TokenAlgorithm => "the JWT's algorithm is not allowed or does not fit its key",
            Self::KeysUnavailable => "the keys that verify JWTs are not loaded yet",
            Self::UnknownKey => "the JWT was signed with a key that is not in the key set",
            Self::TokenSignature => "the JWT's signature is wrong",
            Self::TokenClaims => "a claim of the JWT is missing or of the wrong type",
            Self::TokenExpired => "the JWT has expired",
            Self::TokenNotYetValid => "the JWT is not valid yet",
            Self::TokenIssuer => "the JWT comes from another issuer",
            Self::TokenAudience => "the JWT is meant for another audience",
            Self::TokenUser => "the JWT names no user",
            Self::TokenRoles => "the JWT's roles are not a list of reasonable names",
        }
    }
}

impl std::fmt::Display for CredentialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for CredentialError {}

/// Verifies credentials; one a generation of the configuration, shared by all workers.
#[derive(Debug)]
pub struct Identifier {
    api_keys: Option<api_key::KeyRing>,
    tokens: Option<jwt::TokenVerifier>,
}

impl Identifier {
    /// Keys that were fetched from a URL are taken over from `previous` when the URL stays, so that
    /// a reload makes nobody anonymous.
    #[must_use]
    pub fn build(spec: &model::Identity, previous: Option<&Self>) -> Self {
        let previous = previous.and_then(|previous| previous.tokens.as_ref());
        Self {
            api_keys: spec.api_keys.as_ref().map(api_key::KeyRing::new),
            tokens: spec
                .jwt
                .as_ref()
                .map(|spec| jwt::TokenVerifier::build(spec, previous)),
        }
    }

    /// Fetches keys in the background, when there are any to fetch. The tasks end soon after the
    /// identifier is dropped. Further calls do nothing.
    pub fn spawn_tasks(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        if let Some(tokens) = &self.tokens {
            tokens.spawn_fetch(runtime);
        }
    }

    /// Stops the background tasks, which another generation has taken over; to be called after the
    /// swap. Requests that still go by this one keep its keys.
    pub fn retire(&self) {
        if let Some(tokens) = &self.tokens {
            tokens.retire();
        }
    }

    /// Reads the credentials of a request; `now` is Unix seconds. Waits for nothing.
    #[must_use]
    pub fn identify(&self, headers: &HeaderMap, now: u64) -> Identified {
        let from_token = self
            .tokens
            .as_ref()
            .map_or(Ok(None), |tokens| tokens.identify(headers, now));
        let found = match (from_token, &self.api_keys) {
            (Ok(None), Some(keys)) => keys.identify(headers),
            (found, _) => found,
        };
        match found {
            Ok(user) => Identified { user, error: None },
            Err(error) => Identified {
                user: None,
                error: Some(error),
            },
        }
    }
}

#[cfg(test)]
mod tests;
