//! Hands the source to the `cel` crate's parser, and says its errors in words of our own.
//!
//! It owns the way from a source to a syntax tree with places. What names and types mean is left to
//! [`super::check`].

use super::{
    ExpressionError,
    scan::{Kind, Scan, Token},
};
use cel::common::ast::{Expr, IdedExpr, SourceInfo, operators};
use cel::parser::{ParseErrors, Parser};

/// How many bytes of the source a message quotes.
const QUOTED: usize = 60;
/// Stack of the thread that parses, in bytes: thrice what the deepest source allowed takes, in a
/// build without optimisation.
const STACK: usize = 16 << 20;

/// A syntax tree, and where its nodes stand.
pub(super) struct Parsed<'a> {
    pub root: IdedExpr,
    scan: Scan<'a>,
    places: SourceInfo,
}

/// Parses `source`.
///
/// # Errors
/// The first mistake: what a parser reports after it is guesswork.
pub(super) fn parse(source: &str) -> Result<Parsed<'_>, ExpressionError> {
    let scan = Scan::of(source)?;
    match parse_apart(source) {
        Some(Ok((root, places))) => Ok(Parsed { root, scan, places }),
        Some(Err(errors)) => Err(first_error(&scan, &errors)),
        None => Err(ExpressionError {
            offset: 0,
            message: "this is not a condition that can be read".into(),
        }),
    }
}

/// Parses on a thread of its own. The generated parser takes up to 170 KiB of stack a bracket, more
/// than a worker's stack holds; and should its error recovery ever panic, that refuses one condition
/// and leaves the process that is reloading it alone. `None` is such a panic, or no thread to be had.
fn parse_apart(source: &str) -> Option<Result<(IdedExpr, SourceInfo), ParseErrors>> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("condition".into())
            .stack_size(STACK)
            .spawn_scoped(scope, || Parser::new().parse_with_source_info(source))
            .ok()?
            .join()
            .ok()
    })
}

fn first_error(scan: &Scan<'_>, errors: &ParseErrors) -> ExpressionError {
    // What the parser says beyond its syntax errors is about the tree that it patched up.
    let mut errors = errors.errors.iter();
    let first = errors.clone().next();
    let error = errors
        .find(|error| error.msg.starts_with("Syntax error"))
        .or(first);
    let offset = error.map_or(0, |error| offset_of(scan.source, error.pos));
    let known = error.and_then(|error| {
        KNOWN
            .iter()
            .find(|(start, _)| error.msg.starts_with(start))
            .map(|(_, ours)| (*ours).to_owned())
    });
    let token = scan.at(offset);
    ExpressionError {
        offset: token.map_or(scan.source.trim_end().len(), |token| token.start),
        message: known.unwrap_or_else(|| match token {
            Some(token) => unexpected(scan, token),
            None => "the condition ends too early".into(),
        }),
    }
}

/// What the parser says of a tree that it could read but refuses, and our words for it.
const KNOWN: [(&str, &str); 4] = [
    (
        "invalid argument to has()",
        "`has()` takes a field, as in has(request.headers.referer); for any other name, write \
         \"x-name\" in request.headers",
    ),
    (
        "argument must be a simple name",
        "the first argument of a macro is a name of your choice, as in \
         user.roles.exists(role, role == \"admin\")",
    ),
    (
        "unsupported syntax",
        "the optional syntax `.?` and `[?` is not supported",
    ),
    ("reserved identifier", "this word is reserved in CEL"),
];

fn unexpected(scan: &Scan<'_>, token: Token) -> String {
    let text = scan.text(token);
    let instead = match text {
        "and" | "AND" => Some("&&"),
        "or" | "OR" => Some("||"),
        "not" | "NOT" => Some("!"),
        "is" | "eq" => Some("=="),
        _ => None,
    };
    if let Some(instead) = instead {
        return format!("`{text}` is no operator; write `{instead}`");
    }
    let before = scan.before(token.start);
    match (before, token.kind) {
        (Some(before), _) if matches!(scan.text(before), "not" | "NOT") => {
            format!(
                "unexpected `{}` after `not`; write `!` instead of `not`",
                quote(text)
            )
        }
        (Some(before), _) => format!(
            "unexpected `{}` after `{}`",
            quote(text),
            quote(scan.text(before))
        ),
        (None, _) => format!("a condition can't start with `{}`", quote(text)),
    }
}

/// The byte that stands at a line (from 1) and a column (from 1, in characters).
fn offset_of(source: &str, (line, column): (isize, isize)) -> usize {
    let line = usize::try_from(line).unwrap_or(1).max(1);
    let column = usize::try_from(column).unwrap_or(1).max(1);
    let mut start = 0_usize;
    for (number, text) in source.split_inclusive('\n').enumerate() {
        if number + 1 == line {
            let within = text
                .char_indices()
                .nth(column - 1)
                .map_or(text.len(), |(at, _)| at);
            return start + within;
        }
        start += text.len();
    }
    source.len()
}

/// `text` on one line, and not too long.
pub(super) fn quote(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if one_line.len() <= QUOTED {
        return one_line;
    }
    let cut = one_line
        .char_indices()
        .map(|(at, _)| at)
        .take_while(|at| *at <= QUOTED)
        .last()
        .unwrap_or(0);
    format!("{}…", one_line.get(..cut).unwrap_or_default())
}

impl Parsed<'_> {
    /// Where `expr` starts.
    pub fn start_of(&self, expr: &IdedExpr) -> usize {
        match &expr.expr {
            Expr::Select(select) if !select.test => self.start_of(&select.operand),
            Expr::Comprehension(comprehension) => self.start_of(&comprehension.iter_range),
            Expr::Call(call) => match (&call.target, call.args.first()) {
                (Some(target), _) => self.start_of(target),
                (None, Some(first)) if is_infix(&call.func_name) => self.start_of(first),
                (None, _) if is_prefix(&call.func_name) => self.place_of(expr),
                (None, _) => self.name_before(self.place_of(expr)),
            },
            // A presence test, `has(a.b)`, stands where its bracket does.
            Expr::Select(_) => self.name_before(self.place_of(expr)),
            _ => self.place_of(expr),
        }
    }

    /// Where the name of the function or method starts that `expr` calls.
    pub fn name_of_call(&self, expr: &IdedExpr) -> usize {
        self.name_before(self.place_of(expr))
    }

    /// Where the parser placed `expr`: an operator or bracket, for what has one.
    pub fn place_of(&self, expr: &IdedExpr) -> usize {
        self.places
            .offset_for(expr.id)
            .and_then(|(start, _)| usize::try_from(start).ok())
            .unwrap_or(0)
    }

    /// The text of `expr`, on one line.
    pub fn text_of(&self, expr: &IdedExpr) -> String {
        let (start, end) = (self.start_of(expr), self.end_of(expr));
        let text = self.scan.source.get(start..end).unwrap_or_default();
        quote(text)
    }

    fn end_of(&self, expr: &IdedExpr) -> usize {
        let place = self.place_of(expr);
        let own = || self.scan.at(place).map_or(place, |token| token.end);
        match &expr.expr {
            Expr::Select(select) if !select.test => {
                self.scan.after(place).map_or(place, |token| token.end)
            }
            Expr::Call(call) => match call.args.last() {
                Some(last)
                    if call.target.is_none()
                        && call.func_name != operators::INDEX
                        && (is_infix(&call.func_name) || is_prefix(&call.func_name)) =>
                {
                    self.end_of(last)
                }
                _ => self.scan.close_of(place).unwrap_or_else(own),
            },
            _ => self.scan.close_of(place).unwrap_or_else(own),
        }
    }

    fn name_before(&self, bracket: usize) -> usize {
        match self.scan.before(bracket) {
            Some(token) if token.kind == Kind::Word => token.start,
            _ => bracket,
        }
    }
}

/// The parser's names of operators hold signs, which no function's name can.
fn is_infix(function: &str) -> bool {
    let signs = |byte: u8| byte != b'_' && !byte.is_ascii_alphanumeric();
    function == operators::IN || function.starts_with('_') && function.bytes().any(signs)
}

fn is_prefix(function: &str) -> bool {
    function == operators::LOGICAL_NOT || function == operators::NEGATE
}
