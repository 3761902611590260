//! `lists`, `rules` and `limits`: what the verdict crate decides by.

use super::{
    actions::{self, Actor},
    addresses,
    connections::count,
    decode::{self, Context, Fields, hint, quote, text},
    list_file, pressure,
    units::LARGEST_AMOUNT,
    yaml::{self, Kind, Node},
};
use std::{num::NonZeroU32, sync::Arc, time::Duration};
use verdict::{
    decision::{Action, CARRIED},
    expression::Expression,
    policy::{KeyPart, LimitKind, LimitSpec, ListSpec, RouteSpec, RuleSpec},
    pressure::States,
};

/// Tables are allocated as they fill; 32 bytes a key.
const MAXIMUM_KEYS: u32 = 100_000_000;
const LONGEST_EXPRESSION: usize = 16 * 1024;

const KEY_PARTS: &[(&str, KeyPart)] = &[
    ("client.ip", KeyPart::ClientIp),
    ("client.network", KeyPart::ClientNetwork),
    ("client.ja4", KeyPart::ClientJa4),
    ("user.id", KeyPart::UserId),
    ("user.role", KeyPart::UserRole),
    ("route", KeyPart::Route),
    ("upstream", KeyPart::Upstream),
    ("host", KeyPart::Host),
    ("path", KeyPart::Path),
    ("method", KeyPart::Method),
];

pub fn lists(ctx: &mut Context, node: &Node) -> Option<Vec<ListSpec>> {
    let entries = decode::named(ctx, node, "`lists`")?;
    let lists: Vec<_> = entries
        .iter()
        .map(|(key, node)| list(ctx, key.text.as_str().into(), node))
        .collect();
    lists.into_iter().collect()
}

fn list(ctx: &mut Context, name: Arc<str>, node: &Node) -> Option<ListSpec> {
    let mut fields = Fields::of(ctx, node, "a list")?;
    let inline = fields.optional(ctx, "networks", decode::list(addresses::network));
    let file = fields.optional(ctx, "file", list_file::read);
    if fields.take("networks").is_none() && fields.take("file").is_none() {
        let place = fields.place();
        ctx.problems.add(
            place,
            "a list lacks `file` or `networks` (it may have both)",
        );
    }
    let then = fields.optional(ctx, "then", actions::action(Actor::List));
    let mode = fields.or(ctx, "mode", "enforce", actions::mode);
    fields.finish(ctx);
    let mut networks = inline?.unwrap_or_default();
    networks.extend(file?.unwrap_or_default());
    Some(ListSpec {
        name,
        networks,
        then: then?,
        mode: mode?,
    })
}

pub fn rules(ctx: &mut Context, node: &Node, lists: &[Arc<str>]) -> Option<Vec<RuleSpec>> {
    decode::at_most(ctx, node, 5_000, "rules")?;
    let mut names: Vec<(String, usize)> = Vec::new();
    decode::list(|ctx, node| {
        let mut fields = Fields::of(ctx, node, "a rule")?;
        let name = fields.required(ctx, "name", decode::name);
        let when = fields.required(ctx, "when", |ctx, node| expression(ctx, node, lists));
        let then = fields.required(ctx, "then", actions::action(Actor::Rule));
        let mode = fields.or(ctx, "mode", "enforce", actions::mode);
        fields.finish(ctx);
        let name = name?;
        match names.iter().find(|(other, _)| **other == *name) {
            Some((_, line)) => ctx.problems.add(
                &node.place,
                format!("a second rule `{name}`, first on line {line}"),
            ),
            None => names.push((name.to_string(), node.place.line)),
        }
        Some(RuleSpec {
            name,
            when: when?,
            then: then?,
            mode: mode?,
        })
    })(ctx, node)
}

fn expression(ctx: &mut Context, node: &Node, lists: &[Arc<str>]) -> Option<Expression> {
    let source = text(ctx, node)?;
    if source.len() > LONGEST_EXPRESSION {
        return ctx.fail(
            &node.place,
            "a condition is at most 16 KiB long; networks belong into a list",
        );
    }
    match Expression::compile(source, lists) {
        Ok(expression) => Some(expression),
        Err(errors) => {
            for error in errors {
                let place = yaml::place_within(node, &ctx.source, error.offset);
                ctx.problems.add(&place, error.message);
            }
            None
        }
    }
}

pub fn limits(ctx: &mut Context, node: &Node) -> Option<Vec<LimitSpec>> {
    let entries = decode::named(ctx, node, "`limits`")?;
    let limits: Vec<_> = entries
        .iter()
        .map(|(key, node)| limit(ctx, key.text.as_str().into(), node))
        .collect();
    limits.into_iter().collect()
}

fn limit(ctx: &mut Context, name: Arc<str>, node: &Node) -> Option<LimitSpec> {
    let mut fields = Fields::of(ctx, node, "a limit")?;
    let key = fields.required(ctx, "key", key);
    let rate = fields.optional(ctx, "rate", decode::rate);
    let burst = fields.optional(ctx, "burst", burst);
    let concurrent = fields.optional(ctx, "concurrent", count);
    let queue = fields.optional(ctx, "queue", decode::whole(1..=1_000_000));
    let wait = fields.optional(ctx, "wait", decode::duration);
    let bulkhead = key.as_ref().is_some_and(|key| {
        key.iter()
            .all(|part| matches!(part, KeyPart::Route | KeyPart::Upstream))
    });
    let kind = match (fields.take("rate"), fields.take("concurrent")) {
        (Some(_), Some(concurrent)) => ctx.fail(
            &concurrent.place,
            "a limit has either `rate` or `concurrent`; make two limits of it",
        ),
        (None, None) => ctx.fail(
            fields.place(),
            "a limit lacks `rate` (requests in a time) or `concurrent` (requests at once)",
        ),
        (Some(_), None) => {
            refuse(
                ctx,
                &mut fields,
                "queue",
                "a bulkhead (`concurrent` by `route` or `upstream`)",
            );
            refuse(
                ctx,
                &mut fields,
                "wait",
                "a bulkhead (`concurrent` by `route` or `upstream`)",
            );
            rate.flatten()
                .zip(burst)
                .map(|(rate, burst)| LimitKind::Rate {
                    amount: rate.amount,
                    period: rate.period,
                    burst: burst.unwrap_or(rate.amount),
                })
        }
        (None, Some(_)) => {
            refuse(ctx, &mut fields, "burst", "a `rate`");
            if bulkhead {
                if fields.take("queue").is_none() {
                    refuse(ctx, &mut fields, "wait", "a `queue`");
                    fields.note(ctx, "queue", "0");
                } else if fields.take("wait").is_none() {
                    fields.note(ctx, "wait", "1s");
                }
            } else {
                let who = "a bulkhead, whose key is `route` or `upstream` alone";
                refuse(ctx, &mut fields, "queue", who);
                refuse(ctx, &mut fields, "wait", who);
            }
            match (concurrent.flatten(), queue, wait) {
                (Some(max), Some(queue), Some(wait)) if bulkhead => Some(LimitKind::Bulkhead {
                    max,
                    queue: queue.unwrap_or(0),
                    wait: wait.unwrap_or(Duration::from_secs(1)),
                }),
                (Some(max), _, _) => Some(LimitKind::Concurrent { max }),
                _ => None,
            }
        }
    };
    let concurrent = fields.take("concurrent").is_some();
    let actor = if concurrent {
        Actor::Concurrency
    } else {
        Actor::Rate
    };
    let over = fields.or(ctx, "over", "throttle", actions::action(actor));
    let during = fields.optional(ctx, "while", pressure::states);
    if bulkhead && concurrent {
        judges_nobody(ctx, &mut fields, over);
    }
    if over == Some(Action::Challenge(None)) {
        ctx.limits_by_risk.push(fields.key_place("over").clone());
    }
    let cleared = cleared(ctx, &mut fields, over);
    let mode = fields.or(ctx, "mode", "enforce", actions::mode);
    let all = fields.or(ctx, "all", "false", decode::flag);
    let max_keys = fields.or(ctx, "max_keys", "1000000", decode::whole(1..=MAXIMUM_KEYS));
    fields.finish(ctx);
    let over = over?;
    Some(LimitSpec {
        name,
        key: key?,
        kind: kind?,
        over,
        cleared: cleared?,
        mode: mode?,
        during: during?.unwrap_or(States::NONE),
        all: all?,
        max_keys: max_keys?,
    })
}

/// How many times the limit a client with a clearance has: who solves what was asked for, gets on.
fn cleared(ctx: &mut Context, fields: &mut Fields<'_>, over: Option<Action>) -> Option<NonZeroU32> {
    let given = fields.optional(ctx, "cleared", decode::whole(1..=100));
    let challenges = matches!(over, Some(Action::Challenge(_)));
    if fields.take("cleared").is_none() {
        fields.note(ctx, "cleared", if challenges { "4" } else { "1" });
    }
    let usual = if challenges { 4 } else { 1 };
    NonZeroU32::new(given?.unwrap_or(usual))
}

/// Reports what a bulkhead can't have.
fn judges_nobody(ctx: &mut Context, fields: &mut Fields<'_>, over: Option<Action>) {
    if over.is_some_and(|over| over != Action::Throttle) {
        let place = fields.key_place("over");
        ctx.problems.add(
            place,
            "a bulkhead protects the upstream and judges no client: \
             `over` can only be `throttle`",
        );
    }
    let whose = "a limit of clients; a bulkhead protects the upstream at all times";
    refuse(ctx, fields, "while", whose);
}

/// Reports a key that only makes sense beside something else.
fn refuse(ctx: &mut Context, fields: &mut Fields<'_>, key: &'static str, whose: &str) {
    if fields.take(key).is_some() {
        let place = fields.key_place(key);
        ctx.problems
            .add(place, format!("`{key}` belongs to {whose}"));
    }
}

fn burst(ctx: &mut Context, node: &Node) -> Option<NonZeroU32> {
    NonZeroU32::new(decode::whole(1..=LARGEST_AMOUNT)(ctx, node)?)
}

fn key(ctx: &mut Context, node: &Node) -> Option<Vec<KeyPart>> {
    let parts = decode::some(key_part)(ctx, node)?;
    if let Kind::List(items) = &node.kind {
        for (index, (part, item)) in parts.iter().zip(items).enumerate() {
            if parts.iter().take(index).any(|other| other == part) {
                ctx.problems
                    .add(&item.place, "this part stands twice in the key");
            }
        }
        if parts.len() > 8 {
            return ctx.fail(&node.place, "a key has at most 8 parts");
        }
    }
    Some(parts)
}

fn key_part(ctx: &mut Context, node: &Node) -> Option<KeyPart> {
    let word = text(ctx, node)?;
    if let Some((_, part)) = KEY_PARTS.iter().find(|(name, _)| *name == word) {
        return Some(part.clone());
    }
    let token = |name: &str| http::HeaderName::try_from(name).is_ok();
    if let Some(name) = word.strip_prefix("header.")
        && token(name)
    {
        return Some(KeyPart::Header(name.to_ascii_lowercase()));
    }
    if let Some(name) = word.strip_prefix("cookie.")
        && token(name)
    {
        return Some(KeyPart::Cookie(name.to_owned()));
    }
    let valid = KEY_PARTS
        .iter()
        .map(|(name, _)| *name)
        .chain(["header.NAME", "cookie.NAME"]);
    ctx.fail(
        &node.place,
        format!(
            "{} is not a part of a key{}",
            quote(word),
            hint(word, valid)
        ),
    )
}

/// Says which limits bite nowhere.
pub fn warn_of_unused(
    ctx: &mut Context,
    node: Option<&Node>,
    limits: &[LimitSpec],
    routes: &[RouteSpec],
) {
    let Some(Kind::Map(entries)) = node.map(|node| &node.kind) else {
        return;
    };
    for (index, (limit, (key, _))) in limits.iter().zip(entries).enumerate() {
        let used = routes.iter().any(|route| route.limits.contains(&index));
        if !limit.all && !used {
            ctx.warn(
                &key.place,
                format!(
                    "limit `{}` is not used: no route names it, and it is not for `all`",
                    limit.name
                ),
            );
        }
    }
}

/// A decision carries so many slots and no more: a limit past them would count nobody.
pub fn check_slots(
    ctx: &mut Context,
    node: Option<&Node>,
    limits: &[LimitSpec],
    routes: &[RouteSpec],
) {
    let Some(node) = node else { return };
    for route in routes {
        let takes_slot = |(index, limit): &(usize, &LimitSpec)| {
            matches!(limit.kind, LimitKind::Concurrent { .. })
                && (limit.all || route.limits.contains(index))
        };
        let slots = limits.iter().enumerate().filter(takes_slot).count();
        if slots > CARRIED {
            ctx.fail::<()>(
                &node.place,
                format!(
                    "route `{}` passes {slots} concurrency limits; {CARRIED} are the most",
                    route.name
                ),
            );
        }
    }
}
