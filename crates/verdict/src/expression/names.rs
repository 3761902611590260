//! The words that a condition may use, and the nearest one to a word that it may not.

use super::program::{TextField, TruthField};
use crate::pressure::{State, States};

/// What a variable stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Variable {
    Text(TextField),
    Truth(TruthField),
    Size,
    Ip,
    Network,
    Headers,
    Roles,
}

/// Every variable, by its full name.
pub(super) const VARIABLES: [(&str, Variable); 24] = [
    ("request.method", Variable::Text(TextField::Method)),
    ("request.host", Variable::Text(TextField::Host)),
    ("request.path", Variable::Text(TextField::Path)),
    ("request.query", Variable::Text(TextField::Query)),
    ("request.headers", Variable::Headers),
    ("request.size", Variable::Size),
    ("client.ip", Variable::Ip),
    ("client.network", Variable::Network),
    ("client.ja4", Variable::Text(TextField::Ja4)),
    ("client.crawler", Variable::Text(TextField::Crawler)),
    ("clearance.rung", Variable::Text(TextField::Clearance)),
    ("user.id", Variable::Text(TextField::UserId)),
    ("user.roles", Variable::Roles),
    (
        "user.authenticated",
        Variable::Truth(TruthField::Authenticated),
    ),
    ("route", Variable::Text(TextField::Route)),
    ("tls.version", Variable::Text(TextField::TlsVersion)),
    ("tls.sni", Variable::Text(TextField::Sni)),
    ("tls.alpn", Variable::Text(TextField::Alpn)),
    ("pressure.syn_flood", pressure(State::SynFlood)),
    ("pressure.slow_syn_flood", pressure(State::SlowSynFlood)),
    ("pressure.accept_stall", pressure(State::AcceptStall)),
    ("pressure.ack_flood", pressure(State::AckFlood)),
    (
        "pressure.udp_amplification",
        pressure(State::UdpAmplification),
    ),
    (
        "pressure.any",
        Variable::Truth(TruthField::Pressure(States::ALL)),
    ),
];

const fn pressure(state: State) -> Variable {
    Variable::Truth(TruthField::Pressure(States::of(state)))
}

/// Every function and method.
pub(super) const FUNCTIONS: [&str; 15] = [
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "lowerAscii",
    "size",
    "list",
    "ip",
    "cidr",
    "containsIP",
    "containsCIDR",
    "family",
    "exists",
    "all",
    "has",
];

/// The variable called `name`.
pub(super) fn variable(name: &str) -> Option<Variable> {
    VARIABLES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, variable)| *variable)
}

/// The known variable that was most likely meant by `name`: `path` is `request.path`.
pub(super) fn nearest_variable(name: &str) -> Option<&'static str> {
    let names = || VARIABLES.iter().map(|(known, _)| *known);
    names()
        .find(|known| {
            known
                .rsplit_once('.')
                .is_some_and(|(_, last)| last.eq_ignore_ascii_case(name))
        })
        .or_else(|| nearest(name, names()))
}

/// The known function that was most likely meant by `name`.
pub(super) fn nearest_function(name: &str) -> Option<&'static str> {
    // What other languages call them.
    match name {
        "lower" | "toLower" | "lowercase" | "lower_ascii" | "upperAscii" => Some("lowerAscii"),
        "len" | "length" | "count" => Some("size"),
        "matchesRegex" | "regex" | "match" | "rmatch" => Some("matches"),
        "includes" => Some("contains"),
        "starts_with" | "hasPrefix" | "has_prefix" => Some("startsWith"),
        "ends_with" | "hasSuffix" => Some("endsWith"),
        "any" | "some" => Some("exists"),
        _ => nearest(name, FUNCTIONS.into_iter()),
    }
}

/// The one of `known` with the fewest typing errors to `word`, if they are few for its length.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    known
        .map(|known| {
            let distance = strsim::damerau_levenshtein(&lower, &known.to_ascii_lowercase());
            (distance, known)
        })
        .filter(|(distance, known)| *distance <= (known.len() / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// The variables under `root`, such as those of `request`.
pub(super) fn fields_of(root: &str) -> Vec<&'static str> {
    VARIABLES
        .iter()
        .filter_map(|(known, _)| known.split_once('.'))
        .filter(|(head, _)| *head == root)
        .map(|(_, field)| field)
        .collect()
}
