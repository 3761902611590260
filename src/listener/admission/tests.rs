use super::*;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::Wake,
};

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
    let numbers: Vec<u64> = (0..4).map(|_| line.join(4).unwrap()).collect();
    assert_eq!(line.join(4), None, "full");
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
    assert!(line.waiting.is_empty());
    assert!(line.join(1).is_some_and(|number| number > numbers[3]));
}

fn limits(waiting: u32) -> Handshakes {
    Handshakes {
        cpu: Some(0.5),
        waiting: waiting.try_into().unwrap(),
    }
}

fn spent() -> Arc<Admission> {
    let admission = Arc::new(Admission::default());
    admission.charge(Duration::from_secs(9));
    admission
}

async fn wait(admission: &Admission, share: f64, patience: Duration) -> Result<(), Refused> {
    let deadline = Instant::now() + patience;
    admission
        .wait(&limits(2), share, deadline, |_| Poll::Pending)
        .await
}

#[tokio::test]
async fn who_waits_is_let_in_first_come_first_served() {
    let admission = spent();
    assert!(!admission.is_open(1.0));
    let long = Duration::from_secs(60);
    let order = Mutex::new(Vec::new());
    let one = async |name: &'static str| {
        wait(&admission, 1.0, long).await.unwrap();
        order.lock().push(name);
        // The next one is not let in until this is paid back.
        admission.charge(Duration::from_millis(20));
    };
    let began = std::time::Instant::now();
    tokio::join!(one("first"), one("second"));
    assert!(began.elapsed() >= Duration::from_millis(119), "paid for");
    assert_eq!(*order.lock(), ["first", "second"]);
    assert!(admission.0.lock().line.waiting.is_empty());
}

#[tokio::test]
async fn a_full_line_a_deadline_and_a_client_that_leaves() {
    let admission = spent();
    let (first, second, third) = tokio::join!(
        wait(&admission, 0.001, Duration::from_millis(50)),
        wait(&admission, 0.001, Duration::from_millis(50)),
        wait(&admission, 0.001, Duration::from_secs(60)),
    );
    assert_eq!(first, Err(Refused::Late));
    assert_eq!(second, Err(Refused::Late));
    assert_eq!(third, Err(Refused::Full), "two may wait");

    let deadline = Instant::now() + Duration::from_secs(60);
    let gone = admission
        .wait(&limits(2), 0.001, deadline, |_| Poll::Ready(()))
        .await;
    assert_eq!(gone, Err(Refused::Gone));
    assert!(admission.0.lock().line.waiting.is_empty());
}

#[tokio::test]
async fn what_a_handshake_computes_is_charged_and_what_it_waits_for_is_not() {
    let admission = Admission::default();
    let before = admission.0.lock().bucket.level;
    let work = Box::pin(async {
        let mut sum = 0_u64;
        let began = cpu_time();
        while cpu_time() < began + Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        sum
    });
    let (sum, took) = admission.metered(work, true).await;
    assert!(sum > 0);
    // The sleep would be ten times as much.
    assert!(
        took >= Duration::from_millis(20) && took < Duration::from_millis(120),
        "{took:?}"
    );
    let after = admission.0.lock().bucket.level;
    assert_eq!(before - after, nanos(took));
    admission.refund(took);
    assert_eq!(admission.0.lock().bucket.level, before);
    let ((), more) = admission.metered(Box::pin(async {}), false).await;
    assert!(more < MILLISECOND * 100);
    assert_eq!(admission.0.lock().bucket.level, before, "not charged");
}
