//! Conditions that are refused, each with where and why.

use super::list_names;
use crate::expression::Expression;

fn errors(source: &str) -> Vec<(usize, String)> {
    match Expression::compile(source, &list_names()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors
            .into_iter()
            .map(|error| (error.offset, error.message))
            .collect(),
    }
}

/// A condition, the byte at which it goes wrong, and what is said.
#[rustfmt::skip]
const REFUSALS: &[(&str, usize, &str)] = &[
    (r#"request.pth == "/""#, 0, r#"unknown variable "request.pth"; nearest is "request.path""#),
    (r#"path == "/""#, 0, r#"unknown variable "path"; nearest is "request.path""#),
    (r#"request == "x""#, 0, r#""request" is no value; it has the fields method, host, path, query, headers, size"#),
    (r#"usr.id == """#, 0, r#"unknown variable "usr.id"; nearest is "user.id""#),
    ("zzz == 1", 0, r#"unknown variable "zzz"; known are request, client, user, route and tls"#),
    ("size > 1", 0, r#"unknown variable "size"; "size" is a function and needs its brackets"#),
    (r#"client.ip in list("ofices")"#, 18, r#"unknown list "ofices"; nearest is "offices""#),
    (r#"client.ip in list("nothing-like-it")"#, 18, r#"unknown list "nothing-like-it""#),
    ("client.ip in list(request.path)", 18, r#""request.path" is a text; `list()` takes a literal text"#),
    (r#"list("offices")"#, 0, r#"`list("offices")` is a list of networks where a condition is needed; write client.ip in list("offices")"#),
    (r#"request.size == "5""#, 0, r#""request.size" is a number and is compared with a text"#),
    (r#""5" == request.size"#, 0, r#"`"5"` is a text and is compared with a number"#),
    ("request.path", 0, r#""request.path" is a text where a condition is needed; write request.path != """#),
    ("request.size", 0, r#""request.size" is a number where a condition is needed; write request.size > 0"#),
    ("user.roles", 0, r#""user.roles" is a list of texts where a condition is needed; write user.roles.size() > 0"#),
    (r#"request.headers["x-token"]"#, 0, r#"`request.headers["x-token"]` is a text where a condition is needed; write "x-token" in request.headers"#),
    (r#"client.ip == "10.0.0.1""#, 0, r#""client.ip" is an address and is compared with a text; write ip("10.0.0.1")"#),
    (r#"client.ip == "10.0.0.0/8""#, 0, r#""client.ip" is an address and is compared with a text; write cidr("10.0.0.0/8").containsIP(client.ip)"#),
    (r#"client.ip in "10.0.0.0/8""#, 13, r#"`in` can't look into this; write cidr("10.0.0.0/8").containsIP(client.ip)"#),
    (r#"client.ip in ["10.0.0.0/8"]"#, 13, "`in` can't look into this; write ip(…) in the list, or cidr(…).containsIP(client.ip)"),
    (r#"client.ip in cidr("10.0.0.0/8")"#, 13, r#"`in` can't look into this; write cidr("10.0.0.0/8").containsIP(client.ip)"#),
    (r#"client.network in list("offices")"#, 18, r#"`in` can't look into this; write client.ip in list("offices")"#),
    (r#"client.network == "10.0.0.0/8""#, 0, r#""client.network" is a network and is compared with a text; write cidr("10.0.0.0/8")"#),
    ("client.network == client.ip", 0, r#""client.network" is a network and is compared with an address; write client.network.containsIP(client.ip)"#),
    (r#"client.ip < ip("10.0.0.1")"#, 0, r#""client.ip" is an address, which has no order"#),
    (r#"ip("10.0.0.0/8") == client.ip"#, 3, r#""10.0.0.0/8" is a network; write cidr("10.0.0.0/8")"#),
    (r#"ip("10.0.0.256") == client.ip"#, 3, r#""10.0.0.256" is no IPv4 or IPv6 address"#),
    (r#"cidr("10.0.0.1/8").containsIP(client.ip)"#, 5, r#""10.0.0.1/8" has bits set past its length; write "10.0.0.0/8""#),
    (r#"cidr("10.0.0.1").containsIP(client.ip)"#, 5, r#""10.0.0.1" is an address; write ip("10.0.0.1")"#),
    (r#"cidr("offices").containsIP(client.ip)"#, 5, r#""offices" is no network such as 10.0.0.0/8"#),
    (r#"cidr("10.0.0.0/8").containsIP("10.0.0.1")"#, 30, r#"`"10.0.0.1"` is a text where `containsIP` needs an address; write ip("10.0.0.1")"#),
    (r#"cidr("10.0.0.0/8").contains(client.ip)"#, 28, r#""client.ip" is an address where `contains` needs a text"#),
    (r#"request.path.startswith("/a")"#, 13, r#"unknown function "startswith"; nearest is "startsWith""#),
    ("request.path.startsWith(1)", 24, r#""1" is a number where `startsWith` needs a text"#),
    (r#"request.path.startsWith("/a", "/b")"#, 13, "`startsWith` takes 1 argument, not 2"),
    ("request.path.startsWith", 0, r#""request.path" is a text and has no field "startsWith"; write .startsWith(…)"#),
    ("request.path.len() > 1", 13, r#"unknown function "len"; nearest is "size""#),
    (r#"startsWith(request.path, "/a")"#, 0, "`startsWith` is called on a value, as in request.path.startsWith(…)"),
    (r#"request.path.replace("a", "b") == "b""#, 13, r#"unknown function "replace"; known are startsWith, endsWith, contains, matches, lowerAscii, size, list, ip, cidr, containsIP, containsCIDR, family, exists, all, has"#),
    (r#"request.size.startsWith("1")"#, 13, r#""request.size" is a number and has no `startsWith`"#),
    (r#"request.path.matches("(")"#, 21, "this pattern can't be read: unclosed group"),
    (r#"request.path.matches("a{1000}{1000}")"#, 21, "this pattern takes more than 256 KiB; shorten its repetitions"),
    ("request.path.matches(request.query)", 21, r#""request.query" is a text; `matches()` takes a literal text"#),
    (r#"request.path.lowerAscii().matches("a")"#, 0, "`matches` can't look at a text through lowerAscii(); start the pattern with (?i)"),
    ("request.path.lowerAscii().contains(request.query)", 35, "with lowerAscii(), `contains` can only look for a literal text"),
    (r#"request.path.upperAscii() == "A""#, 13, r#"unknown function "upperAscii"; nearest is "lowerAscii""#),
    (r#"request.path + "a" == "b""#, 0, "only literals can be joined with `+`; compare the parts one by one"),
    ("request.path - 1 == 2", 0, r#""request.path" is a text where `-` needs a number"#),
    (r#"request.headers.user-agent == "curl""#, 0, r#"a header with a dash in its name is written request.headers["user-agent"]"#),
    (r#"request.headers.x-forwarded-host == "curl""#, 0, r#"a header with a dash in its name is written request.headers["x-forwarded-host"]"#),
    (r#"request.headers[request.path] == "a""#, 16, "the name of a header has to be a literal text"),
    (r#"request.headers["user agent"] == "a""#, 16, r#""user agent" can't be the name of a header"#),
    (r#"has(request.headers["x"])"#, 19, r#"`has()` takes a field, as in has(request.headers.referer); for any other name, write "x-name" in request.headers"#),
    ("has(user.id)", 0, r#""user.id" is always there; write user.id != """#),
    ("has(user.nme)", 4, r#"unknown variable "user.nme"; user has the fields id, roles, authenticated"#),
    (r#"request.headers.exists(h, h == "a")"#, 0, r#""request.headers" is a map of texts; macros go through lists of texts; ask for one header by its name"#),
    (r#"user.roles == "admin""#, 0, r#""user.roles" is a list of texts and is compared with a text; write "admin" in user.roles"#),
    (r#"user.roles[0] == "admin""#, 0, r#""user.roles" is a list of texts and can't be indexed; write "…" in user.roles"#),
    (r#"user.roles.contains("admin")"#, 11, r#""user.roles" is a list of texts and has no `contains`; write "admin" in user.roles"#),
    (r#"user.roles.map(r, r) == ["a"]"#, 11, "`map` and `filter` are not supported; `exists`, `all` and `exists_one` are"),
    ("user.roles.exists(r, r)", 21, r#""r" is a text where a condition is needed; write r != """#),
    (r#"user.roles.exists(r, r.name == "a")"#, 21, r#""r" is a text and has no field "name""#),
    (r#"["a"].exists(a, ["a"].exists(b, ["a"].exists(c, ["a"].exists(d, a == d))))"#, 54, "at most 3 macros may stand inside one another"),
    (r#"["a", 1].exists(a, true)"#, 6, r#""1" is a number in a list that starts with a text"#),
    ("request.path in []", 16, "this list is empty"),
    (r#"request.path in ["a", 1]"#, 22, r#""1" is a number in a list that starts with a text"#),
    ("request.path in [request.query]", 17, r#""request.query" is a text; lists hold literal texts, numbers or addresses"#),
    ("request.path in request.query", 16, "`in` can't look into this; write request.query.contains(request.path)"),
    (r#"request.size in ["1"]"#, 0, r#""request.size" is a number and can't be in a list of texts"#),
    ("null == user.id", 0, r#"nothing is `null` here: what is absent is an empty text, """#),
    ("request.size == 1.5", 16, "`1.5` is not a whole number; sizes are written in bytes, such as 8 * 1024"),
    ("request.size == 10m", 16, "`10m` is not a whole number; sizes are written in bytes, such as 8 * 1024"),
    ("request.size > 99999999999999999999", 15, "`99999999999999999999` is larger than 9223372036854775807"),
    ("request.size == 1u", 16, "`1u` is not a whole number; sizes are written in bytes, such as 8 * 1024"),
    (r#"b"a" == request.path"#, 0, "bytes literals are not supported; write a text, without the `b`"),
    ("1 / 0 == 1", 0, "a number is divided by zero"),
    ("!request.path", 1, r#""request.path" is a text where a condition is needed; write request.path != """#),
    ("!request.size == 1", 1, r#""request.size" is a number where a condition is needed; write request.size > 0"#),
    (r#"user.authenticated ? 1 : "a""#, 21, r#""1" is a number and the other choice is a text"#),
    ("user.authenticated ? client.ip : client.ip", 21, r#""client.ip" is an address; `?:` chooses between conditions, texts or numbers"#),
    ("user.authenticated < true", 0, r#""user.authenticated" is a condition, which has no order"#),
    (r#"request.path = "/""#, 13, "`=` compares nothing; write `==`"),
    (r#"request.path == "/" and true"#, 20, "`and` is no operator; write `&&`"),
    (r#"request.path == "/" & true"#, 20, "`&` is no operator; write `&&`"),
    ("request.path == “/”", 16, r#"`“` is a typographic quote; write `"` or `'`"#),
    (r#"request.path == "/"#, 16, "the text that opens here is never closed"),
    (r#"(request.path == "/""#, 0, "`(` is never closed"),
    (r#"request.path == "/")"#, 19, "`)` closes nothing"),
    ("[request.path)", 13, "`)` can't close the `[` at byte 0"),
    ("request.path ==", 15, "the condition ends too early"),
    (r#"request.path == == "a""#, 16, "unexpected `==` after `==`"),
    (r#"user.id == "a" user.id == "b""#, 15, r#"unexpected `user` after `"a"`"#),
    ("", 0, "the condition is empty"),
    ("  ", 0, "the condition is empty"),
    ("   // nothing", 0, "the condition is empty"),
    (r#"request.path == "\d""#, 17, r"this escape is not known; write `\\` for a backslash, or put `r` before the quote"),
    (r#"request.?path == "a""#, 7, "the optional syntax `.?` and `[?` is not supported"),
    ("return == 1", 0, "this word is reserved in CEL"),
    ("int(request.path) == 1", 0, r#"unknown function "int"; known are startsWith, endsWith, contains, matches, lowerAscii, size, list, ip, cidr, containsIP, containsCIDR, family, exists, all, has"#),
    (r#"upstream == "app""#, 0, r#"unknown variable "upstream"; known are request, client, user, route and tls"#),
];

#[test]
fn each_mistake_is_named_where_it_stands() {
    let mut wrong = Vec::new();
    for (source, offset, message) in REFUSALS {
        let errors = errors(source);
        if errors != [(*offset, (*message).to_owned())] {
            wrong.push(format!("{source:?}: {errors:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_mistakes_are_reported_together_in_their_order() {
    let source = r#"request.pth == "/" && client.ip in list("ofices") || request.size == "é" ||
        !user.nme && request.headers["a"].startswith("b")"#;
    let expected = [
        (
            0,
            "unknown variable \"request.pth\"; nearest is \"request.path\"",
        ),
        (40, "unknown list \"ofices\"; nearest is \"offices\""),
        (
            53,
            "\"request.size\" is a number and is compared with a text",
        ),
        (
            86,
            "unknown variable \"user.nme\"; user has the fields id, roles, authenticated",
        ),
        (
            119,
            "unknown function \"startswith\"; nearest is \"startsWith\"",
        ),
    ];
    let expected = expected.map(|(offset, message)| (offset, message.to_owned()));
    assert_eq!(errors(source), expected);
}

#[test]
fn offsets_count_bytes_also_past_other_alphabets() {
    let source = "request.path == \"/été/中文\" && requst.path == \"\"";
    let errors = errors(source);
    assert_eq!(errors.len(), 1);
    assert!(source[errors[0].0..].starts_with("requst.path"));
}

#[test]
fn long_and_deep_conditions_are_refused() {
    let long = format!("request.path == \"{}\"", "a".repeat(4096));
    let expected = "the condition is 4114 bytes long; at most 4096 are allowed";
    assert_eq!(errors(&long), [(4096, expected.to_owned())]);
    let deep = "(".repeat(30);
    let expected = "the condition nests too deep here; split it into several rules";
    assert_eq!(errors(&deep), [(21, expected.to_owned())]);
}
