//! YAML text as a tree that knows the place of each node. Size, nesting and alias expansion are
//! bounded; keys are texts and stand once in a map. What the tree means is left to others.

use super::problem::{Place, Problems};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};
use std::{borrow::Cow, collections::HashMap, path::Path, sync::Arc};

/// Lists and maps inside each other.
const MAXIMUM_DEPTH: usize = 32;
/// Nodes of a document, aliases expanded.
const MAXIMUM_NODES: usize = 250_000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    /// Distinguishes the nodes of one document; an alias shares its anchor's.
    pub id: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// Nothing written, `~` or `null`.
    Null,
    Scalar {
        text: String,
        style: ScalarStyle,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Clone, Debug)]
pub struct Key {
    pub text: String,
    pub place: Place,
}

impl Node {
    fn size(&self) -> usize {
        match &self.kind {
            Kind::Null | Kind::Scalar { .. } => 1,
            Kind::List(items) => items
                .iter()
                .map(Self::size)
                .sum::<usize>()
                .saturating_add(1),
            Kind::Map(entries) => entries
                .iter()
                .map(|(_, value)| value.size())
                .sum::<usize>()
                .saturating_add(1),
        }
    }

    /// Whether this was written without quotes.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(
            self.kind,
            Kind::Scalar {
                style: ScalarStyle::Plain,
                ..
            }
        )
    }
}

/// Reads the one document of `text`. Whatever is wrong goes to `problems`; `None` when there is no
/// tree to go on with.
pub fn parse(file: &Arc<Path>, text: &str, problems: &mut Problems) -> Option<Node> {
    let mut builder = Builder {
        file,
        problems,
        frames: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        root: None,
    };
    let mut documents = 0_usize;
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        match next {
            Ok((Event::DocumentStart(_), span)) => {
                documents = documents.saturating_add(1);
                if documents > 1 {
                    let place = builder.place(span.start);
                    builder
                        .problems
                        .add(&place, "a second document (`---`); one file holds one");
                    return None;
                }
            }
            Ok((event, span)) => builder.take(event, span.start)?,
            Err(error) => {
                let place = builder.place(*error.marker());
                let hint = syntax_hint(error.info());
                builder
                    .problems
                    .add(&place, format!("not valid YAML: {}{hint}", error.info()));
                return None;
            }
        }
    }
    let root = builder.root.take();
    if root.is_none() {
        problems.add(&Place::top(file), "the file is empty");
    }
    root
}

/// What usually causes a syntax error.
fn syntax_hint(info: &str) -> &'static str {
    if info.contains("tab") {
        "; indent with spaces, not tabs"
    } else if info.contains("quoted scalar") {
        "; is the closing quote missing?"
    } else if info.contains("flow") || info.contains("',' or") {
        "; is a `]`, `}` or comma missing before this?"
    } else if info.contains("unknown anchor") {
        "; an alias (`*`) needs its anchor (`&`) earlier in the file"
    } else if info.contains("mapping values") || info.contains("parsing a block") {
        "; check the indentation, and quote texts that hold `: `"
    } else {
        ""
    }
}

/// A list or map whose end was not seen yet.
struct Frame {
    place: Place,
    anchor: usize,
    id: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        entries: Vec<(Key, Node)>,
        places: HashMap<String, usize>,
        key: Option<Key>,
    },
}

struct Builder<'a> {
    file: &'a Arc<Path>,
    problems: &'a mut Problems,
    frames: Vec<Frame>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder<'_> {
    fn place(&self, marker: Marker) -> Place {
        Place::new(
            self.file,
            marker.line().max(1),
            marker.col().saturating_add(1),
        )
    }

    /// `None` ends the reading: the rest could not be trusted, or there is too much of it.
    fn take(&mut self, event: Event<'_>, at: Marker) -> Option<()> {
        let place = self.place(at);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.tagged(tag, &place);
                if self.expects_key() {
                    self.key(Key {
                        text: text.into_owned(),
                        place,
                    });
                    return Some(());
                }
                let null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                let kind = if null {
                    Kind::Null
                } else {
                    Kind::Scalar {
                        text: text.into_owned(),
                        style,
                    }
                };
                let id = self.count(1, &place)?;
                self.value(Node { place, id, kind }, anchor);
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(tag, place, anchor, Content::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Map {
                    entries: Vec::new(),
                    places: HashMap::new(),
                    key: None,
                };
                self.open(tag, place, anchor, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let frame = self.frames.pop()?;
                let kind = match frame.content {
                    Content::List(items) => Kind::List(items),
                    Content::Map { entries, .. } => Kind::Map(entries),
                };
                let node = Node {
                    place: frame.place,
                    id: frame.id,
                    kind,
                };
                self.value(node, frame.anchor);
            }
            Event::Alias(anchor) => {
                if self.expects_key() {
                    self.problems.add(&place, "an alias (`*`) can't be a key");
                    return None;
                }
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    self.problems.add(
                        &place,
                        "this alias (`*`) stands inside its own anchor (`&`)",
                    );
                    return None;
                };
                self.count(size, &place)?;
                self.value(node, 0);
            }
            _ => {}
        }
        Some(())
    }

    fn tagged(&mut self, tag: Option<Cow<'_, Tag>>, place: &Place) {
        if let Some(tag) = tag {
            self.problems.add(
                place,
                format!("the tag `{tag}` means nothing here; leave it out"),
            );
        }
    }

    fn expects_key(&self) -> bool {
        matches!(
            self.frames.last().map(|frame| &frame.content),
            Some(Content::Map { key: None, .. })
        )
    }

    fn open(
        &mut self,
        tag: Option<Cow<'_, Tag>>,
        place: Place,
        anchor: usize,
        content: Content,
    ) -> Option<()> {
        self.tagged(tag, &place);
        if self.expects_key() {
            self.problems.add(&place, "a key must be a plain word");
            return None;
        }
        if self.frames.len() >= MAXIMUM_DEPTH {
            self.problems.add(
                &place,
                format!("more than {MAXIMUM_DEPTH} lists and maps inside each other"),
            );
            return None;
        }
        let id = self.count(1, &place)?;
        self.frames.push(Frame {
            place,
            anchor,
            id,
            content,
        });
        Some(())
    }

    /// The count of nodes so far, which is also a new node's id.
    fn count(&mut self, more: usize, place: &Place) -> Option<usize> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAXIMUM_NODES {
            self.problems.add(
                place,
                format!(
                    "more than {MAXIMUM_NODES} values, aliases expanded; \
                     keep long lists of networks in files of their own"
                ),
            );
            return None;
        }
        Some(self.nodes)
    }

    fn key(&mut self, given: Key) {
        let Some(Frame {
            content: Content::Map { places, key, .. },
            ..
        }) = self.frames.last_mut()
        else {
            return;
        };
        if let Some(first) = places.get(&given.text) {
            self.problems.add(
                &given.place,
                format!(
                    "key {} stands twice in this map, first on line {first}",
                    super::decode::quote(&given.text)
                ),
            );
        } else {
            places.insert(given.text.clone(), given.place.line);
        }
        *key = Some(given);
    }

    fn value(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            let size = node.size();
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.frames.last_mut().map(|frame| &mut frame.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, key, .. }) => {
                if let Some(key) = key.take() {
                    entries.push((key, node));
                }
            }
        }
    }
}

/// The place of the character at byte `offset` of a scalar's text, in the `source` it was read
/// from. It counts the characters that are not white space, as folding changes nothing else; a
/// blank is placed at the next visible character.
#[must_use]
pub fn place_within(node: &Node, source: &str, offset: usize) -> Place {
    let Kind::Scalar { text, style } = &node.kind else {
        return node.place.clone();
    };
    let before = text.get(..offset).unwrap_or(text);
    let mut left = before.chars().filter(|c| !c.is_whitespace()).count();
    let at_end = text
        .get(before.len()..)
        .unwrap_or_default()
        .trim()
        .is_empty();
    let line_start = source
        .split_inclusive('\n')
        .take(node.place.line.saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    let mut chars = source
        .get(line_start..)
        .unwrap_or_default()
        .chars()
        .skip(node.place.column.saturating_sub(1))
        .peekable();
    let (mut row, mut column) = (node.place.line, node.place.column);
    // An anchor belongs to the node, not to its text.
    if chars.peek() == Some(&'&') {
        while chars.next_if(|c| !c.is_whitespace()).is_some() {
            column = column.saturating_add(1);
        }
        while chars.next_if(|c| *c == ' ').is_some() {
            column = column.saturating_add(1);
        }
    }
    match style {
        ScalarStyle::Plain => {}
        ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
            chars.next();
            column = column.saturating_add(1);
        }
        ScalarStyle::Literal | ScalarStyle::Folded => {
            // The indicator's line holds no text.
            if matches!(chars.peek(), Some('|' | '>')) {
                chars.by_ref().find(|c| *c == '\n');
                (row, column) = (row.saturating_add(1), 1);
            }
        }
    }
    while let Some(c) = chars.next() {
        let mut width = 1;
        let mut visible = !c.is_whitespace();
        match (style, c) {
            (ScalarStyle::SingleQuoted, '\'') if chars.peek() == Some(&'\'') => {
                chars.next();
                width = 2;
            }
            (ScalarStyle::DoubleQuoted, '\\') => {
                let escape = chars.next();
                let digits = match escape {
                    Some('x') => 2,
                    Some('u') => 4,
                    Some('U') => 8,
                    _ => 0,
                };
                for _ in 0..digits {
                    chars.next();
                }
                width = 2 + digits;
                visible = !matches!(escape, Some('n' | 't' | 'r' | ' ' | '\n' | '\t'));
            }
            _ => {}
        }
        if visible {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(1);
        }
        if c == '\n' {
            (row, column) = (row.saturating_add(1), 1);
        } else {
            column = column.saturating_add(width);
        }
        if left == 0 && at_end {
            break;
        }
    }
    Place::new(&node.place.file, row, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where `needle` of the value `when` is found.
    fn place_of(source: &str, needle: &str) -> (usize, usize) {
        let mut problems = Problems::default();
        let root = parse(&Arc::from(Path::new("f")), source, &mut problems).unwrap();
        let Kind::Map(entries) = &root.kind else {
            panic!("a map")
        };
        let (_, node) = entries.iter().find(|(key, _)| key.text == "when").unwrap();
        let Kind::Scalar { text, .. } = &node.kind else {
            panic!("a scalar")
        };
        let offset = if needle.is_empty() {
            text.len()
        } else {
            text.find(needle).unwrap()
        };
        let place = place_within(node, source, offset);
        (place.line, place.column)
    }

    #[test]
    fn characters_are_found_in_every_style() {
        for (source, expected) in [
            ("when: user.idd == 1", (1, 7 + 5)),
            ("a: b\nwhen: 'user.idd'", (2, 8 + 5)),
            ("when: 'x == ''é'' && user.idd'", (1, 27)),
            (r#"when: "x == \"\u00e9\" && user.idd""#, (1, 32)),
            ("when: |\n  x == 1\n  && user.idd", (3, 11)),
            ("when: >-\n\n    x == 1\n    && user.idd\n", (4, 13)),
            ("when: x == 1\n  && user.idd", (2, 11)),
            ("when: 'x == 1\n  && user.idd'", (2, 11)),
            ("when: &anchor user.idd", (1, 20)),
        ] {
            assert_eq!(place_of(source, "idd"), expected, "{source}");
        }
    }

    #[test]
    fn the_end_is_behind_the_last_character() {
        assert_eq!(place_of("when: a &&", ""), (1, 11));
        assert_eq!(place_of("when: 'a &&'\n", ""), (1, 12));
        assert_eq!(place_of("when: |\n  a\n  &&\nb: c", ""), (3, 5));
    }
}
