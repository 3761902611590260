//! The handshake budget of one worker: what handshakes of clients that nobody knows may take of its
//! time, and the line they wait in once that is spent. Who counts as known is told by the handshake; see
//! docs/decisions/handshake-budget.md.

mod bucket;
mod line;

use super::deadline::Alarm;
use crate::{clock, config::model::Handshakes};
use bucket::Bucket;
use line::Line;
use parking_lot::Mutex;
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};
use verdict::prefix::Prefix;

/// What there is for clients with a ticket, as a part of the strangers' share.
const TICKETS: f64 = 0.25;

#[derive(Debug)]
struct State {
    strangers: Bucket,
    tickets: Bucket,
    line: Line,
}

/// Why a handshake may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no place in line.
    Full,
    /// The deadline came first.
    Late,
    /// The client has left.
    Gone,
}

/// One worker's budget and line. The lock is the worker's own: nobody else ever holds it.
#[derive(Debug)]
pub struct Admission(Mutex<State>);

impl Default for Admission {
    fn default() -> Self {
        let now = clock::now();
        Self(Mutex::new(State {
            strangers: Bucket::new(now),
            tickets: Bucket::new(now),
            line: Line::default(),
        }))
    }
}

impl Admission {
    /// For a handshake that may begin at once, whoever asks: there is budget, and nobody waits for it.
    pub fn at_once(&self, share: f64) -> Option<Turn<'_>> {
        let mut state = self.0.lock();
        let open = state.line.is_empty() && state.strangers.wait(share, clock::now()).is_zero();
        open.then(|| self.turn(state.line.number(), share, Purse::Strangers))
    }

    /// For a handshake that may begin at once if its client has a ticket.
    pub fn by_ticket(&self, share: f64) -> Option<Turn<'_>> {
        let mut state = self.0.lock();
        let open = state.tickets.wait(share * TICKETS, clock::now()).is_zero();
        open.then(|| self.turn(state.line.number(), share, Purse::Tickets))
    }

    /// Waits in line for the budget. `left` is ready when the client has gone.
    ///
    /// The caller goes on to its handshake without yielding, so that what it costs is charged before
    /// the next in line asks.
    ///
    /// # Errors
    /// When the line is full, or full of this client, at the deadline, or when the client is gone.
    pub async fn wait(
        &self,
        client: Prefix,
        limits: &Handshakes,
        share: f64,
        deadline: Instant,
        mut left: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<Turn<'_>, Refused> {
        let most = usize::try_from(limits.waiting.get()).unwrap_or(usize::MAX);
        let joined = self.0.lock().line.join(client, most);
        let number = joined.ok_or(Refused::Full)?;
        let mut turn = self.turn(number, share, Purse::Strangers);
        let wait = poll_fn(|cx| {
            if left(cx).is_ready() {
                return Poll::Ready(Err(Refused::Gone));
            }
            turn.poll(cx).map(Ok)
        });
        timeout_at(deadline, wait)
            .await
            .unwrap_or(Err(Refused::Late))?;
        Ok(turn)
    }

    fn turn(&self, number: u64, share: f64, purse: Purse) -> Turn<'_> {
        Turn {
            admission: self,
            number,
            share,
            purse,
            paid: [Duration::ZERO; 2],
            alarm: Alarm::default(),
        }
    }

    fn charge(&self, purse: Purse, took: Duration) {
        self.0.lock().bucket(purse).charge(took);
    }
}

#[cfg(test)]
impl Admission {
    /// As after a flood: nothing is left to strangers.
    pub(super) fn spend(&self) {
        self.charge(Purse::Strangers, Duration::from_secs(9));
    }

    /// Nor to those with a ticket.
    pub(super) fn spend_tickets(&self) {
        self.charge(Purse::Tickets, Duration::from_secs(9));
    }

    /// As after a rest.
    pub(super) fn fill(&self) {
        let mut state = self.0.lock();
        state.strangers.refund(Duration::from_secs(9));
        state.tickets.refund(Duration::from_secs(9));
    }

    /// How many stand in line.
    pub(super) fn waiting(&self) -> usize {
        self.0.lock().line.len()
    }

    /// What strangers have, and those with a ticket.
    pub(super) fn levels(&self) -> (i64, i64) {
        let state = self.0.lock();
        (state.strangers.level, state.tickets.level)
    }
}

impl State {
    fn bucket(&mut self, purse: Purse) -> &mut Bucket {
        match purse {
            Purse::Strangers => &mut self.strangers,
            Purse::Tickets => &mut self.tickets,
        }
    }
}

/// Who pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purse {
    Strangers,
    Tickets,
}

/// One handshake's dealings with the budget, from its place in line to what it cost. It leaves the line
/// on drop.
#[derive(Debug)]
pub struct Turn<'a> {
    admission: &'a Admission,
    number: u64,
    share: f64,
    purse: Purse,
    /// By strangers, by those with tickets.
    paid: [Duration; 2],
    alarm: Alarm,
}

impl Turn<'_> {
    /// Runs a handshake whose turn it is, and charges what it takes as it goes. Before each further
    /// part of it there must be budget again: a client chooses how much of the work comes late, by
    /// asking to be asked again (RFC 8446, 4.1.4).
    pub async fn metered<F: Future + Unpin>(&mut self, mut handshake: F) -> F::Output {
        let mut begun = false;
        poll_fn(|cx| {
            if begun {
                ready!(self.poll(cx));
            }
            begun = true;
            let before = clock::now();
            let polled = Pin::new(&mut handshake).poll(cx);
            self.pay(clock::now().since(before));
            polled
        })
        .await
    }

    /// Ready when there is budget: out of the tickets' purse as long as it has any, else in line.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let wait = {
                let mut state = self.admission.0.lock();
                let now = clock::now();
                if self.purse == Purse::Tickets {
                    if state.tickets.wait(self.share * TICKETS, now).is_zero() {
                        return Poll::Ready(());
                    }
                    self.purse = Purse::Strangers;
                }
                state.line.rejoin(self.number);
                if !state.line.is_first(self.number, cx.waker()) {
                    return Poll::Pending;
                }
                let wait = state.strangers.wait(self.share, now);
                if wait.is_zero() {
                    state.line.leave(self.number);
                    return Poll::Ready(());
                }
                wait
            };
            ready!(self.alarm.poll(Instant::now() + wait, cx));
        }
    }

    fn pay(&mut self, took: Duration) {
        self.admission.charge(self.purse, took);
        let [strangers, tickets] = &mut self.paid;
        let paid = match self.purse {
            Purse::Strangers => strangers,
            Purse::Tickets => tickets,
        };
        *paid = paid.saturating_add(took);
    }

    /// Gives back what was paid for a client that proved to be known.
    pub fn refund(self) {
        let [strangers, tickets] = self.paid;
        let mut state = self.admission.0.lock();
        state.strangers.refund(strangers);
        state.tickets.refund(tickets);
    }

    /// Whether it waits in line.
    pub fn is_waiting(&self) -> bool {
        self.admission.0.lock().line.holds(self.number)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.admission.0.lock().line.leave(self.number);
    }
}

#[cfg(test)]
mod tests;
