//! From nodes to values: the helpers that every section decodes with. They say what is wrong where
//! it stands and go on, so that one load finds everything; a decoder gives `None` only after it has
//! reported a problem. They also note which defaults filled what was left out.

mod values;
mod words;

pub use values::*;
pub use words::{hint, nearest, quote};

use super::{
    problem::{Place, Problem, Problems},
    yaml::{Key, Kind, Node},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
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
    /// Where the rung `third_party` was named.
    pub third_party: Vec<Place>,
    /// Where a limit leaves the rung to the risk.
    pub limits_by_risk: Vec<Place>,
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
            third_party: Vec::new(),
            limits_by_risk: Vec::new(),
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
