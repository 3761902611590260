//! The question to a provider and what its answer means; nothing is sent here.
//!
//! All of them take a form of `secret` and `response` and answer with JSON: `success`, `hostname`,
//! `challenge_ts`, `error-codes`, and `action` and `score` where they have them. Documented at
//! <https://developers.cloudflare.com/turnstile/get-started/server-side-validation/>,
//! <https://docs.hcaptcha.com/#verify-the-user-response-server-side>,
//! <https://developers.google.com/recaptcha/docs/verify> and
//! <https://developers.google.com/recaptcha/docs/v3>.
//!
//! `remoteip` is never sent: see `docs/decisions/third-party.md`.

use crate::config::model::{Provider, ThirdParty};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// What our widgets say they are for.
pub const ACTION: &str = "rempart";

/// Turnstile's tokens live for five minutes, reCAPTCHA's for two; with room for clocks that differ.
const OLDEST: i64 = 6 * 60;
const YOUNGEST: i64 = -60;

/// What a good token was made for.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Lower case, without its port.
    pub host: String,
    /// Unix seconds.
    pub now: i64,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Passed,
    /// The token is no good: the visitor's matter.
    Refused,
    /// The keys or the question are no good: the operator's matter.
    Misconfigured(String),
    /// No answer that makes sense: the provider's matter.
    Broken(&'static str),
}

/// The body of the question. `idempotency` is a UUID, the same for a second try.
#[must_use]
pub fn form(spec: &ThirdParty, token: &str, idempotency: &str) -> String {
    let secret = String::from_utf8_lossy(spec.secret.expose());
    let mut fields = vec![("secret", &*secret), ("response", token)];
    match spec.provider {
        Provider::Turnstile => fields.push(("idempotency_key", idempotency)),
        Provider::Hcaptcha => fields.push(("sitekey", &spec.site_key)),
        Provider::Recaptcha | Provider::RecaptchaV3 => {}
    }
    let pairs: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    pairs.join("&")
}

#[derive(Deserialize)]
struct Fields {
    success: bool,
    #[serde(default, rename = "error-codes")]
    error_codes: Option<Vec<String>>,
    hostname: Option<String>,
    action: Option<String>,
    score: Option<f64>,
    challenge_ts: Option<String>,
}

/// What an answer means.
#[must_use]
pub fn judge(spec: &ThirdParty, status: u16, body: &[u8], expected: &Expected) -> Said {
    if status == 429 || status >= 500 {
        return Said::Broken("a status of failure");
    }
    let Ok(fields) = serde_json::from_slice::<Fields>(body) else {
        return Said::Broken("no answer of siteverify");
    };
    let codes = fields.error_codes.as_deref().unwrap_or_default();
    if !fields.success {
        return judge_codes(codes);
    }
    if spec.provider == Provider::RecaptchaV3 {
        let Some(score) = fields.score else {
            return Said::Misconfigured(
                "there is no score: the keys are not of reCAPTCHA v3".to_owned(),
            );
        };
        // Not a number is no good either.
        let is_high = score >= spec.minimum_score;
        if !is_high || fields.action.as_deref() != Some(ACTION) {
            return Said::Refused;
        }
    }
    if !is_given_and_other(fields.action.as_deref(), ACTION)
        && !is_given_and_other(fields.hostname.as_deref(), &expected.host)
        && is_fresh(fields.challenge_ts.as_deref(), expected.now)
    {
        Said::Passed
    } else {
        Said::Refused
    }
}

fn judge_codes(codes: &[String]) -> Said {
    const OPERATOR: [&str; 6] = [
        "missing-input-secret",
        "invalid-input-secret",
        "bad-request",
        "sitekey-secret-mismatch",
        "not-using-dummy-passcode",
        "invalid-keys",
    ];
    if let Some(code) = OPERATOR
        .iter()
        .find(|ours| codes.iter().any(|c| c == *ours))
    {
        return Said::Misconfigured((*code).to_owned());
    }
    if codes.iter().any(|code| code == "internal-error") {
        return Said::Broken("internal-error");
    }
    Said::Refused
}

/// hCaptcha says `not-provided` where a browser kept the name to itself.
fn is_given_and_other(given: Option<&str>, expected: &str) -> bool {
    given.is_some_and(|given| {
        !given.is_empty() && given != "not-provided" && !given.eq_ignore_ascii_case(expected)
    })
}

fn is_fresh(solved: Option<&str>, now: i64) -> bool {
    let Some(solved) = solved.filter(|solved| !solved.is_empty()) else {
        return true;
    };
    unix_seconds(solved)
        .and_then(|solved| now.checked_sub(solved))
        .is_some_and(|age| (YOUNGEST..=OLDEST).contains(&age))
}

/// A time of RFC 3339, or with an offset of UTC in the basic form of ISO 8601.
fn unix_seconds(text: &str) -> Option<i64> {
    let time = match text.strip_suffix("+0000") {
        Some(time) => OffsetDateTime::parse(&format!("{time}Z"), &Rfc3339),
        None => OffsetDateTime::parse(text, &Rfc3339),
    };
    Some(time.ok()?.unix_timestamp())
}

#[cfg(test)]
mod tests;
