//! The open streams of a connection, by their numbers. Bounded; what frames do to them is left to
//! [`super::ledger`].

use super::account::{Account, Purse, Terms};
use verdict::Nanos;

/// Streams that may be open above the limit for a moment: they are refused, but are seen first.
const MARGIN: usize = 64;
/// Room that a connection without streams keeps for the next ones.
const KEPT: usize = 4;

/// One stream, as both sides know it.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Stream<H> {
    pub id: u32,
    /// The client has sent `END_STREAM`.
    pub complete: bool,
    /// HEADERS of an answer were sent; it may be a 1xx.
    pub answered: bool,
    /// An answer has begun that is final for sure.
    pub served: bool,
    /// We have sent `END_STREAM`.
    pub ended: bool,
    /// The answer is a gRPC stream or the like: silence is what ends it.
    pub lasting: bool,
    /// The request's body may pause as it likes.
    pub pauses: bool,
    /// How long the upstream may take to begin its answer, where the ledger sees to it, and since when.
    pub patience: Option<u64>,
    pub forwarded: Nanos,
    /// Refused already for what was asked.
    pub malformed: bool,
    pub send_window: i64,
    pub receive_window: i64,
    pub opened: Nanos,
    /// When a byte of a body last moved, either way, or the request became complete.
    pub moved: Nanos,
    pub body: Account,
    pub answer: Account,
    /// What ends it.
    pub handle: Option<H>,
}

impl<H> Stream<H> {
    /// An answer that the client has to take.
    pub fn is_answering(&self) -> bool {
        self.answered && !self.ended
    }

    /// There is an answer, and the client does not let it be sent.
    pub fn is_shut(&self) -> bool {
        self.is_answering() && self.send_window <= 0
    }

    /// The client may send more of the body and has more to send.
    pub fn is_due(&self) -> bool {
        !self.complete && !self.pauses && self.receive_window > 0
    }

    /// When it will be stuck if nothing moves.
    pub fn stuck(&self, total: u64, idle: u64, stream_idle: u64) -> Nanos {
        let after = |time: Nanos, nanos: u64| Nanos(time.0.saturating_add(nanos));
        let pauses = self.pauses && !self.complete;
        let stuck = if self.lasting || pauses {
            after(self.moved, stream_idle)
        } else {
            after(self.opened, total).max(after(self.moved, idle))
        };
        match self.patience {
            Some(patience) if !pauses => stuck.min(after(self.forwarded.max(self.moved), patience)),
            _ => stuck,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.complete && self.ended
    }
}

/// Streams that are open, in the order of their numbers, which is the order they came in.
#[derive(Debug)]
pub struct Streams<H> {
    open: Vec<Stream<H>>,
    most: usize,
}

impl<H> Streams<H> {
    /// Up to `limit`, and a few that will be refused.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            open: Vec::new(),
            most: (limit as usize).saturating_add(MARGIN),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Stream<H>> {
        self.open.iter_mut()
    }

    #[inline]
    pub fn find(&mut self, id: u32) -> Option<&mut Stream<H>> {
        let at = self.position(id)?;
        self.open.get_mut(at)
    }

    #[inline]
    fn position(&self, id: u32) -> Option<usize> {
        // Most frames are about the stream that was opened last.
        let last = self.open.len().checked_sub(1)?;
        match self.open.get(last) {
            Some(stream) if stream.id == id => Some(last),
            _ => self.open.binary_search_by_key(&id, |stream| stream.id).ok(),
        }
    }

    /// Adds one whose number is above all others. False when there is no place.
    pub fn push(&mut self, stream: Stream<H>) -> bool {
        let fits = self.open.len() < self.most;
        if fits {
            self.open.push(stream);
        }
        fits
    }

    pub fn remove(&mut self, id: u32) -> Option<Stream<H>> {
        let at = self.position(id)?;
        let stream = self.open.remove(at);
        if self.open.is_empty() && self.open.capacity() > KEPT {
            // An idle connection holds no more than it needs.
            self.open = Vec::new();
        }
        Some(stream)
    }
}

/// One direction of all streams: which of them wait for the client.
#[derive(Debug)]
pub struct Side {
    pub terms: Terms,
    pub purse: Purse,
    /// Streams that wait.
    pub waiting: u32,
    /// No account is used up before this.
    pub next: Nanos,
}

impl Side {
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            purse: Purse::default(),
            waiting: 0,
            next: NEVER,
        }
    }

    /// Starts or stops an account's clock.
    #[inline]
    pub fn judge(&mut self, account: &mut Account, waits: bool, now: Nanos) {
        match (waits, account.waits()) {
            (true, false) => {
                self.waiting = self.waiting.saturating_add(1);
                self.next = self.next.min(account.wait(now));
            }
            (false, true) => {
                account.stop(now);
                self.waiting = self.waiting.saturating_sub(1);
                if self.waiting == 0 {
                    self.purse.empty();
                }
            }
            _ => {}
        }
    }

    /// Bytes moved. That never brings a deadline nearer.
    #[inline]
    pub fn moved(&mut self, account: &mut Account, bytes: u32, now: Nanos) {
        let waits = account.waits();
        account.stop(now);
        let others = self.waiting.saturating_sub(u32::from(waits));
        account.earn(bytes, others, self.terms, &mut self.purse);
        if waits {
            account.wait(now);
        }
    }

    /// Whether an account is used up, and nothing can be borrowed. Notes the next deadline.
    pub fn is_late(&mut self, account: &mut Account, now: Nanos) -> bool {
        match account.deadline() {
            Some(deadline)
                if deadline <= now && !account.borrow(now, self.terms, &mut self.purse) =>
            {
                true
            }
            _ => {
                if let Some(deadline) = account.deadline() {
                    self.next = self.next.min(deadline);
                }
                false
            }
        }
    }
}

/// The end of time.
pub const NEVER: Nanos = Nanos(u64::MAX);
