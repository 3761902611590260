//! Both sides over a real pair of sockets; the whole story with real processes is in tests/it.

use super::{
    give::{Offer, Upgrade, converse},
    take::Predecessor,
    wire::Wire,
    *,
};
use crate::{
    bans::{Bans, By},
    clock,
    listener::inherited::Group,
};
use std::{
    io::{ErrorKind, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Command,
    sync::Arc,
    thread,
};
use verdict::prefix::{Prefix, PrefixLengths};

const PATIENCE: Duration = Duration::from_secs(30);

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn offer(groups: &[(&str, usize)], admin: bool) -> Offer {
    let groups = groups.iter().map(|(address, sockets)| Group {
        address: address.parse().unwrap(),
        sockets: (0..*sockets).map(|_| listener()).collect(),
    });
    Offer {
        listeners: groups.collect(),
        admin: admin.then(|| ("127.0.0.1:9090".parse().unwrap(), listener())),
        bans: Arc::new(Bans::default()),
        state: None,
        below: Arc::default(),
    }
}

fn pair() -> (Wire, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Wire::new(ours, PATIENCE).unwrap(), theirs.into())
}

#[test]
fn sockets_and_bans_go_over() {
    // More descriptors than one message takes.
    let offer = offer(
        &[("127.0.0.1:0", 300), ("[::]:8080", 1), ("127.0.0.1:0", 2)],
        true,
    );
    for number in 0..2500_u32 {
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + number);
        let client = Prefix::of(address.into(), PrefixLengths::CLIENT);
        offer.bans.ban(client, PATIENCE, By::H2_ABUSE, clock::now());
    }
    let (ours, theirs) = pair();
    let bound = |socket: &TcpListener| socket.local_addr().unwrap();
    thread::scope(|scope| {
        let giving = scope.spawn(|| converse(&ours, &offer));
        let (predecessor, sockets) = Predecessor::meet(theirs, PATIENCE).unwrap();
        for (given, taken) in offer.listeners.iter().zip(&sockets.listeners) {
            assert_eq!(given.address, taken.address);
            let given: Vec<_> = given.sockets.iter().map(bound).collect();
            let taken: Vec<_> = taken.sockets.iter().map(bound).collect();
            assert_eq!(given, taken);
        }
        assert_eq!(sockets.listeners.len(), 3);
        let (address, admin) = sockets.admin.unwrap();
        let (given, socket) = offer.admin.as_ref().unwrap();
        assert_eq!((address, bound(&admin)), (*given, bound(socket)));
        // The queue is one: what the one end is asked, the other may answer.
        let client = TcpStream::connect(bound(&admin)).unwrap();
        let (_, from) = admin.accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        let mut taken = 0;
        predecessor.prepared(|bans| taken += bans.len()).unwrap();
        assert_eq!(taken, 2500);
        assert!(!giving.is_finished());
        predecessor.ready().unwrap();
        giving.join().unwrap().unwrap();
    });
}

#[test]
fn nothing_to_hand_over_but_the_place() {
    let (ours, theirs) = pair();
    let offer = offer(&[], false);
    thread::scope(|scope| {
        let giving = scope.spawn(|| converse(&ours, &offer));
        let (predecessor, sockets) = Predecessor::meet(theirs, PATIENCE).unwrap();
        assert!(sockets.listeners.is_empty() && sockets.admin.is_none());
        predecessor.prepared(|_| unreachable!()).unwrap();
        predecessor.ready().unwrap();
        giving.join().unwrap().unwrap();
    });
}

#[test]
fn nonsense_is_refused_by_the_new_one() {
    let hello = |text: &str| {
        let (ours, theirs) = pair();
        ours.send(text.as_bytes()).unwrap();
        drop(ours);
        Predecessor::meet(theirs, PATIENCE).unwrap_err().to_string()
    };
    for other in [
        r#"{"version":99,"listeners":[],"admin":null}"#,
        r#"{"version":99,"sockets":{"tcp":[]}}"#,
    ] {
        let version = hello(other);
        assert!(version.contains("version 99"), "{version}");
    }
    let many = r#"{"version":2,"listeners":[{"address":"127.0.0.1:1","sockets":99999999}],"admin":null,"guard":false}"#;
    assert_eq!(hello(many), "too many descriptors");
    assert!(hello("good day").contains("expected"));
    // A length without end, and an end without a message.
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(&[0xff; 64]).unwrap();
    let error = Predecessor::meet(theirs.into(), PATIENCE).unwrap_err();
    assert_eq!(error.to_string(), "a message is too long");
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    let error = Predecessor::meet(theirs.into(), PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn a_socket_that_does_not_listen_is_refused() {
    let (ours, theirs) = pair();
    let connected = TcpStream::connect(listener().local_addr().unwrap()).unwrap();
    ours.send(br#"{"version":2,"listeners":[],"admin":"127.0.0.1:1","guard":false}"#)
        .unwrap();
    ours.send_descriptors(&[connected.as_fd()]).unwrap();
    let error = Predecessor::meet(theirs, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("does not listen"), "{error}");
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[tokio::test]
async fn a_process_that_does_not_take_over_is_told_of_and_gone() {
    let short = Duration::from_millis(300);
    for (mut command, limit, expected) in [
        (
            sh("exit 7"),
            PATIENCE,
            "it ended before it was ready (exit status: 7)",
        ),
        (
            sh("exec sleep 60"),
            short,
            "it was not ready in time (signal: 9 (SIGKILL))",
        ),
        (
            // Says that it is ready before it was asked anything.
            sh(r"printf '\000\000\000\005ready' >&0; exec sleep 60"),
            PATIENCE,
            "\"ready\" came in place of \"prepared\" (signal: 9 (SIGKILL))",
        ),
    ] {
        // What is inherited of a supervisor is not for this one.
        command.env("LISTEN_FDS", "1").env("WATCHDOG_PID", "1");
        let offer = offer(&[("127.0.0.1:0", 1)], false);
        let mut upgrade = Upgrade::within(command, offer, limit).unwrap();
        let failure = upgrade.ended().await.unwrap_err();
        assert_eq!(failure.to_string(), expected);
    }
    let command = Command::new("/nonexistent/rempart");
    let mut upgrade = Upgrade::within(command, offer(&[], false), PATIENCE).unwrap();
    let failure = upgrade.ended().await.unwrap_err().to_string();
    assert!(failure.contains("No such file"), "{failure}");
}

/// Speaks the new process's part, then does as `after` says.
fn ready_and(after: &str) -> Command {
    // Both words, at once: the old one reads one after the other.
    let words = r"printf '\000\000\000\010prepared\000\000\000\005ready' >&0";
    sh(&format!("{words}; {after}"))
}

#[tokio::test]
async fn the_end_of_one_that_took_over_is_seen() {
    // It reads to the end of the conversation, so that all was said before it ends itself.
    for (after, expected) in [
        ("cat >/dev/null; exit 7", Some("exit status: 7")),
        ("cat >/dev/null; kill -KILL $$", Some("signal: 9")),
        ("cat >/dev/null; exit 0", None),
    ] {
        let offer = offer(&[], false);
        let mut upgrade = Upgrade::within(ready_and(after), offer, PATIENCE).unwrap();
        let successor = upgrade.ended().await.unwrap();
        drop(upgrade);
        let lost = successor.lost();
        if let Some(expected) = expected {
            let how = tokio::time::timeout(PATIENCE, lost).await.unwrap();
            assert!(how.contains(expected), "{how}");
        } else {
            // As it was asked to: nothing is lost by it.
            let moment = Duration::from_millis(500);
            assert!(tokio::time::timeout(moment, lost).await.is_err());
        }
    }
}

#[tokio::test]
async fn it_can_be_given_up() {
    let offer = offer(&[("127.0.0.1:0", 1)], false);
    let mut upgrade = Upgrade::within(sh("exec sleep 60"), offer, PATIENCE).unwrap();
    assert!(upgrade.cancel().await.is_none());
}
