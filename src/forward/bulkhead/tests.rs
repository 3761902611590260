//! Slots, queues, and what is held for clients that left.

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
        during: verdict::pressure::States::NONE,
        cleared: NonZeroU32::MIN,
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
