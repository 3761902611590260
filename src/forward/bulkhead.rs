//! Bulkheads: how many requests an upstream or route has in hand at once, so that one that is slow
//! drowns alone. They protect the upstream and judge nobody.
//!
//! A slot is taken when a request is complete enough to be sent on, and held until the upstream has
//! answered. When the client leaves first, the upstream mostly works on: the slot then stays taken for
//! as long as its answers usually take, or leaving early would be the way around the bulkhead.

use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
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

#[derive(Debug)]
struct Bulkhead {
    name: Arc<str>,
    key: Vec<KeyPart>,
    max: u32,
    queue: u32,
    wait: Duration,
    mode: Mode,
    /// Shared with later generations. At most one gate for each route and upstream.
    gates: Arc<Mutex<HashMap<Key, Arc<Gate>>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    route: Option<Arc<str>>,
    upstream: Option<Arc<str>>,
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
    usual: Mutex<Duration>,
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
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    slot: Option<OwnedSemaphorePermit>,
    since: Instant,
    ended: bool,
    handle: Handle,
}

impl Bulkheads {
    /// Slots of `previous` stay taken where the limit's name and key stay; `max` may change.
    /// `handle`: the runtime on which slots are waited out.
    #[must_use]
    pub fn build(limits: &[LimitSpec], previous: Option<&Self>, handle: Handle) -> Self {
        let by_limit = limits.iter().map(|limit| {
            let LimitKind::Bulkhead { max, queue, wait } = limit.kind else {
                return None;
            };
            let before = previous.and_then(|previous| previous.find(limit));
            let bulkhead = Bulkhead {
                name: Arc::clone(&limit.name),
                key: limit.key.clone(),
                max: max.get(),
                queue,
                wait,
                mode: limit.mode,
                gates: before.map_or_else(Arc::default, |before| Arc::clone(&before.gates)),
            };
            for gate in bulkhead.gates.lock().values() {
                gate.resize(bulkhead.max);
            }
            Some(bulkhead)
        });
        Self {
            by_limit: by_limit.collect(),
            handle,
        }
    }

    /// Takes a slot of the limit with this index, waiting for one as long as the limit says, first
    /// come, first served. `None` when that limit is no bulkhead.
    ///
    /// In shadow mode it neither waits nor refuses; [`Permit::is_over`] then tells whether it would.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the queue is full or the wait was in vain.
    pub async fn acquire(
        &self,
        limit: usize,
        route: &Arc<str>,
        upstream: &Arc<str>,
    ) -> Result<Option<Permit>, Refused> {
        let Some(Some(bulkhead)) = self.by_limit.get(limit) else {
            return Ok(None);
        };
        let gate = bulkhead.gate(route, upstream);
        let slot = match Arc::clone(&gate.slots).try_acquire_owned() {
            Ok(slot) => Some(slot),
            Err(_) if bulkhead.mode == Mode::Shadow => None,
            Err(_) => Some(gate.wait(bulkhead.queue, bulkhead.wait).await?),
        };
        gate.taken.fetch_add(1, Relaxed);
        Ok(Some(Permit {
            gate,
            slot,
            since: Instant::now(),
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
    fn gate(&self, route: &Arc<str>, upstream: &Arc<str>) -> Arc<Gate> {
        let part =
            |part: &KeyPart, name: &Arc<str>| self.key.contains(part).then(|| Arc::clone(name));
        let key = Key {
            route: part(&KeyPart::Route, route),
            upstream: part(&KeyPart::Upstream, upstream),
        };
        let mut gates = self.gates.lock();
        let gate = gates
            .entry(key)
            .or_insert_with(|| Arc::new(Gate::new(self.max)));
        Arc::clone(gate)
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
            usual: Mutex::new(FIRST_GUESS),
        }
    }

    /// Only called while the gates are locked.
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
            retry_after: self
                .usual
                .lock()
                .clamp(Duration::from_secs(1), LONGEST_HOLD),
        }
    }

    /// Learns from an answer, or from one that took longer than this: up fast, down slowly, so that it
    /// stands near the longest of the recent ones.
    fn learn(&self, took: Duration) -> Duration {
        let mut usual = self.usual.lock();
        *usual = match took.checked_sub(*usual) {
            Some(more) => usual.saturating_add(more / 2),
            None => usual.saturating_sub(usual.saturating_sub(took) / 20),
        };
        *usual
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
    /// The upstream has answered; the slot is free.
    pub fn answered(mut self) {
        self.gate.learn(self.since.elapsed());
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
        let usual = *self.gate.usual.lock();
        let usual = if elapsed > usual {
            self.gate.learn(elapsed)
        } else {
            usual
        };
        let rest = usual.min(LONGEST_HOLD).saturating_sub(elapsed);
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

fn size(max: u32) -> usize {
    usize::try_from(max).map_or(Semaphore::MAX_PERMITS, |max| {
        max.min(Semaphore::MAX_PERMITS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use verdict::decision::Action;

    fn limit(max: u32, queue: u32, mode: Mode) -> LimitSpec {
        LimitSpec {
            name: "search".into(),
            key: vec![KeyPart::Route],
            kind: LimitKind::Bulkhead {
                max: NonZeroU32::new(max).unwrap(),
                queue,
                wait: Duration::from_secs(1),
            },
            over: Action::Throttle,
            mode,
            all: false,
            max_keys: 1,
        }
    }

    fn bulkheads(max: u32, queue: u32) -> Arc<Bulkheads> {
        let limits = [limit(max, queue, Mode::Enforce)];
        Arc::new(Bulkheads::build(&limits, None, Handle::current()))
    }

    async fn acquire(bulkheads: &Bulkheads) -> Result<Permit, Refused> {
        let permit = bulkheads
            .acquire(0, &"search".into(), &"app".into())
            .await?;
        Ok(permit.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_bounded_and_waited_for_in_order() {
        let bulkheads = bulkheads(1, 2);
        let first = acquire(&bulkheads).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let queued: Vec<_> = (0..2)
            .map(|place| {
                let (bulkheads, order) = (Arc::clone(&bulkheads), Arc::clone(&order));
                tokio::spawn(async move {
                    let permit = acquire(&bulkheads).await.unwrap();
                    order.lock().push(place);
                    permit.answered();
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let refused = acquire(&bulkheads).await.unwrap_err();
        assert_eq!(refused.in_flight, 1);
        first.answered();
        for task in queued {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [0, 1]);
        acquire(&bulkheads).await.unwrap().answered();
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_in_vain_ends() {
        let bulkheads = bulkheads(1, 1);
        let held = acquire(&bulkheads).await.unwrap();
        let before = Instant::now();
        assert!(acquire(&bulkheads).await.is_err());
        assert_eq!(before.elapsed(), Duration::from_secs(1));
        // The place in the queue is free again.
        let next = tokio::spawn({
            let bulkheads = Arc::clone(&bulkheads);
            async move { acquire(&bulkheads).await.is_ok() }
        });
        tokio::task::yield_now().await;
        held.unused();
        assert!(next.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn leaving_early_does_not_free_the_slot() {
        let bulkheads = bulkheads(1, 0);
        for _ in 0..20 {
            let permit = acquire(&bulkheads).await.unwrap();
            tokio::time::sleep(Duration::from_secs(4)).await;
            permit.answered();
        }
        let left = acquire(&bulkheads).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(left);
        tokio::time::sleep(Duration::from_millis(2_900)).await;
        assert!(acquire(&bulkheads).await.is_err());
        tokio::time::sleep(Duration::from_millis(200)).await;
        acquire(&bulkheads).await.unwrap().answered();
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_never_sent_frees_the_slot_at_once() {
        let bulkheads = bulkheads(1, 0);
        acquire(&bulkheads).await.unwrap().unused();
        acquire(&bulkheads).await.unwrap().unused();
    }

    #[tokio::test(start_paused = true)]
    async fn slots_and_their_number_survive_a_reload() {
        let first = bulkheads(2, 0);
        let one = acquire(&first).await.unwrap();
        let two = acquire(&first).await.unwrap();
        let build = |max, previous: &Bulkheads| {
            Bulkheads::build(
                &[limit(max, 0, Mode::Enforce)],
                Some(previous),
                Handle::current(),
            )
        };
        let fewer = build(1, &first);
        one.answered();
        assert!(acquire(&fewer).await.is_err());
        two.answered();
        let one = acquire(&fewer).await.unwrap();
        assert!(acquire(&fewer).await.is_err());
        let more = build(3, &fewer);
        let two = acquire(&more).await.unwrap();
        let three = acquire(&more).await.unwrap();
        assert!(acquire(&more).await.is_err());
        for permit in [one, two, three] {
            permit.answered();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shadows_count_and_refuse_nobody() {
        let limits = [limit(1, 0, Mode::Shadow)];
        let bulkheads = Bulkheads::build(&limits, None, Handle::current());
        let one = acquire(&bulkheads).await.unwrap();
        let two = acquire(&bulkheads).await.unwrap();
        assert!(!one.is_over());
        assert!(two.is_over());
        assert_eq!(two.in_flight(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn routes_have_slots_of_their_own() {
        let bulkheads = bulkheads(1, 0);
        let _search = acquire(&bulkheads).await.unwrap();
        let other = bulkheads.acquire(0, &"other".into(), &"app".into()).await;
        assert!(matches!(other, Ok(Some(_))));
        assert!(matches!(
            bulkheads.acquire(9, &"x".into(), &"y".into()).await,
            Ok(None)
        ));
    }
}
