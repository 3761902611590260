//! Stories of answers.

use super::*;

const ID: &str = "0190a8c4-7d3e-7000-8000-000000000001";

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let mut found = reply.headers.iter().filter(|(given, _)| given == name);
    let value = found.next().map(|(_, value)| value.to_str().unwrap());
    assert!(found.next().is_none(), "{name} twice");
    value
}

#[test]
fn problem_details_are_rfc_9457() {
    for code in [
        400, 403, 404, 405, 408, 413, 418, 421, 429, 431, 500, 502, 503, 504, 599,
    ] {
        let status = StatusCode::from_u16(code).unwrap();
        let reply = Reply::refusal(status, ID, false);
        assert_eq!(reply.status, status);
        assert_eq!(
            header(&reply, "content-type"),
            Some("application/problem+json")
        );
        assert_eq!(header(&reply, "cache-control"), Some("no-store"));
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["type"], "about:blank");
        assert_eq!(body["status"], code);
        assert_eq!(body["request_id"], ID);
        assert_eq!(body["instance"], format!("urn:uuid:{ID}"));
        assert!(!body["title"].as_str().unwrap().is_empty());
        assert!(!body["detail"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_page_shows_the_request_and_lets_nothing_in() {
    let reply = Reply::refusal(StatusCode::FORBIDDEN, ID, true);
    let page = std::str::from_utf8(&reply.body).unwrap();
    assert!(page.contains(&format!("<code>{ID}</code>")));
    assert!(page.contains("403") && page.contains("Forbidden"));
    assert!(!page.contains("<script"));
    assert_eq!(
        header(&reply, "content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(header(&reply, "cache-control"), Some("no-store"));
    let policy = header(&reply, "content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"));
    // The policy is for the style that is on the page.
    let style = page
        .split_once("<style>")
        .and_then(|(_, rest)| rest.split_once("</style>"))
        .unwrap()
        .0;
    assert!(policy.contains(&page::source_hash(style)));
}

#[test]
fn an_unforeseen_status_has_a_page_too() {
    let reply = Reply::refusal(StatusCode::IM_A_TEAPOT, ID, true);
    let page = std::str::from_utf8(&reply.body).unwrap();
    assert!(page.contains("418") && page.contains("teapot") && !page.contains("500"));
}

#[test]
fn ids_that_are_none_are_not_shown() {
    for id in ["<script>", "\"", "a b", "ä", &"a".repeat(65)] {
        for html in [true, false] {
            let reply = Reply::refusal(StatusCode::FORBIDDEN, id, html);
            let body = std::str::from_utf8(&reply.body).unwrap();
            assert!(!body.contains("<script>") && !body.contains(&"a".repeat(65)));
            assert!(html || serde_json::from_str::<serde_json::Value>(body).is_ok());
        }
    }
}

#[test]
fn a_throttled_client_learns_when_to_come_back() {
    let rate = RateLimit {
        quota: 5,
        window: 60,
        remaining: 0,
        reset: 12,
    };
    for html in [true, false] {
        let reply = Reply::throttled(ID, html, Duration::from_millis(11_001), Some(rate));
        assert_eq!(reply.status, 429);
        assert_eq!(header(&reply, "retry-after"), Some("12"));
        assert_eq!(header(&reply, "ratelimit"), Some("\"default\";r=0;t=12"));
        assert_eq!(
            header(&reply, "ratelimit-policy"),
            Some("\"default\";q=5;w=60")
        );
    }
    let page = Reply::throttled(ID, true, Duration::from_secs(300), None);
    assert!(
        std::str::from_utf8(&page.body)
            .unwrap()
            .contains("try again in 5 minutes.")
    );
    assert_eq!(header(&page, "ratelimit"), None);
    let soon = Reply::throttled(ID, false, Duration::ZERO, None);
    assert_eq!(header(&soon, "retry-after"), Some("1"));
}

#[test]
fn no_upstream_says_when_to_come_back() {
    let reply = Reply::unavailable(ID, false, Duration::from_secs(5));
    assert_eq!(reply.status, 503);
    assert_eq!(header(&reply, "retry-after"), Some("5"));
}

#[test]
fn a_location_can_not_split_the_answer() {
    assert!(Reply::redirect(StatusCode::SEE_OTHER, "/a\r\nset-cookie: x").is_none());
    let reply = Reply::redirect(StatusCode::SEE_OTHER, "/a?b").unwrap();
    assert_eq!(header(&reply, "location"), Some("/a?b"));
}
