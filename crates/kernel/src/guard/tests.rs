//! The guard and its client over a socket pair, in front of a filter in memory.

use super::{
    Change, Client, Server, listen,
    protocol::{self, MAGIC, MAX_CHANGES, MAX_FRAME, Request},
};
use crate::filter::{Backend, memory::Memory};
use ipnet::IpNet;
use std::{
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

struct Guard {
    thread: Option<JoinHandle<io::Result<()>>>,
    stop: UnixStream,
    folder: tempfile::TempDir,
}

impl Guard {
    /// Shared, on a socket in a folder of its own.
    fn start(capacity: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("guard.sock")).unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || {
            let filter = Memory::new(Backend::Nftables, capacity);
            let mut server = Server::new(Box::new(filter), vec!["a note".into()], Vec::new())?;
            server.listen(listener)?;
            server.run(stopped.as_fd())
        });
        Self {
            thread: Some(thread),
            stop,
            folder,
        }
    }

    fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.path().join("guard.sock")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    fn client(&self) -> Client {
        Client::connect(&self.folder.path().join("guard.sock")).unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop.write_all(b"x").unwrap();
        let ended = self.thread.take().unwrap().join().unwrap();
        ended.unwrap();
    }
}

fn ban(network: &str, remaining: Option<Duration>) -> Change {
    Change::Ban {
        network: network.parse().unwrap(),
        remaining,
    }
}

/// What the guard says to bytes of a stranger, until it hangs up.
fn answer(guard: &Guard, bytes: &[u8]) -> String {
    let mut stream = guard.stream();
    // It may hang up before it has read everything.
    let _ = stream.write_all(bytes);
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn bans_are_told_and_reported() {
    let guard = Guard::start(10);
    let mut client = guard.client();
    assert_eq!(client.hello().backend, Backend::Nftables);
    assert_eq!(client.hello().capacity, 10);
    assert_eq!(client.hello().notes, ["a note"]);
    client
        .send(&[
            ban("192.0.2.7/32", Some(Duration::from_secs(60))),
            ban("2001:db8::/64", None),
            ban("198.51.100.7/24", None),
            Change::Unban {
                network: "2001:db8::/64".parse().unwrap(),
            },
        ])
        .unwrap();
    let asked: Vec<IpNet> = vec![
        "192.0.2.7/32".parse().unwrap(),
        "198.51.100.0/24".parse().unwrap(),
    ];
    let report = client.report(&asked).unwrap();
    assert_eq!((report.entries, report.refused), (2, 0));
    assert_eq!(report.hits, [0, 0]);
}

#[test]
fn a_full_statement_replaces_an_earlier_one() {
    let guard = Guard::start(10);
    let mut client = guard.client();
    client
        .send(&[ban("192.0.2.1/32", None), ban("192.0.2.2/32", None)])
        .unwrap();
    client
        .send(&[
            Change::Begin,
            ban("192.0.2.2/32", None),
            ban("192.0.2.3/32", None),
            Change::End,
        ])
        .unwrap();
    assert_eq!(client.report(&[]).unwrap().entries, 2);
}

#[test]
fn a_full_table_refuses_and_counts() {
    let guard = Guard::start(2);
    let mut client = guard.client();
    client
        .send(&[
            ban("192.0.2.1/32", None),
            ban("192.0.2.2/32", None),
            ban("192.0.2.3/32", None),
        ])
        .unwrap();
    let report = client.report(&[]).unwrap();
    assert_eq!((report.entries, report.refused), (2, 1));
    // What a statement lets go of makes room for what comes after it.
    client
        .send(&[
            Change::Begin,
            Change::End,
            ban("192.0.2.4/32", None),
            ban("192.0.2.5/32", None),
        ])
        .unwrap();
    let report = client.report(&[]).unwrap();
    assert_eq!((report.entries, report.refused), (2, 1));
}

#[test]
fn everybody_cannot_be_banned() {
    let guard = Guard::start(10);
    let mut client = guard.client();
    client
        .send(&[ban("0.0.0.0/0", None), ban("::/0", None)])
        .unwrap();
    let report = client.report(&[]).unwrap();
    assert_eq!((report.entries, report.refused), (0, 2));
}

#[test]
fn a_client_that_left_is_remembered() {
    let guard = Guard::start(10);
    let mut first = guard.client();
    first.send(&[ban("192.0.2.1/32", None)]).unwrap();
    drop(first);
    let mut second = guard.client();
    second.send(&[ban("192.0.2.2/32", None)]).unwrap();
    assert_eq!(second.report(&[]).unwrap().entries, 2);
}

#[test]
fn more_than_a_message_holds_is_split() {
    let guard = Guard::start(100_000);
    let mut client = guard.client();
    let bans: Vec<_> = (0..5 * u32::try_from(MAX_CHANGES).unwrap())
        .map(|n| {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + n);
            Change::Ban {
                network: IpNet::from(std::net::IpAddr::from(address)),
                remaining: None,
            }
        })
        .collect();
    let asked: Vec<_> = bans
        .iter()
        .map(|ban| match ban {
            Change::Ban { network, .. } => *network,
            _ => unreachable!(),
        })
        .collect();
    client.send(&bans).unwrap();
    let report = client.report(&asked).unwrap();
    assert_eq!(report.entries, bans.len() as u64);
    assert_eq!(report.hits.len(), bans.len());
}

#[test]
fn another_process_may_speak_on() {
    let guard = Guard::start(10);
    let mut client = guard.client();
    client.send(&[ban("192.0.2.1/32", None)]).unwrap();
    let stream = client.try_clone_stream().unwrap();
    drop(client);
    let mut heir = Client::over(stream).unwrap();
    heir.send(&[Change::Begin, Change::End]).unwrap();
    assert_eq!(heir.report(&[]).unwrap().entries, 0);
}

#[test]
fn a_private_guard_ends_with_its_client() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (_stop, stopped) = UnixStream::pair().unwrap();
    let guard = thread::spawn(move || {
        let filter = Memory::new(Backend::Xdp, 10);
        let mut server = Server::new(Box::new(filter), Vec::new(), Vec::new()).unwrap();
        server.serve(theirs).unwrap();
        server.run(stopped.as_fd())
    });
    let client = Client::over(ours).unwrap();
    drop(client);
    guard.join().unwrap().unwrap();
}

#[test]
fn strangers_are_told_why() {
    let guard = Guard::start(10);
    let hello = |magic, version| protocol::frame(&Request::Hello { magic, version }).unwrap();
    let said = answer(&guard, &hello(MAGIC, 999));
    assert!(
        said.contains("this guard speaks version 1, you speak 999"),
        "{said}"
    );
    let said = answer(&guard, &hello(*b"GET / HT", 1));
    assert!(said.contains("you speak something else"), "{said}");
    let said = answer(&guard, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(
        said.contains(&format!("at most {MAX_FRAME} are taken")),
        "{said}"
    );
    let said = answer(&guard, &[3, 0, 0, 0, 0xff, 0xff, 0xff]);
    assert!(said.contains("can't be read"), "{said}");
    let changes = protocol::frame(&Request::Changes(vec![Change::Begin])).unwrap();
    let said = answer(&guard, &changes);
    assert!(said.contains("say hello first"), "{said}");
    let many = protocol::frame(&Request::Changes(vec![Change::Begin; MAX_CHANGES + 1])).unwrap();
    let said = answer(&guard, &[hello(MAGIC, 1), many].concat());
    assert!(said.contains("at most 1024 are taken"), "{said}");
}

#[test]
fn one_that_stalls_or_floods_holds_up_nobody() {
    let guard = Guard::start(10);
    let hello = protocol::frame(&Request::Hello {
        magic: MAGIC,
        version: 1,
    })
    .unwrap();
    // Half a message, and no more.
    let mut stalled = guard.stream();
    stalled.write_all(&hello[..hello.len() - 1]).unwrap();
    // Questions without end, whose answers are never read.
    let mut flood = guard.stream();
    flood.write_all(&hello).unwrap();
    flood.set_nonblocking(true).unwrap();
    let question = protocol::frame(&Request::Report {
        networks: Vec::new(),
    })
    .unwrap()
    .repeat(1000);
    let mut sent = 0;
    while let Ok(count) = flood.write(&question) {
        sent += count;
        assert!(
            sent < 64 << 20,
            "the guard reads on though nobody reads its answers"
        );
    }
    let mut client = guard.client();
    client.send(&[ban("192.0.2.1/32", None)]).unwrap();
    assert_eq!(client.report(&[]).unwrap().entries, 1);
    // The one that stalls is sent away in the end, with a word.
    let mut said = Vec::new();
    let _ = stalled.read_to_end(&mut said);
    assert!(
        String::from_utf8_lossy(&said).contains("for too long"),
        "{said:?}"
    );
}

#[test]
fn only_a_socket_makes_room_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guard.sock");
    std::fs::write(&path, "somebody's").unwrap();
    let error = listen(&path, None).unwrap_err().to_string();
    assert!(error.contains("no socket is there"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's");
}

#[test]
fn what_ended_makes_room_at_once() {
    let guard = Guard::start(2);
    let mut client = guard.client();
    let short = Duration::from_millis(5);
    client
        .send(&[
            ban("192.0.2.1/32", Some(short)),
            ban("192.0.2.2/32", Some(short)),
        ])
        .unwrap();
    client.report(&[]).unwrap();
    // They have ended by then, and nothing else woke the guard.
    thread::sleep(short);
    client
        .send(&[ban("192.0.2.3/32", None), ban("192.0.2.4/32", None)])
        .unwrap();
    let report = client.report(&[]).unwrap();
    assert_eq!((report.entries, report.refused), (2, 0));
}
