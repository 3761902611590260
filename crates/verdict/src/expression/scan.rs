//! Splits a condition's source into tokens, before the real parser sees it.
//!
//! It owns three things that the parser does not offer: bounds on what is parsed at all (the parser
//! recurses, so deep nesting would overflow its stack), readable words for the mistakes that need no
//! grammar to be seen, and where each token stands, so that errors can name text and place. It
//! builds no tree: that is left to [`super::parse`].

use super::ExpressionError;

/// Longest source that is looked at, in bytes.
pub(super) const MAX_SOURCE: usize = 4096;
/// Deepest nesting, counting brackets and the operators that nest without them.
pub(super) const MAX_DEPTH: usize = 64;
/// How much of it a bracket takes: the parser goes through every level of precedence at each.
const BRACKET: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Number,
    Text,
    Sign,
}

/// A piece of the source, in byte offsets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

/// The source, its tokens in order, and which bracket closes which.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    pub source: &'a str,
    pub tokens: Vec<Token>,
    /// Start of an opening bracket and end of the bracket that closes it.
    closed: Vec<(usize, usize)>,
}

impl<'a> Scan<'a> {
    /// Splits `source`, and refuses what is too long, too deep or not made of CEL's characters.
    pub fn of(source: &'a str) -> Result<Self, ExpressionError> {
        if source.len() > MAX_SOURCE {
            return Err(ExpressionError {
                offset: MAX_SOURCE,
                message: format!(
                    "the condition is {} bytes long; at most {MAX_SOURCE} are allowed",
                    source.len()
                ),
            });
        }
        let mut tokens = Vec::new();
        let mut rest = Cursor { source, at: 0 };
        while let Some(token) = rest.token()? {
            tokens.push(token);
        }
        if tokens.is_empty() {
            return Err(ExpressionError {
                offset: 0,
                message: "the condition is empty".into(),
            });
        }
        let mut scan = Self {
            source,
            tokens,
            closed: Vec::new(),
        };
        scan.closed = scan.match_brackets()?;
        Ok(scan)
    }

    pub fn text(&self, token: Token) -> &'a str {
        self.source.get(token.start..token.end).unwrap_or_default()
    }

    /// The token that covers `offset`, or the first one after it.
    pub fn at(&self, offset: usize) -> Option<Token> {
        self.get(self.position(offset))
    }

    /// The token before the one at `offset`.
    pub fn before(&self, offset: usize) -> Option<Token> {
        self.get(self.position(offset).checked_sub(1)?)
    }

    /// The token after the one at `offset`.
    pub fn after(&self, offset: usize) -> Option<Token> {
        self.get(self.position(offset).checked_add(1)?)
    }

    /// Where the bracket that opens at `offset` is closed, past its end.
    pub fn close_of(&self, offset: usize) -> Option<usize> {
        self.closed
            .iter()
            .find(|(open, _)| *open == offset)
            .map(|(_, end)| *end)
    }

    fn position(&self, offset: usize) -> usize {
        self.tokens.partition_point(|token| token.end <= offset)
    }

    fn get(&self, index: usize) -> Option<Token> {
        self.tokens.get(index).copied()
    }

    /// Pairs brackets and bounds the depth of the tree that the parser would build.
    fn match_brackets(&self) -> Result<Vec<(usize, usize)>, ExpressionError> {
        let mut closed = Vec::new();
        let mut levels = vec![Level::default()];
        for &token in &self.tokens {
            match self.text(token) {
                "(" | "[" | "{" => {
                    deepen(&mut levels, BRACKET, |level| &mut level.chain);
                    levels.push(Level {
                        open: Some(token),
                        ..Level::default()
                    });
                }
                ")" | "]" | "}" => {
                    let open = levels.pop().and_then(|level| level.open);
                    closed.push((self.closed_by(open, token)?.start, token.end));
                }
                // A chain of `&&` or `||` is balanced by the parser: it starts the others anew.
                sign @ ("&&" | "||" | ",") => {
                    if let Some(level) = levels.last_mut() {
                        level.chain = 0;
                        if sign == "," {
                            level.choices = 0;
                        }
                    }
                }
                "?" => deepen(&mut levels, BRACKET, |level| &mut level.choices),
                "in" => deepen(&mut levels, 1, |level| &mut level.chain),
                _ if token.kind == Kind::Sign => {
                    deepen(&mut levels, 1, |level| &mut level.chain);
                }
                _ => {}
            }
            let depths = levels.iter().map(|level| level.chain + level.choices);
            if depths.sum::<usize>() > MAX_DEPTH {
                return Err(ExpressionError {
                    offset: token.start,
                    message: "the condition nests too deep here; split it into several rules"
                        .into(),
                });
            }
        }
        match levels.last().and_then(|level| level.open) {
            Some(open) => Err(ExpressionError {
                offset: open.start,
                message: format!("`{}` is never closed", self.text(open)),
            }),
            None => Ok(closed),
        }
    }

    /// The bracket that `close` closes, which is `open` if it is of its kind.
    fn closed_by(&self, open: Option<Token>, close: Token) -> Result<Token, ExpressionError> {
        let sign = self.text(close);
        let message = match open.map(|open| (open, self.text(open))) {
            None => format!("`{sign}` closes nothing"),
            Some((open, "(")) if sign == ")" => return Ok(open),
            Some((open, "[")) if sign == "]" => return Ok(open),
            Some((open, "{")) if sign == "}" => return Ok(open),
            Some((open, text)) => {
                format!("`{sign}` can't close the `{text}` at byte {}", open.start)
            }
        };
        Err(ExpressionError {
            offset: close.start,
            message,
        })
    }
}

/// A bracket that is open, and how deep the operators in it nest so far.
#[derive(Default)]
struct Level {
    open: Option<Token>,
    chain: usize,
    choices: usize,
}

fn deepen(levels: &mut [Level], by: usize, which: impl Fn(&mut Level) -> &mut usize) {
    if let Some(level) = levels.last_mut() {
        let count = which(level);
        *count = count.saturating_add(by);
    }
}

/// Two-character signs first: the longest one wins.
const SIGNS: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}", ".", ",", "-", "+", "*", "/",
    "%", "?", ":", "!", "<", ">",
];

struct Cursor<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn skip_blanks_and_comments(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']);
            let skipped = if trimmed.starts_with("//") {
                rest.len() - trimmed.len() + trimmed.find('\n').unwrap_or(trimmed.len())
            } else {
                rest.len() - trimmed.len()
            };
            if skipped == 0 {
                return;
            }
            self.at += skipped;
        }
    }

    fn token(&mut self) -> Result<Option<Token>, ExpressionError> {
        self.skip_blanks_and_comments();
        let start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(None);
        };
        let (kind, length) = if let Some(length) = text_length(rest, start)? {
            (Kind::Text, length)
        } else if first.is_ascii_alphabetic() || first == '_' {
            (
                Kind::Word,
                run(rest, |c| c.is_ascii_alphanumeric() || c == '_'),
            )
        } else if first.is_ascii_digit() {
            // Wider than CEL's numbers, so `10m` is one token and one readable error.
            (Kind::Number, number_length(rest))
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Kind::Sign, sign.len())
        } else {
            return Err(ExpressionError {
                offset: start,
                message: stray(first),
            });
        };
        self.at += length;
        let token = Token {
            kind,
            start,
            end: self.at,
        };
        if kind == Kind::Number {
            check_number(rest.get(..length).unwrap_or_default(), start)?;
        }
        Ok(Some(token))
    }
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

fn number_length(text: &str) -> usize {
    let whole = run(text, |c| c.is_ascii_alphanumeric() || c == '_');
    let fraction = text.get(whole..).and_then(|rest| rest.strip_prefix('.'));
    match fraction {
        Some(fraction) if fraction.starts_with(|c: char| c.is_ascii_digit()) => {
            whole + 1 + run(fraction, |c| c.is_ascii_alphanumeric() || c == '_')
        }
        _ => whole,
    }
}

/// Only whole numbers are of use: everything that can be compared with one is whole.
fn check_number(text: &str, offset: usize) -> Result<(), ExpressionError> {
    let error = |message: String| Err(ExpressionError { offset, message });
    let digits = text.strip_prefix("0x");
    let plain = match digits {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => text.bytes().all(|b| b.is_ascii_digit()),
    };
    if !plain {
        return error(format!(
            "`{text}` is not a whole number; sizes are written in bytes, such as 8 * 1024"
        ));
    }
    let value = match digits {
        Some(digits) => i64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match value {
        Ok(_) => Ok(()),
        Err(_) => error(format!("`{text}` is larger than {}", i64::MAX)),
    }
}

/// How long the text literal at the start of `rest` is, if there is one.
fn text_length(rest: &str, offset: usize) -> Result<Option<usize>, ExpressionError> {
    let prefix = run(rest, |c| matches!(c, 'r' | 'R' | 'b' | 'B'));
    let Some(quoted) = rest.get(prefix..).filter(|_| prefix <= 2) else {
        return Ok(None);
    };
    let Some(quote) = ["\"\"\"", "'''", "\"", "'"]
        .into_iter()
        .find(|quote| quoted.starts_with(quote))
    else {
        return Ok(None);
    };
    let letters = rest.get(..prefix).unwrap_or_default();
    if letters.contains(['b', 'B']) {
        return Err(ExpressionError {
            offset,
            message: "bytes literals are not supported; write a text, without the `b`".into(),
        });
    }
    if prefix > 1 {
        return Ok(None);
    }
    let raw = prefix == 1;
    let mut at = prefix + quote.len();
    loop {
        let inside = rest.get(at..).unwrap_or_default();
        let Some(first) = inside.chars().next() else {
            return Err(unclosed(offset));
        };
        if inside.starts_with(quote) {
            return Ok(Some(at + quote.len()));
        }
        if quote.len() == 1 && matches!(first, '\n' | '\r') {
            return Err(unclosed(offset));
        }
        at += first.len_utf8();
        if first == '\\' && !raw {
            let escape = escape_length(inside.get(1..).unwrap_or_default());
            let Some(escape) = escape else {
                return Err(ExpressionError {
                    offset: offset + at - 1,
                    message: "this escape is not known; write `\\\\` for a backslash, or put `r` \
                              before the quote"
                        .into(),
                });
            };
            at += escape;
        }
    }
}

/// How long an escape is after its backslash, if CEL knows it.
fn escape_length(text: &str) -> Option<usize> {
    let code = |digits: usize, radix: u32, skip: usize| {
        let digits_text = text.get(skip..skip + digits)?;
        if !digits_text.chars().all(|c| c.is_digit(radix)) {
            return None;
        }
        let code = u32::from_str_radix(digits_text, radix).ok()?;
        char::from_u32(code).map(|_| skip + digits)
    };
    match text.chars().next()? {
        'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' | '\'' | '"' | '`' | '?' => Some(1),
        'x' | 'X' => code(2, 16, 1),
        'u' => code(4, 16, 1),
        'U' => code(8, 16, 1),
        '0'..='3' => code(3, 8, 0),
        _ => None,
    }
}

fn unclosed(offset: usize) -> ExpressionError {
    ExpressionError {
        offset,
        message: "the text that opens here is never closed".into(),
    }
}

fn stray(character: char) -> String {
    match character {
        '=' => "`=` compares nothing; write `==`".into(),
        '&' => "`&` is no operator; write `&&`".into(),
        '|' => "`|` is no operator; write `||`".into(),
        '“' | '”' | '„' | '‘' | '’' | '«' | '»' => {
            format!("`{character}` is a typographic quote; write `\"` or `'`")
        }
        _ => format!("{character:?} has no place in a condition"),
    }
}
