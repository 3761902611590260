//! Decoders of single values and of lists of them.

use super::{Context, check_name, found, hint, quote};
use crate::config::{
    model::Rate,
    units,
    yaml::{Kind, Node},
};
use std::{ops::RangeInclusive, sync::Arc, time::Duration};

pub fn name(ctx: &mut Context, node: &Node) -> Option<Arc<str>> {
    let name = text(ctx, node)?;
    check_name(ctx, &node.place, name)?;
    Some(name.into())
}

/// A scalar, whatever it would be in YAML's own types.
pub fn text<'n>(ctx: &mut Context, node: &'n Node) -> Option<&'n str> {
    match &node.kind {
        Kind::Scalar { text, .. } if !text.is_empty() => Some(text),
        Kind::Scalar { .. } => ctx.fail(&node.place, "expected a text, found an empty one"),
        _ => ctx.fail(
            &node.place,
            format!("expected a text, found {}", found(node)),
        ),
    }
}

pub fn owned_text(ctx: &mut Context, node: &Node) -> Option<String> {
    text(ctx, node).map(str::to_owned)
}

pub fn flag(ctx: &mut Context, node: &Node) -> Option<bool> {
    match &node.kind {
        Kind::Scalar { text, .. } if node.is_plain() && text == "true" => Some(true),
        Kind::Scalar { text, .. } if node.is_plain() && text == "false" => Some(false),
        _ => ctx.fail(
            &node.place,
            format!("expected `true` or `false`, found {}", found(node)),
        ),
    }
}

/// A whole number within `range`.
pub fn whole<T>(range: RangeInclusive<T>) -> impl FnOnce(&mut Context, &Node) -> Option<T>
where
    T: Copy + PartialOrd + std::str::FromStr + std::fmt::Display,
{
    move |ctx, node| {
        let value = match &node.kind {
            Kind::Scalar { text, .. } if node.is_plain() => text.parse().ok(),
            _ => None,
        };
        match value {
            Some(value) if range.contains(&value) => Some(value),
            _ => {
                let quoted = match &node.kind {
                    Kind::Scalar { text, .. } if !node.is_plain() => {
                        text.parse().is_ok_and(|value| range.contains(&value))
                    }
                    _ => false,
                };
                let hint = if quoted {
                    " in quotes; leave them out"
                } else {
                    ""
                };
                ctx.fail(
                    &node.place,
                    format!(
                        "expected a whole number from {} to {}, found {}{hint}",
                        range.start(),
                        range.end(),
                        found(node)
                    ),
                )
            }
        }
    }
}

/// One of a few words.
pub fn word<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl FnOnce(&mut Context, &Node) -> Option<T> {
    move |ctx, node| {
        let valid = words.iter().map(|(word, _)| *word);
        let Kind::Scalar { text: given, .. } = &node.kind else {
            let valid: Vec<&str> = valid.collect();
            return ctx.fail(
                &node.place,
                format!(
                    "expected one of {}; found {}",
                    valid.join(", "),
                    found(node)
                ),
            );
        };
        match words.iter().find(|(word, _)| *word == given) {
            Some((_, value)) => Some(*value),
            None => ctx.fail(
                &node.place,
                format!("{} is unknown{}", quote(given), hint(given, valid)),
            ),
        }
    }
}

/// Text that is read by a function of [`units`].
fn unit<T>(
    ctx: &mut Context,
    node: &Node,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let text = text(ctx, node)?;
    match parse(text) {
        Ok(value) => Some(value),
        Err(message) => ctx.fail(&node.place, format!("{}: {message}", quote(text))),
    }
}

pub fn rate(ctx: &mut Context, node: &Node) -> Option<Rate> {
    unit(ctx, node, units::rate)
}

pub fn throughput(ctx: &mut Context, node: &Node) -> Option<u64> {
    unit(ctx, node, units::throughput)
}

pub fn size(ctx: &mut Context, node: &Node) -> Option<u64> {
    unit(ctx, node, units::size)
}

pub fn share(ctx: &mut Context, node: &Node) -> Option<f64> {
    unit(ctx, node, units::share)
}

/// Longer than nothing.
pub fn duration(ctx: &mut Context, node: &Node) -> Option<Duration> {
    let duration = duration_or_zero(ctx, node)?;
    if duration.is_zero() {
        return ctx.fail(&node.place, "must be longer than nothing");
    }
    Some(duration)
}

pub fn duration_or_zero(ctx: &mut Context, node: &Node) -> Option<Duration> {
    unit(ctx, node, units::duration)
}

/// A value that `off` turns off.
#[allow(clippy::option_option)] // the outer one is "reported a problem", as everywhere here
pub fn or_off<T>(
    decode: impl FnOnce(&mut Context, &Node) -> Option<T>,
) -> impl FnOnce(&mut Context, &Node) -> Option<Option<T>> {
    move |ctx, node| match &node.kind {
        Kind::Scalar { text, .. } if text == "off" => Some(None),
        _ => decode(ctx, node).map(Some),
    }
}

/// A list, each item decoded; all of them are looked at even when one is wrong.
pub fn list<T>(
    mut decode: impl FnMut(&mut Context, &Node) -> Option<T>,
) -> impl FnOnce(&mut Context, &Node) -> Option<Vec<T>> {
    move |ctx, node| {
        let Kind::List(items) = &node.kind else {
            let example = match &node.kind {
                Kind::Scalar { text, .. } if text.len() <= 40 => format!("; write `[{text}]`"),
                _ => String::new(),
            };
            return ctx.fail(
                &node.place,
                format!("expected a list, found {}{example}", found(node)),
            );
        };
        let values: Vec<Option<T>> = items.iter().map(|item| decode(ctx, item)).collect();
        values.into_iter().collect()
    }
}

/// Refuses a list that is compared item by item with itself and too long for that.
pub fn at_most(ctx: &mut Context, node: &Node, most: usize, what: &str) -> Option<()> {
    match &node.kind {
        Kind::List(items) if items.len() > most => {
            ctx.fail(&node.place, format!("more than {most} {what}"))
        }
        _ => Some(()),
    }
}

/// As [`list`], but not empty.
pub fn some<T>(
    decode: impl FnMut(&mut Context, &Node) -> Option<T>,
) -> impl FnOnce(&mut Context, &Node) -> Option<Vec<T>> {
    move |ctx, node| {
        let values = list(decode)(ctx, node)?;
        if values.is_empty() {
            return ctx.fail(&node.place, "this list must not be empty");
        }
        Some(values)
    }
}
