//! Sockets of one process in the hands of another with more workers or fewer.

use crate::listener::{
    Listeners, WorkerSockets,
    inherited::Inherited,
    testing::edge::{config, plain},
};
use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
};

fn addresses(workers: &[WorkerSockets]) -> BTreeSet<SocketAddr> {
    let all = workers
        .iter()
        .flat_map(|worker| worker.addresses().unwrap());
    all.collect()
}

/// Accepts all there is on every socket, by hand; gives where to, and who came: the system may give one
/// port to two connections that lead to different places.
fn accept_all(workers: &[WorkerSockets]) -> BTreeSet<(SocketAddr, SocketAddr)> {
    let mut came = BTreeSet::new();
    for (socket, _) in workers.iter().flat_map(|worker| &worker.sockets) {
        loop {
            match socket.accept() {
                Ok((stream, from)) => {
                    assert!(came.insert((stream.local_addr().unwrap(), from)), "twice");
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
    }
    came
}

#[test]
fn whatever_the_number_of_workers_nothing_is_lost() {
    let config = config(vec![plain(), plain()]);
    for (before, after) in [(4, 4), (4, 1), (1, 4), (3, 2)] {
        let (old, sockets) = Listeners::bind(&config, before).unwrap();
        let bound = addresses(&sockets);
        assert_eq!(bound.len(), 2);
        let connect = || {
            let to = bound.iter().cycle().take(40);
            to.map(|to| TcpStream::connect(to).unwrap())
                .collect::<Vec<_>>()
        };
        // Some in the queues of the old one, which leaves without a look at them; some after.
        let mut clients = connect();
        let mut inherited = Inherited::new(old.duplicate().unwrap());
        let (new, taken) = Listeners::bind_with(&config, after, &mut inherited).unwrap();
        assert!(inherited.addresses().is_empty());
        old.let_go();
        drop((old, sockets));
        clients.extend(connect());
        assert_eq!(addresses(&taken), bound);
        for worker in &taken {
            let own: BTreeSet<_> = worker.addresses().unwrap().into_iter().collect();
            assert_eq!(own, bound, "each worker hears on all");
        }
        // Before they are accepted, and closed.
        let ours: BTreeSet<_> = clients
            .iter()
            .map(|client| (client.peer_addr().unwrap(), client.local_addr().unwrap()))
            .collect();
        assert_eq!(accept_all(&taken), ours, "{before} to {after}");
        // And on to the next: every socket, those that were opened further included.
        let sockets = new.duplicate().unwrap();
        let count: usize = sockets.iter().map(|group| group.sockets.len()).sum();
        assert_eq!(count, 2 * before.max(after));
    }
}

#[test]
fn addresses_are_added_and_left_out() {
    let (old, sockets) = Listeners::bind(&config(vec![plain(), plain()]), 1).unwrap();
    let bound = sockets[0].addresses().unwrap();
    let mut inherited = Inherited::new(old.duplicate().unwrap());
    let mut added = plain();
    added.address = ([127, 0, 0, 9], 0).into();
    let config = config(vec![added, plain()]);
    let (_new, taken) = Listeners::bind_with(&config, 1, &mut inherited).unwrap();
    let now = taken[0].addresses().unwrap();
    assert_eq!(now[0].ip(), config.listeners[0].address.ip());
    assert_eq!(now[1], bound[0]);
    assert_eq!(inherited.addresses(), [plain().address]);
}
