//! Providers' answers, read.

use super::*;
use crate::config::model::Secret;
use std::time::Duration;

fn spec(provider: Provider) -> ThirdParty {
    ThirdParty {
        provider,
        site_key: "site-key".into(),
        secret: Secret::new(b"s3cret&more"),
        verify_url: None,
        script_url: None,
        minimum_score: 0.5,
        timeout: Duration::from_secs(1),
    }
}

fn said(provider: Provider, body: &str) -> Said {
    let expected = Expected {
        host: "app.example.com".into(),
        now: 1_700_000_000,
    };
    judge(&spec(provider), 200, body.as_bytes(), &expected)
}

const ALL: [Provider; 4] = [
    Provider::Turnstile,
    Provider::Hcaptcha,
    Provider::Recaptcha,
    Provider::RecaptchaV3,
];

#[test]
fn questions_are_as_documented() {
    let ask = |provider| form(&spec(provider), "a+b/c=", "id-1");
    let common = "secret=s3cret%26more&response=a%2Bb%2Fc%3D";
    assert_eq!(
        ask(Provider::Turnstile),
        format!("{common}&idempotency_key=id%2D1")
    );
    assert_eq!(
        ask(Provider::Hcaptcha),
        format!("{common}&sitekey=site%2Dkey")
    );
    assert_eq!(ask(Provider::Recaptcha), common);
    assert_eq!(ask(Provider::RecaptchaV3), common);
}

#[test]
fn a_good_answer_passes() {
    // 2023-11-14T22:13:20Z is 1 700 000 000.
    let good = r#"{"success":true,"hostname":"app.example.com","action":"rempart","score":0.9,
        "challenge_ts":"2023-11-14T22:12:30.123Z","error-codes":[]}"#;
    for provider in ALL {
        assert_eq!(said(provider, good), Said::Passed, "{provider:?}");
    }
    let bare = r#"{"success":true}"#;
    assert_eq!(said(Provider::Recaptcha, bare), Said::Passed);
    let private = r#"{"success":true,"hostname":"not-provided"}"#;
    assert_eq!(said(Provider::Hcaptcha, private), Said::Passed);
}

#[test]
fn a_token_for_something_else_is_refused() {
    for (what, body) in [
        (
            "another host",
            r#"{"success":true,"hostname":"evil.example"}"#,
        ),
        (
            "a host below it",
            r#"{"success":true,"hostname":"x.app.example.com"}"#,
        ),
        ("another action", r#"{"success":true,"action":"login"}"#),
        (
            "an old one",
            r#"{"success":true,"challenge_ts":"2023-11-14T22:05:00Z"}"#,
        ),
        (
            "one of tomorrow",
            r#"{"success":true,"challenge_ts":"2023-11-15T22:13:20Z"}"#,
        ),
        (
            "one of no time",
            r#"{"success":true,"challenge_ts":"yesterday"}"#,
        ),
    ] {
        assert_eq!(said(Provider::Turnstile, body), Said::Refused, "{what}");
    }
}

#[test]
fn the_score_counts_in_v3_alone() {
    let scored = |score: &str| format!(r#"{{"success":true,"action":"rempart","score":{score}}}"#);
    let v3 = |body: &str| said(Provider::RecaptchaV3, body);
    assert_eq!(v3(&scored("0.5")), Said::Passed);
    assert_eq!(v3(&scored("0.49")), Said::Refused);
    assert_eq!(v3(&scored("0")), Said::Refused);
    assert_eq!(v3(r#"{"success":true,"score":0.9}"#), Said::Refused);
    assert!(matches!(v3(r#"{"success":true}"#), Said::Misconfigured(_)));
    assert_eq!(said(Provider::Recaptcha, &scored("0.1")), Said::Passed);
}

#[test]
fn each_error_is_somebodys() {
    let failed = |codes: &str| format!(r#"{{"success":false,"error-codes":[{codes}]}}"#);
    for code in [
        "missing-input-response",
        "invalid-input-response",
        "timeout-or-duplicate",
        "already-seen-response",
        "expired-input-response",
        "a-code-of-the-future",
    ] {
        let body = failed(&format!("\"{code}\""));
        assert_eq!(said(Provider::Turnstile, &body), Said::Refused, "{code}");
    }
    assert_eq!(said(Provider::Hcaptcha, &failed("")), Said::Refused);
    assert_eq!(
        said(Provider::Hcaptcha, r#"{"success":false}"#),
        Said::Refused
    );
    for code in [
        "missing-input-secret",
        "invalid-input-secret",
        "bad-request",
        "sitekey-secret-mismatch",
    ] {
        let body = failed(&format!("\"invalid-input-response\",\"{code}\""));
        let expected = Said::Misconfigured(code.to_owned());
        assert_eq!(said(Provider::Recaptcha, &body), expected);
    }
    let body = failed("\"internal-error\"");
    assert!(matches!(
        said(Provider::Turnstile, &body),
        Said::Broken("internal-error")
    ));
}

#[test]
fn nonsense_is_the_providers_failure_and_never_a_pass() {
    for body in [
        "",
        "<html>502</html>",
        "true",
        "[]",
        "{}",
        r#"{"success":"true"}"#,
        r#"{"success":1}"#,
        r#"{"success":true,"hostname":7}"#,
        "\u{0}\u{1}",
    ] {
        for provider in ALL {
            assert!(matches!(said(provider, body), Said::Broken(_)), "{body:?}");
        }
    }
    let expected = Expected {
        host: "app.example.com".into(),
        now: 0,
    };
    for status in [429, 500, 502, 503] {
        let body = br#"{"success":true}"#;
        let said = judge(&spec(Provider::Turnstile), status, body, &expected);
        assert!(matches!(said, Said::Broken(_)), "{status}");
    }
}

#[test]
fn times_are_those_of_rfc_3339() {
    for (text, seconds) in [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("2000-02-29T12:00:00Z", Some(951_825_600)),
        ("2023-11-14T22:13:20+00:00", Some(1_700_000_000)),
        ("2024-03-01T00:00:00.5Z", Some(1_709_251_200)),
        ("2023-11-15T00:13:20+02:00", Some(1_700_000_000)),
        ("2023-11-14T22:13:20.25+0000", Some(1_700_000_000)),
        ("2023-02-29T22:13:20Z", None),
        ("2023-11-14T22:13:20Z+0000", None),
        ("2023-13-14T22:13:20Z", None),
        ("2023-11-14T22:13:20", None),
        ("-023-11-14T22:13:20Z", None),
        ("２０２３-11-14T22:13:20Z", None),
        ("", None),
    ] {
        assert_eq!(unix_seconds(text), seconds, "{text}");
    }
}
