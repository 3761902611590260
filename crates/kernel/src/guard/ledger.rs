//! Who asked for which ban, until when: what the filter drops is the union, each network for the
//! longest time that anyone asked for.
//!
//! Bounded by the filter's capacity in networks, and by one statement a client in each.

use crate::filter::{Ban, Nanos};
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};

/// A client for as long as it is connected, and a while longer.
pub(super) type ClientId = u64;

#[derive(Debug)]
pub(super) struct Ledger {
    capacity: usize,
    statements: HashMap<IpNet, Vec<Statement>>,
    /// When the union of a network's statements ends, unless `NEVER`.
    ends: BTreeSet<(Nanos, IpNet)>,
}

#[derive(Debug)]
struct Statement {
    client: ClientId,
    /// Of the client's full statements, the one that this is part of.
    round: u64,
    until: Nanos,
}

/// Later than any end.
const NEVER: Nanos = Nanos::MAX;

impl Ledger {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            capacity: capacity as usize,
            statements: HashMap::new(),
            ends: BTreeSet::new(),
        }
    }

    /// Networks that somebody wants banned.
    pub(super) fn len(&self) -> usize {
        self.statements.len()
    }

    /// False if there is no room for another network.
    pub(super) fn ban(&mut self, client: ClientId, round: u64, ban: Ban) -> bool {
        let network = ban.network;
        if self.len() >= self.capacity && !self.statements.contains_key(&network) {
            return false;
        }
        let statement = Statement {
            client,
            round,
            until: ban.until.unwrap_or(NEVER),
        };
        self.restate(network, |statements| {
            match statements.iter_mut().find(|one| one.client == client) {
                Some(earlier) => *earlier = statement,
                None => statements.push(statement),
            }
        });
        true
    }

    pub(super) fn unban(&mut self, client: ClientId, network: IpNet) {
        if self.statements.contains_key(&network) {
            self.restate(network, |statements| {
                statements.retain(|one| one.client != client);
            });
        }
    }

    /// What is to be dropped of a network, if anything.
    pub(super) fn standing(&self, network: IpNet) -> Option<Ban> {
        let end = longest(self.statements.get(&network)?);
        Some(Ban {
            network,
            until: (end != NEVER).then_some(end),
        })
    }

    /// Lets go of what a client stated in rounds before this; gives the networks that this touched.
    pub(super) fn keep_since(&mut self, client: ClientId, round: u64) -> Vec<IpNet> {
        self.let_go(|one| one.client == client && one.round < round)
    }

    /// Lets go of all that these clients stated; gives the networks that this touched.
    pub(super) fn forget(&mut self, clients: &[ClientId]) -> Vec<IpNet> {
        self.let_go(|one| clients.contains(&one.client))
    }

    /// Lets go of what ended; gives those networks, at most so many.
    pub(super) fn ended(&mut self, now: Nanos, most: usize) -> Vec<IpNet> {
        let due: Vec<_> = self
            .ends
            .iter()
            .take(most)
            .take_while(|end| end.0 <= now)
            .copied()
            .collect();
        for end in &due {
            self.ends.remove(end);
            self.statements.remove(&end.1);
        }
        due.into_iter().map(|(_, network)| network).collect()
    }

    /// Whether something ended that was not let go of yet.
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        self.ends.first().is_some_and(|end| end.0 <= now)
    }

    /// For a network that the filter had no room for.
    pub(super) fn forget_network(&mut self, network: IpNet) {
        self.restate(network, Vec::clear);
    }

    fn let_go(&mut self, gone: impl Fn(&Statement) -> bool) -> Vec<IpNet> {
        let touched: Vec<_> = self
            .statements
            .iter()
            .filter(|(_, statements)| statements.iter().any(&gone))
            .map(|(network, _)| *network)
            .collect();
        for network in &touched {
            self.restate(*network, |statements| statements.retain(|one| !gone(one)));
        }
        touched
    }

    fn restate(&mut self, network: IpNet, change: impl FnOnce(&mut Vec<Statement>)) {
        let statements = self.statements.entry(network).or_default();
        let before = longest(statements);
        change(statements);
        let after = longest(statements);
        if statements.is_empty() {
            self.statements.remove(&network);
        }
        if before != after {
            self.ends.remove(&(before, network));
            if ![0, NEVER].contains(&after) {
                self.ends.insert((after, network));
            }
        }
    }
}

/// When the last of these ends; 0 if there are none.
fn longest(statements: &[Statement]) -> Nanos {
    statements.iter().map(|one| one.until).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: &str = "192.0.2.7/32";

    fn ban(network: &str, until: Option<Nanos>) -> Ban {
        Ban {
            network: network.parse().unwrap(),
            until,
        }
    }

    fn net(network: &str) -> IpNet {
        network.parse().unwrap()
    }

    #[test]
    fn the_longest_statement_stands() {
        let mut ledger = Ledger::new(10);
        assert!(ledger.ban(1, 0, ban(NETWORK, Some(50))));
        assert!(ledger.ban(2, 0, ban(NETWORK, Some(90))));
        assert_eq!(ledger.standing(net(NETWORK)), Some(ban(NETWORK, Some(90))));
        assert!(ledger.ban(3, 0, ban(NETWORK, None)));
        assert_eq!(ledger.standing(net(NETWORK)), Some(ban(NETWORK, None)));
        ledger.unban(3, net(NETWORK));
        ledger.unban(2, net(NETWORK));
        assert_eq!(ledger.standing(net(NETWORK)), Some(ban(NETWORK, Some(50))));
        ledger.unban(1, net(NETWORK));
        assert_eq!(ledger.standing(net(NETWORK)), None);
        assert_eq!((ledger.len(), ledger.ends.len()), (0, 0));
    }

    #[test]
    fn a_client_changes_its_own_statement_and_no_other() {
        let mut ledger = Ledger::new(10);
        ledger.ban(1, 0, ban(NETWORK, Some(50)));
        ledger.ban(1, 0, ban(NETWORK, Some(20)));
        assert_eq!(ledger.standing(net(NETWORK)), Some(ban(NETWORK, Some(20))));
        ledger.unban(2, net(NETWORK));
        assert_eq!(ledger.standing(net(NETWORK)), Some(ban(NETWORK, Some(20))));
    }

    #[test]
    fn what_ended_goes_and_no_more() {
        let mut ledger = Ledger::new(10);
        ledger.ban(1, 0, ban("192.0.2.1/32", Some(10)));
        ledger.ban(1, 0, ban("192.0.2.2/32", Some(20)));
        ledger.ban(1, 0, ban("192.0.2.3/32", None));
        ledger.ban(2, 0, ban("192.0.2.1/32", Some(30)));
        assert_eq!(ledger.ended(19, 10), []);
        assert!(!ledger.is_due(19) && ledger.is_due(20));
        assert_eq!(ledger.ended(20, 10), [net("192.0.2.2/32")]);
        assert!(!ledger.is_due(29) && ledger.is_due(30));
        assert_eq!(ledger.ended(30, 10), [net("192.0.2.1/32")]);
        assert_eq!(ledger.ended(Nanos::MAX, 10), []);
        assert_eq!(ledger.len(), 1);
    }

    #[test]
    fn a_full_ledger_takes_no_other_network() {
        let mut ledger = Ledger::new(2);
        assert!(ledger.ban(1, 0, ban("192.0.2.1/32", None)));
        assert!(ledger.ban(1, 0, ban("192.0.2.2/32", None)));
        assert!(!ledger.ban(1, 0, ban("192.0.2.3/32", None)));
        assert!(ledger.ban(2, 0, ban("192.0.2.2/32", Some(5))));
        assert_eq!(ledger.len(), 2);
    }

    #[test]
    fn a_full_statement_lets_go_of_what_it_does_not_say() {
        let mut ledger = Ledger::new(10);
        ledger.ban(1, 0, ban("192.0.2.1/32", None));
        ledger.ban(1, 0, ban("192.0.2.2/32", None));
        ledger.ban(2, 0, ban("192.0.2.3/32", None));
        ledger.ban(1, 1, ban("192.0.2.2/32", None));
        assert_eq!(ledger.keep_since(1, 1), [net("192.0.2.1/32")]);
        assert_eq!(ledger.len(), 2);
        assert_eq!(ledger.forget(&[1]), [net("192.0.2.2/32")]);
        assert_eq!(ledger.len(), 1);
    }
}
