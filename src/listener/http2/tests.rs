//! The ledger, frame by frame, with a clock of the tests' own.

use super::ledger::{Ledger, Limits};
use crate::config::model::{AbuseLimits, ClientTimeouts, Http2Limits, Rate};
use std::time::Duration;
use verdict::Nanos;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn head(stream: u32, flags: u8) -> Vec<u8> {
    frame(1, END_HEADERS | flags, stream, b"block")
}

fn data(stream: u32, length: usize, flags: u8) -> Vec<u8> {
    frame(0, flags, stream, &vec![b'd'; length])
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(8, 0, stream, &more.to_be_bytes())
}

fn initial_window(size: u32) -> Vec<u8> {
    frame(4, 0, 0, &[&[0, 4], &size.to_be_bytes()[..]].concat())
}

/// A connection whose client sent its preface and SETTINGS, and the server its own. Headers have 10
/// seconds, idleness 60, rates are 1,000 bytes a second, requests 600 seconds, streams' silence 300.
struct Story {
    ledger: Ledger<&'static str>,
    now: Nanos,
    served: Vec<(&'static str, u32)>,
}

impl Story {
    fn new() -> Self {
        let seconds = Duration::from_secs;
        let http2 = Http2Limits {
            streams: 128.try_into().unwrap(),
            header_bytes: 16384,
            abuse: Some(AbuseLimits {
                points: 200.try_into().unwrap(),
                recovery: Rate {
                    amount: 20.try_into().unwrap(),
                    period: seconds(1),
                },
                strikes: 1.try_into().unwrap(),
                ban: None,
            }),
        };
        let timeouts = ClientTimeouts {
            handshake: seconds(5),
            headers: seconds(10),
            idle: seconds(60),
            body_minimum_rate: 1000,
            response_minimum_rate: 1000,
            request: seconds(600),
            stream_idle: seconds(300),
        };
        let mut story = Self {
            ledger: Ledger::new(Limits::new(&http2, &timeouts), Nanos(0)),
            now: Nanos(0),
            served: Vec::new(),
        };
        story.client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        story.client(&frame(4, 0, 0, &[]));
        story.server(&initial_window(128 * 1024));
        story.server(&frame(4, 1, 0, &[]));
        story.server(&window(0, 256 * 1024 - 65535));
        story.client(&frame(4, 1, 0, &[]));
        story
    }

    /// The client sends, and then no more.
    fn client(&mut self, bytes: &[u8]) -> &mut Self {
        self.ledger.received(bytes, self.now);
        self.ledger.check();
        self.ledger.starves(|| self.now);
        self
    }

    fn server(&mut self, bytes: &[u8]) -> &mut Self {
        self.ledger.sent(bytes, self.now);
        self.ledger.check();
        self
    }

    /// A request comes, and is handed out.
    fn request(&mut self, stream: u32, flags: u8, name: &'static str, lasting: bool) -> &mut Self {
        self.client(&head(stream, flags));
        self.accept(name, lasting);
        self.ledger.check();
        self
    }

    /// The next request is handed out: whether it is still wanted.
    fn accept(&mut self, name: &'static str, lasting: bool) -> bool {
        let id = self.ledger.handed_out().unwrap();
        self.ledger.served_by(id, name);
        if lasting {
            self.ledger
                .forwarded(id, Duration::from_secs(30), true, self.now);
        }
        self.served.push((name, id));
        self.ledger.is_open(id)
    }

    /// Time passes, looked at whenever the ledger asks to be: what ended, and when, in seconds.
    fn pass(&mut self, seconds: u64) -> Vec<(u64, String)> {
        let end = self.now.after(Duration::from_secs(seconds));
        let mut ended = Vec::new();
        let mut aborted = Vec::new();
        while self.ledger.deadline() <= end {
            self.now = self.now.max(self.ledger.deadline());
            let at = self.now.0.div_ceil(1_000_000_000);
            let late = self.ledger.expire(self.now, |slow, handle| {
                ended.push((at, format!("{} {slow:?}", handle.unwrap_or("?"))));
                aborted.extend(handle);
            });
            for name in aborted.drain(..) {
                // A request that is dropped is reset, unless the h2 crate has all of its answer.
                if name != "finished" {
                    let (_, stream) = self.served.iter().find(|served| served.0 == name).unwrap();
                    let reset = frame(3, 0, *stream, &[0, 0, 0, 8]);
                    self.ledger.sent(&reset, self.now);
                }
            }
            self.ledger.check();
            if let Some(late) = late {
                ended.push((at, format!("{late:?}")));
                break;
            }
        }
        self.now = end;
        ended
    }
}

fn ended(at: u64, what: &str) -> Vec<(u64, String)> {
    vec![(at, what.to_owned())]
}

#[test]
fn phases_of_a_connection() {
    // Nothing was asked for at all.
    assert_eq!(Story::new().pass(100), ended(10, "Idle"));
    // An unfinished head is no request.
    let mut story = Story::new();
    story.client(&frame(1, END_STREAM, 1, b"block"));
    assert_eq!(story.pass(100), ended(10, "Silent"));
    // Served, then idle, whatever is pinged.
    let mut story = Story::new();
    story.request(1, END_STREAM, "a", false);
    assert_eq!(story.pass(7), []);
    story.server(&head(1, END_STREAM));
    for _ in 0..5 {
        assert_eq!(story.pass(10), []);
        story.client(&frame(6, 0, 0, &[7; 8]));
        story.server(&frame(6, 1, 0, &[7; 8]));
    }
    assert_eq!(story.pass(100), ended(67, "Idle"));
}

#[test]
fn what_has_begun_must_end() {
    for (begun, at) in [
        (vec![0], 15),
        (frame(1, END_STREAM, 3, b"block"), 15),
        (frame(6, 0, 0, &[7; 8])[..16].to_vec(), 15),
    ] {
        let mut story = Story::new();
        story.request(1, END_STREAM, "a", false);
        story.pass(5);
        story.client(&begun);
        assert_eq!(story.pass(100), ended(at, "Unfinished"));
    }
    // Dripping does not prolong it.
    let mut story = Story::new();
    story.request(1, END_STREAM, "a", false);
    story.client(&frame(1, END_STREAM, 3, b"block"));
    let mut late = Vec::new();
    for _ in 0..20 {
        late.extend(story.pass(1));
        story.client(&frame(9, 0, 3, b"more"));
    }
    assert_eq!(
        late.first().map(|(at, what)| (*at, &**what)),
        Some((10, "Unfinished"))
    );
    // A long frame of a body has the time that its length takes at the rate.
    let mut story = Story::new();
    story.request(1, 0, "a", true);
    story.client(&data(1, 16_000, END_STREAM)[..1009]);
    assert_eq!(story.pass(100), ended(26, "Unfinished"));
}

#[test]
fn a_body_must_keep_its_pace_only_while_it_is_wanted() {
    let mut story = Story::new();
    story.request(1, 0, "a", false);
    assert_eq!(story.pass(30), ended(27, "a Body"));
    // At the rate it lives on.
    let mut story = Story::new();
    story.request(1, 0, "a", false);
    for _ in 0..100 {
        assert_eq!(story.pass(1), []);
        story.client(&data(1, 1000, 0));
    }
    // The upstream is slow: the window is shut, and later half open again.
    let mut story = Story::new();
    story.request(1, 0, "a", false);
    for _ in 0..8 {
        story.client(&data(1, 16 * 1024, 0));
    }
    assert_eq!(story.pass(50), []);
    story.server(&window(1, 60_000));
    assert_eq!(story.pass(30), ended(77, "a Body"));
    // The connection's window is shut by others: as free.
    let mut story = Story::new();
    story
        .request(1, 0, "a", false)
        .request(3, 0, "b", false)
        .request(5, 0, "c", false);
    for stream in [1, 3] {
        for _ in 0..8 {
            story.client(&data(stream, 16 * 1024, 0));
        }
    }
    assert_eq!(story.pass(50), []);
    story.server(&window(0, 100_000));
    // The others had moved enough for it to wait another while for each of them.
    assert_eq!(story.pass(100), ended(130, "c Body"));
}

#[test]
fn an_upload_behind_another_may_wait_for_it() {
    let mut story = Story::new();
    story
        .request(1, 0, "first", false)
        .request(3, 0, "second", false);
    for _ in 0..50 {
        assert_eq!(story.pass(1), []);
        story.client(&data(1, 10_000, 0));
        story.server(&window(1, 10_000)).server(&window(0, 10_000));
    }
    story.client(&data(1, 1, END_STREAM));
    // Now it is alone.
    let late = story.pass(100);
    assert!(late.len() == 1 && late[0].0 <= 80, "{late:?}");
}

#[test]
fn an_answer_must_be_taken() {
    let mut story = Story::new();
    story
        .request(1, END_STREAM, "a", false)
        .request(3, END_STREAM, "b", false);
    story.client(&window(0, 1 << 20));
    story.server(&head(1, 0)).server(&head(3, 0));
    // An upstream that says nothing is not the client's fault.
    assert_eq!(story.pass(100), []);
    for _ in 0..4 {
        story.server(&data(1, 16 * 1024, 0));
    }
    assert_eq!(story.pass(100), ended(160, "a Reader"));
    // Crumbs are below the rate.
    let mut story = Story::new();
    story.request(1, END_STREAM, "a", false);
    story.client(&window(0, 1 << 20));
    story.server(&head(1, 0));
    for _ in 0..4 {
        story.server(&data(1, 16 * 1024, 0));
    }
    let mut late = Vec::new();
    for _ in 0..100 {
        late.extend(story.pass(1));
        story.client(&window(1, 100));
        story.server(&data(1, 100, 0));
    }
    assert_eq!(late.len(), 1);
    assert!((66..70).contains(&late[0].0), "{late:?}");
}

#[test]
fn a_paused_answer_leaves_the_others() {
    let mut story = Story::new();
    story.client(&window(0, 1 << 20));
    story
        .request(1, END_STREAM, "video", false)
        .request(3, END_STREAM, "page", false);
    story.server(&head(1, 0)).server(&head(3, 0));
    for _ in 0..4 {
        story.server(&data(1, 16 * 1024, 0));
    }
    story.server(&data(3, 1000, END_STREAM));
    assert_eq!(story.pass(100), ended(60, "video Reader"));
    // While others are taken fast enough for both, it may pause on.
    let mut story = Story::new();
    story.client(&window(0, 1 << 20));
    story
        .request(1, END_STREAM, "video", false)
        .request(3, END_STREAM, "page", false);
    story.server(&head(1, 0)).server(&head(3, 0));
    for _ in 0..4 {
        story.server(&data(1, 16 * 1024, 0));
    }
    for _ in 0..200 {
        assert_eq!(story.pass(1), []);
        story.client(&window(3, 2000)).client(&window(0, 2000));
        story.server(&data(3, 2000, 0));
    }
}

#[test]
fn what_cannot_be_ended_alone_ends_the_connection() {
    let mut story = Story::new();
    story.client(&initial_window(0));
    story.request(1, END_STREAM, "finished", false);
    story.server(&head(1, 0));
    assert_eq!(
        story.pass(50),
        [],
        "the h2 crate has the rest, and no request is served any more"
    );
    // The client goes on with others.
    story.request(3, END_STREAM, "other", false);
    assert_eq!(
        story.pass(100),
        [
            (60, "finished Reader".to_owned()),
            (70, "Reader".to_owned())
        ]
    );
    // It takes the rest after all.
    let mut story = Story::new();
    story.client(&initial_window(0));
    story.request(1, END_STREAM, "finished", false);
    story.server(&head(1, 0));
    story.request(3, END_STREAM, "other", false);
    assert_eq!(story.pass(65), ended(60, "finished Reader"));
    story.client(&window(1, 5));
    story.server(&data(1, 5, END_STREAM));
    assert_eq!(story.pass(100), []);
}

#[test]
fn the_window_of_the_connection_is_everybodys() {
    let mut story = Story::new();
    story.client(&initial_window(1 << 20));
    story
        .request(1, END_STREAM, "a", false)
        .request(3, END_STREAM, "b", false);
    story.server(&head(1, 0)).server(&head(3, 0));
    for _ in 0..4 {
        story.server(&data(1, 16 * 1024, 0));
    }
    assert_eq!(story.pass(100), ended(60, "Reader"));
    // Streams without an end wait for it no longer.
    let mut story = Story::new();
    story.client(&initial_window(1 << 20));
    story.request(1, END_STREAM, "events", true);
    story.ledger.answered(1, true, story.now);
    story.server(&head(1, 0));
    for _ in 0..4 {
        story.server(&data(1, 16 * 1024, 0));
    }
    assert_eq!(story.pass(1000), ended(60, "Reader"));
}

#[test]
fn progress_keeps_a_request_alive() {
    let mut story = Story::new();
    story
        .request(1, END_STREAM, "a", false)
        .request(3, END_STREAM, "stuck", false);
    let mut late = Vec::new();
    for _ in 0..100 {
        late.extend(story.pass(50));
        story.server(&data(1, 100, 0));
        story.client(&window(1, 100)).client(&window(0, 100));
    }
    assert_eq!(late, ended(600, "stuck Stuck"));
    // A stream without an end goes by its silence alone.
    let mut story = Story::new();
    story.request(1, 0, "grpc", true);
    for _ in 0..20 {
        assert_eq!(story.pass(299), []);
        story.client(&data(1, 5, 0));
    }
    assert_eq!(story.pass(301), ended(20 * 299 + 300, "grpc Stuck"));
}

#[test]
fn streams_that_end_prolong_the_connection_once() {
    let mut story = Story::new();
    story.client(&initial_window(1 << 20));
    story.request(1, END_STREAM, "long", false);
    story.server(&head(1, 0));
    for _ in 0..4 {
        story.server(&data(1, 16 * 1024, 0));
    }
    // A new one every 20 seconds that the client keeps shut by itself.
    story.client(&initial_window(0));
    let mut late = Vec::new();
    for at in 1..20 {
        story.request(2 * at + 1, END_STREAM, "short", false);
        story.server(&head(2 * at + 1, 0));
        late = story.pass(20);
        if late.iter().any(|(_, what)| what == "Reader") {
            break;
        }
    }
    assert_eq!(late.last(), Some(&(90, "Reader".to_owned())));
}

#[test]
fn to_ask_for_a_stream_is_not_to_get_one() {
    // The upstream has its patience to begin, from the end of the request.
    let mut story = Story::new();
    story.request(1, END_STREAM, "events", true);
    assert_eq!(story.pass(50), ended(30, "events Stuck"));
    let mut story = Story::new();
    story.request(1, 0, "grpc", true);
    assert_eq!(story.pass(200), []);
    story.client(&data(1, 0, END_STREAM));
    // 100 is no answer.
    story.server(&head(1, 0));
    assert_eq!(story.pass(50), ended(230, "grpc Stuck"));
    // What is no stream in the end has no more time than others.
    let silent_for = |seconds: u64, lasts| {
        let mut story = Story::new();
        story.client(&initial_window(1 << 20));
        story.request(1, END_STREAM, "events", true);
        story.pass(20);
        story.ledger.answered(1, lasts, story.now);
        story.server(&head(1, 0));
        let mut late = Vec::new();
        for _ in 0..10 {
            late.extend(story.pass(seconds));
            story.server(&data(1, 10, 0));
        }
        late.into_iter().next()
    };
    assert_eq!(silent_for(299, true), None);
    assert_eq!(silent_for(301, true), Some((320, "events Stuck".into())));
    assert_eq!(silent_for(299, false), Some((600, "events Stuck".into())));
    // A stream must be taken like any answer while there is something of it.
    let mut story = Story::new();
    story.client(&window(0, 1 << 20));
    story.request(1, END_STREAM, "events", true);
    story.ledger.answered(1, true, story.now);
    story.server(&head(1, 0));
    for _ in 0..4 {
        story.server(&data(1, 16 * 1024, 0));
    }
    assert_eq!(story.pass(100), ended(60, "events Reader"));
    // The body of an upload must come, unless it goes to where gRPC can be spoken.
    let mut story = Story::new();
    story.client(&head(1, 0));
    story.accept("upload", false);
    let patience = Duration::from_secs(30);
    story.ledger.forwarded(1, patience, false, story.now);
    assert_eq!(story.pass(50), ended(27, "upload Body"));
}

#[test]
fn handles_follow_their_streams() {
    let mut story = Story::new();
    // The second is reset before it was handed out, which it is all the same.
    story.client(&[head(1, 0), head(3, 0), head(5, 0), frame(3, 0, 3, &[0; 4])].concat());
    for name in ["one", "two", "three"] {
        assert_eq!(story.accept(name, name == "one"), name != "two");
    }
    // The first was refused by the h2 crate itself: it is never handed out.
    story.client(&[head(7, 0), head(9, 0)].concat());
    story.server(&frame(3, 0, 7, &[0, 0, 0, 1]));
    assert!(story.accept("nine", false));
    // One that was reset for what came after its head is handed out.
    story.client(&[head(11, END_STREAM), head(13, END_STREAM)].concat());
    story.server(&frame(3, 0, 11, &[0, 0, 0, 3]));
    assert!(!story.accept("eleven", false));
    assert!(story.accept("thirteen", false));
    assert_eq!(
        story.pass(40),
        [(27, "three Body".to_owned()), (27, "nine Body".to_owned())]
    );
}

#[test]
fn a_request_to_go_on_is_no_answer() {
    let resets = |answer: fn(u32) -> Vec<u8>| {
        let mut story = Story::new();
        for at in 0..1000 {
            let stream = 2 * at + 1;
            story.request(stream, 0, "upload", false);
            story.server(&answer(stream));
            story.client(&frame(3, 0, stream, &[0, 0, 0, 8]));
        }
        story.ledger.abuse()
    };
    assert_eq!(resets(|stream| head(stream, 0)), Some("rapid_reset"));
    let answer = |stream| [head(stream, 0), head(stream, 0)].concat();
    assert_eq!(resets(answer), None);
    let answer = |stream| [head(stream, 0), data(stream, 1, 0)].concat();
    assert_eq!(resets(answer), None);
}

#[test]
fn pings_for_answers_and_updates_for_frames_are_free() {
    let mut story = Story::new();
    story.request(1, END_STREAM, "grpc", true);
    story.server(&head(1, 0));
    for _ in 0..100_000 {
        story.server(&data(1, 100, 0));
        story.client(&[window(0, 100), window(1, 100), frame(6, 0, 0, &[7; 8])].concat());
    }
    assert_eq!(story.ledger.abuse(), None);
    for _ in 0..300 {
        story.client(&frame(6, 0, 0, &[7; 8]));
    }
    assert_eq!(story.ledger.abuse(), Some("ping"));
}

#[test]
fn a_client_may_widen_windows_as_it_reads() {
    // In portions of 4 KiB, of the stream and of the connection, as Go does; at once, or in the end.
    for frames in [1, 1000] {
        let mut story = Story::new();
        story.client(&window(0, 1 << 30));
        story.client(&initial_window(1 << 30));
        story.request(1, END_STREAM, "download", false);
        story.server(&head(1, 0));
        for _ in 0..5000 / frames {
            for _ in 0..frames {
                story.server(&data(1, 16 * 1024, 0));
            }
            for _ in 0..4 * frames {
                story.client(&[window(1, 4096), window(0, 4096)].concat());
            }
        }
        assert_eq!(story.ledger.abuse(), None);
    }
    // In portions of 128 bytes, it is an attack.
    let mut story = Story::new();
    story.request(1, END_STREAM, "download", false);
    story.server(&head(1, 0));
    for _ in 0..10 {
        story.server(&data(1, 16 * 1024, 0));
        for _ in 0..128 {
            story.client(&[window(1, 128), window(0, 128)].concat());
        }
    }
    assert_eq!(story.ledger.abuse(), Some("window"));
}

#[test]
fn a_frame_of_many_settings_weighs_as_many() {
    let settings = |count| frame(4, 0, 0, &[0, 4, 0, 0, 255, 255].repeat(count));
    let mut story = Story::new();
    story.client(&settings(15));
    assert_eq!(story.ledger.abuse(), None);
    story.client(&settings(2700));
    assert_eq!(story.ledger.abuse(), Some("settings"));
}

#[test]
fn headers_that_are_small_on_the_wire_alone_weigh_too() {
    let mut story = Story::new();
    for stream in (1..=20).map(|at| 2 * at - 1) {
        assert_eq!(story.ledger.abuse(), None, "{stream}");
        story.client(&head(stream, END_STREAM));
        // The h2 crate answers by itself: 431.
        story.server(&head(stream, END_STREAM));
    }
    assert_eq!(story.ledger.take_unseen(), 20);
    story.client(&head(101, END_STREAM));
    story.server(&head(101, END_STREAM));
    assert_eq!(story.ledger.abuse(), Some("header_bytes"));
}

#[test]
fn large_header_blocks_weigh() {
    let mut story = Story::new();
    for at in 0..5 {
        // Cookies of 17 KB, in full frames.
        story.client(&frame(1, END_STREAM, 2 * at + 1, &[0x82; 16_000]));
        story.client(&frame(9, END_HEADERS, 2 * at + 1, &[0x82; 1000]));
    }
    assert_eq!(story.ledger.abuse(), None);
    story.client(&frame(1, END_STREAM, 101, &[0x82; 16_000]));
    for _ in 0..30 {
        story.client(&frame(9, 0, 101, &[0x82; 1000]));
    }
    assert_eq!(story.ledger.abuse(), Some("header_bytes"));
}

#[test]
fn ordinary_requests_score_nothing_however_many_are_open() {
    for open in [1, 100] {
        let mut story = Story::new();
        story.client(&window(0, 1 << 30));
        for at in 0..open - 1 {
            story.request(2 * at + 1, END_STREAM, "open", false);
        }
        for at in 0..20_000 {
            let stream = 2 * (open + at) + 1;
            story.request(stream, END_STREAM, "one more", false);
            story.server(&[head(stream, 0), data(stream, 1024, END_STREAM)].concat());
        }
        assert_eq!(story.ledger.abuse(), None);
    }
}
