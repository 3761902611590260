//! Gives every name a meaning and every node a type, and builds the program from them.
//!
//! The checker goes on after a mistake, so that all of them are reported together: a node that is
//! wrong has no value (`None`), and what stands around it says nothing more about it.

mod calls;
mod lists;
mod operators;

use super::{
    ExpressionError, names,
    names::Variable,
    parse::Parsed,
    program::{Address, Network, Number, Test, Text, Texts},
};
use cel::common::ast::{Expr, IdedExpr, LiteralValue, SelectExpr};
use std::{net::IpAddr, sync::Arc};

/// A node that was understood, by its type.
enum Value {
    Test(Test),
    Text(Text),
    Number(Number),
    Address(Address),
    Network(Network),
    Texts(Texts),
    Numbers(Box<[i64]>),
    Addresses(Box<[IpAddr]>),
    Headers,
    /// A configured list, by index.
    List(usize),
}

impl Value {
    /// What it is, for a message.
    fn noun(&self) -> &'static str {
        match self {
            Self::Test(_) => "a condition",
            Self::Text(_) => "a text",
            Self::Number(_) => "a number",
            Self::Address(_) => "an address",
            Self::Network(_) => "a network",
            Self::Texts(_) => "a list of texts",
            Self::Numbers(_) => "a list of numbers",
            Self::Addresses(_) => "a list of addresses",
            Self::Headers => "a map of texts",
            Self::List(_) => "a list of networks",
        }
    }
}

struct Checker<'a> {
    parsed: &'a Parsed<'a>,
    lists: &'a [Arc<str>],
    /// The variables of the macros around the node, outermost first.
    bound: Vec<&'a str>,
    errors: Vec<ExpressionError>,
}

/// Checks the whole tree and builds the program.
///
/// # Errors
/// Every mistake, by its place in the source.
pub(super) fn check(parsed: &Parsed<'_>, lists: &[Arc<str>]) -> Result<Test, Vec<ExpressionError>> {
    let mut checker = Checker {
        parsed,
        lists,
        bound: Vec::new(),
        errors: Vec::new(),
    };
    let test = checker.test(&parsed.root);
    let mut errors = checker.errors;
    match test {
        Some(test) if errors.is_empty() => Ok(test),
        _ => {
            errors.sort_by_key(|error| error.offset);
            Err(errors)
        }
    }
}

impl<'a> Checker<'a> {
    /// Notes a mistake; the `None` is what its node is worth.
    fn refuse<T>(&mut self, offset: usize, message: impl Into<String>) -> Option<T> {
        let message = message.into();
        self.errors.push(ExpressionError { offset, message });
        None
    }

    /// Notes a mistake at the start of `expr`.
    fn refuse_at<T>(&mut self, expr: &IdedExpr, message: impl Into<String>) -> Option<T> {
        self.refuse(self.parsed.start_of(expr), message)
    }

    /// `"source of the node" is a text`, to start a message with.
    fn saying(&self, expr: &IdedExpr, value: &Value) -> String {
        let text = self.parsed.text_of(expr);
        if text.contains('"') {
            format!("`{text}` is {}", value.noun())
        } else {
            format!("\"{text}\" is {}", value.noun())
        }
    }

    fn test(&mut self, expr: &'a IdedExpr) -> Option<Test> {
        match self.value(expr)? {
            Value::Test(test) => Some(test),
            other => {
                let said = self.saying(expr, &other);
                let hint = match other {
                    Value::Text(Text::Header(name)) => {
                        format!("; write \"{name}\" in request.headers")
                    }
                    Value::Text(_) => format!("; write {} != \"\"", self.parsed.text_of(expr)),
                    Value::Number(_) => format!("; write {} > 0", self.parsed.text_of(expr)),
                    Value::List(_) => format!("; write client.ip in {}", self.parsed.text_of(expr)),
                    Value::Texts(Texts::Roles) => "; write user.roles.size() > 0".into(),
                    _ => String::new(),
                };
                self.refuse_at(expr, format!("{said} where a condition is needed{hint}"))
            }
        }
    }

    fn value(&mut self, expr: &'a IdedExpr) -> Option<Value> {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(expr, literal),
            Expr::Ident(name) => self.name(expr, name.trim_start_matches('.')),
            Expr::Select(select) if select.test => self.presence(expr, select),
            Expr::Select(select) => self.select(expr, select),
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => self.list(expr, list),
            Expr::Comprehension(comprehension) => self.comprehension(expr, comprehension),
            Expr::Map(_) | Expr::Struct(_) => {
                self.refuse_at(expr, "maps and messages are not supported in conditions")
            }
            Expr::Unspecified => self.refuse_at(expr, "this is not a condition that can be read"),
        }
    }

    fn literal(&mut self, expr: &IdedExpr, literal: &LiteralValue) -> Option<Value> {
        Some(match literal {
            LiteralValue::Boolean(value) => Value::Test(Test::Literal(*value.inner())),
            LiteralValue::Int(value) => Value::Number(Number::Literal(*value.inner())),
            LiteralValue::String(text) => {
                Value::Text(Text::Literal(text.inner().as_bytes().into()))
            }
            LiteralValue::Null => {
                return self.refuse_at(
                    expr,
                    "nothing is `null` here: what is absent is an empty text, \"\"",
                );
            }
            LiteralValue::Bytes(_) | LiteralValue::Double(_) | LiteralValue::UInt(_) => {
                return self.refuse_at(
                    expr,
                    "only texts, whole numbers and true or false are supported",
                );
            }
        })
    }

    fn name(&mut self, expr: &IdedExpr, name: &str) -> Option<Value> {
        if let Some(index) = self.bound.iter().rposition(|bound| *bound == name) {
            return Some(Value::Text(Text::Bound(index)));
        }
        match names::variable(name) {
            Some(variable) => Some(value_of(variable)),
            None => self.unknown_variable(self.parsed.start_of(expr), name),
        }
    }

    fn unknown_variable<T>(&mut self, offset: usize, name: &str) -> Option<T> {
        let fields = names::fields_of(name);
        if !fields.is_empty() {
            return self.refuse(
                offset,
                format!(
                    "\"{name}\" is no value; it has the fields {}",
                    fields.join(", ")
                ),
            );
        }
        let hint = if names::FUNCTIONS.contains(&name) {
            format!("; \"{name}\" is a function and needs its brackets")
        } else {
            match names::nearest_variable(name) {
                Some(nearest) => format!("; nearest is \"{nearest}\""),
                None => nothing_near(name),
            }
        };
        self.refuse(offset, format!("unknown variable \"{name}\"{hint}"))
    }

    fn select(&mut self, expr: &'a IdedExpr, select: &'a SelectExpr) -> Option<Value> {
        if let Some(segments) = segments_of(expr)
            && !segments
                .first()
                .is_some_and(|root| self.bound.contains(root))
        {
            let name = segments.join(".");
            if let Some(variable) = names::variable(&name) {
                return Some(value_of(variable));
            }
            let known = names::variable(name.rsplit_once('.').map_or("", |(head, _)| head));
            if known.is_none() && !has_variable_within(&segments) {
                return self.unknown_variable(self.parsed.start_of(expr), &name);
            }
        }
        match self.value(&select.operand)? {
            Value::Headers => {
                let name = self.header_name(expr, &select.field)?;
                Some(Value::Text(Text::Header(name)))
            }
            other => {
                let said = self.saying(&select.operand, &other);
                let field = &select.field;
                let hint = if names::FUNCTIONS.contains(&field.as_str()) {
                    format!("; write .{field}(…)")
                } else {
                    String::new()
                };
                self.refuse_at(expr, format!("{said} and has no field \"{field}\"{hint}"))
            }
        }
    }

    /// `has(a.b)`
    fn presence(&mut self, expr: &'a IdedExpr, select: &'a SelectExpr) -> Option<Value> {
        let operand = segments_of(&select.operand).map(|segments| segments.join("."));
        let name = operand.map(|operand| format!("{operand}.{}", select.field));
        if let Some(name) = &name
            && let Some(variable) = names::variable(name)
        {
            let hint = match variable {
                Variable::Text(_) => format!("; write {name} != \"\""),
                _ => String::new(),
            };
            return self.refuse_at(expr, format!("\"{name}\" is always there{hint}"));
        }
        if let Some(name) = &name
            && !name.starts_with("request.headers.")
        {
            return self.unknown_variable(self.parsed.start_of(&select.operand), name);
        }
        match self.value(&select.operand)? {
            Value::Headers => {
                let name = self.header_name(expr, &select.field)?;
                Some(Value::Test(Test::HasHeader(name)))
            }
            other => {
                let said = self.saying(&select.operand, &other);
                self.refuse_at(expr, format!("{said} and has no fields"))
            }
        }
    }

    /// The name of a header as it is looked up: lower case.
    fn header_name(&mut self, place: &IdedExpr, name: &str) -> Option<Box<str>> {
        // RFC 9110, section 5.6.2: a token.
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return self.refuse_at(place, format!("\"{name}\" can't be the name of a header"));
        }
        Some(name.to_ascii_lowercase().into())
    }
}

/// What there is, where nothing is like `name`.
fn nothing_near(name: &str) -> String {
    let root = name.split('.').next().unwrap_or_default();
    let fields = names::fields_of(root);
    if fields.is_empty() {
        "; known are request, client, user, route and tls".into()
    } else {
        format!("; {root} has the fields {}", fields.join(", "))
    }
}

fn value_of(variable: Variable) -> Value {
    match variable {
        Variable::Text(field) => Value::Text(Text::Field(field)),
        Variable::Truth(field) => Value::Test(Test::Field(field)),
        Variable::Size => Value::Number(Number::RequestSize),
        Variable::Ip => Value::Address(Address::Client),
        Variable::Network => Value::Network(Network::Client),
        Variable::Headers => Value::Headers,
        Variable::Roles => Value::Texts(Texts::Roles),
    }
}

/// The segments of a dotted name, if `expr` is one.
fn segments_of(expr: &IdedExpr) -> Option<Vec<&str>> {
    match &expr.expr {
        Expr::Ident(name) => Some(vec![name.trim_start_matches('.')]),
        Expr::Select(select) if !select.test => {
            let mut segments = segments_of(&select.operand)?;
            segments.push(&select.field);
            Some(segments)
        }
        _ => None,
    }
}

/// Whether a shorter name than the whole is a variable, so that the rest are fields of a value.
fn has_variable_within(segments: &[&str]) -> bool {
    (1..segments.len()).any(|length| {
        let head = segments.get(..length).unwrap_or_default();
        names::variable(&head.join(".")).is_some()
    })
}
