//! From nodes to values: the helpers that every section decodes with. They say what is wrong where
//! it stands and go on, so that one load finds everything; a decoder gives `None` only after it has
//! reported a problem. They also note which defaults filled what was left out.

use super::{
    problem::{Place, Problem, Problems},
    units,
    yaml::{Key, Kind, Node},
};
use std::{
    collections::HashMap,
    fmt::Write as _,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// What is carried through one load.
#[derive(Debug)]
pub struct Context {
    /// The YAML file, as the operator named it.
    pub file: Arc<Path>,
    /// Its text.
    pub source: String,
    /// Where relative paths start.
    pub base: PathBuf,
    /// Seconds since 1970.
    pub now: i64,
    pub problems: Problems,
    pub warnings: Problems,
    /// Every file that was read or looked for, absolute.
    pub files: Vec<PathBuf>,
    defaults: HashMap<usize, Vec<(&'static str, Filling)>>,
    next_id: usize,
}

/// What stands for a key that was left out.
#[derive(Debug)]
enum Filling {
    Text(&'static str),
    Map(usize),
}

impl Context {
    #[must_use]
    pub fn new(file: &Path, source: String, now: i64) -> Self {
        Self {
            file: file.into(),
            source,
            base: file.parent().map(Path::to_path_buf).unwrap_or_default(),
            now,
            problems: Problems::default(),
            warnings: Problems::default(),
            files: Vec::new(),
            defaults: HashMap::new(),
            // Far above any id of the documents themselves.
            next_id: usize::MAX / 2,
        }
    }

    /// Reports what is wrong and gives the `None` to go on with.
    pub fn fail<T>(&mut self, place: &Place, message: impl Into<String>) -> Option<T> {
        self.problems.add(place, message);
        None
    }

    pub fn warn(&mut self, place: &Place, message: impl Into<String>) {
        self.warnings.add(place, message);
    }

    #[must_use]
    pub fn warnings(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.warnings).into_vec()
    }

    fn invent(&mut self, place: &Place, kind: Kind) -> Node {
        self.next_id = self.next_id.saturating_add(1);
        Node {
            place: place.clone(),
            id: self.next_id,
            kind,
        }
    }

    /// A node as JSON with the defaults that filled it. The YAML holds no secrets (they are
    /// refused), only the paths of the files that do.
    #[must_use]
    pub fn effective(&self, node: &Node) -> serde_json::Value {
        match &node.kind {
            Kind::Null => serde_json::Value::Null,
            Kind::Scalar { text, .. } => scalar(text, node.is_plain()),
            Kind::List(items) => items.iter().map(|item| self.effective(item)).collect(),
            Kind::Map(entries) => {
                let mut map: serde_json::Map<_, _> = entries
                    .iter()
                    .map(|(key, value)| (key.text.clone(), self.effective(value)))
                    .collect();
                map.extend(self.filled(node.id));
                map.into()
            }
        }
    }

    fn filled(&self, id: usize) -> serde_json::Map<String, serde_json::Value> {
        let defaults = self.defaults.get(&id).map(Vec::as_slice);
        defaults
            .unwrap_or_default()
            .iter()
            .map(|(key, default)| {
                let value = match default {
                    Filling::Text(text) => scalar(text, true),
                    Filling::Map(id) => self.filled(*id).into(),
                };
                ((*key).to_owned(), value)
            })
            .collect()
    }
}

fn scalar(text: &str, plain: bool) -> serde_json::Value {
    match text {
        "true" if plain => true.into(),
        "false" if plain => false.into(),
        _ if plain && text.parse::<i64>().is_ok() => text.parse::<i64>().unwrap_or_default().into(),
        _ => text.into(),
    }
}

/// A word of the operator's in backquotes: one line, not too long.
#[must_use]
pub fn quote(word: &str) -> String {
    let mut quoted = String::from("`");
    for (count, c) in word.chars().enumerate() {
        if count >= 60 {
            quoted.push('…');
            break;
        }
        if c.is_control() {
            let _ = write!(quoted, "{}", c.escape_default());
        } else {
            quoted.push(c);
        }
    }
    quoted.push('`');
    quoted
}

/// The candidate that `word` was probably meant to be.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Longer words are nobody's typing error, and the distance is quadratic.
    if word.is_empty() || word.len() > 100 {
        return None;
    }
    let lower = word.to_lowercase();
    let allowed = (lower.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = candidate.to_lowercase();
            let distance = strsim::damerau_levenshtein(&lower, &other);
            let part = lower.len() >= 3 && (other.starts_with(&lower) || lower.starts_with(&other));
            let near = distance <= allowed || (part && other.len() >= 3);
            near.then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean ...?`, or all valid words when none is near.
pub fn hint<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(near) = nearest(word, candidates.iter().copied()) {
        return format!("; did you mean `{near}`?");
    }
    match candidates.as_slice() {
        [] => String::new(),
        many if many.len() > 20 => {
            let some = many.get(..20).unwrap_or_default().join(", ");
            format!("; valid here: {some}, …")
        }
        few => format!("; valid here: {}", few.join(", ")),
    }
}

/// What stands there, for "expected a, found b".
#[must_use]
pub fn found(node: &Node) -> String {
    match &node.kind {
        Kind::Null => "nothing".into(),
        Kind::Scalar { text, .. } => quote(text),
        Kind::List(_) => "a list".into(),
        Kind::Map(_) => "a map".into(),
    }
}

/// A map whose keys are asked for one by one; what was never asked for is unknown.
pub struct Fields<'n> {
    what: &'static str,
    node: &'n Node,
    entries: &'n [(Key, Node)],
    known: Vec<&'static str>,
    missing: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// `what` names the map in messages, with its article.
    pub fn of(ctx: &mut Context, node: &'n Node, what: &'static str) -> Option<Self> {
        let entries = map(ctx, node, what)?;
        Some(Self {
            what,
            node,
            entries,
            known: Vec::new(),
            missing: Vec::new(),
        })
    }

    #[must_use]
    pub fn place(&self) -> &'n Place {
        &self.node.place
    }

    /// The value of a key, when something was written.
    pub fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.entries
            .iter()
            .find(|(found, _)| found.text == key)
            .map(|(_, value)| value)
            .filter(|value| !matches!(value.kind, Kind::Null))
    }

    /// `Some(None)`: left out.
    #[allow(clippy::option_option)] // the outer one is "reported a problem", as everywhere here
    pub fn optional<T>(
        &mut self,
        ctx: &mut Context,
        key: &'static str,
        decode: impl FnOnce(&mut Context, &Node) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.take(key) {
            Some(node) => decode(ctx, node).map(Some),
            None => Some(None),
        }
    }

    /// With a default, written as the operator would.
    pub fn or<T>(
        &mut self,
        ctx: &mut Context,
        key: &'static str,
        default: &'static str,
        decode: impl FnOnce(&mut Context, &Node) -> Option<T>,
    ) -> Option<T> {
        if let Some(node) = self.take(key) {
            return decode(ctx, node);
        }
        self.note(ctx, key, default);
        let kind = Kind::Scalar {
            text: default.to_owned(),
            style: saphyr_parser::ScalarStyle::Plain,
        };
        let node = ctx.invent(&self.node.place, kind);
        decode(ctx, &node)
    }

    /// Notes what stands for a key that was left out, for the effective configuration.
    pub fn note(&self, ctx: &mut Context, key: &'static str, default: &'static str) {
        let defaults = ctx.defaults.entry(self.node.id).or_default();
        defaults.push((key, Filling::Text(default)));
    }

    /// A map that is empty, hence all defaults, when left out.
    pub fn section<T>(
        &mut self,
        ctx: &mut Context,
        key: &'static str,
        decode: impl FnOnce(&mut Context, &Node) -> Option<T>,
    ) -> Option<T> {
        if let Some(node) = self.take(key) {
            return decode(ctx, node);
        }
        let node = ctx.invent(&self.node.place, Kind::Map(Vec::new()));
        let defaults = ctx.defaults.entry(self.node.id).or_default();
        defaults.push((key, Filling::Map(node.id)));
        decode(ctx, &node)
    }

    pub fn required<T>(
        &mut self,
        ctx: &mut Context,
        key: &'static str,
        decode: impl FnOnce(&mut Context, &Node) -> Option<T>,
    ) -> Option<T> {
        let node = self.take(key);
        if node.is_none() {
            self.missing.push(key);
        }
        decode(ctx, node?)
    }

    /// The place of a key, for what is wrong with its presence.
    #[must_use]
    pub fn key_place(&self, key: &str) -> &'n Place {
        self.entries
            .iter()
            .find(|(found, _)| found.text == key)
            .map_or(&self.node.place, |(found, _)| &found.place)
    }

    /// Reports the keys that nobody asked for, and those that are missing (but not where a misspelt
    /// one explains it).
    pub fn finish(self, ctx: &mut Context) {
        let mut explained = Vec::new();
        for (key, _) in self.entries {
            let word = key.text.as_str();
            if self.known.contains(&word) {
                continue;
            }
            let message = if word == "<<" {
                "merge keys (`<<`) are not part of YAML 1.2; \
                 repeat the keys, or use an alias for the whole map"
                    .to_owned()
            } else if let Some(file) = self.file_for(word) {
                explained.push(file);
                format!(
                    "secrets do not belong in this file; \
                     put it into a file of its own and name that with `{file}`"
                )
            } else {
                explained.extend(nearest(word, self.known.iter().copied()));
                let hint = hint(word, self.known.iter().copied());
                format!("unknown key {} in {}{hint}", quote(word), self.what)
            };
            ctx.problems.add(&key.place, message);
        }
        for key in self.missing {
            if !explained.contains(&key) {
                ctx.problems
                    .add(&self.node.place, format!("{} lacks `{key}`", self.what));
            }
        }
    }

    /// The key that names the file of what was put here by mistake: `token_file` for `token`.
    fn file_for(&self, word: &str) -> Option<&'static str> {
        let secret = matches!(word, "token" | "secret" | "password" | "key" | "keys");
        let fits = |known: &&&str| {
            let stem = known
                .strip_suffix("file")
                .map(|stem| stem.trim_end_matches('_'));
            stem.is_some_and(|stem| stem == word || stem.is_empty())
        };
        self.known.iter().find(fits).copied().filter(|_| secret)
    }
}

fn map<'n>(ctx: &mut Context, node: &'n Node, what: &str) -> Option<&'n [(Key, Node)]> {
    match &node.kind {
        Kind::Map(entries) => Some(entries),
        _ => ctx.fail(
            &node.place,
            format!("{what} is a map of keys and values, found {}", found(node)),
        ),
    }
}

/// The entries of a map whose keys are names that the operator chose.
pub fn named<'n>(ctx: &mut Context, node: &'n Node, what: &str) -> Option<&'n [(Key, Node)]> {
    let entries = map(ctx, node, what)?;
    for (key, _) in entries {
        // Reported, and then gone on with: what stands under the name is looked at too.
        let _ = check_name(ctx, &key.place, &key.text);
    }
    Some(entries)
}

/// Names become labels of metrics: short, and of few characters.
fn check_name(ctx: &mut Context, place: &Place, name: &str) -> Option<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        return ctx.fail(
            place,
            format!(
                "{} is not a name; names are 1 to 64 letters, digits, `-`, `_` and `.`",
                quote(name)
            ),
        );
    }
    Some(())
}

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

pub fn rate(ctx: &mut Context, node: &Node) -> Option<super::model::Rate> {
    unit(ctx, node, units::rate)
}

pub fn throughput(ctx: &mut Context, node: &Node) -> Option<u64> {
    unit(ctx, node, units::throughput)
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
