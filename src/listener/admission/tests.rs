//! Who goes first, with a clock of the tests' own.

use super::{bucket::nanos, *};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Wake, Waker},
};
use verdict::{Nanos, prefix::PrefixLengths};

const MILLISECOND: Duration = Duration::from_millis(1);

fn at(milliseconds: u64) -> Nanos {
    Nanos(milliseconds * 1_000_000)
}

/// Handshakes of 1 ms each that a bucket lets begin, asked every 100 us over a time.
fn begun(bucket: &mut Bucket, share: f64, from: Nanos, over: Duration) -> u32 {
    let mut begun = 0;
    let mut now = from;
    while now.since(from) < over {
        if bucket.wait(share, now).is_zero() {
            bucket.charge(MILLISECOND);
            begun += 1;
        }
        now = now.after(MILLISECOND / 10);
    }
    begun
}

#[test]
fn a_burst_then_the_share() {
    let mut bucket = Bucket::new(at(0));
    let first = begun(&mut bucket, 0.1, at(0), Duration::from_secs(1));
    // 100 ms at once, then 10 % of a second.
    assert!((195..=201).contains(&first), "{first}");
    let second = begun(&mut bucket, 0.1, at(1000), Duration::from_secs(10));
    assert!((999..=1001).contains(&second), "{second}");
    // After a long rest there is a burst again, and no more than that.
    let rested = begun(&mut bucket, 0.1, at(1_000_000), MILLISECOND);
    assert!(rested <= 10);
    let rest = begun(&mut bucket, 0.1, at(1_000_001), Duration::from_secs(1));
    assert!((185..=201).contains(&rest), "{rest}");
}

#[test]
fn the_wait_it_tells_is_the_wait_it_takes() {
    let mut bucket = Bucket::new(at(0));
    bucket.charge(Duration::from_millis(130));
    let wait = bucket.wait(0.25, at(0));
    assert!(wait >= Duration::from_millis(120) && wait < Duration::from_millis(121));
    assert!(!bucket.wait(0.25, at(119)).is_zero());
    assert!(bucket.wait(0.25, at(121)).is_zero());
    // A clock that stands still or goes back adds nothing.
    bucket.charge(Duration::from_millis(30));
    assert!(!bucket.wait(0.25, at(121)).is_zero());
    assert!(!bucket.wait(0.25, at(0)).is_zero());
}

#[test]
fn debt_and_savings_are_bounded() {
    let mut bucket = Bucket::new(at(0));
    bucket.charge(Duration::from_secs(1000));
    assert!(bucket.wait(1.0, at(0)) <= Duration::from_millis(101));
    bucket.refund(Duration::from_secs(1000));
    bucket.charge(Duration::from_millis(101));
    assert!(!bucket.wait(0.5, at(0)).is_zero(), "no more than a burst");
}

fn client(number: u32) -> Prefix {
    prefix(std::net::Ipv4Addr::from(number).into())
}

fn prefix(ip: std::net::IpAddr) -> Prefix {
    Prefix::of(ip, PrefixLengths::CLIENT)
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicU32);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn the_line_keeps_its_order_whoever_leaves() {
    let mut line = Line::default();
    let bells: Vec<Arc<Bell>> = (0..4).map(|_| Arc::default()).collect();
    let wakers: Vec<Waker> = bells.iter().cloned().map(Waker::from).collect();
    let rung = |at: usize| bells[at].0.load(Relaxed);
    let numbers: Vec<u64> = (0..4).map(|at| line.join(client(at), 4).unwrap()).collect();
    assert_eq!(line.join(client(9), 4), None, "full");
    for (at, number) in numbers.iter().enumerate() {
        assert_eq!(line.is_first(*number, &wakers[at]), at == 0);
    }
    line.leave(numbers[1]);
    assert_eq!(rung(2), 0, "still behind the first");
    line.leave(numbers[0]);
    assert_eq!((rung(0), rung(1), rung(2), rung(3)), (0, 0, 1, 0));
    assert!(line.is_first(numbers[2], &wakers[2]));
    line.leave(numbers[2]);
    line.leave(numbers[2]);
    assert_eq!(rung(3), 1);
    line.leave(numbers[3]);
    assert!(line.is_empty());
    assert!(
        line.join(client(1), 1)
            .is_some_and(|number| number > numbers[3])
    );
}

#[test]
fn nobody_has_more_than_two_places_in_line() {
    let mut line = Line::default();
    let of = |text: &str| prefix(text.parse().unwrap());
    let first = line.join(client(1), 100).unwrap();
    assert!(line.join(client(1), 100).is_some());
    assert_eq!(line.join(client(1), 100), None);
    assert!(line.join(client(2), 100).is_some(), "a neighbour");
    // The rest of a handshake that was let in takes none of them.
    line.leave(first);
    line.rejoin(first);
    assert!(line.join(client(1), 100).is_some());
    assert_eq!(line.join(client(1), 100), None);
    line.leave(first);
    assert_eq!(line.join(client(1), 100), None, "that was none of the two");
    // A /48 is one site.
    let last = line.join(of("2001:db8:1:1::1"), 100).unwrap();
    assert!(line.join(of("2001:db8:1:2::1"), 100).is_some());
    assert_eq!(line.join(of("2001:db8:1:3::1"), 100), None);
    assert!(line.join(of("2001:db8:2:3::1"), 100).is_some());
    line.leave(last);
    assert!(line.join(of("2001:db8:1:3::1"), 100).is_some());
    for number in 0..20 {
        line.leave(number);
    }
    assert!(line.is_empty() && line.remembers_nobody());
}

#[test]
fn the_rest_of_a_handshake_stands_before_all_that_came_later() {
    let mut line = Line::default();
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let early = line.join(client(1), 1).unwrap();
    line.leave(early);
    let late = line.join(client(1), 1).unwrap();
    assert!(line.is_first(late, &waker));
    line.rejoin(early);
    line.rejoin(early);
    assert!(line.holds(early) && !line.is_first(late, &waker));
    assert_eq!(line.join(client(1), 1), None, "full of newcomers");
    line.leave(late);
    // It takes no newcomer's place.
    let later = line.join(client(1), 1).unwrap();
    assert!(!line.is_first(later, &waker));
    line.leave(early);
    assert_eq!(bell.0.load(Relaxed), 1, "it is this one's turn");
    assert!(line.is_first(later, &waker));
}

fn limits(waiting: u32) -> Handshakes {
    Handshakes {
        cpu: Some(0.5),
        waiting: waiting.try_into().unwrap(),
    }
}

fn spent() -> Arc<Admission> {
    let admission = Arc::new(Admission::default());
    admission.spend();
    admission
}

async fn wait(admission: &Admission, share: f64, patience: Duration) -> Result<Turn<'_>, Refused> {
    let deadline = Instant::now() + patience;
    admission
        .wait(client(1), &limits(2), share, deadline, |_| Poll::Pending)
        .await
}

#[tokio::test]
async fn who_waits_is_let_in_first_come_first_served() {
    let admission = spent();
    assert!(admission.at_once(1.0).is_none());
    let long = Duration::from_secs(60);
    let order = Mutex::new(Vec::new());
    let one = async |name: &'static str| {
        let mut turn = wait(&admission, 1.0, long).await.unwrap();
        order.lock().push(name);
        // The next one is not let in until this is paid back.
        turn.pay(Duration::from_millis(20));
    };
    let began = std::time::Instant::now();
    tokio::join!(one("first"), one("second"));
    assert!(began.elapsed() >= Duration::from_millis(119), "paid for");
    assert_eq!(*order.lock(), ["first", "second"]);
    assert!(admission.0.lock().line.is_empty());
}

#[tokio::test]
async fn a_full_line_a_deadline_and_a_client_that_leaves() {
    let admission = spent();
    let (first, second, third) = tokio::join!(
        wait(&admission, 0.001, Duration::from_millis(50)),
        wait(&admission, 0.001, Duration::from_millis(50)),
        wait(&admission, 0.001, Duration::from_secs(60)),
    );
    assert_eq!(first.unwrap_err(), Refused::Late);
    assert_eq!(second.unwrap_err(), Refused::Late);
    assert_eq!(third.unwrap_err(), Refused::Full, "two may wait");

    let deadline = Instant::now() + Duration::from_secs(60);
    let gone = admission
        .wait(client(1), &limits(2), 0.001, deadline, |_| Poll::Ready(()))
        .await;
    assert_eq!(gone.unwrap_err(), Refused::Gone);
    assert!(admission.0.lock().line.is_empty());
}

/// Computes for this long.
fn work(long: Duration) {
    let began = std::time::Instant::now();
    while began.elapsed() < long {
        std::hint::spin_loop();
    }
}

#[tokio::test]
async fn what_a_handshake_computes_is_charged_and_what_it_waits_for_is_not() {
    let admission = Admission::default();
    let (before, _) = admission.levels();
    let mut turn = admission.at_once(0.5).unwrap();
    let nap = Duration::from_millis(200);
    let began = std::time::Instant::now();
    turn.metered(Box::pin(async {
        work(Duration::from_millis(20));
        tokio::time::sleep(nap).await;
    }))
    .await;
    let whole = began.elapsed();
    let [took, none] = turn.paid;
    assert!(took >= Duration::from_millis(10), "{took:?}");
    assert!(took + nap <= whole, "{took:?} of {whole:?}");
    assert!(none.is_zero());
    // Topped up once meanwhile, before the second part.
    assert!(
        admission.levels().0
            <= before
                .saturating_sub(nanos(took))
                .saturating_add(nanos(whole) / 2)
    );
    turn.refund();
    assert_eq!(admission.levels().0, before);
}

/// Polls once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    poll_fn(|cx| match Pin::new(&mut *future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// A handshake of two parts, and how many it has done.
fn two_parts(done: &AtomicU32) -> impl Future<Output = ()> + Unpin {
    Box::pin(async {
        done.fetch_add(1, Relaxed);
        tokio::task::yield_now().await;
        done.fetch_add(1, Relaxed);
    })
}

#[tokio::test]
async fn each_part_of_a_handshake_waits_for_the_budget() {
    let share = 0.000_001;
    let admission = Admission::default();
    let (done, other) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut early = admission.at_once(share).unwrap();
    let mut late = admission.at_once(share).unwrap();
    {
        let mut early = Box::pin(early.metered(two_parts(&done)));
        let mut late = Box::pin(late.metered(two_parts(&other)));
        assert_eq!(poll_once(&mut early).await, None);
        assert_eq!(poll_once(&mut late).await, None);
        admission.spend();
        for _ in 0..3 {
            assert_eq!(poll_once(&mut late).await, None);
            assert_eq!(poll_once(&mut early).await, None);
        }
        assert_eq!((done.load(Relaxed), other.load(Relaxed)), (1, 1), "held");
        admission.fill();
        assert_eq!(poll_once(&mut late).await, None, "not before the other");
        assert_eq!(poll_once(&mut early).await, Some(()));
        assert_eq!(poll_once(&mut late).await, Some(()));
    }
    assert!(!early.is_waiting() && !late.is_waiting());
    assert!(admission.0.lock().line.is_empty());
}

#[tokio::test]
async fn those_with_a_ticket_have_a_purse_of_their_own_and_then_stand_in_line() {
    let share = 0.000_001;
    let admission = spent();
    let (strangers, tickets) = admission.levels();
    let mut turn = admission.by_ticket(share).unwrap();
    turn.pay(MILLISECOND);
    assert_eq!(
        admission.levels(),
        (strangers, tickets - nanos(MILLISECOND)),
        "the strangers do not pay"
    );
    let done = AtomicU32::new(0);
    {
        let mut handshake = Box::pin(turn.metered(two_parts(&done)));
        assert_eq!(poll_once(&mut handshake).await, None);
        admission.spend_tickets();
        assert_eq!(poll_once(&mut handshake).await, None);
        assert_eq!(done.load(Relaxed), 1, "the rest has to wait");
    }
    assert!(turn.is_waiting());
    assert!(admission.by_ticket(share).is_none());
    admission.fill();
    turn.metered(two_parts(&done)).await;
    let [strangers, tickets] = turn.paid;
    assert!(strangers > Duration::ZERO && tickets > MILLISECOND);
    turn.refund();
}
