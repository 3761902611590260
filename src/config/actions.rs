//! Actions and modes, as lists, rules and limits write them.

use super::{
    decode::{self, Context, Fields, found, hint, quote},
    yaml::{Kind, Node},
};
use std::time::Duration;
use verdict::decision::{Action, Mode, Rung};

const WORDS: &[&str] = &[
    "allow",
    "delay",
    "challenge",
    "throttle",
    "tarpit",
    "deny",
    "drop",
    "ban",
];
pub const RUNGS: &[(&str, Rung)] = &[
    ("silent", Rung::Silent),
    ("proof_of_work", Rung::ProofOfWork),
    ("captcha", Rung::Captcha),
    ("third_party", Rung::ThirdParty),
];
const MODES: &[(&str, Mode)] = &[("enforce", Mode::Enforce), ("shadow", Mode::Shadow)];
const TARPIT: Duration = Duration::from_secs(10);
/// Held requests cost memory.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// Who acts; not every action makes sense for everyone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    List,
    Rule,
    /// A token bucket.
    Rate,
    /// Requests in flight of one client.
    Concurrency,
}

pub fn mode(ctx: &mut Context, node: &Node) -> Option<Mode> {
    decode::word(MODES)(ctx, node)
}

pub fn action(actor: Actor) -> impl FnOnce(&mut Context, &Node) -> Option<Action> {
    move |ctx, node| {
        let action = match &node.kind {
            Kind::Scalar { text, .. } => bare(ctx, node, text, actor),
            Kind::Map(_) => with_argument(ctx, node),
            _ => ctx.fail(
                &node.place,
                format!(
                    "expected an action, found {}{}",
                    found(node),
                    hint("", words())
                ),
            ),
        }?;
        let limit = matches!(actor, Actor::Rate | Actor::Concurrency);
        if action == Action::Allow && limit {
            return ctx.fail(
                &node.place,
                "a limit that allows what is over it limits nothing; \
                 to try it out first, write `mode: shadow`",
            );
        }
        Some(action)
    }
}

fn words() -> impl Iterator<Item = &'static str> {
    WORDS.iter().copied()
}

fn bare(ctx: &mut Context, node: &Node, word: &str, actor: Actor) -> Option<Action> {
    Some(match word {
        "allow" => Action::Allow,
        "delay" if actor == Actor::Rate => Action::Delay(None),
        "delay" => return ctx.fail(&node.place, "say how long: `{ delay: 500ms }`"),
        "challenge" => Action::Challenge(None),
        "throttle" => Action::Throttle,
        "tarpit" => Action::Tarpit(TARPIT),
        "deny" => Action::Deny,
        "drop" => Action::Drop,
        "ban" => return ctx.fail(&node.place, "say how long: `{ ban: 10m }`"),
        _ => {
            return ctx.fail(
                &node.place,
                format!("{} is not an action{}", quote(word), hint(word, words())),
            );
        }
    })
}

fn rung(ctx: &mut Context, node: &Node) -> Option<Rung> {
    let rung = decode::word(RUNGS)(ctx, node)?;
    if rung == Rung::ThirdParty {
        // Whether there is a provider is known when all has been read.
        ctx.third_party.push(node.place.clone());
    }
    Some(rung)
}

fn with_argument(ctx: &mut Context, node: &Node) -> Option<Action> {
    let mut fields = Fields::of(ctx, node, "an action")?;
    let delay = fields.optional(ctx, "delay", hold);
    let tarpit = fields.optional(ctx, "tarpit", hold);
    let challenge = fields.optional(ctx, "challenge", rung);
    let ban = fields.optional(ctx, "ban", decode::duration);
    let Kind::Map(entries) = &node.kind else {
        return None;
    };
    if let [(key, _)] = entries.as_slice()
        && matches!(key.text.as_str(), "allow" | "throttle" | "deny" | "drop")
    {
        return ctx.fail(
            &key.place,
            format!("{} takes nothing; write it alone", quote(&key.text)),
        );
    }
    let unknown = |(key, _): &(super::yaml::Key, Node)| !WORDS.contains(&key.text.as_str());
    let explained = entries.iter().any(unknown);
    fields.finish(ctx);
    let given = [
        delay?.map(|duration| Action::Delay(Some(duration))),
        tarpit?.map(Action::Tarpit),
        challenge?.map(|rung| Action::Challenge(Some(rung))),
        ban?.map(Action::Ban),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(action), None) => Some(action),
        (Some(_), Some(_)) => ctx.fail(&node.place, "one action only"),
        (None, _) if explained => None,
        (None, _) => ctx.fail(
            &node.place,
            "expected an action like `deny` or `{ ban: 10m }`",
        ),
    }
}

fn hold(ctx: &mut Context, node: &Node) -> Option<Duration> {
    let duration = decode::duration(ctx, node)?;
    if duration > LONGEST_HOLD {
        return ctx.fail(
            &node.place,
            "a request is held for at most `5m`: held requests cost memory",
        );
    }
    Some(duration)
}
