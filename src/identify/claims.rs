//! What a token says, once its signature is known to be right: for whom it is, until when, and who
//! its user is (RFC 7519, section 4.1). Every claim is read by its type, so that a text where a
//! number belongs never passes.

use super::{CredentialError, User};
use crate::config::model;
use serde_json::{Map, Value};

const MAX_USER_BYTES: usize = 256;
const MAX_ROLES: usize = 64;
const MAX_ROLE_BYTES: usize = 128;

/// What claims must say.
#[derive(Clone, Debug)]
pub struct Rules {
    issuer: String,
    audience: String,
    user: Vec<String>,
    roles: Option<Vec<String>>,
    leeway: u64,
}

/// What good claims came to.
#[derive(Debug)]
pub struct Accepted {
    pub user: User,
    /// Unix seconds from which on the token is no longer good, leeway included.
    pub until: u64,
}

impl Rules {
    #[must_use]
    pub fn new(spec: &model::Jwt) -> Self {
        Self {
            issuer: spec.issuer.clone(),
            audience: spec.audience.clone(),
            user: spec.user.clone(),
            roles: spec.roles.clone(),
            leeway: spec.leeway.as_secs(),
        }
    }

    /// Judges the claims of a verified token at `now` (Unix seconds).
    pub fn check(&self, payload: &[u8], now: u64) -> Result<Accepted, CredentialError> {
        let claims: Map<String, Value> =
            serde_json::from_slice(payload).map_err(|_| CredentialError::TokenClaims)?;

        let expires = numeric_date(claims.get("exp"))?.ok_or(CredentialError::TokenClaims)?;
        let until = expires.saturating_add(self.leeway);
        if now >= until {
            return Err(CredentialError::TokenExpired);
        }
        if let Some(not_before) = numeric_date(claims.get("nbf"))?
            && now.saturating_add(self.leeway) < not_before
        {
            return Err(CredentialError::TokenNotYetValid);
        }
        match claims.get("iss") {
            Some(Value::String(issuer)) if *issuer == self.issuer => {}
            Some(Value::String(_)) => return Err(CredentialError::TokenIssuer),
            _ => return Err(CredentialError::TokenClaims),
        }
        if !self.is_audience(claims.get("aud"))? {
            return Err(CredentialError::TokenAudience);
        }
        let session = match claims.get("sid") {
            Some(Value::String(sid)) if is_name(sid, MAX_USER_BYTES) => Some(sid.clone()),
            _ => None,
        };
        let user = User {
            id: self.user_id(&claims)?,
            roles: self.user_roles(&claims)?.into(),
            session,
        };
        Ok(Accepted { user, until })
    }

    /// `aud` is one text or a list of texts (RFC 7519, 4.1.3).
    fn is_audience(&self, claim: Option<&Value>) -> Result<bool, CredentialError> {
        match claim {
            Some(Value::String(one)) => Ok(*one == self.audience),
            Some(Value::Array(several)) => {
                let mut found = false;
                for one in several {
                    let one = one.as_str().ok_or(CredentialError::TokenClaims)?;
                    found |= one == self.audience;
                }
                Ok(found)
            }
            _ => Err(CredentialError::TokenClaims),
        }
    }

    fn user_id(&self, claims: &Map<String, Value>) -> Result<String, CredentialError> {
        match at(claims, &self.user) {
            Some(Value::String(id)) if is_name(id, MAX_USER_BYTES) => Ok(id.clone()),
            _ => Err(CredentialError::TokenUser),
        }
    }

    /// A list of texts, or one text that lists them between spaces as `scope` does (RFC 8693, 4.2).
    /// Refused rather than cut when it is too long: a rule may ask for the role that was cut off.
    fn user_roles(&self, claims: &Map<String, Value>) -> Result<Vec<String>, CredentialError> {
        let Some(path) = &self.roles else {
            return Ok(Vec::new());
        };
        let roles: Option<Vec<String>> = match at(claims, path) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|role| role.as_str().map(str::to_owned))
                .collect(),
            Some(Value::String(text)) => Some(text.split_whitespace().map(str::to_owned).collect()),
            Some(_) => None,
        };
        roles
            .filter(|roles| roles.len() <= MAX_ROLES)
            .filter(|roles| roles.iter().all(|role| is_name(role, MAX_ROLE_BYTES)))
            .ok_or(CredentialError::TokenRoles)
    }
}

/// Names go into logs and headers: no control characters.
fn is_name(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control)
}

fn at<'a>(claims: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(claims.get(first)?, |value, key| value.as_object()?.get(key))
}

/// Seconds since 1970, perhaps with a fraction (RFC 7519, section 2), which is cut off.
fn numeric_date(claim: Option<&Value>) -> Result<Option<u64>, CredentialError> {
    let Some(claim) = claim else {
        return Ok(None);
    };
    let Value::Number(number) = claim else {
        return Err(CredentialError::TokenClaims);
    };
    if let Some(seconds) = number.as_u64() {
        return Ok(Some(seconds));
    }
    match number.as_f64() {
        // Saturates: no date is too late for a u64.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some(seconds) if seconds.is_finite() => Ok(Some(seconds.max(0.0) as u64)),
        _ => Err(CredentialError::TokenClaims),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    const NOW: u64 = 1_700_000_000;

    fn rules() -> Rules {
        Rules::new(&model::Jwt {
            issuer: "https://id.example.com".to_owned(),
            audience: "app".to_owned(),
            algorithms: vec![],
            keys: model::JwksSource::File(jsonwebtoken::jwk::JwkSet { keys: vec![] }),
            user: vec!["sub".to_owned()],
            roles: Some(vec!["realm_access".to_owned(), "roles".to_owned()]),
            leeway: Duration::from_secs(30),
        })
    }

    fn good() -> Value {
        json!({
            "iss": "https://id.example.com", "aud": "app", "exp": NOW + 60, "sub": "ada",
            "sid": "session-1", "realm_access": { "roles": ["admin", "staff"] },
        })
    }

    fn check(changes: &Value) -> Result<Accepted, CredentialError> {
        let mut claims = good();
        for (name, value) in changes.as_object().unwrap() {
            if value == "ABSENT" {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        rules().check(claims.to_string().as_bytes(), NOW)
    }

    #[test]
    fn good_claims_name_the_user() {
        let accepted = check(&json!({})).unwrap();
        assert_eq!(accepted.user.id, "ada");
        assert_eq!(accepted.user.session.as_deref(), Some("session-1"));
        assert_eq!(
            *accepted.user.roles,
            ["admin".to_owned(), "staff".to_owned()]
        );
        assert_eq!(accepted.until, NOW + 90);
    }

    #[test]
    fn what_passes() {
        for changes in [
            json!({ "aud": ["other", "app"] }),
            json!({ "exp": 1_700_000_060.5 }),
            json!({ "exp": NOW - 29 }),
            json!({ "exp": u64::MAX }),
            json!({ "exp": 1e300 }),
            json!({ "nbf": NOW + 30 }),
            json!({ "realm_access": "ABSENT" }),
            json!({ "realm_access": {} }),
            json!({ "realm_access": { "roles": "read write" } }),
            json!({ "sid": 7 }),
            json!({ "sid": "ABSENT" }),
        ] {
            assert!(check(&changes).is_ok(), "{changes}");
        }
    }

    #[test]
    fn what_does_not() {
        use CredentialError::*;
        for (changes, error) in [
            (json!({ "exp": "ABSENT" }), TokenClaims),
            (json!({ "exp": (NOW + 60).to_string() }), TokenClaims),
            (json!({ "exp": null }), TokenClaims),
            (json!({ "exp": [NOW + 60] }), TokenClaims),
            (json!({ "exp": true }), TokenClaims),
            (json!({ "exp": -1 }), TokenExpired),
            (json!({ "exp": NOW - 30 }), TokenExpired),
            (json!({ "nbf": NOW + 31 }), TokenNotYetValid),
            (json!({ "nbf": "0" }), TokenClaims),
            (json!({ "nbf": null }), TokenClaims),
            (json!({ "iss": "https://id.example.com/" }), TokenIssuer),
            (json!({ "iss": "ABSENT" }), TokenClaims),
            (json!({ "iss": ["https://id.example.com"] }), TokenClaims),
            (json!({ "aud": "apps" }), TokenAudience),
            (json!({ "aud": [] }), TokenAudience),
            (json!({ "aud": ["other"] }), TokenAudience),
            (json!({ "aud": ["app", 7] }), TokenClaims),
            (json!({ "aud": { "app": true } }), TokenClaims),
            (json!({ "aud": "ABSENT" }), TokenClaims),
            (json!({ "sub": "" }), TokenUser),
            (json!({ "sub": 7 }), TokenUser),
            (json!({ "sub": "ABSENT" }), TokenUser),
            (json!({ "sub": "ada\r\nx-admin: 1" }), TokenUser),
            (json!({ "sub": "a".repeat(257) }), TokenUser),
            (json!({ "realm_access": { "roles": 7 } }), TokenRoles),
            (json!({ "realm_access": { "roles": null } }), TokenRoles),
            (json!({ "realm_access": { "roles": ["a", 7] } }), TokenRoles),
            (json!({ "realm_access": { "roles": [""] } }), TokenRoles),
            (
                json!({ "realm_access": { "roles": ["a".repeat(129)] } }),
                TokenRoles,
            ),
            (
                json!({ "realm_access": { "roles": vec!["a"; 65] } }),
                TokenRoles,
            ),
        ] {
            assert_eq!(check(&changes).unwrap_err(), error, "{changes}");
        }
        for payload in ["", "null", "[]", "7", "{", r#"{"exp":1}x"#] {
            let found = rules().check(payload.as_bytes(), NOW);
            assert_eq!(found.unwrap_err(), TokenClaims, "{payload}");
        }
    }
}
