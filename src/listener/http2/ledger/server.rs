//! What our own frames do to a ledger: answers, windows, and what the h2 crate says of the client.

use super::{
    BYTES_AN_UPDATE, ENHANCE_YOUR_CALM, INTERNAL_ERROR, LARGEST_WINDOW, Ledger, NO_ERROR,
    SETTINGS_INITIAL_WINDOW_SIZE, UPDATES_A_FRAME, UPDATES_SAVED, numbers,
};
use crate::listener::http2::frame::{self, Event, Head};
use verdict::{Nanos, abuse::Offence};

/// A frame of an answer that is smaller than this left in crumbs, if the client's window cut it.
const CRUMB: u32 = 128;

const PROTOCOL_ERROR: u32 = 1;
const STREAM_CLOSED: u32 = 5;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

impl<H> Ledger<H> {
    /// We have sent these bytes.
    pub fn sent(&mut self, mut bytes: &[u8], now: Nanos) {
        while let Some(event) = self.outbound.next(&mut bytes) {
            match event {
                Event::Begins(head) => self.we_begin(head, now),
                Event::Setting(SETTINGS_INITIAL_WINDOW_SIZE, size) => {
                    let change = i64::from(size).saturating_sub(self.initial_receive_window);
                    self.initial_receive_window = i64::from(size);
                    let at = self.waiting.at(now);
                    for stream in self.streams.iter_mut() {
                        stream.receive_window = stream.receive_window.saturating_add(change);
                        let due = stream.is_due();
                        self.body.judge(&mut stream.body, due, at);
                    }
                }
                Event::Payload(..) | Event::Setting(..) => {}
                Event::Ends(head, first) => self.we_end(head, first, now),
            }
        }
        if self.body.waiting > 0 {
            self.wait(now);
        }
    }

    fn we_begin(&mut self, head: Head, now: Nanos) {
        match head.kind {
            frame::DATA | frame::HEADERS => self.we_answer(head, now),
            frame::SETTINGS if !head.has(frame::ACK) => {
                self.acknowledgements = self.acknowledgements.saturating_add(1);
            }
            frame::PING if !head.has(frame::ACK) => self.pings = self.pings.saturating_add(1),
            _ => {}
        }
    }

    fn we_answer(&mut self, head: Head, now: Nanos) {
        self.spoke = true;
        let data = head.kind == frame::DATA;
        let bytes = if data { head.length } else { 0 };
        self.updates = self
            .updates
            .saturating_add(UPDATES_A_FRAME.saturating_add(bytes / BYTES_AN_UPDATE))
            .min(UPDATES_SAVED);
        self.send_window = self.send_window.saturating_sub(i64::from(bytes));
        let ends = head.has(frame::END_STREAM);
        let (mut crumb, mut served) = (false, ends);
        if let Some(stream) = self.streams.find(head.stream) {
            let before = stream.is_answering();
            // A first HEADERS alone may be a 1xx, which clients can ask for.
            stream.served |= data || ends || stream.answered;
            if stream.served {
                // An answer of our own is one as well.
                stream.patience = None;
            }
            stream.answered = true;
            stream.ended |= ends;
            stream.send_window = stream.send_window.saturating_sub(i64::from(bytes));
            if bytes > 0 {
                stream.moved = now;
                self.answer.moved(&mut stream.answer, bytes, now);
                crumb =
                    bytes < CRUMB && !ends && (stream.send_window <= 0 || self.send_window <= 0);
            }
            let shut = stream.is_shut();
            self.answer.judge(&mut stream.answer, shut, now);
            match (before, stream.is_answering()) {
                (false, true) => self.answering = self.answering.saturating_add(1),
                (true, false) => self.answering = self.answering.saturating_sub(1),
                _ => {}
            }
            if stream.is_closed() {
                self.close(head.stream, now);
            }
        }
        if data {
            // The connection as a whole: the more answers wait, the less each byte is worth.
            let abreast = self.answering.clamp(1, 8);
            self.shut.moved(&mut self.drain, bytes / abreast, now);
            self.renewed &= !self.drain.is_full(self.limits.answer);
        } else if self.is_refused(head.stream) {
            // Answered by the h2 crate itself (431): what is small on the wire may be large.
            self.unseen = self.unseen.saturating_add(1);
            if let Some(stream) = self.streams.find(head.stream) {
                stream.malformed = true;
            }
            self.offend(Offence::HeaderBytes, now);
            served = false;
        }
        if ends {
            self.left(head.stream);
        }
        self.judge_drain(now);
        if served && let Some(score) = &mut self.score {
            score.served();
        }
        if crumb {
            self.offend(Offence::TinyWindow, now);
        }
    }

    fn we_end(&mut self, head: Head, first: [u8; 8], now: Nanos) {
        let (number, second) = numbers(first);
        match head.kind {
            frame::RST_STREAM => {
                let stream = self.close(head.stream, now);
                self.left(head.stream);
                // The h2 crate refuses some requests by itself, unseen by anyone else. What it resets
                // for another reason is handed out all the same.
                let unseen = matches!(number, PROTOCOL_ERROR | REFUSED_STREAM)
                    && self.is_refused(head.stream);
                match number {
                    NO_ERROR | INTERNAL_ERROR | CANCEL | ENHANCE_YOUR_CALM => {}
                    REFUSED_STREAM => self.offend(Offence::ExcessStream, now),
                    STREAM_CLOSED => self.offend(Offence::StrayFrame, now),
                    _ if unseen => {
                        self.unseen = self.unseen.saturating_add(1);
                        self.offend(Offence::Malformed, now);
                    }
                    _ => match stream {
                        Some(stream) if stream.malformed => {}
                        Some(_) => self.offend(Offence::ForcedReset, now),
                        None => self.offend(Offence::StrayFrame, now),
                    },
                }
            }
            frame::GOAWAY => {
                self.farewell = Some(second);
            }
            frame::WINDOW_UPDATE => {
                let more = i64::from(number & LARGEST_WINDOW);
                if head.stream == 0 {
                    self.receive_window = self.receive_window.saturating_add(more);
                } else if let Some(stream) = self.streams.find(head.stream) {
                    stream.receive_window = stream.receive_window.saturating_add(more);
                    let due = stream.is_due();
                    self.body.judge(&mut stream.body, due, self.waiting.at(now));
                }
            }
            _ => {}
        }
    }
}
