//! Functions and methods: their arguments, and what they give.

use super::{Checker, Value};
use crate::expression::{
    names,
    parse::quote,
    program::{Address, Needle, Network, Number, Test, Text, Texts},
};
use cel::common::ast::{CallExpr, IdedExpr};
use ipnet::IpNet;
use memchr::memmem::Finder;
use regex::bytes::{Regex, RegexBuilder};
use std::net::IpAddr;

/// Bounds of one compiled pattern, in bytes: of the program, and of what it caches while it runs.
const PATTERN_SIZE: usize = 256 << 10;
/// How deep the groups of a pattern may nest.
const PATTERN_DEPTH: u32 = 32;

impl<'a> Checker<'a> {
    pub(super) fn call(&mut self, expr: &'a IdedExpr, call: &'a CallExpr) -> Option<Value> {
        match &call.target {
            Some(target) => self.method(expr, call, target),
            None => self.operator(expr, call),
        }
    }

    pub(super) fn function(&mut self, expr: &'a IdedExpr, call: &'a CallExpr) -> Option<Value> {
        let name = call.func_name.trim_start_matches('.');
        let place = self.parsed.name_of_call(expr);
        match (name, call.args.as_slice()) {
            ("size", [of]) => self.size(of),
            ("matches", [text, pattern]) => {
                let value = self.value(text);
                let (Some(value), Some(pattern)) = (value, self.pattern(pattern)) else {
                    return None;
                };
                self.matches(text, value, pattern)
            }
            ("list", [name]) => self.named_list(name),
            ("ip", [text]) => {
                let literal = self.literal_text(text, "ip()")?;
                match literal.parse::<IpAddr>() {
                    Ok(ip) => Some(Value::Address(Address::Literal(ip.to_canonical()))),
                    Err(_) => self.refuse_at(
                        text,
                        if literal.parse::<IpNet>().is_ok() {
                            format!("\"{literal}\" is a network; write cidr(\"{literal}\")")
                        } else {
                            format!("\"{literal}\" is no IPv4 or IPv6 address")
                        },
                    ),
                }
            }
            ("cidr", [text]) => self.network(text),
            ("size" | "list" | "ip" | "cidr" | "has", args) => {
                self.wrong_count(place, name, "1 argument", args.len())
            }
            ("matches", args) => self.wrong_count(place, name, "2 arguments", args.len()),
            _ if names::FUNCTIONS.contains(&name) => self.refuse(
                place,
                format!("`{name}` is called on a value, as in request.path.{name}(…)"),
            ),
            _ => self.unknown_function(place, name),
        }
    }

    fn method(
        &mut self,
        expr: &'a IdedExpr,
        call: &'a CallExpr,
        target: &'a IdedExpr,
    ) -> Option<Value> {
        let name = call.func_name.as_str();
        let place = self.parsed.name_of_call(expr);
        if !names::FUNCTIONS.contains(&name) && name != "exists_one" {
            return self.unknown_function(place, name);
        }
        let wanted = match name {
            "startsWith" | "endsWith" | "contains" | "matches" | "containsIP" | "containsCIDR" => 1,
            "exists" | "all" | "exists_one" => 2,
            "list" | "ip" | "cidr" | "has" => {
                return self.refuse(
                    place,
                    format!("`{name}` is not called on a value: write {name}(…)"),
                );
            }
            _ => 0,
        };
        if call.args.len() != wanted {
            let wanted = match wanted {
                0 => "no argument",
                1 => "1 argument",
                _ => "2 arguments",
            };
            return self.wrong_count(place, name, wanted, call.args.len());
        }
        if name == "size" {
            return self.size(target);
        }
        let value = self.value(target);
        if name == "matches" {
            let pattern = call.args.first().and_then(|pattern| self.pattern(pattern));
            return self.matches(target, value?, pattern?);
        }
        let argument = match call.args.first() {
            Some(argument) => Some((argument, self.value(argument)?)),
            None => None,
        };
        match (name, value?, argument) {
            ("startsWith", Value::Text(text), Some((_, Value::Text(start)))) => {
                Some(Value::Test(Test::StartsWith(Box::new((text, start)))))
            }
            ("endsWith", Value::Text(text), Some((_, Value::Text(end)))) => {
                Some(Value::Test(Test::EndsWith(Box::new((text, end)))))
            }
            ("contains", Value::Text(text), Some((place, Value::Text(needle)))) => {
                self.contains(text, place, needle)
            }
            ("lowerAscii", Value::Text(text), None) => Some(Value::Text(match text {
                Text::Literal(bytes) => Text::Literal(bytes.to_ascii_lowercase().into()),
                text @ Text::Lower(_) => text,
                text => Text::Lower(text.into()),
            })),
            ("family", Value::Address(address), None) => {
                Some(Value::Number(Number::Family(address.into())))
            }
            ("containsIP", Value::Network(network), Some((_, Value::Address(address)))) => {
                Some(Value::Test(Test::ContainsAddress(network, address)))
            }
            ("containsCIDR", Value::Network(outer), Some((_, Value::Network(inner)))) => {
                Some(Value::Test(Test::ContainsNetwork(outer, inner)))
            }
            (_, Value::Text(_) | Value::Network(_), Some((argument, value)))
                if argument_fits_nothing(name, &value) =>
            {
                let said = self.saying(argument, &value);
                let wanted = match name {
                    "containsIP" => "an address",
                    "containsCIDR" => "a network",
                    _ => "a text",
                };
                let text = self.parsed.text_of(argument);
                let hint = match (name, &value) {
                    ("containsIP", Value::Text(Text::Literal(_))) => format!("; write ip({text})"),
                    ("containsCIDR", Value::Text(Text::Literal(_))) => {
                        format!("; write cidr({text})")
                    }
                    ("containsIP", Value::Network(_)) => "; write containsCIDR".into(),
                    ("containsCIDR", Value::Address(_)) => "; write containsIP".into(),
                    _ => String::new(),
                };
                self.refuse_at(
                    argument,
                    format!("{said} where `{name}` needs {wanted}{hint}"),
                )
            }
            (_, value, argument) => {
                let said = self.saying(target, &value);
                let hint = match (name, value, argument) {
                    ("contains", Value::Texts(_) | Value::List(_), Some((argument, _))) => format!(
                        "; write {} in {}",
                        self.parsed.text_of(argument),
                        self.parsed.text_of(target)
                    ),
                    ("exists" | "all", _, _) => "; macros go through lists of texts".into(),
                    _ => String::new(),
                };
                self.refuse(place, format!("{said} and has no `{name}`{hint}"))
            }
        }
    }

    fn unknown_function<T>(&mut self, place: usize, name: &str) -> Option<T> {
        let hint = match names::nearest_function(name) {
            Some(nearest) => format!("; nearest is \"{nearest}\""),
            None => format!("; known are {}", names::FUNCTIONS.join(", ")),
        };
        self.refuse(place, format!("unknown function \"{name}\"{hint}"))
    }

    fn wrong_count<T>(
        &mut self,
        place: usize,
        name: &str,
        wanted: &str,
        given: usize,
    ) -> Option<T> {
        self.refuse(place, format!("`{name}` takes {wanted}, not {given}"))
    }

    fn size(&mut self, of: &'a IdedExpr) -> Option<Value> {
        match self.value(of)? {
            Value::Text(text) => Some(Value::Number(Number::TextSize(text.into()))),
            Value::Texts(Texts::Roles) => Some(Value::Number(Number::RoleCount)),
            other => {
                let said = self.saying(of, &other);
                let hint = match other {
                    Value::Number(_) => "; it is already a size",
                    _ => "",
                };
                self.refuse_at(of, format!("{said} and has no size{hint}"))
            }
        }
    }

    fn contains(&mut self, text: Text, place: &IdedExpr, needle: Text) -> Option<Value> {
        let needle = match needle {
            Text::Literal(bytes) => Needle::Literal(Box::new(Finder::new(&bytes).into_owned())),
            other if lowers(&text) || lowers(&other) => {
                return self.refuse_at(
                    place,
                    "with lowerAscii(), `contains` can only look for a literal text",
                );
            }
            other => Needle::Text(other),
        };
        Some(Value::Test(Test::Contains(Box::new((text, needle)))))
    }

    fn matches(&mut self, place: &IdedExpr, value: Value, pattern: Regex) -> Option<Value> {
        match value {
            Value::Text(text) if lowers(&text) => self.refuse_at(
                place,
                "`matches` can't look at a text through lowerAscii(); start the pattern with (?i)",
            ),
            Value::Text(text) => Some(Value::Test(Test::Matches(Box::new((text, pattern))))),
            other => {
                let said = self.saying(place, &other);
                self.refuse_at(place, format!("{said} and has no `matches`"))
            }
        }
    }

    /// A pattern in RE2's syntax, matched on bytes.
    fn pattern(&mut self, expr: &'a IdedExpr) -> Option<Regex> {
        let pattern = self.literal_text(expr, "matches()")?;
        let built = RegexBuilder::new(&pattern)
            .unicode(false)
            .size_limit(PATTERN_SIZE)
            .dfa_size_limit(PATTERN_SIZE)
            .nest_limit(PATTERN_DEPTH)
            .build();
        match built {
            Ok(regex) => Some(regex),
            Err(regex::Error::CompiledTooBig(_)) => self.refuse_at(
                expr,
                format!(
                    "this pattern takes more than {} KiB; shorten its repetitions",
                    PATTERN_SIZE >> 10
                ),
            ),
            Err(error) => {
                // The library draws the pattern over several lines; the last one says what is wrong.
                let said = error.to_string();
                let said = said.lines().last().unwrap_or_default();
                let said = quote(said.strip_prefix("error: ").unwrap_or(said));
                self.refuse_at(expr, format!("this pattern can't be read: {said}"))
            }
        }
    }

    fn named_list(&mut self, expr: &'a IdedExpr) -> Option<Value> {
        let name = self.literal_text(expr, "list()")?;
        if let Some(index) = self.lists.iter().position(|list| **list == *name) {
            return Some(Value::List(index));
        }
        let nearest = names::nearest(&name, self.lists.iter().map(|list| &**list));
        let hint = match nearest {
            Some(nearest) => format!("; nearest is \"{nearest}\""),
            None if self.lists.is_empty() => "; there are no lists".into(),
            None => String::new(),
        };
        self.refuse_at(expr, format!("unknown list \"{}\"{hint}", quote(&name)))
    }

    fn network(&mut self, expr: &'a IdedExpr) -> Option<Value> {
        let literal = self.literal_text(expr, "cidr()")?;
        match literal.parse::<IpNet>() {
            Ok(network) if network.trunc() == network => {
                Some(Value::Network(Network::Literal(network)))
            }
            Ok(network) => self.refuse_at(
                expr,
                format!(
                    "\"{literal}\" has bits set past its length; write \"{}\"",
                    network.trunc()
                ),
            ),
            Err(_) => self.refuse_at(
                expr,
                if literal.parse::<IpAddr>().is_ok() {
                    format!("\"{literal}\" is an address; write ip(\"{literal}\")")
                } else {
                    format!("\"{}\" is no network such as 10.0.0.0/8", quote(&literal))
                },
            ),
        }
    }

    /// The argument of a function that is asked for at load.
    fn literal_text(&mut self, expr: &'a IdedExpr, function: &str) -> Option<String> {
        match self.value(expr)? {
            Value::Text(Text::Literal(bytes)) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            other => {
                let said = self.saying(expr, &other);
                self.refuse_at(expr, format!("{said}; `{function}` takes a literal text"))
            }
        }
    }
}

fn argument_fits_nothing(name: &str, value: &Value) -> bool {
    match name {
        "startsWith" | "endsWith" | "contains" => !matches!(value, Value::Text(_)),
        "containsIP" => !matches!(value, Value::Address(_)),
        "containsCIDR" => !matches!(value, Value::Network(_)),
        _ => false,
    }
}

/// Whether a text is looked at through `lowerAscii()`, at least sometimes.
fn lowers(text: &Text) -> bool {
    match text {
        Text::Lower(_) => true,
        Text::Choice(choice) => lowers(&choice.1) || lowers(&choice.2),
        _ => false,
    }
}
