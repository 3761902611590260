//! What a condition is compiled to: a tree of typed nodes.
//!
//! The checker has made sure that each child has the type that its parent works on. What the nodes
//! do is left to [`super::evaluate`].

use crate::pressure::States;
use ipnet::IpNet;
use memchr::memmem;
use std::net::IpAddr;

/// How many macros may stand inside one another.
pub(super) const MAX_BOUND: usize = 3;

/// A text of the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextField {
    Method,
    Host,
    Path,
    Query,
    Ja4,
    Crawler,
    Clearance,
    UserId,
    Route,
    TlsVersion,
    Sni,
    Alpn,
}

/// A condition of the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TruthField {
    Authenticated,
    /// Whether any of these is raised.
    Pressure(States),
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A text.
#[derive(Clone, Debug)]
pub(super) enum Text {
    Literal(Box<[u8]>),
    Field(TextField),
    /// Lower-case name.
    Header(Box<str>),
    /// The variable of a macro, by how many macros are around it.
    Bound(usize),
    Lower(Box<Text>),
    Choice(Box<(Test, Text, Text)>),
}

/// A whole number.
#[derive(Clone, Debug)]
pub(super) enum Number {
    Literal(i64),
    RequestSize,
    /// In code points.
    TextSize(Box<Text>),
    RoleCount,
    /// 4 or 6.
    Family(Box<Address>),
    Negated(Box<Number>),
    Sum(Arithmetic, Box<(Number, Number)>),
    Choice(Box<(Test, Number, Number)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// An address.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Literal(IpAddr),
    Client,
}

/// A network.
#[derive(Clone, Debug)]
pub(super) enum Network {
    Literal(IpNet),
    Client,
}

/// A list of texts that a macro can go through.
#[derive(Clone, Debug)]
pub(super) enum Texts {
    Literal(Box<[Box<[u8]>]>),
    Roles,
}

/// What a macro asks of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantifier {
    Exists,
    All,
    ExistsOne,
}

/// What is looked for in a text.
#[derive(Clone, Debug)]
pub(super) enum Needle {
    Literal(Box<memmem::Finder<'static>>),
    Text(Text),
}

/// A condition.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Literal(bool),
    Field(TruthField),
    Not(Box<Test>),
    And(Box<[Test]>),
    Or(Box<[Test]>),
    Choice(Box<(Test, Test, Test)>),
    /// Whether two conditions are equal; or, negated, are not.
    Same(Box<(Test, Test)>, bool),
    CompareTexts(Comparison, Box<(Text, Text)>),
    CompareNumbers(Comparison, Box<(Number, Number)>),
    StartsWith(Box<(Text, Text)>),
    EndsWith(Box<(Text, Text)>),
    Contains(Box<(Text, Needle)>),
    Matches(Box<(Text, regex::bytes::Regex)>),
    /// The list is sorted.
    OneOfTexts(Text, Box<[Box<[u8]>]>),
    OneOfNumbers(Number, Box<[i64]>),
    OneOfAddresses(Address, Box<[IpAddr]>),
    OneOfRoles(Text),
    HasHeader(Box<str>),
    Listed(Address, usize),
    SameAddress(Box<(Address, Address)>, bool),
    SameNetwork(Box<(Network, Network)>, bool),
    ContainsAddress(Network, Address),
    ContainsNetwork(Network, Network),
    Each(Quantifier, Texts, usize, Box<Test>),
}
