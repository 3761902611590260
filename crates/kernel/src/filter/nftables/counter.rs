//! Counters: how they stand in what the kernel answers.

use netlink_packet_core::{NLA_TYPE_MASK, NlasIterator};

// Attributes on the way to a counter, from include/uapi/linux/netfilter/nf_tables.h.
const LIST_ELEMENT: u16 = 1;
const ELEMENTS: u16 = 3;
const ELEMENT_EXPRESSION: u16 = 7;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
pub(super) const BYTES: u16 = 1;
pub(super) const PACKETS: u16 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counter {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// The counter of the one element in an answer. (The library reads an element's expression by half.)
pub(super) fn of_element(answer: &[u8]) -> Option<Counter> {
    let element = attribute(&attribute(answer, ELEMENTS)?, LIST_ELEMENT)?;
    counter(&attribute(&element, ELEMENT_EXPRESSION)?)
}

/// The counter of the rule in an answer, if it has one.
pub(super) fn of_rule(answer: &[u8]) -> Option<Counter> {
    let expressions = attribute(answer, RULE_EXPRESSIONS)?;
    NlasIterator::new(expressions.as_slice())
        .flatten()
        .find_map(|one| counter(one.value()))
}

fn counter(expression: &[u8]) -> Option<Counter> {
    let name = attribute(expression, EXPRESSION_NAME)?;
    let data = attribute(expression, EXPRESSION_DATA)?;
    let number = |kind| Some(u64::from_be_bytes(*attribute(&data, kind)?.first_chunk()?));
    name.starts_with(b"counter\0").then(|| {
        Some(Counter {
            packets: number(PACKETS)?,
            bytes: number(BYTES)?,
        })
    })?
}

fn attribute(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut attributes = NlasIterator::new(bytes).flatten();
    let found = attributes.find(|one| one.kind() & NLA_TYPE_MASK == kind)?;
    Some(found.value().to_vec())
}
