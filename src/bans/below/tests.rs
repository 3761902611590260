//! The thread against a real guard's server, over a real socket; its filter alone is in memory.

use super::*;
use crate::bans::{
    Because, By, Feed,
    testing::{HOUR, LOGIN, client, now, numbered, wait_for},
};
use rempart_kernel::{
    filter::{Backend, memory::Memory},
    guard::Server,
};
use std::{
    io::{PipeWriter, pipe},
    os::{fd::AsFd, unix::net::UnixListener},
    path::Path,
};
use verdict::prefix::PrefixLengths;

/// A guard at the other end of a stream; it ends with the stream.
fn guard() -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let filter = Box::new(Memory::new(Backend::Nftables, 300_000));
        let mut server = Server::new(filter, vec!["no XDP here".into()], Vec::new()).unwrap();
        server.serve(theirs).unwrap();
        let (stop, _keep) = pipe().unwrap();
        server.run(stop.as_fd()).unwrap();
    });
    ours
}

/// A guard that listens on a path, until the writer is gone.
fn listening(path: &Path) -> (PipeWriter, JoinHandle<()>) {
    let (stop, stopper) = pipe().unwrap();
    let listener = UnixListener::bind(path).unwrap();
    let guard = thread::spawn(move || {
        let filter = Box::new(Memory::new(Backend::Xdp, 1000));
        let mut server = Server::new(filter, Vec::new(), Vec::new()).unwrap();
        server.listen(listener).unwrap();
        server.run(stop.as_fd()).unwrap();
    });
    (stopper, guard)
}

fn entries(below: &Below) -> u64 {
    below.status().entries
}

#[test]
fn the_guard_hears_of_every_direct_ban() {
    let bans = Arc::new(Bans::default());
    bans.ban(client("203.0.113.1"), HOUR, LOGIN, now());
    bans.feed(vec![Feed::new(
        &"drop".into(),
        &["1.0.0.0/24", "1.0.1.0/24", "2.0.0.0/16"].map(|net| net.parse().unwrap()),
    )]);
    let below = Below::tell(&bans, Guard::Own(guard())).unwrap();
    // The feed's first two are one.
    wait_for("the first statement", || entries(&below) == 3);
    let status = below.status();
    assert_eq!(status.backend, Some("nftables"));
    assert_eq!(status.notes, ["no XDP here"]);
    bans.ban(client("2001:db8::1"), HOUR, LOGIN, now());
    bans.add("198.51.100.0/24".parse().unwrap(), HOUR, None, now())
        .unwrap();
    let proxied = By {
        direct: false,
        ..LOGIN
    };
    bans.ban(client("203.0.113.9"), HOUR, proxied, now());
    wait_for("the changes", || entries(&below) == 5);
    // Met directly in the end: the same ban goes below.
    bans.ban(client("203.0.113.9"), HOUR, LOGIN, now());
    wait_for("the one that was proxied", || entries(&below) == 6);
    bans.remove("203.0.113.1/32".parse().unwrap(), now());
    wait_for("a removal", || entries(&below) == 5);
    bans.feed(Vec::new());
    wait_for("the end of the feed", || entries(&below) == 3);
    let proxy = [("203.0.113.0/24".parse().unwrap(), Because::TrustedProxy)];
    bans.configure(&proxy, PrefixLengths::CLIENT, now());
    wait_for("the end of what is protected", || entries(&below) == 2);
    below.close();
}

#[test]
fn a_ban_of_what_is_fed_does_not_end_the_feed_s() {
    let fed: Vec<IpNet> = ["2001:db8::/32", "203.0.113.7/32", "1.0.0.0/24", "9.0.0.0/9"]
        .map(|net| net.parse().unwrap())
        .into();
    let bans = Arc::new(Bans::default());
    bans.feed(vec![Feed::new(&"drop".into(), &fed)]);
    let below = Below::tell(&bans, Guard::Own(guard())).unwrap();
    wait_for("the feed", || entries(&below) == 4);
    for network in &fed {
        bans.add(*network, HOUR, None, now()).unwrap();
    }
    // It says everything again.
    below.resume();
    for network in &fed {
        bans.remove(*network, now());
    }
    bans.ban(client("198.51.100.1"), HOUR, LOGIN, now());
    wait_for("another besides", || entries(&below) == 5);
    below.close();
}

#[test]
fn a_queue_that_overflows_is_a_statement() {
    let bans = Arc::new(Bans::with_capacity(400_000));
    let below = Below::tell(&bans, Guard::Own(guard())).unwrap();
    wait_for("the guard", || below.status().backend.is_some());
    below.pause();
    for number in 0..100_000 {
        bans.ban(numbered(number), HOUR, LOGIN, now());
    }
    below.resume();
    wait_for("all of them", || entries(&below) == 100_000);
    below.close();
}

#[test]
fn a_paused_one_that_finds_its_guard_again_states_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guard.sock");
    let bans = Arc::new(Bans::default());
    bans.ban(client("203.0.113.1"), HOUR, LOGIN, now());
    let below = Below::tell(&bans, Guard::Shared(path.clone())).unwrap();
    below.pause();
    let (stopper, guard) = listening(&path);
    wait_for("the guard", || below.status().backend.is_some());
    assert_eq!(entries(&below), 0);
    below.resume();
    wait_for("the statement", || entries(&below) == 1);
    drop(stopper);
    guard.join().unwrap();
    below.close();
}

#[test]
fn without_its_own_guard_it_says_why() {
    let bans = Arc::new(Bans::default());
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let below = Below::tell(&bans, Guard::Own(ours)).unwrap();
    wait_for("why", || !below.status().notes.is_empty());
    assert_eq!(below.status().backend, None);
    // Nobody waits for it.
    bans.ban(client("203.0.113.1"), HOUR, LOGIN, now());
    assert!(bans.until(client("203.0.113.1"), now()).is_some());
    below.close();
}

#[test]
fn a_shared_guard_that_comes_back_hears_everything_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guard.sock");
    let bans = Arc::new(Bans::default());
    bans.ban(client("203.0.113.1"), HOUR, LOGIN, now());
    let below = Below::tell(&bans, Guard::Shared(path.clone())).unwrap();
    wait_for("why there is none", || !below.status().notes.is_empty());
    for round in 1..=2 {
        let (stopper, guard) = listening(&path);
        wait_for("the guard", || entries(&below) == round);
        assert_eq!(below.status().backend, Some("xdp"));
        drop(stopper);
        guard.join().unwrap();
        std::fs::remove_file(&path).unwrap();
        wait_for("its end", || below.status().backend.is_none());
        bans.ban(client("203.0.113.2"), HOUR, LOGIN, now());
    }
    below.close();
}

#[tokio::test]
async fn hits_are_asked_for_when_a_list_is_shown() {
    let bans = Arc::new(Bans::default());
    bans.ban(client("203.0.113.1"), HOUR, LOGIN, now());
    let below = Below::tell(&bans, Guard::Own(guard())).unwrap();
    let network: IpNet = "203.0.113.1/32".parse().unwrap();
    assert_eq!(below.hits(Vec::new()).await, None);
    while below.status().backend.is_none() {
        tokio::task::yield_now().await;
    }
    let hits = below.hits(vec![network]).await;
    assert_eq!(hits, Some(HashMap::from([(network, 0)])));
    assert_eq!(below.hits(vec![network]).await, hits, "known for a second");
    below.close();
}
