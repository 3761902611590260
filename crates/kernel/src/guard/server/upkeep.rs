//! What time brings: bans that end, clients that do not come back, addresses that change, floods.

use super::{super::session::Session, Departed, Server};
use crate::filter::Nanos;
use std::io;
use tracing::{info, warn};

/// Clients that are gone and whose bans stay for a while: the pods of a node, and not each life of one
/// that crashes again and again.
const MAX_DEPARTED: usize = 8;
/// How long: a proxy that restarts comes back and says its bans again.
const DEPARTED_STAY: Nanos = 30_000_000_000;
/// How often the host's addresses, gateways and name servers are read again.
pub(super) const SURROUNDINGS_EVERY: Nanos = 10_000_000_000;
/// Networks that are let go of in a turn.
const RELEASES: usize = 1024;

impl Server {
    /// Reads again what the host needs, and what floods it.
    pub(super) fn look_around(&mut self, now: Nanos) -> io::Result<()> {
        if let Some(surroundings) = &mut self.surroundings
            && surroundings.again <= now
        {
            surroundings.again = now.saturating_add(SURROUNDINGS_EVERY);
            self.filter.check()?;
            match (surroundings.read)() {
                Ok(networks) if networks != surroundings.networks => {
                    surroundings.networks = networks;
                    let all = self.all_protected(&[]);
                    self.filter.protect(&all)?;
                }
                Ok(_) => {}
                Err(error) => warn!(%error, "what the host needs could not be read again"),
            }
        }
        if let Some(reflections) = &mut self.reflections
            && reflections.is_due(now)
            && let Some(ports) = reflections.sample(&self.filter.reflectors()?, now)
        {
            info!(
                ?ports,
                "reflected floods are dropped from these ports and no others"
            );
            self.filter.drop_reflected(&ports)?;
        }
        Ok(())
    }

    pub(super) fn depart(&mut self, session: Session, now: Nanos) {
        if !session.greeted {
            return;
        }
        info!(client = session.id, "a client left; its bans stay for 30 s");
        self.departed.push_back(Departed {
            id: session.id,
            until: now.saturating_add(DEPARTED_STAY),
            protected: session.protected,
        });
    }

    /// Lets go of what ended, and of clients that did not come back.
    pub(super) fn settle(&mut self, now: Nanos) -> io::Result<()> {
        self.look_around(now)?;
        let surplus = self.departed.len().saturating_sub(MAX_DEPARTED);
        let due = self
            .departed
            .iter()
            .take_while(|one| one.until <= now)
            .count()
            .max(surplus);
        let gone: Vec<Departed> = self.departed.drain(..due).collect();
        if !gone.is_empty() {
            let ids: Vec<_> = gone.iter().map(|one| one.id).collect();
            self.releases.extend(self.ledger.forget(&ids));
            // Their bans first: what they protected stays so until those are gone.
            let releases = std::mem::take(&mut self.releases);
            self.enforce(releases.into_iter())?;
            if gone.iter().any(|one| !one.protected.is_empty()) {
                let all = self.all_protected(&[]);
                self.filter.protect(&all)?;
            }
        }
        let ended = self.ledger.ended(now, RELEASES);
        let some = self.releases.len().min(RELEASES);
        let released: Vec<_> = self.releases.drain(..some).collect();
        self.enforce(ended.into_iter().chain(released))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        filter::{Backend, memory::Memory},
        guard::{Change, Client, server::now},
    };
    use std::{
        os::{fd::AsFd, unix::net::UnixStream},
        thread,
    };

    #[test]
    fn bans_of_a_client_that_does_not_come_back_are_let_go() {
        let filter = Memory::new(Backend::Xdp, 10);
        let mut server = Server::new(Box::new(filter), Vec::new(), Vec::new()).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_stop, stopped) = UnixStream::pair().unwrap();
        server.serve(theirs).unwrap();
        let client = thread::spawn(move || {
            let network = "192.0.2.7/32".parse().unwrap();
            let networks = vec!["192.0.2.9/32".parse().unwrap()];
            let mut client = Client::over(ours).unwrap();
            let ban = Change::Ban {
                network,
                remaining: None,
            };
            client.send(&[Change::Protect { networks }, ban]).unwrap();
        });
        // It ends when the client has left.
        server.run(stopped.as_fd()).unwrap();
        client.join().unwrap();
        let left = |server: &Server| (server.ledger.len(), server.all_protected(&[]).len());
        server.settle(now() + DEPARTED_STAY / 2).unwrap();
        assert_eq!(left(&server), (1, 1));
        server.settle(now() + DEPARTED_STAY).unwrap();
        assert_eq!(left(&server), (0, 0));
    }
}
