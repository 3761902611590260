//! Asks the guards in order and weighs what they found.
//!
//! 1. **Lists.** An enforced `allow` beats every other list, whatever their order, and ends the
//!    evaluation. Of the others the hardest counts.
//! 2. **Rules**, in order: the first enforced one that matches is the rules' finding, and no later
//!    rule is asked. `allow` ends the evaluation; what a list found before it (a challenge, say)
//!    stands.
//! 3. **Limits** of the route and of all routes, in the configuration's order. The first that is
//!    over and enforced with a refusing action ends the evaluation, so a refused request takes no
//!    token or slot from later limits; what it took from earlier ones it keeps.
//!
//! The hardest enforced finding wins; among equals the first. A list or rule that refuses ends the
//! evaluation at once, so its requests take no tokens. `delay` and `challenge` refuse nothing yet:
//! the evaluation goes on and something harder may be found, which is how a client that hammers the
//! challenge page still runs into its limits.
//!
//! - A limit that is for some pressure alone is passed over, and counts nothing, while there is none
//!   of it ([`crate::policy::LimitSpec::during`]).
//! - A `challenge` without a rung takes the one that the risk calls for ([`Facts::ladder`]).
//! - A `challenge` is void for a client with a clearance of that rung or a higher one, and where
//!   nobody is to be challenged: as if the list or rule had found nothing. A limit throttles then.
//! - A clearance lifts a limit by a factor ([`crate::policy::LimitSpec::cleared`]), in a bucket of its
//!   own: who has solved what an overdrawn limit asked for starts with a full one.
//! - A shadow guard that is reached is asked like any other, counts in its own bucket as if it bit,
//!   goes to [`Decision::observed`], and changes nothing.
//! - A rule that fails to evaluate does not hold and goes to [`Decision::observed`] too.
//! - [`Decision::quota`] is of enforced buckets only: headers tell nobody of a trial.

use crate::{
    Nanos,
    decision::{Action, Decision, Finding, Mode, Quota, Reason, Rung},
    expression::Lists,
    facts::Facts,
    guard::{Case, Guard, Judgement, Level, list::List},
    policy::{Member, Policy},
};
use arrayvec::ArrayVec;
use std::{net::IpAddr, sync::Arc};

/// See [`Policy::decide`].
pub(crate) fn decide(policy: &Policy, facts: &Facts<'_>, now: Nanos) -> Decision {
    let case = Case {
        facts,
        now,
        lists: &policy.lists,
    };
    let mut decision = Decision {
        action: Action::Allow,
        finding: None,
        observed: ArrayVec::new(),
        quota: None,
        slots: ArrayVec::new(),
    };

    for list in &policy.acting_lists {
        let judgement = list.guard.judge(&case);
        if weigh(&mut decision, facts, list, &judgement) == Some(Action::Allow) {
            return decision;
        }
    }
    if decision.action.refuses() {
        return decision;
    }

    for rule in &policy.rules {
        let judgement = rule.guard.judge(&case);
        if let Some(action) = weigh(&mut decision, facts, rule, &judgement) {
            if action == Action::Allow || action.refuses() {
                return decision;
            }
            break;
        }
    }

    for &index in policy.judged(facts.route) {
        let Some(limit) = policy.limits.get(index) else {
            continue;
        };
        if !limit.during.is_empty() && !limit.during.meets(facts.pressure) {
            continue;
        }
        let judgement = limit.guard.judge(&case);
        let bites = weigh(&mut decision, facts, limit, &judgement);
        if limit.mode == Mode::Enforce
            && let Some(level) = judgement.level
        {
            tighten(&mut decision.quota, index, level);
        }
        if let Some(slot) = judgement.slot {
            // More than the configuration allows for one route are not held.
            let _ = decision.slots.try_push(slot);
        }
        if bites.is_some_and(Action::refuses) {
            break;
        }
    }
    decision
}

/// See [`Policy::judge_address`].
pub(crate) fn judge_address(policy: &Policy, client: IpAddr) -> Option<Finding> {
    let mut hardest: Option<&Member<List>> = None;
    for list in &policy.acting_lists {
        if list.mode == Mode::Shadow || !policy.lists.contains(list.guard.index, client) {
            continue;
        }
        if list.guard.then == Action::Allow {
            return None;
        }
        if hardest.is_none_or(|known| list.guard.then > known.guard.then) {
            hardest = Some(list);
        }
    }
    let list = hardest.filter(|list| list.guard.then >= Action::Deny)?;
    Some(finding(list, list.guard.then, Reason::Listed))
}

/// Puts a guard's finding where it belongs, and returns the action if it bites.
fn weigh<G>(
    decision: &mut Decision,
    facts: &Facts<'_>,
    member: &Member<G>,
    judgement: &Judgement,
) -> Option<Action> {
    let (action, reason) = judgement.found?;
    let action = match action {
        Action::Challenge(asked) if reason != Reason::Failed => challenge(facts, asked, reason)?,
        action => action,
    };
    if reason == Reason::Failed || member.mode == Mode::Shadow {
        // What does not fit is not worth an allocation.
        let _ = decision.observed.try_push(finding(member, action, reason));
        return None;
    }
    if decision.finding.is_none() || action > decision.action {
        decision.action = action;
        decision.finding = Some(finding(member, action, reason));
    }
    Some(action)
}

/// The challenge that this client still has to solve. Who needs none, or has solved it, passes; over
/// a limit it is throttled, since a clearance is no leave to flood.
fn challenge(facts: &Facts<'_>, asked: Option<Rung>, reason: Reason) -> Option<Action> {
    // Judging the risk costs something: only where nothing else settles it.
    if !facts.unchallenged && facts.clearance < Some(Rung::ThirdParty) {
        let rung = asked.unwrap_or_else(|| facts.ladder.rung(reason));
        if facts.clearance < Some(rung) {
            return Some(Action::Challenge(Some(rung)));
        }
    }
    match reason {
        Reason::OverRate { .. } | Reason::OverConcurrency { .. } => Some(Action::Throttle),
        _ => None,
    }
}

fn finding<G>(member: &Member<G>, action: Action, reason: Reason) -> Finding {
    Finding {
        source: member.source,
        name: Arc::clone(&member.name),
        action,
        mode: member.mode,
        reason,
    }
}

/// The tightest bucket: the fewest left, and of those the longest until it is full.
fn tighten(quota: &mut Option<Quota>, limit: usize, level: Level) {
    let looser = |known: &Quota| {
        (level.remaining, std::cmp::Reverse(level.reset))
            < (known.remaining, std::cmp::Reverse(known.reset))
    };
    if quota.as_ref().is_none_or(looser) {
        *quota = Some(Quota {
            limit,
            remaining: level.remaining,
            reset: level.reset,
            cleared: level.cleared,
        });
    }
}
