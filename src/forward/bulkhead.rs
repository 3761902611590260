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
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::{
        num::NonZeroU32,
        task::{Context, Poll, Waker},
    };
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

    fn routes() -> Vec<RouteNames> {
        [("search", "app"), ("other", "app"), ("static", "files")]
            .map(|(route, upstream)| RouteNames {
                route: route.into(),
                upstream: upstream.into(),
            })
            .to_vec()
    }

    fn build(limit: LimitSpec, previous: Option<&Bulkheads>) -> Bulkheads {
        Bulkheads::build(&[limit], &routes(), previous, Handle::current())
    }

    fn bulkheads(max: u32, queue: u32) -> Arc<Bulkheads> {
        Arc::new(build(limit(max, queue, Mode::Enforce), None))
    }

    async fn acquire(bulkheads: &Bulkheads) -> Result<Permit, Refused> {
        Ok(bulkheads.acquire(0, 0).await?.unwrap())
    }

    fn usual(bulkheads: &Bulkheads) -> Duration {
        bulkheads.by_limit[0].as_ref().unwrap().gates[0].1.usual()
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
            let mut permit = acquire(&bulkheads).await.unwrap();
            tokio::time::sleep(Duration::from_secs(4)).await;
            permit.answering();
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
        let build = |max, previous: &Bulkheads| build(limit(max, 0, Mode::Enforce), Some(previous));
        let fewer = build(1, &first);
        fewer.commit();
        one.answered();
        assert!(acquire(&fewer).await.is_err());
        two.answered();
        let one = acquire(&fewer).await.unwrap();
        assert!(acquire(&fewer).await.is_err());
        let more = build(3, &fewer);
        more.commit();
        let two = acquire(&more).await.unwrap();
        let three = acquire(&more).await.unwrap();
        assert!(acquire(&more).await.is_err());
        for permit in [one, two, three] {
            permit.answered();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shadows_count_and_refuse_nobody() {
        let bulkheads = build(limit(1, 0, Mode::Shadow), None);
        let one = acquire(&bulkheads).await.unwrap();
        let two = acquire(&bulkheads).await.unwrap();
        assert!(!one.is_over());
        assert!(two.is_over());
        assert_eq!(two.in_flight(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_that_fails_changes_nothing() {
        let first = bulkheads(2, 0);
        let _failed = build(limit(1, 0, Mode::Enforce), Some(&first));
        let _one = acquire(&first).await.unwrap();
        let _two = acquire(&first).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_those_of_the_key() {
        let by_route = bulkheads(1, 0);
        let _search = acquire(&by_route).await.unwrap();
        assert!(matches!(by_route.acquire(0, 1).await, Ok(Some(_))));
        assert!(matches!(by_route.acquire(0, 9).await, Ok(None)));
        assert!(matches!(by_route.acquire(9, 0).await, Ok(None)));
        let mut spec = limit(1, 0, Mode::Enforce);
        spec.key = vec![KeyPart::Upstream];
        let by_upstream = build(spec.clone(), Some(&by_route));
        let search = acquire(&by_upstream).await.unwrap();
        assert!(by_upstream.acquire(0, 1).await.is_err());
        assert!(matches!(by_upstream.acquire(0, 2).await, Ok(Some(_))));
        // By name, wherever the route stands now.
        let mut routes = routes();
        routes.reverse();
        let later = Bulkheads::build(&[spec], &routes, Some(&by_upstream), Handle::current());
        assert!(later.acquire(0, 1).await.is_err());
        search.answered();
        assert!(matches!(later.acquire(0, 2).await, Ok(Some(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_upstreams_own_time_is_learnt() {
        let minute = Duration::from_secs(60);
        let bulkheads = bulkheads(1, 0);
        // A WebSocket, or a client that reads slowly.
        let permit = acquire(&bulkheads).await.unwrap();
        tokio::time::sleep(minute).await;
        permit.answered();
        assert_eq!(usual(&bulkheads), FIRST_GUESS);
        let mut permit = acquire(&bulkheads).await.unwrap();
        tokio::time::sleep(FIRST_GUESS).await;
        permit.answering();
        tokio::time::sleep(minute).await;
        permit.answering();
        drop(permit);
        assert_eq!(usual(&bulkheads), FIRST_GUESS);
        // Uploads take as long as the client likes.
        for sent in [false, true] {
            let mut permit = acquire(&bulkheads).await.unwrap();
            permit.uploading();
            tokio::time::sleep(minute).await;
            if sent {
                permit.sent();
                tokio::time::sleep(FIRST_GUESS).await;
                permit.answering();
            }
            drop(permit);
            assert_eq!(usual(&bulkheads), FIRST_GUESS);
        }
        // Who leaves an upstream that works saw the least it takes.
        let permit = acquire(&bulkheads).await.unwrap();
        tokio::time::sleep(FIRST_GUESS * 3).await;
        drop(permit);
        assert_eq!(usual(&bulkheads), FIRST_GUESS * 2);
    }

    #[tokio::test]
    async fn a_free_slot_costs_no_allocation() {
        let bulkheads = bulkheads(1, 0);
        let seen = allocation_counter::measure(|| {
            let mut acquiring = std::pin::pin!(acquire(&bulkheads));
            let mut context = Context::from_waker(Waker::noop());
            let Poll::Ready(Ok(mut permit)) = acquiring.as_mut().poll(&mut context) else {
                panic!("the slot is free");
            };
            permit.answering();
            permit.answered();
        });
        assert_eq!(seen.count_total, 0);
    }
}
