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
        if !(score >= spec.minimum_score) || fields.action.as_deref() != Some(ACTION) {
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

/// A time of RFC 3339; none of these providers gives another offset than that of UTC.
fn unix_seconds(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        let all = digits.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| digits.parse().ok())?
    };
    let is = |at: usize, wanted: u8| text.as_bytes().get(at) == Some(&wanted);
    if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let rest = text.get(19..)?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    if !matches!(zone, "Z" | "z" | "+00:00" | "+0000") {
        return None;
    }
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let shifted = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted.div_euclid(4) - shifted.div_euclid(100)
        + shifted.div_euclid(400)
        + day_of_year
        - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests;
