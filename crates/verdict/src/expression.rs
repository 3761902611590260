//! CEL conditions, parsed by the `cel` crate, checked at load and compiled to an evaluator of our own
//! over [`Facts`]: no context, no allocation.

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
