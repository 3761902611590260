//! Bulkheads: how many requests an upstream or route has in hand at once, so that one that is slow
//! drowns alone. They protect the upstream and judge nobody.
//!
//! A slot is taken when a request is complete enough to be sent on, and held until the upstream has
//! answered. When the client leaves first, the upstream mostly works on: the slot then stays taken for
//! as long as its answers usually take, or leaving early would be the way around the bulkhead.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use verdict::{
    decision::Mode,
    policy::{KeyPart, LimitKind, LimitSpec},
};

/// Assumed of an upstream that has not answered yet.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// No slot is held longer than this for a client that left.
const LONGEST_HOLD: Duration = Duration::from_secs(60);

/// The bulkheads of a configuration, by the index of their limit.
#[derive(Debug)]
pub struct Bulkheads {
    by_limit: Vec<Option<Bulkhead>>,
    /// Where slots of clients that left are waited out.
    handle: Handle,
}

/// A route, as bulkheads know it.
#[derive(Clone, Debug)]
pub struct RouteNames {
    pub route: Arc<str>,
    pub upstream: Arc<str>,
}

#[derive(Debug)]
struct Bulkhead {
    name: Arc<str>,
    key: Vec<KeyPart>,
    max: u32,
    queue: u32,
    wait: Duration,
    mode: Mode,
    /// In the order of the routes; routes of equal keys share one, and so do generations.
    gates: Vec<(Key, Arc<Gate>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    route: Option<Arc<str>>,
    upstream: Option<Arc<str>>,
}

impl Key {
    fn of(names: &RouteNames, parts: &[KeyPart]) -> Self {
        let part = |part: &KeyPart, name: &Arc<str>| parts.contains(part).then(|| Arc::clone(name));
        Self {
            route: part(&KeyPart::Route, &names.route),
            upstream: part(&KeyPart::Upstream, &names.upstream),
        }
    }
}

/// The slots of one key.
#[derive(Debug)]
struct Gate {
    slots: Arc<Semaphore>,
    max: AtomicU32,
    /// Slots that a reload took away while they were in use: they end when given back.
    surplus: AtomicUsize,
    waiting: AtomicU32,
    /// Slots in use, held for clients that left included; in shadow mode also those over `max`.
    taken: AtomicU32,
    /// How long the upstream usually takes to answer, in nanoseconds.
    usual: AtomicU64,
}

/// No slot came free in time, or too many wait already: answered by the limit's `over`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub in_flight: u32,
    /// When a slot may be free: as long as an answer usually takes, a second at least.
    pub retry_after: Duration,
}

/// A slot. Say how it ended with [`Self::answered`] or [`Self::unused`]; dropping it otherwise means
/// that nobody waits for the answer any more.
///
/// How long answers take is learnt from [`Self::answering`] alone: what comes after (and an upload
/// that goes on, see [`Self::uploading`]) goes at the client's pace.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    slot: Option<OwnedSemaphorePermit>,
    /// When the upstream had all of the request, as far as is known.
    since: Instant,
    uploading: bool,
    answering: bool,
    ended: bool,
    handle: Handle,
}

impl Bulkheads {
    /// Slots of `previous` stay taken where the limit's name and key stay. `max` may change: what is
    /// shared with `previous` is changed by [`Self::commit`], when this takes its place.
    /// `routes`: in the order of the configuration. `handle`: the runtime on which slots are waited
    /// out.
    #[must_use]
    pub fn build(
        limits: &[LimitSpec],
        routes: &[RouteNames],
        previous: Option<&Self>,
        handle: Handle,
    ) -> Self {
        let by_limit = limits.iter().map(|limit| {
            let before = previous.and_then(|previous| previous.find(limit));
            Bulkhead::build(limit, routes, before)
        });
        Self {
            by_limit: by_limit.collect(),
            handle,
        }
    }

    /// Gives shared gates the sizes of this configuration; to be called when it is in force. One call
    /// at a time.
    pub fn commit(&self) {
        for bulkhead in self.by_limit.iter().flatten() {
            for (_, gate) in &bulkhead.gates {
                gate.resize(bulkhead.max);
            }
        }
    }

    /// Takes a slot of the limit with this index for a request of the route with that index, waiting
    /// for one as long as the limit says, first come, first served. `None` when that limit is no
    /// bulkhead. Allocates nothing unless it waits.
    ///
    /// In shadow mode it neither waits nor refuses; [`Permit::is_over`] then tells whether it would.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the queue is full or the wait was in vain.
    pub async fn acquire(&self, limit: usize, route: usize) -> Result<Option<Permit>, Refused> {
        let Some(Some(bulkhead)) = self.by_limit.get(limit) else {
            return Ok(None);
        };
        let Some((_, gate)) = bulkhead.gates.get(route) else {
            return Ok(None);
        };
        let slot = match Arc::clone(&gate.slots).try_acquire_owned() {
            Ok(slot) => Some(slot),
            Err(_) if bulkhead.mode == Mode::Shadow => None,
            Err(_) => Some(gate.wait(bulkhead.queue, bulkhead.wait).await?),
        };
        gate.taken.fetch_add(1, Relaxed);
        Ok(Some(Permit {
            gate: Arc::clone(gate),
            slot,
            since: Instant::now(),
            uploading: false,
            answering: false,
            ended: false,
            handle: self.handle.clone(),
        }))
    }

    fn find(&self, limit: &LimitSpec) -> Option<&Bulkhead> {
        let mut all = self.by_limit.iter().flatten();
        all.find(|bulkhead| bulkhead.name == limit.name && bulkhead.key == limit.key)
    }
}

impl Bulkhead {
    fn build(limit: &LimitSpec, routes: &[RouteNames], before: Option<&Self>) -> Option<Self> {
        let LimitKind::Bulkhead { max, queue, wait } = limit.kind else {
            return None;
        };
        let max = max.get();
        let mut gates: Vec<(Key, Arc<Gate>)> = Vec::with_capacity(routes.len());
        for names in routes {
            let key = Key::of(names, &limit.key);
            let before = before.map(|before| &*before.gates).unwrap_or_default();
            let known = gates.iter().chain(before).find(|(other, _)| *other == key);
            let gate = known.map_or_else(|| Arc::new(Gate::new(max)), |(_, gate)| Arc::clone(gate));
            gates.push((key, gate));
        }
        Some(Self {
            name: Arc::clone(&limit.name),
            key: limit.key.clone(),
            max,
            queue,
            wait,
            mode: limit.mode,
            gates,
        })
    }
}

impl Gate {
    fn new(max: u32) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(size(max))),
            max: AtomicU32::new(max),
            surplus: AtomicUsize::new(0),
            waiting: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            usual: AtomicU64::new(nanos(FIRST_GUESS)),
        }
    }

    fn resize(&self, max: u32) {
        let (old, new) = (size(self.max.swap(max, Relaxed)), size(max));
        if let Some(fewer) = old.checked_sub(new) {
            let gone = self.slots.forget_permits(fewer);
            self.surplus.fetch_add(fewer.saturating_sub(gone), Relaxed);
        } else {
            // Slots that were to end stay after all.
            let mut more = new.saturating_sub(old);
            while more > 0 && self.take_surplus() {
                more = more.saturating_sub(1);
            }
            self.slots.add_permits(more);
        }
    }

    fn take_surplus(&self) -> bool {
        let one_less = |surplus: usize| surplus.checked_sub(1);
        self.surplus
            .fetch_update(Relaxed, Relaxed, one_less)
            .is_ok()
    }

    async fn wait(&self, queue: u32, wait: Duration) -> Result<OwnedSemaphorePermit, Refused> {
        let room = |waiting: u32| (waiting < queue).then(|| waiting.saturating_add(1));
        if self.waiting.fetch_update(Relaxed, Relaxed, room).is_err() {
            return Err(self.refused());
        }
        let _place = Place(&self.waiting);
        match tokio::time::timeout(wait, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(self.refused()),
        }
    }

    fn refused(&self) -> Refused {
        Refused {
            in_flight: self.taken.load(Relaxed),
            retry_after: self.usual().clamp(Duration::from_secs(1), LONGEST_HOLD),
        }
    }

    fn usual(&self) -> Duration {
        Duration::from_nanos(self.usual.load(Relaxed))
    }

    /// Learns from an answer, or from one that took longer than this: up fast, down slowly, so that it
    /// stands near the longest of the recent ones.
    fn learn(&self, took: Duration) {
        let took = nanos(took);
        let usual = self.usual.load(Relaxed);
        let learnt = match took.checked_sub(usual) {
            Some(more) => usual.saturating_add(more / 2),
            None => usual.saturating_sub(usual.saturating_sub(took) / 20),
        };
        // Two at once may lose one of them: it is an estimate.
        self.usual.store(learnt, Relaxed);
    }

    fn give_back(&self, slot: Option<OwnedSemaphorePermit>) {
        self.taken.fetch_sub(1, Relaxed);
        match slot {
            Some(slot) if self.take_surplus() => slot.forget(),
            slot => drop(slot),
        }
    }
}

impl Permit {
    /// The client is still sending the request's body: until [`Self::sent`], the time that goes by is
    /// the client's, and nothing is learnt from it.
    pub fn uploading(&mut self) {
        self.uploading = true;
    }

    /// The upstream has all of the request now; nothing, when it was not [`Self::uploading`].
    pub fn sent(&mut self) {
        if self.uploading {
            self.uploading = false;
            self.since = Instant::now();
        }
    }

    /// The upstream's response headers are here: learns how long that took, at most once. Not to be
    /// called for switched protocols (101), nor for informational answers.
    pub fn answering(&mut self) {
        if !self.answering && !self.uploading {
            self.gate.learn(self.since.elapsed());
        }
        self.answering = true;
    }

    /// The upstream has answered; the slot is free.
    pub fn answered(mut self) {
        self.release();
    }

    /// Nothing was sent; the slot is free.
    pub fn unused(mut self) {
        self.release();
    }

    /// Shadow mode only: whether this request would have waited or been refused.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.slot.is_none()
    }

    /// Slots in use, this one included.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.gate.taken.load(Relaxed)
    }

    fn release(&mut self) {
        self.ended = true;
        self.gate.give_back(self.slot.take());
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let elapsed = self.since.elapsed();
        if !self.answering && !self.uploading && elapsed > self.gate.usual() {
            self.gate.learn(elapsed);
        }
        let rest = self.gate.usual().min(LONGEST_HOLD);
        let rest = rest.saturating_sub(elapsed);
        if rest.is_zero() {
            self.release();
            return;
        }
        // Each holds a slot, so there are never more than `max` of these (in shadow mode, as many as
        // requests came in `LONGEST_HOLD`: nothing is held for those over it).
        let slot = self.slot.take();
        if slot.is_none() {
            self.gate.give_back(None);
            return;
        }
        let gate = Arc::clone(&self.gate);
        self.handle.spawn(async move {
            tokio::time::sleep(rest).await;
            gate.give_back(slot);
        });
    }
}

/// A place in the queue; given up when the wait ends, also when the client leaves.
struct Place<'a>(&'a AtomicU32);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn size(max: u32) -> usize {
    usize::try_from(max).map_or(Semaphore::MAX_PERMITS, |max| {
        max.min(Semaphore::MAX_PERMITS)
    })
}

#[cfg(test)]
mod tests;
