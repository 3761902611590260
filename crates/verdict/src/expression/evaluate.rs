//! Evaluates a program against facts.
//!
//! It looks up no name, asks for no type and allocates nothing. Texts are bytes, borrowed from the
//! facts or the program.
//!
//! Errors follow CEL: an operator with a failed operand fails, but `&&` and `||` (and the macros,
//! which fold with them) ignore a failure when another operand alone decides the result.

use super::{
    EvaluationError, Lists,
    program::{
        Address, Arithmetic, Comparison, MAX_BOUND, Needle, Network, Number, Quantifier, Test,
        Text, TextField, Texts, TruthField,
    },
    texts::View,
};
use crate::{decision::Rung, facts::Facts, prefix::Prefix};
use ipnet::IpNet;
use memchr::memmem;
use std::net::IpAddr;

/// What nodes are evaluated against.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub facts: &'a Facts<'a>,
    pub lists: &'a dyn Lists,
    /// The values of the macros' variables, outermost first.
    pub bound: [View<'a>; MAX_BOUND],
}

type Outcome<T> = Result<T, EvaluationError>;

impl Comparison {
    fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// Up to this many texts are compared one by one; more are searched in halves.
const FEW: usize = 8;

const ABSENT_HEADER: EvaluationError =
    EvaluationError("a header that the condition reads is absent");
const OVERFLOW: EvaluationError = EvaluationError("a number overflows");
const NO_DIVISOR: EvaluationError = EvaluationError("a number is divided by zero");

impl Text {
    fn view<'a>(&'a self, scope: &Scope<'a>) -> Outcome<View<'a>> {
        let facts = scope.facts;
        let bytes = match self {
            Self::Literal(bytes) => bytes,
            Self::Field(field) => match field {
                TextField::Method => facts.request.method.as_bytes(),
                TextField::Host => facts.request.host,
                TextField::Path => facts.request.path,
                TextField::Query => facts.request.query,
                TextField::Ja4 => facts.client.ja4.as_bytes(),
                TextField::Crawler => facts.client.crawler.as_bytes(),
                TextField::Clearance => facts.clearance.map_or("", Rung::name).as_bytes(),
                TextField::UserId => facts.user.id.as_bytes(),
                TextField::Route => facts.route_name.as_bytes(),
                TextField::TlsVersion => facts.tls.version.as_bytes(),
                TextField::Sni => facts.tls.sni.as_bytes(),
                TextField::Alpn => facts.tls.alpn.as_bytes(),
            },
            Self::Header(name) => facts.request.headers.header(name).ok_or(ABSENT_HEADER)?,
            Self::Bound(index) => return Ok(scope.bound.get(*index).copied().unwrap_or_default()),
            Self::Lower(text) => return Ok(text.view(scope)?.lowered()),
            Self::Choice(choice) => {
                let (test, yes, no) = &**choice;
                return if test.holds(scope)? { yes } else { no }.view(scope);
            }
        };
        Ok(View::of(bytes))
    }
}

impl Number {
    /// The value; the checker folds constants with it too.
    pub fn value(&self, scope: &Scope<'_>) -> Outcome<i64> {
        match self {
            Self::Literal(value) => Ok(*value),
            Self::RequestSize => Ok(i64::try_from(scope.facts.request.size).unwrap_or(i64::MAX)),
            Self::TextSize(text) => Ok(count(text.view(scope)?.code_points())),
            Self::RoleCount => Ok(count(scope.facts.user.roles.len())),
            Self::Family(address) => Ok(if address.value(scope).is_ipv4() { 4 } else { 6 }),
            Self::Negated(number) => number.value(scope)?.checked_neg().ok_or(OVERFLOW),
            Self::Sum(operator, operands) => {
                let (left, right) = (operands.0.value(scope)?, operands.1.value(scope)?);
                operator.apply(left, right)
            }
            Self::Choice(choice) => {
                let (test, yes, no) = &**choice;
                if test.holds(scope)? { yes } else { no }.value(scope)
            }
        }
    }
}

impl Arithmetic {
    pub fn apply(self, left: i64, right: i64) -> Outcome<i64> {
        if right == 0 && matches!(self, Self::Divide | Self::Remainder) {
            return Err(NO_DIVISOR);
        }
        match self {
            Self::Add => left.checked_add(right),
            Self::Subtract => left.checked_sub(right),
            Self::Multiply => left.checked_mul(right),
            Self::Divide => left.checked_div(right),
            Self::Remainder => left.checked_rem(right),
        }
        .ok_or(OVERFLOW)
    }
}

impl Address {
    fn value(&self, scope: &Scope<'_>) -> IpAddr {
        match self {
            Self::Literal(ip) => *ip,
            Self::Client => scope.facts.client.ip.to_canonical(),
        }
    }
}

impl Network {
    fn value(&self, scope: &Scope<'_>) -> IpNet {
        match self {
            Self::Literal(network) => *network,
            Self::Client => network_of(scope.facts.client.network),
        }
    }
}

fn network_of(prefix: Prefix) -> IpNet {
    // A prefix is never longer than its family's addresses, so this is the prefix itself.
    IpNet::new(prefix.address(), prefix.length()).unwrap_or_else(|_| prefix.address().into())
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

impl Test {
    /// Whether the condition holds.
    pub fn holds(&self, scope: &Scope<'_>) -> Outcome<bool> {
        Ok(match self {
            Self::Literal(value) => *value,
            Self::Field(TruthField::Authenticated) => scope.facts.user.authenticated(),
            Self::Field(TruthField::Pressure(states)) => scope.facts.pressure.meets(*states),
            Self::Not(test) => !test.holds(scope)?,
            Self::And(tests) => return fold(tests.iter().map(|test| test.holds(scope)), false),
            Self::Or(tests) => return fold(tests.iter().map(|test| test.holds(scope)), true),
            Self::Choice(choice) => {
                let (test, yes, no) = &**choice;
                return if test.holds(scope)? { yes } else { no }.holds(scope);
            }
            Self::Same(tests, negated) => {
                (tests.0.holds(scope)? == tests.1.holds(scope)?) != *negated
            }
            Self::CompareTexts(comparison, texts) => {
                let (left, right) = (texts.0.view(scope)?, texts.1.view(scope)?);
                match comparison {
                    Comparison::Equal => left.equals(right),
                    Comparison::NotEqual => !left.equals(right),
                    _ => comparison.holds(left.order(right)),
                }
            }
            Self::CompareNumbers(comparison, numbers) => {
                comparison.holds(numbers.0.value(scope)?.cmp(&numbers.1.value(scope)?))
            }
            Self::StartsWith(texts) => texts.0.view(scope)?.starts_with(texts.1.view(scope)?),
            Self::EndsWith(texts) => texts.0.view(scope)?.ends_with(texts.1.view(scope)?),
            Self::Contains(search) => {
                let text = search.0.view(scope)?;
                match &search.1 {
                    Needle::Literal(finder) => text.contains(finder),
                    // The checker lets no lowered text come here.
                    Needle::Text(needle) => {
                        let needle = needle.view(scope)?;
                        memmem::find(text.bytes, needle.bytes).is_some()
                    }
                }
            }
            Self::Matches(search) => search.1.is_match(search.0.view(scope)?.bytes),
            Self::OneOfTexts(text, list) => {
                let text = text.view(scope)?;
                if list.len() <= FEW {
                    list.iter().any(|one| text.equals(View::of(one)))
                } else {
                    list.binary_search_by(|one| View::of(one).order(text))
                        .is_ok()
                }
            }
            Self::OneOfNumbers(number, list) => list.contains(&number.value(scope)?),
            Self::OneOfAddresses(address, list) => list.contains(&address.value(scope)),
            Self::OneOfRoles(text) => {
                let text = text.view(scope)?;
                let mut roles = scope.facts.user.roles.iter();
                roles.any(|role| text.equals(View::of(role.as_bytes())))
            }
            Self::HasHeader(name) => scope.facts.request.headers.header(name).is_some(),
            Self::Listed(address, list) => scope.lists.contains(*list, address.value(scope)),
            Self::SameAddress(addresses, negated) => {
                (addresses.0.value(scope) == addresses.1.value(scope)) != *negated
            }
            Self::SameNetwork(networks, negated) => {
                (networks.0.value(scope) == networks.1.value(scope)) != *negated
            }
            Self::ContainsAddress(network, address) => {
                network.value(scope).contains(&address.value(scope))
            }
            Self::ContainsNetwork(outer, inner) => outer.value(scope).contains(&inner.value(scope)),
            Self::Each(quantifier, texts, depth, test) => {
                let mut scope = *scope;
                return match texts {
                    Texts::Literal(list) => {
                        let list = list.iter().map(|text| &**text);
                        each(*quantifier, list, *depth, test, &mut scope)
                    }
                    Texts::Roles => {
                        let roles = scope.facts.user.roles.iter().map(String::as_bytes);
                        each(*quantifier, roles, *depth, test, &mut scope)
                    }
                };
            }
        })
    }
}

/// `&&` (where `deciding` is false) or `||` (where it is true): an operand with the deciding value
/// decides, whatever fails beside it.
fn fold(outcomes: impl Iterator<Item = Outcome<bool>>, deciding: bool) -> Outcome<bool> {
    let mut result = Ok(!deciding);
    for outcome in outcomes {
        match outcome {
            Ok(value) if value == deciding => return Ok(deciding),
            Ok(_) => {}
            Err(_) if result.is_err() => {}
            Err(error) => result = Err(error),
        }
    }
    result
}

fn each<'a>(
    quantifier: Quantifier,
    texts: impl Iterator<Item = &'a [u8]>,
    depth: usize,
    test: &Test,
    scope: &mut Scope<'a>,
) -> Outcome<bool> {
    let outcomes = texts.map(|text| {
        if let Some(bound) = scope.bound.get_mut(depth) {
            *bound = View::of(text);
        }
        test.holds(scope)
    });
    match quantifier {
        Quantifier::Exists => fold(outcomes, true),
        Quantifier::All => fold(outcomes, false),
        Quantifier::ExistsOne => {
            let mut found = 0_usize;
            for outcome in outcomes {
                found = found.saturating_add(usize::from(outcome?));
            }
            Ok(found == 1)
        }
    }
}
