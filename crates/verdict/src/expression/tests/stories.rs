//! Conditions as operators write them, judged on two visits.

use super::{compiled, mina, nobody};
use crate::expression::EvaluationError;

const ABSENT: &str = "a header that the condition reads is absent";

/// A condition, whether it holds for Mina, and whether it holds for nobody.
type Story = (&'static str, bool, bool);

// Conditions hold quotes more often than not; all are written alike.
#[allow(clippy::needless_raw_string_hashes)]
#[rustfmt::skip]
const STORIES: &[Story] = &[
    // The examples of the contract.
    (r#"client.ip in list("offices")"#, true, false),
    (r#"request.path.startsWith("/wp-") && user.id == """#, false, true),
    // Every variable.
    (r#"request.method == "GET""#, true, false),
    (r#"request.host == "app.example.com""#, true, false),
    (r#"request.path == "/Docs/Page.html""#, true, false),
    (r#"request.query == """#, false, true),
    (r#"request.size > 4096"#, false, true),
    (r#"client.ja4.startsWith("t13d")"#, true, true),
    (r#"client.crawler == "googlebot""#, true, true),
    (r#"client.crawler == """#, false, false),
    (r#"clearance.rung == "captcha""#, true, false),
    (r#"clearance.rung == """#, false, true),
    (r#"!(clearance.rung in ["captcha", "third_party"])"#, false, true),
    (r#"user.id == "mina""#, true, false),
    (r#"user.authenticated"#, true, false),
    (r#"route == "app""#, true, true),
    (r#"tls.version == "1.3""#, true, false),
    (r#"tls.sni == request.host"#, true, false),
    (r#"tls.alpn != "h2""#, false, true),
    (r#"pressure.syn_flood"#, false, true),
    (r#"pressure.slow_syn_flood || pressure.accept_stall"#, false, false),
    (r#"pressure.ack_flood || pressure.udp_amplification"#, false, false),
    (r#"pressure.any && user.id == """#, false, true),
    // Logic.
    (r#"!user.authenticated"#, false, true),
    (r#"!(request.size > 0) && !false"#, true, false),
    (r#"false || request.size == 5000 || false"#, false, true),
    (r#"true && request.method == "GET" && request.size == 0"#, true, false),
    (r#"user.authenticated ? request.size == 0 : request.size == 1"#, true, false),
    (r#"(user.authenticated ? "a" : "b") == "a""#, true, false),
    (r#"request.size < (user.authenticated ? 100 : 10000)"#, true, true),
    (r#"user.authenticated == (tls.version == "1.3")"#, true, true),
    (r#"user.authenticated != true"#, false, true),
    // Order and sets.
    (r#"request.method in ["GET", "HEAD"]"#, true, false),
    (r#"!(request.method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE", "CONNECT", "QUERY", "PURGE"])"#, false, true),
    (r#"request.size in [0, 1, 2]"#, true, false),
    (r#"request.method < "M""#, true, false),
    (r#"request.method >= "POST""#, false, true),
    (r#"request.size <= 5000 && request.size >= 5000"#, false, true),
    // Texts.
    (r#"request.path.endsWith(".html")"#, true, false),
    (r#"request.path.contains("login")"#, false, true),
    (r#"request.host.contains(".example.")"#, true, false),
    (r#"request.path.contains("")"#, true, true),
    (r#"request.path.lowerAscii() == "/docs/page.html""#, true, false),
    (r#"request.path.lowerAscii().startsWith("/docs")"#, true, false),
    (r#"request.path.lowerAscii().endsWith("PAGE.html")"#, false, false),
    (r#"request.path.lowerAscii().contains("/page")"#, true, false),
    (r#"request.path.lowerAscii().contains("")"#, true, true),
    (r#"request.path == "/DOCS/page.html".lowerAscii()"#, false, false),
    (r#"request.method.lowerAscii() in ["get", "head"]"#, true, false),
    (r#"request.method.lowerAscii() in ["a","b","c","d","e","f","g","h","i","get"]"#, true, false),
    (r#""/api" + "/v1" == "/api/v1""#, true, true),
    (r#"request.path.matches("^/wp-[a-z]+\\.php")"#, false, true),
    (r#"request.path.matches(r"(?i)^/docs/\w+\.html$")"#, true, false),
    (r#"matches(request.path, "php")"#, false, true),
    (r#"request.path.matches(r"\xff$")"#, false, true),
    (r#"request.query.contains("café")"#, true, false),
    ("request.path.startsWith('/Docs') // why: old links\n && true", true, false),
    // Sizes: code points of a text, as CEL counts; elements of a list.
    (r#"size(request.query) == 13"#, true, false),
    (r#"request.query.size() == 0"#, false, true),
    (r#"user.roles.size() == 2"#, true, false),
    (r#"request.size > 4 * 1024 && request.size < 10 * 1024 * 1024"#, false, true),
    (r#"request.size - 1 >= 0"#, false, true),
    (r#"request.size % 2 == 0 && request.size / 2 == 2500"#, false, true),
    (r#"-1 < request.size && -request.size > -1"#, true, false),
    // Headers.
    (r#"!("user-agent" in request.headers) || request.headers["user-agent"].startsWith("Mozilla/")"#, true, true),
    (r#""User-Agent" in request.headers && request.headers["User-Agent"].contains("X11")"#, true, false),
    (r#"has(request.headers.referer)"#, true, false),
    (r#"!has(request.headers.referer) || request.headers.referer == "https://app.example.com/""#, true, true),
    (r#"!("user-agent" in request.headers)"#, false, true),
    (r#""x-empty" in request.headers && request.headers["x-empty"] == """#, true, false),
    (r#""x-bytes" in request.headers && request.headers["x-bytes"].matches("^..$")"#, true, false),
    // Roles, and macros over lists.
    (r#""editor" in user.roles"#, true, false),
    (r#"user.roles.exists(role, role.startsWith("eu-"))"#, true, false),
    (r#"user.roles.all(role, role.size() > 3)"#, true, true),
    (r#"user.roles.exists_one(role, role.contains("e"))"#, false, false),
    (r#"["/wp-", "/xmlrpc", "/.env"].exists(p, request.path.startsWith(p))"#, false, true),
    (r#"["/wp-", "/.env"].all(p, !request.path.startsWith(p))"#, true, false),
    (r#"["x", "x"].exists_one(p, p == "x")"#, false, false),
    (r#"user.roles.exists(r, ["eu", "us"].exists(p, r.startsWith(p)))"#, true, false),
    // Addresses and networks.
    (r#"client.ip == ip("10.1.2.3")"#, true, false),
    (r#"client.ip == ip("::ffff:10.1.2.3")"#, true, false),
    (r#"client.ip != ip("2001:DB8:0::7")"#, true, false),
    (r#"client.ip in [ip("10.1.2.3"), ip("192.0.2.1")]"#, true, false),
    (r#"cidr("10.0.0.0/8").containsIP(client.ip)"#, true, false),
    (r#"cidr("2001:db8::/32").containsCIDR(client.network)"#, false, true),
    (r#"client.network == cidr("10.1.2.0/24")"#, true, false),
    (r#"client.network.containsIP(ip("2001:db8::1"))"#, false, true),
    (r#"client.ip.family() == 6"#, false, true),
    (r#"client.ip in list("blocked") || client.ip in list("offices")"#, true, true),
];

#[test]
fn conditions_mean_what_they_say() {
    let mut wrong = Vec::new();
    for (source, for_mina, for_nobody) in STORIES {
        let condition = compiled(source);
        let judged = (mina().judge(&condition), nobody().judge(&condition));
        if judged != (Ok(*for_mina), Ok(*for_nobody)) {
            wrong.push(format!("{source}: {judged:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(STORIES.len() >= 60);
}

/// What happens when a condition reads a header that was not sent: CEL's rules.
#[test]
fn failures_spread_unless_something_else_decides() {
    let reads = r#"request.headers["referer"] == "x""#;
    let cases: &[(String, Result<bool, &str>)] = &[
        (reads.into(), Err(ABSENT)),
        (format!("!({reads})"), Err(ABSENT)),
        (format!("{reads} && false"), Ok(false)),
        (format!("false && {reads}"), Ok(false)),
        (format!("{reads} && true"), Err(ABSENT)),
        (format!("true && {reads}"), Err(ABSENT)),
        (format!("{reads} || true"), Ok(true)),
        (format!("true || {reads}"), Ok(true)),
        (format!("{reads} || false"), Err(ABSENT)),
        (format!("false || {reads} || true"), Ok(true)),
        (format!("{reads} && {reads} && false"), Ok(false)),
        (format!("({reads}) == true || true"), Ok(true)),
        (format!("{reads} ? true : true"), Err(ABSENT)),
        (format!("true ? true : {reads}"), Ok(true)),
        (format!("false ? true : {reads}"), Err(ABSENT)),
        (
            format!(r#"["a", "b"].exists(x, x == "b" || {reads})"#),
            Ok(true),
        ),
        (
            format!(r#"["a", "b"].all(x, x == "b" && {reads})"#),
            Ok(false),
        ),
        (format!(r#"["a", "b"].exists(x, {reads})"#), Err(ABSENT)),
        (format!(r#"["a"].exists_one(x, {reads})"#), Err(ABSENT)),
        (
            "user.roles.exists(r, request.headers.referer == r)".into(),
            Ok(false),
        ),
        ("request.headers.referer.size() == 0".into(), Err(ABSENT)),
        (
            "request.size / (request.size - 5000) == 1".into(),
            Err("a number is divided by zero"),
        ),
        (
            "request.size % user.roles.size() == 1".into(),
            Err("a number is divided by zero"),
        ),
        (
            "request.size + 9223372036854775807 > 1".into(),
            Err("a number overflows"),
        ),
    ];
    for (source, expected) in cases {
        let expected = expected.map_err(EvaluationError);
        assert_eq!(nobody().judge(&compiled(source)), expected, "{source}");
    }
}

#[test]
fn a_condition_keeps_its_source() {
    let source = " user.id ==  \"\" ";
    assert_eq!(compiled(source).clone().source(), source);
}

#[test]
fn a_declared_length_past_what_cel_counts_is_very_large() {
    let mut visit = nobody();
    visit.size = u64::MAX;
    assert_eq!(visit.judge(&compiled("request.size > 1000")), Ok(true));
}

#[test]
fn workers_share_conditions() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug>() {}
    shared::<crate::expression::Expression>();
}
