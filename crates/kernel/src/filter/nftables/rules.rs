//! The table: its chains, sets and rules, as messages.
//!
//! ```text
//! chain sources, hook prerouting, priority raw:
//!     neither TCP nor UDP: pass             unless all ports are covered
//!     to a port that isn't covered: pass    the same; a later fragment has no port and goes on
//!     source in banned_4_32: go to banned   one for each length of prefix, as it comes into use
//! chain banned:
//!     source is protected: pass
//!     count and drop
//! ```

use super::{
    Element,
    counter::{BYTES, Counter, PACKETS},
    netlink::Message,
};
use crate::filter::Ports;
use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, Immediate,
    InetHookNumber, ListAttribute, Lookup, Meta, MetaKey, NfTablesMessage, Operator, Payload,
    Register, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementFlags,
    SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableFlags,
    TableMessage, Verdict, VerdictAttribute,
};
use std::net::IpAddr;

const SOURCES: &str = "sources";
const BANNED: &str = "banned";
const PROTOCOLS: &str = "protocols";
const PORTS: &str = "ports";

/// Before connection tracking and after defragmentation, where there is any.
const PRIORITY_RAW: i32 = -300;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const TCP_AND_UDP: [u8; 2] = [6, 17];
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const INVERTED: u32 = 1;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Whether it is IPv6, and the length of prefix.
pub(super) type SetId = (bool, u8);

pub(super) fn set_of(network: &IpNet) -> SetId {
    (matches!(network, IpNet::V6(_)), network.prefix_len())
}

pub(super) struct Rules {
    table: String,
}

impl Rules {
    pub(super) fn new(table: String) -> Self {
        Self { table }
    }

    /// Everything but the bans.
    pub(super) fn table(&self, ports: &Ports) -> Vec<Message> {
        let table = NfTablesMessage::NewTable(TableMessage {
            attributes: vec![
                TableAttribute::Name(self.table.clone()),
                TableAttribute::Flags(TableFlags::Owner),
            ],
        });
        let sources = NfTablesMessage::NewChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(self.table.clone()),
                ChainAttribute::Name(SOURCES.into()),
                ChainAttribute::Hook(vec![
                    Hook::Number(InetHookNumber::PreRouting.into()),
                    Hook::Priority(PRIORITY_RAW.cast_unsigned()),
                ]),
                ChainAttribute::Type("filter".into()),
                ChainAttribute::Policy(ACCEPT),
            ],
        });
        let banned = NfTablesMessage::NewChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(self.table.clone()),
                ChainAttribute::Name(BANNED.into()),
            ],
        });
        let mut messages = vec![
            (table, NLM_F_CREATE | NLM_F_EXCL),
            (sources, NLM_F_CREATE),
            (banned, NLM_F_CREATE),
        ];
        if let Ports::Only(ports) = ports {
            messages.push(self.set(PROTOCOLS, 1, SetFlags::empty(), 1));
            messages.push(self.set(PORTS, 2, SetFlags::empty(), 2));
            messages.push(self.elements(PROTOCOLS, TCP_AND_UDP.map(|one| key(&[one])).to_vec()));
            let ports = ports.iter().map(|port| key(&port.to_be_bytes()));
            messages.push(self.elements(PORTS, ports.collect()));
            let protocol = vec![
                Expressions::Meta(vec![
                    Meta::Key(MetaKey::L4Proto),
                    Meta::DestinationRegister(Register::Reg1),
                ]),
                lookup(PROTOCOLS, INVERTED),
                verdict(Verdict::Other(ACCEPT), None),
            ];
            let port = vec![
                load(TRANSPORT, 2, 2),
                lookup(PORTS, INVERTED),
                verdict(Verdict::Other(ACCEPT), None),
            ];
            messages.push(self.rule(SOURCES, protocol));
            messages.push(self.rule(SOURCES, port));
        }
        for (id, v6) in [(3, false), (4, true)] {
            let (name, length) = protected(v6);
            messages.push(self.set(name, length, SetFlags::Interval, id));
            let mut rule = family(v6);
            rule.extend([
                source(v6, length),
                lookup(name, 0),
                verdict(Verdict::Other(ACCEPT), None),
            ]);
            messages.push(self.rule(BANNED, rule));
        }
        let count = Expressions::Other {
            expression_type: "counter".into(),
            attributes: Vec::new(),
        };
        messages.push(self.rule(BANNED, vec![count, verdict(Verdict::Other(DROP), None)]));
        messages
    }

    /// The set for bans of a length of prefix, and the rule that looks into it.
    pub(super) fn length(&self, set: SetId) -> Vec<Message> {
        let (v6, length) = set;
        let bytes = u32::from(length.div_ceil(8));
        let name = banned(set);
        let counter = Expressions::Other {
            expression_type: "counter".into(),
            attributes: Vec::new(),
        };
        let (mut message, flags) = self.set(
            &name,
            bytes,
            SetFlags::Timeout | SetFlags::Expression,
            16 + u32::from(length),
        );
        if let NfTablesMessage::NewSet(set) = &mut message {
            set.attributes
                .push(SetAttribute::ListExpressions(vec![counter.into()]));
        }
        let mut rule = family(v6);
        rule.push(source(v6, bytes));
        if length % 8 != 0 {
            let mut mask = vec![0xff; usize::from(length / 8)];
            mask.push(!(0xff >> (length % 8)));
            let zero = vec![0; mask.len()];
            rule.push(Expressions::Bitwise(vec![
                Bitwise::SourceRegister(Register::Reg1),
                Bitwise::DestinationRegister(Register::Reg1),
                Bitwise::Length(bytes),
                Bitwise::Mask(DataAttribute::Value(mask)),
                Bitwise::Xor(DataAttribute::Value(zero)),
            ]));
        }
        rule.extend([lookup(&name, 0), verdict(Verdict::Goto, Some(BANNED))]);
        vec![(message, flags), self.rule(SOURCES, rule)]
    }

    pub(super) fn add(&self, set: SetId, bans: &[(IpNet, Element)]) -> Message {
        let elements = bans.iter().map(|(network, element)| {
            let mut attributes = key(&prefix(network));
            if element.timeout != 0 {
                attributes.push(SetElementAttribute::Timeout(element.timeout));
            }
            if element.counter != Counter::default() {
                let Counter { packets, bytes } = element.counter;
                let counter = Expressions::Other {
                    expression_type: "counter".into(),
                    attributes: vec![
                        DefaultNla::new(BYTES, bytes.to_be_bytes().into()),
                        DefaultNla::new(PACKETS, packets.to_be_bytes().into()),
                    ],
                };
                attributes.push(SetElementAttribute::ListExpressions(vec![counter.into()]));
            }
            attributes
        });
        self.elements(&banned(set), elements.collect())
    }

    pub(super) fn remove(&self, set: SetId, networks: &[(IpNet, ())]) -> Message {
        let elements = networks.iter().map(|(network, ())| key(&prefix(network)));
        let attributes = self.element_list(&banned(set), elements.collect());
        (
            NfTablesMessage::DeleteSetElement(SetElementMessage { attributes }),
            0,
        )
    }

    /// Replaces what is protected; the networks may not touch each other.
    pub(super) fn protect(&self, networks: &[IpNet]) -> Vec<Message> {
        let mut messages = Vec::new();
        for v6 in [false, true] {
            let (name, _) = protected(v6);
            let attributes = vec![
                SetElementList::Table(self.table.clone()),
                SetElementList::Set(name.into()),
            ];
            let clear = NfTablesMessage::DeleteSetElement(SetElementMessage { attributes });
            messages.push((clear, 0));
            let mut elements = Vec::new();
            for network in networks.iter().filter(|network| set_of(network).0 == v6) {
                let (first, end) = interval(network);
                elements.push(key(&first));
                if let Some(end) = end {
                    let mut end = key(&end);
                    end.push(SetElementAttribute::Flags(SetElementFlags::IntervalEnd));
                    elements.push(end);
                }
            }
            for some in elements.chunks(super::CHUNK * 2) {
                messages.push(self.elements(name, some.to_vec()));
            }
        }
        messages
    }

    /// The question for one ban's element.
    pub(super) fn ask(&self, set: SetId, network: &IpNet) -> NfTablesMessage {
        let attributes = self.element_list(&banned(set), vec![key(&prefix(network))]);
        NfTablesMessage::GetSetElement(SetElementMessage { attributes })
    }

    /// The question for the rules of the chain that counts.
    pub(super) fn ask_totals(&self) -> NfTablesMessage {
        NfTablesMessage::GetRule(RuleMessage {
            attributes: vec![
                RuleAttribute::Table(self.table.clone()),
                RuleAttribute::Chain(BANNED.into()),
            ],
        })
    }

    fn set(&self, name: &str, length: u32, flags: SetFlags, id: u32) -> Message {
        let set = NfTablesMessage::NewSet(SetMessage {
            attributes: vec![
                SetAttribute::Table(self.table.clone()),
                SetAttribute::Name(name.into()),
                SetAttribute::Flags(flags),
                SetAttribute::KeyLen(length),
                SetAttribute::Id(id),
            ],
        });
        (set, NLM_F_CREATE)
    }

    fn rule(&self, chain: &str, expressions: Vec<Expressions>) -> Message {
        let rule = NfTablesMessage::NewRule(RuleMessage {
            attributes: vec![
                RuleAttribute::Table(self.table.clone()),
                RuleAttribute::Chain(chain.into()),
                RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
            ],
        });
        (rule, NLM_F_CREATE | NLM_F_APPEND)
    }

    fn elements(&self, set: &str, elements: Vec<Vec<SetElementAttribute>>) -> Message {
        let attributes = self.element_list(set, elements);
        (
            NfTablesMessage::NewSetElement(SetElementMessage { attributes }),
            NLM_F_CREATE,
        )
    }

    fn element_list(
        &self,
        set: &str,
        elements: Vec<Vec<SetElementAttribute>>,
    ) -> Vec<SetElementList> {
        vec![
            SetElementList::Table(self.table.clone()),
            SetElementList::Set(set.into()),
            SetElementList::Elements(elements.into_iter().map(ListAttribute::Element).collect()),
        ]
    }
}

fn banned((v6, length): SetId) -> String {
    format!("banned_{}_{length}", if v6 { 6 } else { 4 })
}

/// Name and bytes of a key.
fn protected(v6: bool) -> (&'static str, u32) {
    if v6 {
        ("protected_6", 16)
    } else {
        ("protected_4", 4)
    }
}

fn key(bytes: &[u8]) -> Vec<SetElementAttribute> {
    vec![SetElementAttribute::Key(DataAttribute::Value(
        bytes.to_vec(),
    ))]
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The bytes of a network's address that its prefix reaches into.
fn prefix(network: &IpNet) -> Vec<u8> {
    let mut bytes = bytes(network.network());
    bytes.truncate(usize::from(network.prefix_len().div_ceil(8)));
    bytes
}

/// The first address, and the first after the last, unless that was the last of all.
fn interval(network: &IpNet) -> (Vec<u8>, Option<Vec<u8>>) {
    let end = match network {
        IpNet::V4(network) => u32::from(network.broadcast())
            .checked_add(1)
            .map(|end| end.to_be_bytes().to_vec()),
        IpNet::V6(network) => u128::from(network.broadcast())
            .checked_add(1)
            .map(|end| end.to_be_bytes().to_vec()),
    };
    (bytes(network.network()), end)
}

fn family(v6: bool) -> Vec<Expressions> {
    let family = if v6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
    vec![
        Expressions::Meta(vec![
            Meta::Key(MetaKey::Nfproto),
            Meta::DestinationRegister(Register::Reg1),
        ]),
        Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(Operator::Equal),
            Cmp::Data(DataAttribute::Value(vec![family])),
        ]),
    ]
}

/// Loads the first bytes of the source's address.
fn source(v6: bool, bytes: u32) -> Expressions {
    load(NETWORK, if v6 { 8 } else { 12 }, bytes)
}

fn load(base: u32, offset: u32, bytes: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(bytes),
    ])
}

fn lookup(set: &str, flags: u32) -> Expressions {
    Expressions::Lookup(vec![
        Lookup::Set(set.into()),
        Lookup::SourceRegister(Register::Reg1),
        Lookup::Flags(flags),
    ])
}

fn verdict(verdict: Verdict, chain: Option<&str>) -> Expressions {
    let mut attributes = vec![VerdictAttribute::Code(verdict)];
    attributes.extend(chain.map(|chain| VerdictAttribute::Chain(chain.into())));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
}
