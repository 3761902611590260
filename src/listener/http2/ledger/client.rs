//! What the client's frames do to a ledger.

use super::{
    LARGEST_WINDOW, Ledger, SETTINGS_INITIAL_WINDOW_SIZE, UPDATES_A_STREAM, UPDATES_SAVED, after,
    numbers,
};
use crate::listener::http2::{
    account::Account,
    frame::{self, Event, Head},
    streams::Stream,
};
use verdict::{Nanos, abuse::Offence};

/// A part of a header block below this could have been larger.
const SMALL_FRAGMENT: u32 = 4096;

/// Bytes of sixteen settings. There are fewer kinds of them in use: each sixteen more are as bad as
/// another SETTINGS frame, since each may move the windows of all streams.
const SETTINGS_SHARE: u32 = 16 * 6;

impl<H> Ledger<H> {
    /// The client has sent these bytes.
    pub fn received(&mut self, mut bytes: &[u8], now: Nanos) {
        if bytes.is_empty() {
            return;
        }
        self.starving = false;
        self.waiting.stop(now);
        if let Some(account) = &mut self.unfinished {
            account.stop(now);
        }
        while let Some(event) = self.inbound.next(&mut bytes) {
            match event {
                Event::Begins(head) => self.client_begins(head, now),
                Event::Payload(head, bytes) => {
                    if head.kind == frame::DATA
                        && let Some(stream) = self.streams.find(head.stream)
                    {
                        let at = self.waiting.at(now);
                        self.body.moved(&mut stream.body, bytes, at);
                    }
                }
                Event::Setting(SETTINGS_INITIAL_WINDOW_SIZE, size) if size <= LARGEST_WINDOW => {
                    let change = i64::from(size).saturating_sub(self.initial_send_window);
                    self.initial_send_window = i64::from(size);
                    for stream in self.streams.iter_mut() {
                        stream.send_window = stream.send_window.saturating_add(change);
                        let shut = stream.is_shut();
                        self.answer.judge(&mut stream.answer, shut, now);
                    }
                }
                Event::Setting(..) => {}
                Event::Ends(head, first) => self.client_ends(head, first, now),
            }
        }
    }

    fn client_begins(&mut self, head: Head, now: Nanos) {
        match head.kind {
            frame::DATA => self.client_data(head, now),
            frame::HEADERS => self.client_headers(head, now),
            frame::CONTINUATION => {
                let Some(before) = self.block else { return };
                let bytes = before.saturating_add(head.length);
                self.block = Some(bytes);
                let offence = if head.length == 0 && !head.has(frame::END_HEADERS) {
                    Offence::EmptyFrame
                } else if bytes > self.limits.header_bytes {
                    Offence::HeaderBytes
                } else if self.fragment < SMALL_FRAGMENT {
                    Offence::SmallContinuation
                } else {
                    Offence::Continuation
                };
                self.fragment = head.length;
                self.offend(offence, now);
            }
            frame::SETTINGS if head.has(frame::ACK) => match self.acknowledgements.checked_sub(1) {
                Some(left) => self.acknowledgements = left,
                None => self.offend(Offence::Settings, now),
            },
            frame::SETTINGS => {
                if std::mem::replace(&mut self.configured, true) {
                    self.offend(Offence::Settings, now);
                }
                for _ in 0..head.length / SETTINGS_SHARE {
                    self.offend(Offence::Settings, now);
                }
            }
            frame::PING if head.has(frame::ACK) => match self.pings.checked_sub(1) {
                Some(left) => self.pings = left,
                None => self.offend(Offence::Ping, now),
            },
            frame::PING => {
                // Clients measure the way with one for each answer they get.
                if !std::mem::take(&mut self.spoke) {
                    self.offend(Offence::Ping, now);
                }
            }
            frame::WINDOW_UPDATE => match self.updates.checked_sub(1) {
                Some(left) => self.updates = left,
                None => self.offend(Offence::WindowUpdate, now),
            },
            frame::PRIORITY | frame::PRIORITY_UPDATE => self.offend(Offence::Priority, now),
            frame::RST_STREAM => {}
            _ => self.offend(Offence::UnknownFrame, now),
        }
    }

    fn client_data(&mut self, head: Head, now: Nanos) {
        let length = i64::from(head.length);
        self.receive_window = self.receive_window.saturating_sub(length);
        let ends = head.has(frame::END_STREAM);
        if head.length == 0 && !ends {
            self.offend(Offence::EmptyFrame, now);
        }
        let Some(stream) = self.streams.find(head.stream) else {
            return;
        };
        let wrong = stream.complete;
        stream.complete |= ends;
        stream.receive_window = stream.receive_window.saturating_sub(length);
        if length > 0 || ends {
            stream.moved = now;
        }
        let due = stream.is_due();
        let closed = stream.is_closed();
        self.body.judge(&mut stream.body, due, self.waiting.at(now));
        if ends {
            self.look_at(head.stream);
        }
        if wrong {
            self.offend(Offence::ForcedReset, now);
        }
        if closed {
            self.close(head.stream, now);
        }
    }

    fn client_headers(&mut self, head: Head, now: Nanos) {
        self.fragment = head.length;
        self.opening = None;
        self.updates = self
            .updates
            .saturating_add(UPDATES_A_STREAM)
            .min(UPDATES_SAVED);
        if !head.has(frame::END_HEADERS) {
            self.block = Some(head.length);
            if head.length == 0 {
                self.offend(Offence::EmptyFrame, now);
            }
        }
        if head.length > self.limits.header_bytes {
            self.offend(Offence::HeaderBytes, now);
        }
        let ends = head.has(frame::END_STREAM);
        if head.stream > self.newest {
            self.newest = head.stream;
            self.open(head.stream, ends, now);
            return;
        }
        // Trailers, or a mistake.
        let Some(stream) = self.streams.find(head.stream) else {
            return;
        };
        let wrong = stream.complete;
        stream.complete |= ends;
        stream.moved = now;
        let due = stream.is_due();
        let closed = stream.is_closed();
        self.body.judge(&mut stream.body, due, self.waiting.at(now));
        self.look_at(head.stream);
        if wrong {
            self.offend(Offence::ForcedReset, now);
        }
        if closed {
            self.close(head.stream, now);
        }
    }

    fn open(&mut self, id: u32, complete: bool, now: Nanos) {
        let mut stream = Stream {
            id,
            complete,
            answered: false,
            served: false,
            ended: false,
            lasting: false,
            pauses: false,
            patience: None,
            forwarded: now,
            malformed: false,
            send_window: self.initial_send_window,
            receive_window: self.initial_receive_window,
            opened: now,
            moved: now,
            body: Account::new(self.limits.body),
            answer: Account::new(self.limits.answer),
            handle: None,
        };
        let due = stream.is_due();
        if due {
            let at = self.waiting.at(now);
            self.body.judge(&mut stream.body, true, at);
        }
        if self.streams.push(stream) {
            self.opening = Some(id);
            let soonest = self.limits.request.min(self.limits.stream_idle);
            self.next_stuck = self.next_stuck.min(after(now, soonest));
        } else if due {
            self.body.waiting = self.body.waiting.saturating_sub(1);
        }
    }

    fn client_ends(&mut self, head: Head, first: [u8; 8], now: Nanos) {
        let (number, _) = numbers(first);
        match head.kind {
            frame::HEADERS | frame::CONTINUATION if head.has(frame::END_HEADERS) => {
                self.block = None;
                self.begun = true;
                if let Some(id) = self.opening.take() {
                    self.unaccepted.push_back(id);
                }
            }
            frame::RST_STREAM => {
                self.left(head.stream);
                let early = self
                    .close(head.stream, now)
                    .is_some_and(|stream| !stream.served);
                let offence = if early {
                    Offence::EarlyReset
                } else {
                    Offence::LateReset
                };
                self.offend(offence, now);
            }
            frame::WINDOW_UPDATE => {
                let more = i64::from(number & LARGEST_WINDOW);
                if head.stream == 0 {
                    self.send_window = self.send_window.saturating_add(more);
                    self.judge_drain(now);
                } else if let Some(stream) = self.streams.find(head.stream) {
                    stream.send_window = stream.send_window.saturating_add(more);
                    let shut = stream.is_shut();
                    self.answer.judge(&mut stream.answer, shut, now);
                }
            }
            _ => {}
        }
        if self.block.is_none() {
            self.unfinished = None;
        }
    }
}
