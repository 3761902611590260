//! Conditions in CEL, the Common Expression Language, compiled.
//!
//! [`Expression::compile`] parses with the `cel` crate, checks every name and type, and builds a
//! program of our own; [`Expression::holds`] runs it over [`Facts`] without allocating. Whatever is
//! not supported is refused at load, with its place, so a rule that loads is a rule that works.
//!
//! ```text
//! source -> scan (bounds, places) -> parse (cel) -> check (names, types) -> program -> evaluate
//! ```
//!
//! # What conditions are made of
//!
//! | type | where from |
//! |---|---|
//! | text | `request.{method,host,path,query}`, `client.{ja4,crawler}`, `clearance.rung`, `user.id`, `route`, `tls.{version,sni,alpn}`, `"…"`, `'…'`, `r"…"`; literals joined by `+` |
//! | number | `request.size`, `42`, `0x2a`, `size(x)`, `x.size()`, `client.ip.family()`, `+ - * / %` |
//! | condition | `user.authenticated`, `pressure.{syn_flood,slow_syn_flood,accept_stall,ack_flood,udp_amplification,any}`, `true`, `false`, and all below |
//! | address | `client.ip`, `ip("192.0.2.1")` |
//! | network | `client.network`, `cidr("10.0.0.0/8")` |
//! | list | `user.roles`, `list("name")`, `[…]` of literal texts, numbers or addresses |
//! | map | `request.headers`: `request.headers["user-agent"]`, `request.headers.referer` |
//!
//! - Logic: `&&`, `||`, `!`, `a ? b : c`.
//! - `==` and `!=` on two of a type; `<`, `<=`, `>`, `>=` on texts and numbers.
//! - Texts: `startsWith`, `endsWith`, `contains`, `matches` (RE2 syntax, a literal pattern),
//!   `lowerAscii()`.
//! - `in`: a text in a literal list, `user.roles` or (as a literal) `request.headers`; a number in
//!   a literal list; an address in a literal list or `list("name")`. `has(request.headers.referer)`.
//! - Networks, as in Kubernetes: `containsIP(address)`, `containsCIDR(network)`.
//! - Macros over `user.roles` or a literal list: `exists`, `all`, `exists_one`.
//!
//! # How it differs from CEL at large
//!
//! - Texts are bytes, since clients need not send UTF-8: order, patterns (`.` is one byte, `\w` is
//!   ASCII) and `contains` go by bytes. `size()` counts code points.
//! - Names of headers are lower-cased when the condition is compiled. Of a header that was sent
//!   several times, the first value counts.
//! - Not supported: `null`, bytes, doubles, unsigned numbers, maps, `map`, `filter`, conversions.
//!
//! # Failing
//!
//! Reading an absent header, dividing by zero and overflowing fail the evaluation. `false && …` and
//! `true || …` hold their value whatever fails beside them, in either order, as CEL has it.

mod check;
mod evaluate;
mod names;
mod parse;
mod program;
mod scan;
mod texts;

use crate::facts::Facts;
use std::sync::Arc;

/// The lists that an expression may ask, by name. Made when the policy is built.
pub trait Lists {
    /// Whether `ip` stands in the list with index `list`.
    fn contains(&self, list: usize, ip: std::net::IpAddr) -> bool;
}

/// A condition that was checked and compiled.
#[derive(Clone, Debug)]
pub struct Expression {
    source: Arc<str>,
    program: Arc<program::Test>,
}

/// Why a condition can't be loaded, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionError {
    /// Byte offset in the source.
    pub offset: usize,
    /// What is wrong, with the nearest valid word where there is one.
    pub message: String,
}

/// Evaluation failed (for example a header compared that is not there); the condition does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluationError(pub &'static str);

impl Expression {
    /// Parses, checks names and types, and compiles. `lists` are the names of the lists, by index.
    ///
    /// # Errors
    /// All that is wrong with the source, each with its place.
    pub fn compile(source: &str, lists: &[Arc<str>]) -> Result<Self, Vec<ExpressionError>> {
        let parsed = parse::parse(source).map_err(|error| vec![error])?;
        let program = check::check(&parsed, lists)?;
        Ok(Self {
            source: source.into(),
            program: program.into(),
        })
    }

    /// What was compiled.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the condition holds.
    ///
    /// # Errors
    /// When the facts lack what the condition looks at.
    pub fn holds(&self, facts: &Facts<'_>, lists: &dyn Lists) -> Result<bool, EvaluationError> {
        self.program.holds(&evaluate::Scope {
            facts,
            lists,
            bound: Default::default(),
        })
    }
}

#[cfg(test)]
mod tests;
