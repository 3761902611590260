//! The bulkhead: a concurrency limit keyed by route, whose slots end when the upstream has answered.

use crate::harness::{
    Edge, Upstream, raw,
    upstream::{answer, drain},
    wait_until,
};
use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// An upstream that holds requests for `/held` until it is opened; anything else it answers.
pub struct Gate {
    upstream: Upstream,
    open: Arc<(Mutex<bool>, Condvar)>,
    held: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gate {
    pub fn new() -> Self {
        let open = Arc::new((Mutex::new(false), Condvar::new()));
        let held = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let (gate, now, peak) = (Arc::clone(&open), Arc::clone(&held), Arc::clone(&most));
        let upstream = Upstream::start(move |request, stream| {
            drain(request, stream)?;
            if request.target.starts_with("/held") {
                let count = now.fetch_add(1, Ordering::SeqCst) + 1;
                peak.fetch_max(count, Ordering::SeqCst);
                let (open, changed) = &*gate;
                let guard = open.lock().unwrap();
                // A test that fails must not leave this thread waiting for ever.
                let result = changed.wait_timeout_while(guard, Duration::from_secs(25), |o| !*o);
                drop(result);
                now.fetch_sub(1, Ordering::SeqCst);
            }
            answer(stream, 200, b"done")?;
            Ok(true)
        });
        Self {
            upstream,
            open,
            held,
            most,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.upstream.address
    }

    #[track_caller]
    pub fn wait_for_held(&self, count: usize) {
        wait_until(&format!("{count} held requests"), 15, || {
            self.held.load(Ordering::SeqCst) == count
        });
    }

    /// Lets all go, for good.
    pub fn open(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }

    /// The most that were held at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    pub fn seen(&self) -> usize {
        self.upstream.seen().len()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// Asks in the background; the thread gives the status.
pub fn ask(edge: &Edge, source: &str, path: &str) -> JoinHandle<u16> {
    let curl = edge.get(path).from(source);
    std::thread::spawn(move || curl.send().status)
}

fn edge(gate: &Gate, limit: &str) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes:\n\
         \x20 - {{ name: search, path: /held, upstream: app, limits: [search] }}\n\
         \x20 - {{ name: app, path: /, upstream: app }}\n\
         limits:\n\
         \x20 search: {{ {limit}, over: throttle }}\n",
        gate.address()
    ))
}

#[test]
fn a_full_bulkhead_queues_some_and_refuses_the_rest() {
    let gate = Gate::new();
    let edge = edge(&gate, "key: [route], concurrent: 2, queue: 2, wait: 20s");
    let mut sent: Vec<_> = (1..=2)
        .map(|n| ask(&edge, &format!("127.0.0.{n}"), "/held"))
        .collect();
    gate.wait_for_held(2);
    // Two may wait; which of the next four they are is their own affair.
    sent.extend((3..=6).map(|n| ask(&edge, &format!("127.0.0.{n}"), "/held")));
    wait_until("two refusals", 15, || {
        sent.iter().filter(|thread| thread.is_finished()).count() == 2
    });
    assert_eq!(
        gate.seen(),
        2,
        "those that wait have not reached the upstream"
    );
    // Other routes are untouched: that is what a bulkhead is for.
    assert_eq!(edge.get("/else").status(), 200);
    gate.open();
    let mut statuses: Vec<u16> = sent.into_iter().map(|t| t.join().unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
    assert!(gate.most() <= 2, "{} at once", gate.most());
}

#[test]
fn waiting_ends_with_a_refusal_when_no_slot_comes_free() {
    let gate = Gate::new();
    let edge = edge(&gate, "key: [route], concurrent: 1, queue: 4, wait: 300ms");
    let held = ask(&edge, "127.0.0.1", "/held");
    gate.wait_for_held(1);
    let refused = edge.get("/held").answer();
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    gate.open();
    assert_eq!(held.join().unwrap(), 200);
}

#[test]
fn a_body_that_never_comes_holds_no_slot() {
    let gate = Gate::new();
    let edge = edge(&gate, "key: [route], concurrent: 1");
    // Complete heads whose bodies stay away: more of them than there are slots.
    let mut hostile: Vec<_> = (0..3)
        .map(|n| {
            let mut stream = edge.connect(&format!("127.0.1.{n}"));
            stream
                .write_all(
                    b"POST /held HTTP/1.1\r\nhost: app.example.com\r\ncontent-length: 1000\r\n\r\n",
                )
                .unwrap();
            stream.flush().unwrap();
            stream
        })
        .collect();
    let honest = ask(&edge, "127.0.0.1", "/held");
    gate.wait_for_held(1);
    gate.open();
    assert_eq!(honest.join().unwrap(), 200);
    // Nor does the slot stay behind when such a client goes.
    hostile.clear();
    assert_eq!(edge.get("/held").status(), 200);
}

#[test]
fn a_client_that_left_still_holds_its_slot_while_the_upstream_works() {
    let gate = Gate::new();
    let edge = edge(&gate, "key: [route], concurrent: 1");
    let mut stream = edge.connect("127.0.0.1");
    stream
        .write_all(b"GET /held HTTP/1.1\r\nhost: app.example.com\r\n\r\n")
        .unwrap();
    stream.flush().unwrap();
    gate.wait_for_held(1);
    drop(stream);
    // The upstream still works on it, so there is no room: a flood of clients that hang up at once
    // must not pile work onto the upstream.
    for _ in 0..5 {
        assert_eq!(edge.get("/held").status(), 429);
    }
    assert_eq!(gate.seen(), 1);
    gate.open();
    wait_until("the slot given back", 20, || {
        edge.get("/held").send().status == 200
    });
}

#[test]
fn an_upload_in_full_takes_a_slot_and_is_passed_on_whole() {
    let gate = Gate::new();
    let edge = edge(&gate, "key: [route], concurrent: 1");
    gate.open();
    let mut stream = edge.connect("127.0.0.1");
    let answer = raw::exchange(
        &mut stream,
        b"POST /held HTTP/1.1\r\nhost: app.example.com\r\ncontent-length: 5\r\n\r\nhello",
    )
    .unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(gate.seen(), 1);
}
