//! Clients that are slow on purpose, by the tool that is made for it, and by the hundred: each is
//! closed within its deadline, and everybody else is served meanwhile.

use crate::harness::{Edge, Nginx, Upstream, raw, tools::run, wait_until};
use std::{
    io::{Read, Write},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Deadlines of a second or two.
const CONNECTIONS: &str = "connections:\n  per_client: 1000\n  rate_per_client: off\n  \
    timeouts: { headers: 1s, idle: 2s, body_minimum_rate: 1KiB/s, response_minimum_rate: 16KiB/s, request: 30s }\n";
/// Clients that the tool opens.
const ATTACKERS: u32 = 100;

fn edge(upstream: std::net::SocketAddr) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{upstream}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n{CONNECTIONS}"
    ))
}

fn refused(edge: &Edge, reason: &str) -> f64 {
    edge.metric("rempart_connections_refused_total", &[("reason", reason)])
}

/// People who keep asking, each from an address of their own, over new connections and old ones.
struct Innocents {
    stop: Arc<AtomicBool>,
    asking: Vec<JoinHandle<Vec<Result<(), String>>>>,
}

impl Innocents {
    fn start(edge: &Edge) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asking = (1..=4)
            .map(|number| {
                let (stop, address) = (Arc::clone(&stop), edge.plain());
                let source = format!("127.1.0.{number}");
                std::thread::spawn(move || {
                    let mut asked = Vec::new();
                    while !stop.load(Ordering::SeqCst) {
                        asked.extend(visit(&source, address));
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    asked
                })
            })
            .collect();
        Self { stop, asking }
    }

    /// How many requests they made; every one must have been answered.
    #[track_caller]
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let mut count = 0;
        for asking in self.asking {
            for asked in asking.join().unwrap() {
                count += 1;
                assert_eq!(asked, Ok(()), "request {count} of an innocent");
            }
        }
        count
    }
}

/// Three requests on a connection.
fn visit(source: &str, address: std::net::SocketAddr) -> Vec<Result<(), String>> {
    let mut stream = match raw::connect(source, address) {
        Ok(stream) => stream,
        Err(error) => return vec![Err(error.to_string())],
    };
    (0..3)
        .map(|_| {
            let request = b"GET /page HTTP/1.1\r\nhost: app.example.com\r\n\r\n";
            match raw::exchange(&mut stream, request) {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("{answer:?}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .collect()
}

/// Runs slowhttptest until it has no connection left, which must be before its time is up.
#[track_caller]
fn attack(edge: &Edge, arguments: &[&str], reason: &str) {
    let innocents = Innocents::start(edge);
    let before = refused(edge, reason);
    let folder = tempfile::tempdir().unwrap();
    let count = ATTACKERS.to_string();
    let output = run(Command::new("slowhttptest")
        .args(["-c", &count, "-r", &count, "-i", "1", "-l", "20", "-p", "5"])
        .args(["-g", "-o"])
        .arg(folder.path().join("report"))
        .args(arguments));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let asked = innocents.stop();
    assert!(asked >= 50, "the innocents asked {asked} times only");
    // Its own words for "all were closed on me".
    assert!(said.contains("No open connections left"), "{said}");
    let report = std::fs::read_to_string(folder.path().join("report.csv")).unwrap();
    let connected = report
        .lines()
        .skip(1)
        .filter_map(|line| line.split(',').nth(3)?.parse::<u32>().ok())
        .max();
    assert!(
        connected.is_some_and(|connected| connected >= ATTACKERS / 2),
        "it never had its connections: {report}"
    );
    let counted = refused(edge, reason) - before;
    assert!(
        counted >= f64::from(ATTACKERS) * 0.9,
        "{counted} of {ATTACKERS} were counted as {reason}: {report}"
    );
}

#[test]
fn slow_headers() {
    let nginx = Nginx::start();
    let edge = edge(nginx.address);
    let url = format!("https://{}/page", edge.tls());
    attack(&edge, &["-H", "-u", &url], "timeout");
    let url = format!("http://{}/page", edge.plain());
    attack(&edge, &["-H", "-u", &url], "timeout");
}

#[test]
fn slow_bodies() {
    // Takes the body whole before it answers, as applications do.
    let upstream = Upstream::named("app");
    let edge = edge(upstream.address);
    let url = format!("http://{}/form", edge.plain());
    attack(
        &edge,
        &["-B", "-s", "8192", "-x", "10", "-u", &url],
        "slow_body",
    );
}

#[test]
fn slow_readers() {
    let nginx = Nginx::start();
    let edge = edge(nginx.address);
    // 8 MiB, far more than the sockets' buffers hold, of which a KiB a second is read: fast enough for
    // the tool to empty its own buffer and see that it was closed.
    let url = format!("http://{}/big", edge.plain());
    let reading = ["-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "1024"];
    attack(
        &edge,
        &[&reading[..], &["-u", &url]].concat(),
        "slow_reader",
    );
}

#[test]
fn a_hoard_of_idle_connections_is_let_go() {
    let upstream = Upstream::named("app");
    let edge = edge(upstream.address);
    let innocents = Innocents::start(&edge);
    let open = || edge.metric("rempart_connections", &[]);
    let mut hoard: Vec<_> = (0..300)
        .map(|number| {
            let source = format!("127.2.{}.{}", number / 100, number % 100 + 1);
            let tcp = raw::connect(&source, edge.tls()).unwrap();
            let mut stream = raw::tls(
                tcp,
                "app.example.com",
                &edge.folder.authority,
                &[b"http/1.1"],
            )
            .unwrap();
            // Half of them ask once, with a wish that is not granted.
            if number % 2 == 0 {
                let request = b"GET / HTTP/1.1\r\nhost: app.example.com\r\nconnection: keep-alive\r\nkeep-alive: timeout=3600\r\n\r\n";
                assert_eq!(raw::exchange(&mut stream, request).unwrap().status, 200);
            }
            stream
        })
        .collect();
    let began = Instant::now();
    for stream in &mut hoard {
        let mut rest = Vec::new();
        // The socket's own deadline would be an error of another kind.
        let waited = stream.read_to_end(&mut rest).is_err_and(|e| {
            matches!(
                e.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            )
        });
        assert!(rest.is_empty() && !waited, "{rest:?}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    assert!(innocents.stop() >= 20);
    wait_until("the connections gone", 15, || open() < 1.0);
}

#[test]
fn the_redirecting_listener_waits_no_longer() {
    let upstream = Upstream::named("app");
    let edge = edge(upstream.address);
    let before = refused(&edge, "timeout");
    let mut silent = raw::connect("127.0.0.1", edge.redirect()).unwrap();
    let mut dripping = raw::connect("127.0.0.2", edge.redirect()).unwrap();
    let began = Instant::now();
    while dripping.write_all(b"GET").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(15), "it drips on");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(raw::is_closed(&mut silent));
    // Who asked for nothing was refused nothing.
    let counted = refused(&edge, "timeout") - before;
    assert!((counted - 1.0).abs() < 0.5, "{counted}");
}

/// A long download at a fair pace, and a long upload, take longer than any deadline here.
#[test]
fn the_slow_and_honest_are_not_cut_off() {
    let upstream = Upstream::start(|request, stream| {
        let body = crate::harness::upstream::drain(request, stream)?;
        crate::harness::upstream::answer(stream, 200, body.len().to_string().as_bytes())?;
        Ok(true)
    });
    let nginx = Nginx::start();
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}], timeouts: {{ response: 2s }} }}, files: {{ endpoints: [{}], timeouts: {{ response: 2s }} }} }}\n\
         routes: [{{ name: files, path: /big, upstream: files }}, {{ name: app, path: /, upstream: app }}]\n\
         connections: {{ timeouts: {{ headers: 1s, idle: 2s, body_minimum_rate: 1KiB/s, response_minimum_rate: 16KiB/s, request: 2s }} }}\n",
        upstream.address, nginx.address
    ));
    // One of them asks for its answer as events, as for a completion of what it uploads.
    let mut ups = ["", EVENTS].map(|headers| {
        let mut up = edge.connect("127.0.0.1");
        let request = format!(
            "POST /up HTTP/1.1\r\nhost: app.example.com\r\n{headers}content-length: 60000\r\n\r\n"
        );
        up.write_all(request.as_bytes()).unwrap();
        up
    });
    let mut down = edge.connect("127.0.0.2");
    down.write_all(b"GET /big HTTP/1.1\r\nhost: app.example.com\r\n\r\n")
        .unwrap();
    down.flush().unwrap();
    let length = raw::read_head(&mut down).unwrap();
    let length: usize = length.header("content-length").unwrap().parse().unwrap();
    let mut read = 0;
    let mut buffer = vec![0; length / 60];
    // Six seconds.
    for _ in 0..60 {
        for up in &mut ups {
            up.write_all(&[b'x'; 1000]).unwrap();
            up.flush().unwrap();
        }
        down.read_exact(&mut buffer).unwrap();
        read += buffer.len();
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut rest = vec![0; length - read];
    down.read_exact(&mut rest).unwrap();
    for mut up in ups {
        assert_eq!(raw::read_answer(&mut up).unwrap().body, b"60000");
    }
}

/// `/ws` echoes; `/events` says something every second and a half; `/mute` begins a stream and then
/// says nothing; anything else is never answered.
fn streams() -> Upstream {
    Upstream::start(|request, stream| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        match request.target.as_str() {
            "/ws" => {
                let head = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
                stream.write_all(head)?;
                stream.flush()?;
                let mut echoed = [0; 4];
                while stream.read_exact(&mut echoed).is_ok() {
                    stream.write_all(&echoed)?;
                    stream.flush()?;
                }
            }
            "/events" => {
                stream.write_all(head)?;
                for _ in 0..3 {
                    stream.flush()?;
                    std::thread::sleep(Duration::from_millis(1500));
                    stream.write_all(b"data: x\n\n")?;
                }
            }
            path => {
                if path == "/mute" {
                    stream.write_all(head)?;
                    stream.flush()?;
                }
                std::thread::sleep(Duration::from_secs(25));
            }
        }
        Ok(false)
    })
}

const EVENTS: &str = "accept: text/event-stream\r\n";
const WEB_SOCKET: &str = "connection: upgrade\r\nupgrade: websocket\r\n";

fn streaming_edge(upstream: &Upstream, timeouts: &str) -> Edge {
    Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}], timeouts: {{ response: 1s }}, retries: {{ attempts: 0 }} }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         connections: {{ timeouts: {{ {timeouts} }} }}\n",
        upstream.address
    ))
}

fn ask(edge: &Edge, path: &str, headers: &str) -> raw::Tls {
    let mut stream = edge.connect("127.0.0.1");
    let request = format!("GET {path} HTTP/1.1\r\nhost: app.example.com\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream.flush().unwrap();
    stream
}

#[test]
fn streams_outlive_what_bounds_requests() {
    let upstream = streams();
    let edge = streaming_edge(&upstream, "request: 1s, idle: 1s, stream_idle: 60s");
    let mut socket = ask(&edge, "/ws", WEB_SOCKET);
    assert_eq!(raw::read_head(&mut socket).unwrap().status, 101);
    let mut events = ask(&edge, "/events", EVENTS);
    let answer = raw::read_answer(&mut events).unwrap();
    assert_eq!(answer.body, b"data: x\n\ndata: x\n\ndata: x\n\n".as_slice());
    // Silent all the while, and there all the same.
    socket.write_all(b"ping").unwrap();
    socket.flush().unwrap();
    let mut pong = [0; 4];
    socket.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"ping");
    // To ask for a stream gains no time for an answer that is none.
    for headers in [EVENTS, WEB_SOCKET, "content-type: application/grpc\r\n"] {
        let began = Instant::now();
        let mut stream = ask(&edge, "/never", headers);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{headers}");
        assert!(began.elapsed() < Duration::from_secs(15), "{headers}");
    }
}

#[test]
fn streams_that_are_silent_on_both_sides_end() {
    let upstream = streams();
    let edge = streaming_edge(&upstream, "stream_idle: 1s");
    let mut socket = ask(&edge, "/ws", WEB_SOCKET);
    assert_eq!(raw::read_head(&mut socket).unwrap().status, 101);
    assert!(raw::is_closed(&mut socket));
    let mut events = ask(&edge, "/mute", EVENTS);
    assert_eq!(raw::read_head(&mut events).unwrap().status, 200);
    assert!(raw::is_closed(&mut events));
    assert!(refused(&edge, "timeout") >= 1.0);
}

/// A client that was promised a word before it sends its body waits for it, however long the upstream
/// takes. Once it has that word it is in no better place than others.
#[test]
fn to_wait_for_the_word_to_go_on_is_not_to_be_slow() {
    let upstream = Upstream::start(|request, stream| {
        std::thread::sleep(Duration::from_millis(2500));
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        stream.flush()?;
        let body = crate::harness::upstream::drain(request, stream)?;
        crate::harness::upstream::answer(stream, 200, &body)?;
        Ok(true)
    });
    // A body may fall behind by little more than a second.
    let edge = Edge::start(&format!(
        "upstreams: {{ app: {{ endpoints: [{}] }} }}\n\
         routes: [{{ name: app, path: /, upstream: app }}]\n\
         connections: {{ timeouts: {{ headers: 1s, body_minimum_rate: 1MiB/s }} }}\n",
        upstream.address
    ));
    let ask = |framing: &str| {
        let mut stream = edge.connect("127.0.0.1");
        let request = format!(
            "POST /up HTTP/1.1\r\nhost: app.example.com\r\nexpect: 100-continue\r\n{framing}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream.flush().unwrap();
        stream
    };
    let mut waiting = [
        ask("content-length: 4"),
        ask("transfer-encoding: chunked"),
        ask("content-length: 4"),
    ];
    for stream in &mut waiting {
        assert_eq!(raw::read_head(stream).unwrap().status, 100);
    }
    let [mut counted, mut chunked, mut silent] = waiting;
    counted.write_all(b"body").unwrap();
    assert_eq!(raw::read_answer(&mut counted).unwrap().body, b"body");
    chunked.write_all(b"4\r\nbody\r\n0\r\n\r\n").unwrap();
    assert_eq!(raw::read_answer(&mut chunked).unwrap().status, 200);
    assert!(raw::is_closed(&mut silent));
    wait_until("it is counted", 15, || refused(&edge, "slow_body") >= 1.0);
}
