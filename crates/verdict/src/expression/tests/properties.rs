//! What holds for any source: the compiler never panics, and what it compiles means what the
//! reference interpreter of the `cel` crate says.

use super::{Visit, list_names, nobody};
use crate::expression::{Expression, scan::MAX_SOURCE};
use cel::{Context, Program, Value};
use proptest::prelude::*;
use std::collections::HashMap;

/// Pieces that conditions are made of, to get past the first look of the parser.
const PIECES: [&str; 48] = [
    "request",
    ".path",
    ".headers",
    "[\"a\"]",
    "user.roles",
    ".exists(",
    "r, ",
    "r",
    "client.ip",
    "list(",
    "\"offices\"",
    ")",
    "(",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    "&&",
    "||",
    "!",
    "==",
    "in",
    "<",
    "+",
    "-",
    "*",
    "/",
    "%",
    ".",
    "1",
    "0x",
    "\"é\"",
    "'",
    "\"",
    "r\"",
    "\"\"\"",
    "\\",
    "has(",
    "size(",
    "cidr(",
    "true",
    "null",
    "//",
    "\n",
    "\u{feff}",
];

fn never_panics(source: &str) {
    match Expression::compile(source, &list_names()) {
        Ok(condition) => {
            let _ = nobody().judge(&condition);
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!(error.offset <= source.len(), "{source:?} {error:?}");
                assert!(!error.message.contains('\n'), "{source:?} {error:?}");
                assert_ne!(
                    error.message, "this is not a condition that can be read",
                    "the parser panicked on {source:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_panics_the_compiler(source in any::<String>()) {
        never_panics(&source);
    }

    #[test]
    fn no_bytes_panic_the_compiler(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        never_panics(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_pieces_panic_the_compiler(
        pieces in prop::collection::vec(prop::sample::select(PIECES.as_slice()), 0..24),
        gap in prop::sample::select(["", " "].as_slice()),
    ) {
        never_panics(&pieces.join(gap));
    }

    #[test]
    fn conditions_agree_with_the_reference(source in condition(), visit in visit()) {
        agree(&source, &visit)?;
    }
}

#[test]
fn hostile_sizes_are_refused_or_compiled_in_the_stack_there_is() {
    for piece in [
        "(",
        "[",
        "{",
        "!",
        "-",
        ".a",
        "a.",
        "a+",
        "a==",
        "a?a:",
        "a?",
        "[a",
        "(a in ",
        "f(",
        "!(",
        "a,",
        "a ",
        "1:",
        "&&a",
        "a||",
        "\"",
        "\\",
        "//",
        "a in ",
        "?",
        "has(",
        "x.all(y, ",
    ] {
        for times in [8, 16, 20, 64, MAX_SOURCE / piece.len(), MAX_SOURCE] {
            never_panics(&piece.repeat(times));
            never_panics(&format!("{}true", piece.repeat(times)));
        }
    }
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("size(", ")"),
        ("!(", ")"),
        ("(true&&", ")"),
    ] {
        for times in 1..40 {
            never_panics(&format!(
                "{}true{}",
                open.repeat(times),
                close.repeat(times)
            ));
        }
    }
}

#[test]
fn deep_but_sane_conditions_compile() {
    let nested = format!("{}true{}", "(".repeat(16), ")".repeat(16));
    let long = vec!["request.path == \"/a\""; 170].join(" || ");
    let list = format!("request.path in [{}]", vec!["\"/abcd\""; 500].join(","));
    for source in [nested, long, list] {
        assert!(Expression::compile(&source, &[]).is_ok(), "{source}");
    }
}

/// Judges with both and compares; an error is an error, whatever its words.
fn agree(source: &str, visit: &Visit) -> Result<(), TestCaseError> {
    let ours = Expression::compile(source, &list_names());
    let ours = ours.map_err(|errors| TestCaseError::fail(format!("{source}: {errors:?}")))?;
    let ours = visit.judge(&ours).ok();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut context = Context::default();
    let headers: HashMap<String, String> = visit
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), text(value)))
        .collect();
    let request: HashMap<String, Value> = [
        ("method", visit.method.clone().into()),
        ("path", text(&visit.path).into()),
        ("size", Value::Int(i64::try_from(visit.size).unwrap())),
        ("headers", headers.into()),
    ]
    .map(|(name, value): (&str, Value)| (name.to_owned(), value))
    .into();
    let user: HashMap<String, Value> = [
        ("id", visit.user.clone().into()),
        ("roles", visit.roles.clone().into()),
        ("authenticated", Value::Bool(!visit.user.is_empty())),
    ]
    .map(|(name, value): (&str, Value)| (name.to_owned(), value))
    .into();
    context.add_variable_from_value("request", request);
    context.add_variable_from_value("user", user);
    let program = Program::compile(source);
    let program = program.map_err(|error| TestCaseError::fail(format!("{source}: {error}")))?;
    let theirs = match program.execute(&context) {
        Ok(Value::Bool(value)) => Some(value),
        Ok(other) => return Err(TestCaseError::fail(format!("{source}: {other:?}"))),
        Err(_) => None,
    };
    prop_assert_eq!(ours, theirs, "{} of {:?}", source, visit);
    Ok(())
}

const WORDS: [&str; 8] = ["", "a", "b", "ab", "A", "admin", "é", "/a"];

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(WORDS.as_slice()).prop_map(str::to_owned)
}

fn visit() -> impl Strategy<Value = Visit> {
    let headers = prop::collection::hash_map(
        prop::sample::select(["a", "b"].as_slice()).prop_map(str::to_owned),
        word().prop_map(String::into_bytes),
        0..=2,
    );
    let roles = prop::collection::vec(word(), 0..3);
    (word(), word(), 0_u64..4, word(), roles, headers).prop_map(
        |(method, path, size, user, roles, headers)| Visit {
            method,
            path: path.into_bytes(),
            size,
            user,
            roles,
            headers: headers.into_iter().collect(),
            ..nobody()
        },
    )
}

/// A text, as source.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        word().prop_map(|word| format!("\"{word}\"")),
        (word(), word()).prop_map(|(a, b)| format!("(\"{a}\" + '{b}')")),
        prop::sample::select(
            [
                "request.method",
                "request.path",
                "user.id",
                "request.headers[\"a\"]",
                "request.headers.b",
                "(user.authenticated ? request.path : \"a\")",
            ]
            .as_slice()
        )
        .prop_map(str::to_owned),
    ]
}

/// A number, as source.
fn number() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (-3_i64..4).prop_map(|number| number.to_string()),
        Just("9223372036854775807".to_owned()),
        Just("request.size".to_owned()),
        Just("user.roles.size()".to_owned()),
        text().prop_map(|text| format!("size({text})")),
    ];
    // No `/`, `%` by a literal: what is folded to a division by zero is refused at load.
    let operator = prop::sample::select(["+", "-", "*"].as_slice());
    (leaf, operator, -3_i64..4, any::<bool>()).prop_map(|(leaf, operator, literal, plain)| {
        if plain || leaf.starts_with('9') {
            leaf
        } else {
            format!("({leaf} {operator} {literal})")
        }
    })
}

/// A condition, as source.
fn condition() -> impl Strategy<Value = String> {
    let order = || prop::sample::select(["==", "!=", "<", "<=", ">", ">="].as_slice());
    let method = prop::sample::select(["startsWith", "endsWith", "contains"].as_slice());
    let pattern = prop::sample::select(["^a", "b$", "a|b", "^$", "[a-z]+"].as_slice());
    let words = || {
        prop::collection::vec(word(), 1..12)
            .prop_map(|words| format!("[\"{}\"]", words.join("\", \"")))
    };
    let leaf = prop_oneof![
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("user.authenticated".to_owned()),
        Just("\"a\" in request.headers".to_owned()),
        Just("has(request.headers.b)".to_owned()),
        (text(), order(), text()).prop_map(|(a, order, b)| format!("{a} {order} {b}")),
        (number(), order(), number()).prop_map(|(a, order, b)| format!("{a} {order} {b}")),
        (text(), method, text()).prop_map(|(a, method, b)| format!("{a}.{method}({b})")),
        (text(), pattern).prop_map(|(text, pattern)| format!("{text}.matches(\"{pattern}\")")),
        (text(), words()).prop_map(|(text, words)| format!("{text} in {words}")),
        text().prop_map(|text| format!("{text} in user.roles")),
        number().prop_map(|number| format!("{number} in [0, 1, 2]")),
    ];
    let list = prop_oneof![Just("user.roles".to_owned()), words()];
    let quantifier = prop::sample::select(["exists", "all", "exists_one"].as_slice());
    leaf.prop_recursive(4, 24, 3, move |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            pair.clone().prop_map(|(a, b)| format!("({a}) && ({b})")),
            pair.clone().prop_map(|(a, b)| format!("({a}) || ({b})")),
            pair.prop_map(|(a, b)| format!("({a}) == ({b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a}) ? ({b}) : ({c})")),
            (list.clone(), quantifier.clone(), word(), inner.clone()).prop_map(
                |(list, quantifier, word, inner)| {
                    format!("{list}.{quantifier}(r, r == \"{word}\" || ({inner}))")
                }
            ),
        ]
    })
}
