//! A condition, and what follows when it holds.

use super::{Case, Guard, Judgement};
use crate::{
    decision::{Action, Reason},
    expression::Expression,
};

/// A rule. One that fails to evaluate does not hold, and says so with [`Reason::Failed`].
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) when: Expression,
    pub(crate) then: Action,
}

impl Guard for Rule {
    fn judge(&self, case: &Case<'_>) -> Judgement {
        match self.when.holds(case.facts, case.lists) {
            Ok(false) => Judgement::default(),
            Ok(true) => Judgement::found(self.then, Reason::Matched),
            Err(_) => Judgement::found(self.then, Reason::Failed),
        }
    }
}
