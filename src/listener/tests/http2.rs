//! HTTP/2 clients that bend the protocol or dawdle, by real sockets: the connection is told to calm
//! down and closed, a stream is reset, and whoever does neither goes on.

use crate::{
    config::model::{AbuseLimits, Rate},
    listener::testing::{
        client::{PATIENCE, connect, connect_from},
        edge::{Edge, HANGING, config, plain},
    },
};
use bytes::Bytes;
use h2::client::SendRequest;
use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

const SHORT: Duration = Duration::from_millis(300);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;

/// The score as it is by default, with so many strikes.
fn scored(strikes: u32) -> AbuseLimits {
    AbuseLimits {
        points: 200.try_into().unwrap(),
        recovery: Rate {
            amount: 20.try_into().unwrap(),
            period: Duration::from_secs(1),
        },
        strikes: strikes.try_into().unwrap(),
        ban: Some(Duration::from_secs(600)),
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// GET of a path of at most 100 bytes, from `app.test`; `flags` beside `END_HEADERS`.
fn get(stream: u32, path: &str, flags: u8) -> Vec<u8> {
    // Indexed :method GET and :scheme http, then :path and :authority as literals.
    let mut block = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend(path.as_bytes());
    block.extend([0x01, 8]);
    block.extend(b"app.test");
    frame(1, flags | 4, stream, &block)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

/// A client that writes frames as it likes.
struct Raw {
    wire: TcpStream,
}

/// A frame that came.
#[derive(Debug)]
struct Came {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Raw {
    async fn new(address: SocketAddr) -> Self {
        Self::from([127, 0, 0, 1], address).await
    }

    async fn from(source: [u8; 4], address: SocketAddr) -> Self {
        let mut wire = connect_from(IpAddr::from(source), address).await;
        wire.write_all(PREFACE).await.unwrap();
        wire.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self { wire }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Came> {
        timeout(PATIENCE, async {
            let mut head = [0; 9];
            self.wire.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.wire.read_exact(&mut payload).await.ok()?;
            Some(Came {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload,
            })
        })
        .await
        .expect("a frame or an end")
    }

    /// Reads up to a frame of this kind on this stream.
    async fn until(&mut self, kind: u8, stream: u32) -> Option<Came> {
        loop {
            let came = self.next().await?;
            if (came.kind, came.stream) == (kind, stream) {
                return Some(came);
            }
        }
    }

    /// The code of the GOAWAY that the connection ends with.
    async fn farewell(mut self) -> Option<u32> {
        let goaway = self.until(7, 0).await?;
        let code = goaway.payload[4..8].try_into().unwrap();
        while self.next().await.is_some() {}
        Some(u32::from_be_bytes(code))
    }
}

async fn client(address: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let (client, connection) = h2::client::handshake(connect(address).await).await.unwrap();
    (client, tokio::spawn(connection))
}

async fn ask(client: &SendRequest<Bytes>, path: &str) -> Result<u16, h2::Error> {
    let request = http::Request::get(format!("http://app.test{path}"))
        .body(())
        .unwrap();
    let mut client = timeout(PATIENCE, client.clone().ready()).await.unwrap()?;
    let (answer, _) = client.send_request(request, true)?;
    let answer = timeout(PATIENCE, answer).await.expect("an answer")?;
    Ok(answer.status().as_u16())
}

/// Asks for something on this stream: which stream was answered.
async fn ask_raw(raw: &mut Raw, stream: u32) -> Option<u32> {
    raw.send(&get(stream, "/quick", 1)).await;
    Some(raw.until(1, stream).await?.stream)
}

fn counted(edge: &Edge, line: &str) -> u64 {
    let rendered = edge.shared.metrics.render();
    let value = rendered.lines().find_map(|found| found.strip_prefix(line));
    value.map_or(0, |value| value.trim().parse().unwrap())
}

fn refused(edge: &Edge, reason: &str) -> u64 {
    counted(
        edge,
        &format!("rempart_connections_refused_total{{reason=\"{reason}\"}}"),
    )
}

/// Every kind of flood ends its connection by GOAWAY with `ENHANCE_YOUR_CALM`, and no other's.
#[tokio::test]
async fn floods_end_by_goaway() {
    let mut config = config(vec![plain()]);
    config.connections.http2.abuse = Some(scored(100));
    let edge = Edge::start(config, 1).await;
    let address = edge.addresses[0];
    let (innocent, _driver) = client(address).await;
    let once =
        |bytes: Vec<u8>| -> Box<dyn Fn(u32) -> Vec<u8> + Send> { Box::new(move |_| bytes.clone()) };
    let floods = [
        ("ping", vec![], once(frame(6, 0, 0, &[7; 8]))),
        ("settings", vec![], once(frame(SETTINGS, 0, 0, &[]))),
        ("priority", vec![], once(frame(2, 0, 1, &[0, 0, 0, 0, 5]))),
        ("priority", vec![], once(frame(16, 0, 0, b"\0\0\0\x01u=1"))),
        ("unknown_frame", vec![], once(frame(0xfa, 0, 0, b"grease"))),
        ("window", vec![], once(frame(8, 0, 0, &[0, 0, 0, 1]))),
        ("empty_frame", get(1, "/slow", 0), once(frame(0, 0, 1, &[]))),
        (
            "rapid_reset",
            vec![],
            Box::new(|at| [get(2 * at + 1, "/slow", 1), reset(2 * at + 1)].concat()),
        ),
        // Too large a window is an error of the stream: it is the server that resets it.
        (
            "made_you_reset",
            vec![],
            Box::new(|at| {
                let stream = 2 * at + 1;
                [
                    get(stream, "/slow", 1),
                    frame(8, 0, stream, &[0x7f, 0xff, 0xff, 0xff]),
                ]
                .concat()
            }),
        ),
        (
            "continuation",
            frame(1, 1, 1, &[0x82]),
            once(frame(9, 0, 1, b"\x00\x01x\x01y")),
        ),
    ];
    for (expected, (kind, first, flood)) in (1..).zip(floods) {
        let mut raw = Raw::new(address).await;
        raw.send(&first).await;
        // What is sent after the end is lost.
        let (mut read, mut write) = raw.wire.into_split();
        let flooding = tokio::spawn(async move {
            for at in 0..20_000 {
                if write.write_all(&flood(at)).await.is_err() {
                    break;
                }
                if at % 16 == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            write
        });
        let mut said = Vec::new();
        let _ = timeout(PATIENCE, read.read_to_end(&mut said))
            .await
            .unwrap();
        flooding.abort();
        let goaway = farewell_in(&said);
        assert_eq!(goaway, Some(ENHANCE_YOUR_CALM), "{kind}");
        timeout(PATIENCE, async {
            while refused(&edge, "h2_abuse") < expected {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it is counted");
        let by_kind = format!("rempart_h2_abuse_total{{kind=\"{kind}\"}}");
        let library = counted(&edge, "rempart_h2_abuse_total{kind=\"library\"}");
        assert!(counted(&edge, &by_kind) + library > 0, "{kind}");
        assert_eq!(ask(&innocent, "/quick").await.unwrap(), 200, "{kind}");
    }
    drop(innocent);
    edge.stop().await;
}

/// The code of the last GOAWAY among frames.
fn farewell_in(mut bytes: &[u8]) -> Option<u32> {
    let mut code = None;
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((payload, after)) = rest.split_at_checked(length) else {
            break;
        };
        if head[3] == 7 {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        bytes = after;
    }
    code
}

#[tokio::test]
async fn strikes_lead_to_a_ban() {
    let mut config = config(vec![plain()]);
    config.connections.http2.abuse = Some(scored(2));
    let edge = Edge::start(config, 1).await;
    let address = edge.addresses[0];
    let flood = frame(6, 0, 0, &[7; 8]).repeat(250);
    for _ in 0..2 {
        let mut raw = Raw::from([127, 3, 2, 1], address).await;
        raw.send(&flood).await;
        assert_eq!(raw.farewell().await, Some(ENHANCE_YOUR_CALM));
    }
    timeout(PATIENCE, async {
        while edge.shared.bans.count(crate::clock::now()) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the client is banned");
    let mut banned = connect_from([127, 3, 2, 1].into(), address).await;
    let mut nothing = [0; 1];
    let read = timeout(PATIENCE, banned.read(&mut nothing)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    assert_eq!(refused(&edge, "banned"), 1);
    // Another client is not.
    let (client, _driver) = client(address).await;
    assert_eq!(ask(&client, "/quick").await.unwrap(), 200);
    drop(client);
    edge.stop().await;
}

#[tokio::test]
async fn a_proxy_is_not_banned_for_its_clients() {
    let mut config = config(vec![plain()]);
    config.clients.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    config.connections.http2.abuse = Some(scored(1));
    let edge = Edge::start(config, 1).await;
    for _ in 0..3 {
        let mut raw = Raw::new(edge.addresses[0]).await;
        raw.send(&frame(6, 0, 0, &[7; 8]).repeat(250)).await;
        assert_eq!(raw.farewell().await, Some(ENHANCE_YOUR_CALM));
    }
    assert_eq!(edge.shared.bans.count(crate::clock::now()), 0);
    edge.stop().await;
}

#[tokio::test]
async fn the_score_can_be_turned_off() {
    let config = config(vec![plain()]);
    assert_eq!(config.connections.http2.abuse, None);
    let edge = Edge::start(config, 1).await;
    let mut raw = Raw::new(edge.addresses[0]).await;
    raw.send(&frame(2, 0, 1, &[0, 0, 0, 0, 5]).repeat(5000))
        .await;
    raw.send(&get(3, "/quick", 1)).await;
    assert!(raw.until(1, 3).await.is_some(), "an answer");
    drop(raw);
    edge.stop().await;
}

/// What browsers and other ordinary clients do, and much of it.
#[tokio::test]
async fn ordinary_clients_are_left_alone() {
    let mut config = config(vec![plain()]);
    config.connections.http2.abuse = Some(scored(1));
    let edge = Edge::start(config, 1).await;
    let address = edge.addresses[0];
    let (client, _driver) = client(address).await;
    // A page is left with all of its images pending, several times, and requests go on.
    for _ in 0..5 {
        let mut pending = Vec::new();
        for _ in 0..40 {
            let request = http::Request::get("http://app.test/slow").body(()).unwrap();
            let mut client = client.clone().ready().await.unwrap();
            pending.push(client.send_request(request, true).unwrap());
        }
        sleep(Duration::from_millis(20)).await;
        for (answer, mut sender) in pending {
            sender.send_reset(h2::Reason::CANCEL);
            drop(answer);
        }
        for _ in 0..20 {
            assert_eq!(ask(&client, "/quick").await.unwrap(), 200);
        }
    }
    // An upload and a download, each with its many window updates.
    let (mut sender, mut body) = {
        let request = http::Request::post("http://app.test/up")
            .header("content-length", 2_000_000)
            .body(())
            .unwrap();
        let mut client = client.clone().ready().await.unwrap();
        client
            .send_request(request, false)
            .map(|(a, b)| (b, a))
            .unwrap()
    };
    let mut left = 2_000_000;
    while left > 0 {
        sender.reserve_capacity(left.min(10_000));
        let room = std::future::poll_fn(|cx| sender.poll_capacity(cx));
        let room = timeout(PATIENCE, room).await.unwrap().unwrap().unwrap();
        let part = room.min(left);
        left -= part;
        sender
            .send_data(Bytes::from(vec![b'u'; part]), left == 0)
            .unwrap();
    }
    let answer = timeout(PATIENCE, &mut body).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let request = http::Request::get("http://app.test/big").body(()).unwrap();
    let (answer, _) = client.clone().send_request(request, true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let mut taken = 0;
    while let Some(data) = timeout(PATIENCE, body.data()).await.unwrap() {
        // In small sips: an update for each.
        let data = data.unwrap();
        taken += data.len();
        for _ in data.chunks(1024) {
            body.flow_control()
                .release_capacity(data.len().min(1024))
                .ok();
        }
    }
    assert_eq!(taken, 1024 * 1024);
    assert_eq!(refused(&edge, "h2_abuse"), 0);
    drop(client);
    edge.stop().await;
}

#[tokio::test]
async fn a_frame_that_does_not_end_is_closed() {
    let mut config = config(vec![plain()]);
    config.connections.timeouts.headers = SHORT;
    config.connections.timeouts.body_minimum_rate = 100_000;
    let edge = Edge::start(config, 1).await;
    for (what, begun) in [
        ("a frame's head", vec![0, 0, 8]),
        ("a ping", frame(6, 0, 0, &[1; 8])[..12].to_vec()),
        ("a header block", frame(1, 1, 3, &[0x82])),
        (
            "a body",
            [
                get(3, "/up", 0),
                frame(0, 1, 3, &[b'b'; 9000])[..99].to_vec(),
            ]
            .concat(),
        ),
    ] {
        let mut raw = Raw::new(edge.addresses[0]).await;
        // It asked for something before.
        raw.send(&get(1, "/quick", 1)).await;
        assert!(raw.until(1, 1).await.is_some(), "{what}");
        let before = refused(&edge, "timeout") + refused(&edge, "slow_body");
        raw.send(&begun).await;
        while raw.next().await.is_some() {}
        timeout(PATIENCE, async {
            while refused(&edge, "timeout") + refused(&edge, "slow_body") == before {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{what} is counted"));
    }
    edge.stop().await;
}

#[tokio::test]
async fn idleness_ends_by_goaway_whatever_is_pinged() {
    let mut config = config(vec![plain()]);
    config.connections.http2.abuse = Some(scored(1));
    config.connections.timeouts.idle = SHORT;
    let edge = Edge::start(config, 1).await;
    let mut raw = Raw::new(edge.addresses[0]).await;
    raw.send(&get(1, "/quick", 1)).await;
    assert!(raw.until(1, 1).await.is_some());
    let (read, mut write) = raw.wire.into_split();
    let pinging = tokio::spawn(async move {
        loop {
            if write.write_all(&frame(6, 0, 0, &[7; 8])).await.is_err() {
                break;
            }
            sleep(SHORT / 6).await;
        }
    });
    let mut said = Vec::new();
    let mut read = read;
    let _ = timeout(PATIENCE, read.read_to_end(&mut said))
        .await
        .expect("it ends");
    pinging.abort();
    assert_eq!(farewell_in(&said), Some(NO_ERROR));
    assert_eq!(refused(&edge, "h2_abuse"), 0);
    edge.stop().await;
}

/// A body that drips is reset; its neighbours on the connection are not.
#[tokio::test]
async fn a_slow_body_ends_alone() {
    let mut config = config(vec![plain()]);
    config.connections.timeouts.headers = SHORT;
    config.connections.timeouts.body_minimum_rate = 1000;
    let edge = Edge::start(config, 1).await;
    let (client, _driver) = client(edge.addresses[0]).await;
    let post = |accept: &str| {
        http::Request::post("http://app.test/up")
            .header("content-type", accept)
            .header("content-length", 1000)
            .body(())
            .unwrap()
    };
    let mut ready = client.clone().ready().await.unwrap();
    let (answer, mut slow) = ready.send_request(post("text/plain"), false).unwrap();
    let mut ready = client.clone().ready().await.unwrap();
    let (lasting, mut stream) = ready.send_request(post("application/grpc"), false).unwrap();
    let dripping = tokio::spawn(async move {
        while slow.send_data(Bytes::from_static(b"b"), false).is_ok() {
            sleep(Duration::from_millis(30)).await;
        }
    });
    let reset = timeout(PATIENCE, answer)
        .await
        .expect("it ends")
        .unwrap_err();
    assert!(reset.is_reset(), "{reset}");
    assert_eq!(refused(&edge, "slow_body"), 1);
    assert_eq!(ask(&client, "/quick").await.unwrap(), 200);
    // A gRPC stream pauses as it likes.
    stream
        .send_data(Bytes::from(vec![b'g'; 1000]), true)
        .unwrap();
    assert_eq!(
        timeout(PATIENCE, lasting).await.unwrap().unwrap().status(),
        200
    );
    dripping.abort();
    drop((client, stream));
    edge.stop().await;
}

/// An answer that is not taken is reset in the end; its neighbours go on meanwhile.
#[tokio::test]
async fn a_paused_answer_leaves_its_neighbours_alone() {
    let mut config = config(vec![plain()]);
    config.connections.timeouts.idle = 4 * SHORT;
    config.connections.timeouts.response_minimum_rate = 100_000;
    let edge = Edge::start(config, 1).await;
    let tcp = connect(edge.addresses[0]).await;
    let (client, connection) = h2::client::Builder::new()
        .initial_connection_window_size(10_000_000)
        .handshake::<_, Bytes>(tcp)
        .await
        .unwrap();
    let _driver = tokio::spawn(connection);
    let request = http::Request::get("http://app.test/big").body(()).unwrap();
    let (answer, _) = client.clone().send_request(request, true).unwrap();
    let mut paused = answer.await.unwrap().into_body();
    let ended = async {
        loop {
            match paused.data().await {
                // Taken, and the window is never opened again.
                Some(Ok(_)) => {}
                other => return other,
            }
        }
    };
    let mut asked = 0;
    let neighbour = async {
        loop {
            assert_eq!(ask(&client, "/quick").await.unwrap(), 200);
            asked += 1;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = timeout(PATIENCE, async {
        tokio::select! {
            ended = ended => ended,
            () = neighbour => None,
        }
    });
    let reset = ended.await.expect("it ends").unwrap().unwrap_err();
    assert!(reset.is_reset(), "{reset}");
    assert!(asked > 10, "{asked}");
    assert_eq!(refused(&edge, "slow_reader"), 1);
    assert_eq!(ask(&client, "/quick").await.unwrap(), 200);
    drop((client, paused));
    edge.stop().await;
}

/// A window of nothing for the whole connection ends it.
#[tokio::test]
async fn a_connection_that_takes_nothing_ends() {
    let mut config = config(vec![plain()]);
    config.connections.timeouts.idle = SHORT;
    let edge = Edge::start(config, 1).await;
    let mut raw = Raw::new(edge.addresses[0]).await;
    // Streams have all the room, the connection the 64 KiB of the beginning.
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0x10, 0, 0, 0]))
        .await;
    raw.send(&get(1, "/big", 1)).await;
    raw.send(&get(3, "/big", 1)).await;
    while raw.next().await.is_some() {}
    timeout(PATIENCE, async {
        while refused(&edge, "slow_reader") == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it is counted");
    edge.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_counted() {
    let mut config = config(vec![plain()]);
    config.connections.http2.header_bytes = 1000;
    let edge = Edge::start(config, 1).await;
    let mut raw = Raw::new(edge.addresses[0]).await;
    // Two names for one place.
    let mut block = vec![0x82, 0x86, 0x84, 0x01, 8];
    block.extend(b"app.test");
    block.extend([0x00, 4]);
    block.extend(b"host");
    block.push(9);
    block.extend(b"else.test");
    raw.send(&frame(1, 5, 1, &block)).await;
    let answer = raw.until(1, 1).await.expect("an answer");
    assert_eq!(answer.flags & 1, 1, "it is all of it");
    assert_eq!(refused(&edge, "malformed"), 1);
    // Refused by the h2 crate: a header of HTTP/1, and too large a head.
    raw.send(&frame(1, 5, 3, b"\x82\x86\x84\x00\x0aconnection\x05close"))
        .await;
    assert!(raw.until(3, 3).await.is_some(), "a reset");
    let mut large = b"\x82\x86\x84\x01\x08app.test\x00\x01x\x7f\x81\x08".to_vec();
    large.extend([b'y'; 1152]);
    raw.send(&frame(1, 5, 5, &large)).await;
    let answer = raw.until(1, 5).await.expect("an answer");
    assert!(answer.payload.ends_with(b"431") || answer.payload.len() < 8);
    assert_eq!(ask_raw(&mut raw, 7).await, Some(7));
    timeout(PATIENCE, async {
        while refused(&edge, "malformed") < 3 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("they are counted");
    // Frames that end the connection at once: one on no stream, and one after the end of its stream.
    for (wrong, before) in [
        (frame(0, 0, 0, b"body"), 3),
        ([get(1, "/slow", 1), frame(0, 0, 1, b"more")].concat(), 4),
    ] {
        let mut raw = Raw::new(edge.addresses[0]).await;
        raw.send(&wrong).await;
        assert!(matches!(raw.farewell().await, Some(1..ENHANCE_YOUR_CALM)));
        timeout(PATIENCE, async {
            while refused(&edge, "malformed") <= before {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("it is counted");
    }
    edge.stop().await;
}

/// What was taken back is not worked on any longer.
#[tokio::test]
async fn requests_that_are_reset_end_upstream_too() {
    let edge = Edge::start(config(vec![plain()]), 1).await;
    let (client, _driver) = client(edge.addresses[0]).await;
    let mut pending = Vec::new();
    for _ in 0..20 {
        let request = http::Request::get("http://app.test/hang").body(()).unwrap();
        let mut client = client.clone().ready().await.unwrap();
        pending.push(client.send_request(request, true).unwrap());
    }
    for (left, reset) in [(20, 15), (5, 5), (0, 0)] {
        timeout(PATIENCE, async {
            while HANGING.load(Relaxed) != left {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{left} are left, not {}", HANGING.load(Relaxed)));
        for (_, mut sender) in pending.drain(..reset) {
            sender.send_reset(h2::Reason::CANCEL);
        }
    }
    assert_eq!(ask(&client, "/quick").await.unwrap(), 200);
    drop(client);
    edge.stop().await;
}
