//! That buckets are exact, and stay so while attackers flood the table behind them.

use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn rate(amount: u32, period: Duration, burst: u32) -> Rate {
    Rate::new(
        NonZeroU32::new(amount).unwrap(),
        period,
        NonZeroU32::new(burst).unwrap(),
    )
}

fn bucket(rate: Rate, max_keys: u32) -> Bucket {
    Bucket::new(rate, Duration::ZERO, Arc::new(KeyTable::new(max_keys)))
}

fn key(bucket: &Bucket, number: u64) -> KeyHash {
    let mut hasher = bucket.table().seed().hasher();
    hasher.write_u64(number);
    KeyHash(hasher.finish())
}

#[test]
fn a_burst_passes_and_then_one_each_interval() {
    let bucket = bucket(rate(50, Duration::from_secs(1), 100), 10);
    let key = key(&bucket, 1);
    let now = Nanos(SECOND);
    for left in (0..100).rev() {
        let taken = bucket.take(key, now);
        assert_eq!((taken.admitted, taken.remaining), (true, left));
        assert_eq!(taken.wait, Duration::ZERO);
        assert_eq!(taken.reset, Duration::from_millis(20) * (100 - left));
    }
    let over = bucket.take(key, now);
    assert_eq!((over.admitted, over.remaining), (false, 0));
    assert_eq!(over.wait, Duration::from_millis(20));
    assert_eq!(over.reset, Duration::from_secs(2));
    // The wait is true: one nanosecond less is too early.
    let early = Nanos(now.after(over.wait).0 - 1);
    assert_eq!(bucket.take(key, early).wait, Duration::from_nanos(1));
    assert!(bucket.take(key, now.after(over.wait)).admitted);
    assert!(!bucket.take(key, now.after(over.wait)).admitted);
    // Once the reset has passed it is full again.
    let full = now.after(over.wait).after(Duration::from_secs(2));
    assert_eq!(bucket.take(key, full).remaining, 99);
}

#[test]
fn a_refused_request_takes_nothing() {
    let bucket = bucket(rate(1, Duration::from_secs(1), 1), 10);
    let key = key(&bucket, 1);
    assert!(bucket.take(key, Nanos(SECOND)).admitted);
    for step in 1..1_000 {
        assert!(
            !bucket
                .take(key, Nanos(SECOND + step * SECOND / 1_000))
                .admitted
        );
    }
    assert!(bucket.take(key, Nanos(2 * SECOND)).admitted);
}

#[test]
fn a_queue_lends_tokens_and_tells_the_wait() {
    let table = Arc::new(KeyTable::new(10));
    let rate = rate(5, Duration::from_secs(60), 2);
    let bucket = Bucket::new(rate, Duration::from_secs(15), table);
    let key = key(&bucket, 1);
    let now = Nanos(SECOND);
    assert_eq!(bucket.take(key, now).wait, Duration::ZERO);
    assert_eq!(bucket.take(key, now).wait, Duration::ZERO);
    let queued = bucket.take(key, now);
    assert_eq!(
        (queued.admitted, queued.wait, queued.remaining),
        (true, Duration::from_secs(12), 0)
    );
    // The next would wait 24 s, and is refused until that is 15 s.
    let refused = bucket.take(key, now);
    assert_eq!(
        (refused.admitted, refused.wait),
        (false, Duration::from_secs(9))
    );
    let later = bucket.take(key, now.after(Duration::from_secs(9)));
    assert_eq!(
        (later.admitted, later.wait),
        (true, Duration::from_secs(15))
    );
}

#[test]
fn another_rate_takes_the_table_over() {
    let slow = bucket(rate(1, Duration::from_secs(3_600), 5), 10);
    let key = key(&slow, 1);
    let now = Nanos(SECOND);
    for _ in 0..5 {
        assert!(slow.take(key, now).admitted);
    }
    assert!(!slow.take(key, now).admitted);
    let rate = rate(10, Duration::from_secs(1), 10);
    let fast = Bucket::new(rate, Duration::ZERO, Arc::clone(slow.table()));
    // Over the limit before, so empty now, but not for hours.
    let over = fast.take(key, now);
    assert_eq!(
        (over.admitted, over.wait),
        (false, Duration::from_millis(100))
    );
    assert!(fast.take(key, now.after(over.wait)).admitted);
}

#[test]
fn extreme_rates_do_not_overflow() {
    let most = NonZeroU32::MAX;
    for period in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        for amount in [NonZeroU32::MIN, most] {
            let rate = Rate::new(amount, period, most);
            let table = Arc::new(KeyTable::new(1));
            let bucket = Bucket::new(rate, Duration::MAX, table);
            for now in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                let taken = bucket.take(key(&bucket, 1), Nanos(now));
                assert!(taken.reset <= Duration::from_nanos(u64::MAX));
            }
        }
    }
}

#[test]
fn a_flood_of_new_keys_does_not_reset_who_is_over() {
    let bucket = bucket(rate(5, Duration::from_secs(1), 5), 1_000);
    let abuser = key(&bucket, u64::MAX);
    let mut admitted = 0;
    // Ten times as many new keys as the bound each second, for ten seconds, and all of them alive
    // for a fifth of a second.
    for step in 0..100_000_u64 {
        let now = Nanos(SECOND + step * SECOND / 10_000);
        assert!(bucket.take(key(&bucket, step), now).admitted, "{step}");
        admitted += u32::from(bucket.take(abuser, now).admitted);
        assert!(bucket.table().tracked(now) <= 2_500 || step % 1_000 != 0);
    }
    assert!(
        bucket.table().evicted() > 0,
        "the flood was too small to matter"
    );
    assert_eq!(admitted, 5 + 5 * 10 - 1);
}

#[test]
fn nobody_is_refused_for_a_neighbour() {
    let bucket = bucket(rate(1, Duration::from_secs(60), 2), 20_000);
    let now = Nanos(SECOND);
    for number in 0..20_000 {
        while bucket.take(key(&bucket, number), now).admitted {}
    }
    // The table is full of clients that are over their limit.
    for number in 20_000..60_000 {
        assert!(bucket.take(key(&bucket, number), now).admitted);
    }
}

proptest! {
    /// In any window of time no more than the burst and what flows in meanwhile is admitted, and
    /// whenever something is refused, that is because of this bound.
    #[test]
    fn admits_the_burst_and_the_rate_and_no_more(
        amount in 1_u32..2_000,
        period in 1_u64..10_000,
        burst in 1_u32..20,
        queue in prop_oneof![Just(0_u64), 0_u64..5_000],
        gaps in proptest::collection::vec(0_u64..3_000, 1..120),
    ) {
        let rate = rate(amount, Duration::from_nanos(period), burst);
        let table = Arc::new(KeyTable::new(10));
        let bucket = Bucket::new(rate, Duration::from_nanos(queue), table);
        let key = key(&bucket, 1);
        let mut now = Nanos(SECOND);
        // When each admitted request goes on, which with a queue is later than it came.
        let mut passed: Vec<u64> = Vec::new();
        for gap in gaps {
            now.0 += gap;
            let taken = bucket.take(key, now);
            if taken.admitted {
                prop_assert!(taken.wait <= Duration::from_nanos(queue));
                passed.push(now.after(taken.wait).0);
            } else {
                prop_assert!(taken.wait > Duration::ZERO);
                // A new key in the same state shows that the wait is neither too long nor too short.
                let copy = |at: Nanos| {
                    let table = Arc::new(bucket.table().resized(10));
                    Bucket::new(rate, Duration::from_nanos(queue), table).take(key, at).admitted
                };
                prop_assert!(copy(now.after(taken.wait)));
                prop_assert!(!copy(Nanos(now.after(taken.wait).0 - 1)));
            }
        }
        for (first, from) in passed.iter().enumerate() {
            for (last, to) in passed.iter().enumerate().skip(first) {
                let count = (last - first + 1) as u128;
                let window = u128::from(to - from);
                // count <= burst + window * amount / period, without rounding.
                prop_assert!(
                    count.saturating_sub(u128::from(burst)) * u128::from(period)
                        <= window * u128::from(amount)
                );
            }
        }
    }
}
