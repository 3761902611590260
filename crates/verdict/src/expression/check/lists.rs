//! Lists, maps and the macros that go through lists.

use super::{Checker, Value};
use crate::expression::program::{
    Address, MAX_BOUND, Network, Number, Quantifier, Test, Text, Texts,
};
use cel::common::ast::{ComprehensionExpr, Expr, IdedExpr, ListExpr, operators};

impl<'a> Checker<'a> {
    /// A list of literals, all of one type.
    pub(super) fn list(&mut self, expr: &'a IdedExpr, list: &'a ListExpr) -> Option<Value> {
        let elements = list.elements.as_slice();
        let values: Vec<Option<Value>> = elements.iter().map(|one| self.value(one)).collect();
        let values = values.into_iter().collect::<Option<Vec<Value>>>()?;
        let Some(first) = values.first() else {
            return self.refuse_at(expr, "this list is empty");
        };
        let noun = first.noun();
        let mut texts = Vec::new();
        let mut numbers = Vec::new();
        let mut addresses = Vec::new();
        for (element, value) in elements.iter().zip(values) {
            if value.noun() != noun {
                let said = self.saying(element, &value);
                return self
                    .refuse_at(element, format!("{said} in a list that starts with {noun}"));
            }
            match value {
                Value::Text(Text::Literal(text)) => texts.push(text),
                Value::Number(Number::Literal(number)) => numbers.push(number),
                Value::Address(Address::Literal(ip)) => addresses.push(ip),
                Value::Network(Network::Literal(_)) => {
                    return self.refuse_at(
                        element,
                        "networks can't stand in a list; write cidr(…).containsIP(client.ip) for \
                         each, or name them under `lists:`",
                    );
                }
                other => {
                    let said = self.saying(element, &other);
                    return self.refuse_at(
                        element,
                        format!("{said}; lists hold literal texts, numbers or addresses"),
                    );
                }
            }
        }
        Some(if !texts.is_empty() {
            Value::Texts(Texts::Literal(texts.into()))
        } else if !numbers.is_empty() {
            Value::Numbers(numbers.into())
        } else {
            Value::Addresses(addresses.into())
        })
    }

    /// `item in list`
    pub(super) fn membership(&mut self, item: &'a IdedExpr, list: &'a IdedExpr) -> Option<Value> {
        let values = (self.value(item), self.value(list));
        let text = |expr: &IdedExpr| self.parsed.text_of(expr);
        let hint = match (values.0?, values.1?) {
            (Value::Text(text), Value::Texts(Texts::Literal(mut list))) => {
                list.sort_unstable();
                return Some(Value::Test(Test::OneOfTexts(text, list)));
            }
            (Value::Text(text), Value::Texts(Texts::Roles)) => {
                return Some(Value::Test(Test::OneOfRoles(text)));
            }
            (Value::Text(Text::Literal(name)), Value::Headers) => {
                let name = String::from_utf8_lossy(&name).into_owned();
                let name = self.header_name(item, &name)?;
                return Some(Value::Test(Test::HasHeader(name)));
            }
            (Value::Number(number), Value::Numbers(list)) => {
                return Some(Value::Test(Test::OneOfNumbers(number, list)));
            }
            (Value::Address(address), Value::Addresses(list)) => {
                return Some(Value::Test(Test::OneOfAddresses(address, list)));
            }
            (Value::Address(address), Value::List(list)) => {
                return Some(Value::Test(Test::Listed(address, list)));
            }
            (Value::Text(_), Value::Headers) => {
                return self.refuse_at(item, "the name of a header has to be a literal text");
            }
            (Value::Address(_), Value::Text(Text::Literal(_))) => {
                format!("write cidr({}).containsIP({})", text(list), text(item))
            }
            (Value::Address(_), Value::Network(_)) => {
                format!("write {}.containsIP({})", text(list), text(item))
            }
            (Value::Address(_), Value::Texts(Texts::Literal(_))) => {
                format!(
                    "write ip(…) in the list, or cidr(…).containsIP({})",
                    text(item)
                )
            }
            (Value::Network(Network::Client), Value::List(_)) => {
                format!("write client.ip in {}", text(list))
            }
            (Value::Network(_), Value::Network(_)) => {
                format!("write {}.containsCIDR({})", text(list), text(item))
            }
            (Value::Text(_), Value::Text(_)) => {
                format!("write {}.contains({})", text(list), text(item))
            }
            (a, b) => {
                let said = self.saying(item, &a);
                return self.refuse_at(item, format!("{said} and can't be in {}", b.noun()));
            }
        };
        self.refuse_at(list, format!("`in` can't look into this; {hint}"))
    }

    /// `map[key]`
    pub(super) fn index(&mut self, map: &'a IdedExpr, key: &'a IdedExpr) -> Option<Value> {
        let values = (self.value(map), self.value(key));
        match (values.0?, values.1?) {
            (Value::Headers, Value::Text(Text::Literal(name))) => {
                let name = String::from_utf8_lossy(&name).into_owned();
                let name = self.header_name(key, &name)?;
                Some(Value::Text(Text::Header(name)))
            }
            (Value::Headers, _) => {
                self.refuse_at(key, "the name of a header has to be a literal text")
            }
            (other, _) => {
                let said = self.saying(map, &other);
                let hint = match other {
                    Value::Texts(Texts::Roles) => "; write \"…\" in user.roles",
                    _ => "",
                };
                self.refuse_at(map, format!("{said} and can't be indexed{hint}"))
            }
        }
    }

    /// What the parser makes of `list.exists(name, condition)` and its like.
    pub(super) fn comprehension(
        &mut self,
        expr: &'a IdedExpr,
        comprehension: &'a ComprehensionExpr,
    ) -> Option<Value> {
        let Some((quantifier, condition)) = quantifier(comprehension) else {
            return self.refuse(
                self.parsed.name_of_call(expr),
                "`map` and `filter` are not supported; `exists`, `all` and `exists_one` are",
            );
        };
        let range = self.value(&comprehension.iter_range);
        let depth = self.bound.len();
        if depth >= MAX_BOUND {
            return self.refuse(
                self.parsed.name_of_call(expr),
                format!("at most {MAX_BOUND} macros may stand inside one another"),
            );
        }
        self.bound.push(&comprehension.iter_var);
        let condition = self.test(condition);
        self.bound.pop();
        match range? {
            Value::Texts(texts) => Some(Value::Test(Test::Each(
                quantifier,
                texts,
                depth,
                condition?.into(),
            ))),
            other => {
                let said = self.saying(&comprehension.iter_range, &other);
                let hint = match other {
                    Value::Headers => "; ask for one header by its name",
                    _ => "",
                };
                self.refuse_at(
                    expr,
                    format!("{said}; macros go through lists of texts{hint}"),
                )
            }
        }
    }
}

/// Which macro this is by the loop it was expanded to, and the condition that was written in it.
fn quantifier(comprehension: &ComprehensionExpr) -> Option<(Quantifier, &IdedExpr)> {
    let Expr::Call(step) = &comprehension.loop_step.expr else {
        return None;
    };
    let is_result = |expr: &IdedExpr| match &expr.expr {
        Expr::Ident(name) => *name == comprehension.accu_var,
        _ => false,
    };
    match (step.func_name.as_str(), step.args.as_slice()) {
        (operators::LOGICAL_OR, [result, condition]) if is_result(result) => {
            Some((Quantifier::Exists, condition))
        }
        (operators::LOGICAL_AND, [result, condition]) if is_result(result) => {
            Some((Quantifier::All, condition))
        }
        (operators::CONDITIONAL, [condition, _, result])
            if is_result(result) && !is_result(&comprehension.result) =>
        {
            Some((Quantifier::ExistsOne, condition))
        }
        _ => None,
    }
}
