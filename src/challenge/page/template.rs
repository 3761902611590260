//! A page in parts: what stands fast, in as few pieces as can be, and the slots between them.

use super::gzip::Fragment;
use std::sync::Arc;

/// A part of a page, in its order.
#[derive(Debug)]
pub enum Part {
    Fragment(Arc<Fragment>),
    /// Filled in for each visit.
    Slot(Box<str>),
}

/// A page in one language.
#[derive(Debug)]
pub struct Template {
    pub parts: Vec<Part>,
    /// Bytes of all fragments.
    pub plain: usize,
    /// The same, compressed.
    pub compressed: usize,
}

impl Template {
    pub const EMPTY: Self = Self {
        parts: Vec::new(),
        plain: 0,
        compressed: 0,
    };
}

/// Puts a template together.
#[derive(Debug, Default)]
pub struct Builder {
    parts: Vec<Part>,
    /// Text that is not in a fragment yet.
    pending: String,
}

impl Builder {
    pub fn text(&mut self, text: &str) {
        self.pending.push_str(text);
    }

    /// An empty name is none.
    pub fn slot(&mut self, name: &str) {
        if name.is_empty() {
            return;
        }
        self.flush();
        self.parts.push(Part::Slot(name.into()));
    }

    /// A fragment that several templates share.
    pub fn fragment(&mut self, fragment: Arc<Fragment>) {
        self.flush();
        self.parts.push(Part::Fragment(fragment));
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            let text = std::mem::take(&mut self.pending);
            let fragment = Arc::new(Fragment::new(text));
            self.parts.push(Part::Fragment(fragment));
        }
    }

    pub fn finish(mut self) -> Template {
        self.flush();
        let sum = |size: fn(&Fragment) -> usize| {
            let sizes = self.parts.iter().map(|part| match part {
                Part::Fragment(fragment) => size(fragment),
                Part::Slot(_) => 0,
            });
            sizes.sum()
        };
        Template {
            plain: sum(|fragment| fragment.text().len()),
            compressed: sum(Fragment::compressed_length),
            parts: self.parts,
        }
    }
}

/// Gives each text of the HTML with the name of the `{{slot}}` after it; the last has none, and its
/// name is empty.
pub fn split(html: &str, mut each: impl FnMut(&str, &str)) {
    let mut rest = html;
    while let Some((text, after)) = rest.split_once("{{")
        && let Some((name, after)) = after.split_once("}}")
    {
        each(text, name);
        rest = after;
    }
    each(rest, "");
}
