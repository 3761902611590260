//! What the frames of a connection amount to: streams and windows, who is waited for and until when,
//! and how much the client has bent the protocol. Follows both directions from outside of the h2
//! crate, which serves the frames; acting on what is found is left to [`super`].
//!
//! No allocation a frame, no clock, nothing that grows with what a client sends.

mod client;
mod server;

use super::{
    account::{Account, Terms, nanos},
    frame::{self, Frames},
    streams::{NEVER, Side, Stream, Streams},
};
use crate::{
    config::model::{ClientTimeouts, Http2Limits},
    listener::deadline::body_grace,
};
use std::{collections::VecDeque, time::Duration};
use verdict::{
    Nanos,
    abuse::{Offence, Score, Tolerance},
};

/// Windows before anybody says otherwise (RFC 9113, section 6.9.2).
const INITIAL_WINDOW: i64 = 65_535;
const LARGEST_WINDOW: u32 = 0x7fff_ffff;
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;
/// `WINDOW_UPDATE` frames that are nobody's business: at the beginning, for each stream (a client may
/// widen it at once), for each frame sent (stream and connection, and one to spare), and for so many
/// bytes of it: clients of Go send two for each 4 KiB that they read.
const UPDATES_AT_FIRST: u32 = 16;
const UPDATES_A_STREAM: u32 = 4;
const UPDATES_A_FRAME: u32 = 3;
const BYTES_AN_UPDATE: u32 = 1024;
/// The most of them that are saved up: clients may take 32 MiB before they read any.
const UPDATES_SAVED: u32 = 32 * 1024;

// Error codes (RFC 9113, section 7).
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What holds for a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the start to the first request, and from a frame's first byte to its last.
    headers: u64,
    /// Without a stream; without a byte, once a request has taken `request`.
    idle: u64,
    request: u64,
    stream_idle: u64,
    body: Terms,
    answer: Terms,
    body_rate: u64,
    streams: u32,
    header_bytes: u32,
    abuse: Option<Tolerance>,
}

impl Limits {
    #[must_use]
    pub fn new(http2: &Http2Limits, timeouts: &ClientTimeouts) -> Self {
        Self {
            headers: nanos(timeouts.headers),
            idle: nanos(timeouts.idle),
            request: nanos(timeouts.request),
            stream_idle: nanos(timeouts.stream_idle),
            body: Terms::new(timeouts.body_minimum_rate, body_grace(timeouts)),
            answer: Terms::new(timeouts.response_minimum_rate, timeouts.idle),
            body_rate: timeouts.body_minimum_rate,
            streams: http2.streams.get(),
            header_bytes: http2.header_bytes,
            abuse: http2.abuse.as_ref().map(|abuse| {
                let recovery = abuse.recovery;
                Tolerance::new(abuse.points, recovery.amount, recovery.period)
            }),
        }
    }
}

/// Why a connection is too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// A first request did not become complete.
    Silent,
    /// A frame or a header block did not end.
    Unfinished,
    /// Nothing was asked for, or not any more.
    Idle,
    /// The connection's window was kept shut on answers, or what was ended stays.
    Reader,
}

/// Why a stream is too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// The request's body was due.
    Body,
    /// The answer could not be sent.
    Reader,
    /// Nothing moved for too long.
    Stuck,
}

/// Time in which the client is waited for: it stands still while nobody reads, or the connection's
/// window leaves the client nothing to send.
#[derive(Debug, Default)]
struct Waiting {
    before: u64,
    since: Option<Nanos>,
}

impl Waiting {
    fn at(&self, now: Nanos) -> Nanos {
        let running = self.since.map_or(0, |since| now.0.saturating_sub(since.0));
        Nanos(self.before.saturating_add(running))
    }

    fn stop(&mut self, now: Nanos) {
        self.before = self.at(now).0;
        self.since = None;
    }

    /// When this clock will show `time`; the end of time while it stands still before that.
    fn when(&self, time: Nanos) -> Nanos {
        match (time.0.saturating_sub(self.before), self.since) {
            (0, _) => Nanos(0),
            (left, Some(since)) => after(since, left),
            (_, None) => NEVER,
        }
    }
}

/// Follows one connection; `H` is what ends a stream.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Ledger<H> {
    limits: Limits,
    started: Nanos,
    inbound: Frames,
    outbound: Frames,
    streams: Streams<H>,
    /// Streams whose head is complete, in the order in which the h2 crate will hand them out.
    unaccepted: VecDeque<u32>,
    /// Requests that were never handed out.
    unseen: u32,
    newest: u32,
    /// A request has begun.
    begun: bool,
    idle_since: Nanos,
    /// What we may send, and the client, on all streams together.
    send_window: i64,
    receive_window: i64,
    initial_send_window: i64,
    initial_receive_window: i64,
    /// Bytes of the header block that has not ended yet.
    block: Option<u32>,
    fragment: u32,
    /// The stream that the header block opens.
    opening: Option<u32>,
    /// A frame or header block that is waited for.
    unfinished: Option<Account>,
    /// Nothing could be read the last time.
    starving: bool,
    waiting: Waiting,
    body: Side,
    answer: Side,
    answering: u32,
    /// The connection's window is shut on answers.
    shut: Side,
    drain: Account,
    /// It was given another chance, and has not made up for that.
    renewed: bool,
    /// Streams that were ended and that we have not reset yet; since when there are any.
    leaving: Vec<u32>,
    leaving_since: Nanos,
    /// No stream is stuck before this.
    next_stuck: Nanos,
    score: Option<Score>,
    abuse: Option<&'static str>,
    configured: bool,
    acknowledgements: u32,
    pings: u32,
    spoke: bool,
    updates: u32,
    farewell: Option<u32>,
}

impl<H> Ledger<H> {
    #[must_use]
    pub fn new(limits: Limits, now: Nanos) -> Self {
        Self {
            limits,
            started: now,
            inbound: Frames::after(frame::PREFACE),
            outbound: Frames::after(0),
            streams: Streams::new(limits.streams),
            unaccepted: VecDeque::new(),
            unseen: 0,
            newest: 0,
            begun: false,
            idle_since: now,
            send_window: INITIAL_WINDOW,
            receive_window: INITIAL_WINDOW,
            initial_send_window: INITIAL_WINDOW,
            initial_receive_window: INITIAL_WINDOW,
            block: None,
            fragment: 0,
            opening: None,
            unfinished: None,
            starving: false,
            waiting: Waiting::default(),
            body: Side::new(limits.body),
            answer: Side::new(limits.answer),
            answering: 0,
            shut: Side::new(limits.answer),
            drain: Account::new(limits.answer),
            renewed: false,
            leaving: Vec::new(),
            leaving_since: now,
            next_stuck: NEVER,
            score: limits.abuse.map(|tolerance| Score::new(tolerance, now)),
            abuse: None,
            configured: false,
            acknowledgements: 0,
            pings: 0,
            spoke: false,
            updates: UPDATES_AT_FIRST,
            farewell: None,
        }
    }

    /// The kind of abuse that was too much: the connection is to end.
    #[must_use]
    pub fn abuse(&self) -> Option<&'static str> {
        self.abuse
    }

    /// The h2 crate has ended the connection for the client's sake (GOAWAY): whether the client was
    /// too busy, rather than wrong.
    #[must_use]
    pub fn is_condemned(&self) -> Option<bool> {
        match self.farewell? {
            NO_ERROR | INTERNAL_ERROR => None,
            code => Some(code == ENHANCE_YOUR_CALM),
        }
    }

    /// Whether the client has bent the protocol before the h2 crate ended the connection.
    #[must_use]
    pub fn is_suspicious(&self) -> bool {
        self.score.as_ref().is_some_and(Score::is_suspicious)
    }

    fn offend(&mut self, offence: Offence, now: Nanos) {
        if let Some(score) = &mut self.score
            && score.add(offence, now)
        {
            self.abuse.get_or_insert(offence.kind());
        }
    }

    /// Nothing can be read. `now` is asked for only when something is waited for.
    pub fn starves(&mut self, now: impl FnOnce() -> Nanos) {
        if std::mem::replace(&mut self.starving, true) {
            return;
        }
        let unfinished = !self.inbound.at_boundary() || self.block.is_some();
        if self.body.waiting == 0 && !unfinished {
            return;
        }
        let now = now();
        self.wait(now);
        if unfinished {
            let allowance = match self.inbound.unfinished() {
                // The frame is longer than what may be sent in the time for a head.
                Some((head, left)) if head.kind == frame::DATA => {
                    let seconds = u64::from(left).checked_div(self.limits.body_rate);
                    let at_rate = seconds.map_or(self.limits.idle, |seconds| {
                        nanos(Duration::from_secs(seconds.saturating_add(1)))
                    });
                    self.limits.headers.saturating_add(at_rate)
                }
                _ => self.limits.headers,
            };
            self.unfinished
                .get_or_insert(Account::of(allowance))
                .wait(now);
        }
    }

    /// Lets the client's time run, if it is the client that is waited for.
    fn wait(&mut self, now: Nanos) {
        if self.starving && self.waiting.since.is_none() && self.receive_window > 0 {
            self.waiting.since = Some(now);
        }
    }

    /// Whether what we say of a stream refuses it before it was handed out, which it never will be.
    fn is_refused(&mut self, id: u32) -> bool {
        if self.unaccepted.is_empty() {
            return false;
        }
        let before = self.unaccepted.len();
        self.unaccepted.retain(|other| *other != id);
        self.unaccepted.len() < before
    }

    /// Requests that the h2 crate has refused by itself since this was asked last.
    pub fn take_unseen(&mut self) -> u32 {
        std::mem::take(&mut self.unseen)
    }

    /// Whether the connection's window keeps answers back.
    fn judge_drain(&mut self, now: Nanos) {
        let shut = self.answering > 0 && self.send_window <= 0;
        self.shut.judge(&mut self.drain, shut, now);
    }

    /// A stream is gone.
    fn close(&mut self, id: u32, now: Nanos) -> Option<Stream<H>> {
        let mut stream = self.streams.remove(id)?;
        self.body
            .judge(&mut stream.body, false, self.waiting.at(now));
        self.answer.judge(&mut stream.answer, false, now);
        if stream.is_answering() {
            self.answering = self.answering.saturating_sub(1);
            self.judge_drain(now);
        }
        if self.streams.is_empty() {
            self.idle_since = now;
        }
        Some(stream)
    }

    /// A stream is to be ended, which shows when it is reset. It is not where all of its answer was
    /// left to the h2 crate, which keeps that for as long as the client does not take it.
    fn leave(&mut self, id: u32, now: Nanos) {
        if self.leaving.is_empty() {
            self.leaving_since = now;
        }
        self.leaving.push(id);
    }

    /// A stream is over, for the h2 crate as well.
    fn left(&mut self, id: u32) {
        if !self.leaving.is_empty() {
            self.leaving.retain(|other| *other != id);
            if self.leaving.is_empty() {
                self.leaving = Vec::new();
            }
        }
    }

    /// When streams that were ended must be gone.
    fn leave_due(&self) -> Nanos {
        if self.leaving.is_empty() {
            return NEVER;
        }
        after(self.leaving_since, self.limits.headers)
    }

    /// The h2 crate has handed out its next request: its stream, as far as it is known.
    pub fn handed_out(&mut self) -> Option<u32> {
        self.unaccepted.pop_front()
    }

    /// Whether any stream is open.
    #[must_use]
    pub fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Whether this stream is open still.
    #[must_use]
    pub fn is_open(&mut self, id: u32) -> bool {
        self.streams.find(id).is_some()
    }

    /// A stream is served: by what `handle` ends.
    pub fn served_by(&mut self, id: u32, handle: H) {
        if let Some(stream) = self.streams.find(id) {
            stream.handle = Some(handle);
        }
    }

    /// A request that may become a lasting stream goes to an upstream, which may take `patience` to
    /// begin its answer; whether its body may pause.
    pub fn forwarded(&mut self, id: u32, patience: Duration, pauses: bool, now: Nanos) {
        let at = self.waiting.at(now);
        if let Some(stream) = self.streams.find(id) {
            stream.patience = Some(nanos(patience));
            stream.forwarded = now;
            stream.pauses = pauses;
            let due = stream.is_due();
            self.body.judge(&mut stream.body, due, at);
            self.look_at(id);
        }
    }

    /// The final answer to such a request begins: whether it is a lasting stream.
    pub fn answered(&mut self, id: u32, lasts: bool, now: Nanos) {
        if let Some(stream) = self.streams.find(id) {
            stream.patience = None;
            stream.lasting = lasts;
            stream.moved = now;
            self.look_at(id);
        }
    }

    /// What this stream's deadlines depend on has changed.
    fn look_at(&mut self, id: u32) {
        let limits = self.limits;
        if let Some(stream) = self.streams.find(id) {
            let stuck = stream.stuck(limits.request, limits.idle, limits.stream_idle);
            self.next_stuck = self.next_stuck.min(stuck);
        }
    }

    /// The next request was handed out, and refused for what it asks.
    pub fn malformed(&mut self, now: Nanos) {
        let id = self.unaccepted.pop_front();
        if let Some(stream) = id.and_then(|id| self.streams.find(id)) {
            stream.malformed = true;
        }
        self.offend(Offence::Malformed, now);
    }

    /// The h2 crate has no request to hand out.
    pub fn all_accepted(&mut self) {
        // What was handed over to it is read: requests that it refused by itself are no more.
        if self.starving && !self.unaccepted.is_empty() {
            self.unaccepted = VecDeque::new();
        }
    }

    /// When to ask [`Self::expire`]; it may be too early.
    #[must_use]
    pub fn deadline(&self) -> Nanos {
        let unfinished = self.unfinished.and_then(|account| account.deadline());
        let mut deadline = unfinished.unwrap_or(NEVER).min(self.leave_due());
        if !self.begun {
            deadline = deadline.min(after(self.started, self.limits.headers));
        } else if self.streams.is_empty() {
            deadline = deadline.min(after(self.idle_since, self.limits.idle));
        }
        if !self.streams.is_empty() {
            deadline = deadline.min(self.next_stuck).min(self.answer.next);
            if let Some(drained) = self.drain.deadline() {
                deadline = deadline.min(drained);
            }
            deadline = deadline.min(self.waiting.when(self.body.next));
        }
        deadline
    }

    /// What is too late by now: streams to be ended, with what ends them (`None` where that is not
    /// known), or the whole connection.
    pub fn expire(&mut self, now: Nanos, mut end: impl FnMut(Slow, Option<H>)) -> Option<Late> {
        let passed = |deadline: Nanos| deadline <= now;
        let unfinished = self.unfinished.and_then(|account| account.deadline());
        if !self.begun && passed(after(self.started, self.limits.headers)) {
            // Browsers open connections ahead of need, and leave some unused.
            let unused = self.block.is_none()
                && (self.inbound.at_boundary() || self.inbound.is_untouched(frame::PREFACE));
            return Some(if unused { Late::Idle } else { Late::Silent });
        }
        if unfinished.is_some_and(passed) {
            return Some(Late::Unfinished);
        }
        if passed(self.leave_due()) {
            return Some(Late::Reader);
        }
        if self.streams.is_empty() {
            let idle = self.begun && passed(after(self.idle_since, self.limits.idle));
            return idle.then_some(Late::Idle);
        }
        let at = self.waiting.at(now);
        if passed(self.next_stuck) || passed(self.answer.next) || self.body.next <= at {
            self.next_stuck = NEVER;
            self.answer.next = NEVER;
            self.body.next = NEVER;
            while let Some((id, slow)) = self.late(now, at) {
                let handle = self.close(id, now).and_then(|stream| stream.handle);
                if handle.is_some() {
                    self.leave(id, now);
                }
                if slow == Slow::Reader && !std::mem::replace(&mut self.renewed, true) {
                    // What it held of the connection's window may come free.
                    self.drain = Account::half(self.limits.answer);
                    self.shut.waiting = 0;
                    self.judge_drain(now);
                }
                end(slow, handle);
            }
        }
        let drained = self.drain.deadline();
        let most = self.limits.streams as usize;
        (drained.is_some_and(passed) || self.leaving.len() > most).then_some(Late::Reader)
    }

    /// The first stream that is too late. Having found none, all next deadlines are known.
    fn late(&mut self, now: Nanos, at: Nanos) -> Option<(u32, Slow)> {
        let limits = self.limits;
        for stream in self.streams.iter_mut() {
            let stuck = stream.stuck(limits.request, limits.idle, limits.stream_idle);
            if stuck <= now {
                return Some((stream.id, Slow::Stuck));
            }
            self.next_stuck = self.next_stuck.min(stuck);
            if self.body.is_late(&mut stream.body, at) {
                return Some((stream.id, Slow::Body));
            }
            if self.answer.is_late(&mut stream.answer, now) {
                return Some((stream.id, Slow::Reader));
            }
        }
        None
    }
}

/// The two numbers that the first bytes of a payload are.
fn numbers([a, b, c, d, rest @ ..]: [u8; 8]) -> (u32, u32) {
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(rest))
}

fn after(time: Nanos, nanos: u64) -> Nanos {
    Nanos(time.0.saturating_add(nanos))
}

impl<H> Ledger<H> {
    /// Counts that are kept as frames pass are what counting now would give.
    ///
    /// # Panics
    /// When they are not.
    pub fn check(&mut self) {
        let (mut body, mut answer, mut answering) = (0, 0, 0);
        for stream in self.streams.iter_mut() {
            assert_eq!(stream.body.waits(), stream.is_due(), "a body's clock");
            assert_eq!(stream.answer.waits(), stream.is_shut(), "an answer's clock");
            body += u32::from(stream.is_due());
            answer += u32::from(stream.is_shut());
            answering += u32::from(stream.is_answering());
        }
        assert_eq!(
            (body, answer, answering),
            (self.body.waiting, self.answer.waiting, self.answering)
        );
        let shut = answering > 0 && self.send_window <= 0;
        assert_eq!(self.drain.waits(), shut, "the connection's clock");
    }
}
