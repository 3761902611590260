//! What a client's message does: to the ledger first, and then to the filter.

use super::{
    super::{
        protocol::{
            Change, Hello, MAGIC, MAX_ASKED, MAX_CHANGES, MAX_PROTECTED, Reply, Report, Request,
            VERSION,
        },
        session::Session,
    },
    Fault, Server,
};
use crate::filter::{Ban, MAX_PROTECTED as MAX_PROTECTED_BY_FILTER, Nanos};
use ipnet::IpNet;
use std::{
    collections::{BTreeSet, VecDeque},
    io,
};
use tracing::info;

/// Networks protected by all clients together: room is left for what the host needs.
const MAX_PROTECTED_IN_ALL: usize = MAX_PROTECTED_BY_FILTER as usize - 1024;

impl Server {
    pub(super) fn handle(
        &mut self,
        session: &mut Session,
        request: Request,
        now: Nanos,
    ) -> Result<Option<Reply>, Fault> {
        match request {
            Request::Hello { magic, version } => {
                if magic != MAGIC {
                    return Err(Fault::Client(
                        "this is Rempart's guard; you speak something else".into(),
                    ));
                }
                if version != VERSION {
                    return Err(Fault::Client(format!(
                        "this guard speaks version {VERSION}, you speak {version}: update the older one"
                    )));
                }
                if !session.greeted {
                    info!(client = session.id, "a client came");
                }
                session.greeted = true;
                Ok(Some(Reply::Hello(Hello {
                    backend: self.filter.backend(),
                    interfaces: self.filter.interfaces(),
                    capacity: self.filter.capacity(),
                    notes: self.notes.clone(),
                })))
            }
            _ if !session.greeted => Err(Fault::Client("say hello first".into())),
            Request::Changes(changes) if changes.len() > MAX_CHANGES => {
                Err(Fault::Client(format!(
                    "{} changes in a message; at most {MAX_CHANGES} are taken",
                    changes.len()
                )))
            }
            Request::Changes(changes) => self.change(session, changes, now).map(|()| None),
            Request::Report { networks } if networks.len() > MAX_ASKED => {
                Err(Fault::Client(format!(
                    "{} networks asked for in a message; at most {MAX_ASKED} are taken",
                    networks.len()
                )))
            }
            Request::Report { networks } => self
                .report(&networks)
                .map(|report| Some(Reply::Report(report))),
        }
    }

    pub(super) fn change(
        &mut self,
        session: &mut Session,
        changes: Vec<Change>,
        now: Nanos,
    ) -> Result<(), Fault> {
        let mut touched = BTreeSet::new();
        let mut stated = None;
        for change in changes {
            match change {
                Change::Begin => session.round += 1,
                Change::Ban { network, .. } if network.prefix_len() == 0 => {
                    self.complain("it banned everybody");
                    self.refused += 1;
                }
                Change::Ban { network, remaining } => {
                    let network = network.trunc();
                    let until = remaining.map(|remaining| {
                        now.saturating_add(
                            Nanos::try_from(remaining.as_nanos()).unwrap_or(Nanos::MAX),
                        )
                    });
                    let ban = Ban { network, until };
                    let mut taken = self.ledger.ban(session.id, session.round, ban);
                    if !taken && let Some(round) = stated.take() {
                        self.releases
                            .extend(self.ledger.keep_since(session.id, round));
                        taken = self.ledger.ban(session.id, session.round, ban);
                    }
                    if !taken {
                        // What ended since the last turn needs its room no more.
                        let ended = self.ledger.ended(now, MAX_CHANGES);
                        taken =
                            !ended.is_empty() && self.ledger.ban(session.id, session.round, ban);
                        touched.extend(ended);
                    }
                    if taken {
                        touched.insert(network);
                    } else {
                        self.refused += 1;
                    }
                }
                Change::Unban { network } => {
                    let network = network.trunc();
                    self.ledger.unban(session.id, network);
                    touched.insert(network);
                }
                Change::Protect { networks } => self.protect(session, &networks)?,
                Change::End => stated = Some(session.round),
            }
        }
        // Once a message: it walks the whole ledger.
        if let Some(round) = stated {
            self.releases
                .extend(self.ledger.keep_since(session.id, round));
        }
        Ok(self.enforce(touched.into_iter())?)
    }

    pub(super) fn protect(
        &mut self,
        session: &mut Session,
        networks: &[IpNet],
    ) -> Result<(), Fault> {
        if networks.len() > MAX_PROTECTED {
            return Err(Fault::Client(format!(
                "{} networks to protect; at most {MAX_PROTECTED} are taken",
                networks.len()
            )));
        }
        let networks = networks.iter().map(IpNet::trunc).collect();
        let before = std::mem::replace(&mut session.protected, networks);
        let all = self.all_protected(&session.protected);
        if all.len() > MAX_PROTECTED_IN_ALL {
            session.protected = before;
            return Err(Fault::Client(format!(
                "all clients together protect {} networks; at most {MAX_PROTECTED_IN_ALL} can be",
                all.len()
            )));
        }
        Ok(self.filter.protect(&all)?)
    }

    pub(super) fn all_protected(&self, besides: &[IpNet]) -> Vec<IpNet> {
        let mut all: BTreeSet<IpNet> = self.own.iter().chain(besides).copied().collect();
        all.extend(self.surroundings.iter().flat_map(|one| &one.networks));
        all.extend(self.sessions.iter().flat_map(|one| &one.protected));
        all.extend(self.departed.iter().flat_map(|one| &one.protected));
        all.into_iter().collect()
    }

    /// Makes the filter do as the ledger says, for these networks.
    pub(super) fn enforce(&mut self, networks: impl Iterator<Item = IpNet>) -> io::Result<()> {
        // What waits to be let go of still takes room.
        let full = self.ledger.len() + self.releases.len() > self.filter.capacity() as usize;
        let releases = if full {
            std::mem::take(&mut self.releases)
        } else {
            VecDeque::new()
        };
        let (mut bans, mut unbans) = (Vec::new(), Vec::new());
        for network in releases.into_iter().chain(networks) {
            match self.ledger.standing(network) {
                Some(ban) => bans.push(ban),
                None => unbans.push(network),
            }
        }
        self.filter.unban(&unbans)?;
        for network in self.filter.ban(&bans)? {
            self.ledger.forget_network(network);
            self.refused += 1;
        }
        Ok(())
    }

    pub(super) fn report(&mut self, networks: &[IpNet]) -> Result<Report, Fault> {
        let networks: Vec<_> = networks.iter().map(IpNet::trunc).collect();
        let totals = self.filter.totals()?;
        Ok(Report {
            packets: totals.packets,
            bytes: totals.bytes,
            hits: self.filter.hits(&networks)?,
            entries: self.ledger.len() as u64,
            refused: self.refused,
            reflectors: self.filter.reflectors()?,
        })
    }
}
