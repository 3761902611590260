//! Operators: what may stand on both sides of each.

use super::{Checker, Value};
use crate::expression::program::{Arithmetic, Comparison, Number, Test, Text, Texts};
use cel::common::ast::{CallExpr, Expr, IdedExpr, operators};

impl<'a> Checker<'a> {
    /// An operator, or else a function by its name.
    pub(super) fn operator(&mut self, expr: &'a IdedExpr, call: &'a CallExpr) -> Option<Value> {
        let args = call.args.as_slice();
        match (call.func_name.as_str(), args) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [_, _]) => self.logic(expr, call),
            (operators::LOGICAL_NOT, [operand]) => {
                let test = self.test(operand)?;
                Some(Value::Test(Test::Not(test.into())))
            }
            (operators::NEGATE, [operand]) => self.negated(expr, operand),
            (operators::CONDITIONAL, [test, yes, no]) => self.choice(test, yes, no),
            (operators::IN, [item, list]) => self.membership(item, list),
            (operators::INDEX, [map, key]) => self.index(map, key),
            (name, [left, right]) => match (comparison(name), arithmetic(name)) {
                (Some(comparison), _) => self.comparison(comparison, left, right),
                (_, Some(operator)) => self.arithmetic(operator, expr, left, right),
                _ => self.function(expr, call),
            },
            _ => self.function(expr, call),
        }
    }

    /// `a && b && c` comes as a balanced tree of pairs; it is compiled to one node.
    fn logic(&mut self, expr: &'a IdedExpr, call: &'a CallExpr) -> Option<Value> {
        let mut operands = Vec::new();
        flatten(expr, &call.func_name, &mut operands);
        let tests: Vec<Option<Test>> = operands.into_iter().map(|one| self.test(one)).collect();
        let tests = tests.into_iter().collect::<Option<Box<[Test]>>>()?;
        Some(Value::Test(if call.func_name == operators::LOGICAL_AND {
            Test::And(tests)
        } else {
            Test::Or(tests)
        }))
    }

    fn choice(&mut self, test: &'a IdedExpr, yes: &'a IdedExpr, no: &'a IdedExpr) -> Option<Value> {
        let values = (self.test(test), self.value(yes), self.value(no));
        match (values.0?, values.1?, values.2?) {
            (test, Value::Test(a), Value::Test(b)) => {
                Some(Value::Test(Test::Choice(Box::new((test, a, b)))))
            }
            (test, Value::Text(a), Value::Text(b)) => {
                Some(Value::Text(Text::Choice(Box::new((test, a, b)))))
            }
            (test, Value::Number(a), Value::Number(b)) => {
                Some(Value::Number(Number::Choice(Box::new((test, a, b)))))
            }
            (_, a, b) if a.noun() == b.noun() => {
                let said = self.saying(yes, &a);
                self.refuse_at(
                    yes,
                    format!("{said}; `?:` chooses between conditions, texts or numbers"),
                )
            }
            (_, a, b) => {
                let said = self.saying(yes, &a);
                self.refuse_at(yes, format!("{said} and the other choice is {}", b.noun()))
            }
        }
    }

    fn comparison(
        &mut self,
        comparison: Comparison,
        left: &'a IdedExpr,
        right: &'a IdedExpr,
    ) -> Option<Value> {
        let values = (self.value(left), self.value(right));
        let equality = match comparison {
            Comparison::Equal => Some(false),
            Comparison::NotEqual => Some(true),
            _ => None,
        };
        Some(Value::Test(match (values.0?, values.1?, equality) {
            (Value::Text(a), Value::Text(b), _) => Test::CompareTexts(comparison, Box::new((a, b))),
            (Value::Number(a), Value::Number(b), _) => {
                Test::CompareNumbers(comparison, Box::new((a, b)))
            }
            (Value::Test(a), Value::Test(b), Some(negated)) => {
                Test::Same(Box::new((a, b)), negated)
            }
            (Value::Address(a), Value::Address(b), Some(negated)) => {
                Test::SameAddress(Box::new((a, b)), negated)
            }
            (Value::Network(a), Value::Network(b), Some(negated)) => {
                Test::SameNetwork(Box::new((a, b)), negated)
            }
            (a, b, None) if a.noun() == b.noun() => {
                let said = self.saying(left, &a);
                return self.refuse_at(left, format!("{said}, which has no order"));
            }
            (a, b, _) if a.noun() == b.noun() => {
                let said = self.saying(left, &a);
                return self.refuse_at(left, format!("{said}, which can't be compared as a whole"));
            }
            (a, b, _) => {
                let said = self.saying(left, &a);
                let hint = comparison_hint((left, &a), (right, &b), self);
                return self.refuse_at(
                    left,
                    format!("{said} and is compared with {}{hint}", b.noun()),
                );
            }
        }))
    }

    fn negated(&mut self, expr: &'a IdedExpr, operand: &'a IdedExpr) -> Option<Value> {
        match self.value(operand)? {
            Value::Number(Number::Literal(value)) => match value.checked_neg() {
                Some(value) => Some(Value::Number(Number::Literal(value))),
                None => self.refuse_at(expr, "this number overflows"),
            },
            Value::Number(number) => Some(Value::Number(Number::Negated(number.into()))),
            other => {
                let said = self.saying(operand, &other);
                let hint = match other {
                    Value::Test(_) => "; write `!`",
                    _ => "",
                };
                self.refuse_at(operand, format!("{said} where `-` needs a number{hint}"))
            }
        }
    }

    fn arithmetic(
        &mut self,
        operator: Arithmetic,
        expr: &'a IdedExpr,
        left: &'a IdedExpr,
        right: &'a IdedExpr,
    ) -> Option<Value> {
        if operator == Arithmetic::Subtract && is_dashed_header(left) {
            let text: String = self.parsed.text_of(expr).split_whitespace().collect();
            let name = text.strip_prefix("request.headers.").unwrap_or(&text);
            return self.refuse_at(
                expr,
                format!("a header with a dash in its name is written request.headers[\"{name}\"]"),
            );
        }
        let values = (self.value(left), self.value(right));
        match (values.0?, values.1?) {
            (Value::Number(Number::Literal(a)), Value::Number(Number::Literal(b))) => {
                match operator.apply(a, b) {
                    Ok(value) => Some(Value::Number(Number::Literal(value))),
                    Err(error) => self.refuse_at(expr, error.0),
                }
            }
            (Value::Number(a), Value::Number(b)) => {
                Some(Value::Number(Number::Sum(operator, Box::new((a, b)))))
            }
            (Value::Text(Text::Literal(a)), Value::Text(Text::Literal(b)))
                if operator == Arithmetic::Add =>
            {
                Some(Value::Text(Text::Literal([a, b].concat().into())))
            }
            (Value::Text(_), Value::Text(_)) if operator == Arithmetic::Add => self.refuse_at(
                expr,
                "only literals can be joined with `+`; compare the parts one by one",
            ),
            (a, b) => {
                let (wrong, value) = match a {
                    Value::Number(_) => (right, b),
                    _ => (left, a),
                };
                let said = self.saying(wrong, &value);
                let sign = symbol(operator);
                self.refuse_at(wrong, format!("{said} where `{sign}` needs a number"))
            }
        }
    }
}

/// What was probably meant by a comparison of two types.
fn comparison_hint(
    left: (&IdedExpr, &Value),
    right: (&IdedExpr, &Value),
    checker: &Checker<'_>,
) -> String {
    let text = |expr: &IdedExpr| checker.parsed.text_of(expr);
    for ((a, a_value), (b, b_value)) in [(left, right), (right, left)] {
        match (a_value, b_value) {
            (Value::Address(_), Value::Text(Text::Literal(literal))) if literal.contains(&b'/') => {
                return format!("; write cidr({}).containsIP({})", text(b), text(a));
            }
            (Value::Address(_), Value::Text(Text::Literal(_))) => {
                return format!("; write ip({})", text(b));
            }
            (Value::Network(_), Value::Text(Text::Literal(_))) => {
                return format!("; write cidr({})", text(b));
            }
            (Value::Network(_), Value::Address(_)) => {
                return format!("; write {}.containsIP({})", text(a), text(b));
            }
            (Value::Texts(Texts::Roles), Value::Text(_)) => {
                return format!("; write {} in {}", text(b), text(a));
            }
            (Value::Address(_), Value::List(_)) => {
                return format!("; write {} in {}", text(a), text(b));
            }
            _ => {}
        }
    }
    String::new()
}

fn flatten<'a>(expr: &'a IdedExpr, operator: &str, operands: &mut Vec<&'a IdedExpr>) {
    match &expr.expr {
        Expr::Call(call) if call.func_name == operator && call.target.is_none() => {
            for operand in &call.args {
                flatten(operand, operator, operands);
            }
        }
        _ => operands.push(expr),
    }
}

/// Whether `expr` begins `request.headers.user-agent`, which reads as a subtraction.
fn is_dashed_header(expr: &IdedExpr) -> bool {
    match &expr.expr {
        Expr::Call(call) if call.func_name == operators::SUBSTRACT => {
            call.args.first().is_some_and(is_dashed_header)
        }
        Expr::Select(_) => super::segments_of(expr)
            .is_some_and(|segments| segments.starts_with(&["request", "headers"])),
        _ => false,
    }
}

fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        operators::EQUALS => Comparison::Equal,
        operators::NOT_EQUALS => Comparison::NotEqual,
        operators::LESS => Comparison::Less,
        operators::LESS_EQUALS => Comparison::LessOrEqual,
        operators::GREATER => Comparison::Greater,
        operators::GREATER_EQUALS => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

fn arithmetic(name: &str) -> Option<Arithmetic> {
    Some(match name {
        operators::ADD => Arithmetic::Add,
        operators::SUBSTRACT => Arithmetic::Subtract,
        operators::MULTIPLY => Arithmetic::Multiply,
        operators::DIVIDE => Arithmetic::Divide,
        operators::MODULO => Arithmetic::Remainder,
        _ => return None,
    })
}

fn symbol(operator: Arithmetic) -> &'static str {
    match operator {
        Arithmetic::Add => "+",
        Arithmetic::Subtract => "-",
        Arithmetic::Multiply => "*",
        Arithmetic::Divide => "/",
        Arithmetic::Remainder => "%",
    }
}
