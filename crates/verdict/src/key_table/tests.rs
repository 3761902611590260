//! What a table keeps, what it forgets, and that floods change neither.

use super::*;
use proptest::prelude::*;
use std::hash::Hasher;

const NOW: Nanos = Nanos(1_000_000);

/// A table whose keys are not random, so that tests come out the same each time.
fn table(max_keys: u32) -> KeyTable {
    KeyTable::with_seed(max_keys, Seed(7, 11))
}

fn key(table: &KeyTable, number: u64) -> KeyHash {
    let mut hasher = table.seed().hasher();
    hasher.write_u64(number);
    KeyHash(hasher.finish())
}

/// Sets the arrival time of a key, and returns what was known.
fn set(table: &KeyTable, number: u64, now: Nanos, arrival: Nanos) -> Option<Nanos> {
    table.update(key(table, number), now, |known| (known, Some(arrival)))
}

/// The arrival time of a key, changing nothing.
fn look(table: &KeyTable, number: u64, now: Nanos) -> Option<Nanos> {
    table.update(key(table, number), now, |known| (known, None))
}

#[test]
fn keeps_as_many_keys_as_it_was_made_for() {
    for max_keys in [1, 10, 100, 1_000, 10_000, 100_000] {
        let table = table(max_keys);
        let live = NOW.0 + 1;
        for number in 0..u64::from(max_keys) {
            assert_eq!(set(&table, number, NOW, Nanos(live + number)), None);
        }
        assert_eq!(table.evicted(), 0, "{max_keys}");
        for number in 0..u64::from(max_keys) {
            assert_eq!(look(&table, number, NOW), Some(Nanos(live + number)));
        }
    }
}

#[test]
fn an_entry_whose_time_has_passed_equals_none() {
    let table = table(10);
    set(&table, 1, NOW, Nanos(NOW.0 + 5));
    assert_eq!(look(&table, 1, Nanos(NOW.0 + 4)), Some(Nanos(NOW.0 + 5)));
    assert_eq!(look(&table, 1, Nanos(NOW.0 + 5)), None);
    assert_eq!(table.tracked(Nanos(NOW.0 + 4)), 1);
    assert_eq!(table.tracked(Nanos(NOW.0 + 5)), 0);
    // A time that has passed already needs no place.
    set(&table, 2, NOW, NOW);
    assert_eq!(table.tracked(NOW), 1);
}

#[test]
fn looking_changes_nothing() {
    let table = table(10);
    assert_eq!(look(&table, 1, NOW), None);
    assert_eq!(table.tracked(NOW), 0);
    set(&table, 1, NOW, Nanos(NOW.0 + 5));
    assert_eq!(look(&table, 1, NOW), Some(Nanos(NOW.0 + 5)));
    assert_eq!(look(&table, 1, NOW), Some(Nanos(NOW.0 + 5)));
}

#[test]
fn dead_entries_make_room_without_eviction() {
    let table = table(1_000);
    for round in 0..20_u64 {
        let now = Nanos(NOW.0 + round * 10);
        for number in 0..1_000 {
            set(&table, round * 1_000 + number, now, Nanos(now.0 + 10));
        }
    }
    assert_eq!(table.evicted(), 0);
}

#[test]
fn a_flood_of_new_keys_passes_the_most_indebted_by() {
    let table = table(1_000);
    let debtors = 100;
    for number in 0..debtors {
        set(&table, number, NOW, Nanos(NOW.0 + 1_000_000 + number));
    }
    for flood in 0..100_000 {
        set(&table, debtors + flood, NOW, Nanos(NOW.0 + 1_000));
    }
    assert!(table.evicted() > 90_000, "{}", table.evicted());
    assert!(table.tracked(NOW) <= 1_000 * 5 / 3 + 64);
    for number in 0..debtors {
        assert_eq!(
            look(&table, number, NOW),
            Some(Nanos(NOW.0 + 1_000_000 + number))
        );
    }
}

#[test]
fn a_new_bound_keeps_the_entries() {
    let old = table(1_000);
    for number in 0..1_000 {
        set(&old, number, NOW, Nanos(NOW.0 + 1 + number));
    }
    for bound in [1_000, 5_000, 100_000] {
        let new = old.resized(bound);
        assert_eq!((new.max_keys(), new.evicted()), (bound, 0));
        for number in 0..1_000 {
            assert_eq!(look(&new, number, NOW), Some(Nanos(NOW.0 + 1 + number)));
        }
    }
    // Too few places: those in debt for the longest stay.
    let small = old.resized(100);
    let kept = |numbers: std::ops::Range<u64>| {
        numbers
            .filter(|number| look(&small, *number, NOW).is_some())
            .count()
    };
    assert_eq!(kept(950..1_000), 50);
    assert!(kept(0..500) < 10, "{}", kept(0..500));
}

#[test]
fn counts_large_tables_by_sample() {
    let table = table(200_000);
    for number in 0..100_000 {
        set(&table, number, NOW, Nanos(NOW.0 + 1));
    }
    let tracked = table.tracked(NOW);
    assert!((97_000..103_000).contains(&tracked), "{tracked}");
    assert_eq!(table.tracked(Nanos(NOW.0 + 1)), 0);
}

#[test]
fn no_update_is_lost_between_threads() {
    let table = table(100);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for turn in 0..10_000_u64 {
                    table.update(key(&table, turn % 10), NOW, |known| {
                        ((), Some(Nanos(known.unwrap_or(NOW).0 + 1)))
                    });
                }
            });
        }
    });
    for number in 0..10 {
        assert_eq!(look(&table, number, NOW), Some(Nanos(NOW.0 + 4_000)));
    }
}

#[test]
fn tables_do_not_share_keys() {
    let (one, two) = (KeyTable::new(10), KeyTable::new(10));
    assert_ne!(key(&one, 1), key(&two, 1));
}

proptest! {
    /// A new entry takes a free place if there is one, in the emptier set; else the place of the
    /// least indebted entry of both sets.
    #[test]
    fn the_least_indebted_goes(
        arrivals in proptest::collection::vec(0_u64..100, 2 * WAYS),
        now in prop_oneof![Just(0_u64), 0_u64..120],
        arrival in 1_u64..200,
    ) {
        let mut sets = [[[0; 2]; WAYS]; 2];
        for (number, (slot, arrival)) in sets.iter_mut().flatten().zip(&arrivals).enumerate() {
            *slot = [number as u64, *arrival];
        }
        let before = sets;
        let evicted = insert(&mut sets, [0, 1], [99, arrival], Nanos(now));
        let replaced: Vec<(usize, Entry)> = (0..2)
            .flat_map(|set| (0..WAYS).map(move |way| (set, way)))
            .filter(|(set, way)| sets[*set][*way] != before[*set][*way])
            .map(|(set, way)| (set, before[set][way]))
            .collect();
        prop_assert_eq!(replaced.len(), 1);
        let (set, gone) = replaced[0];
        let live = |set: &Set| set.iter().filter(|slot| slot[1] > now).count();
        if evicted {
            prop_assert!(arrivals.iter().all(|arrival| *arrival > now));
            prop_assert_eq!(Some(&gone[1]), arrivals.iter().min());
        } else {
            prop_assert!(gone[1] <= now);
            prop_assert!(live(&before[set]) <= live(&before[1 - set]));
        }
    }

    /// Whatever is asked of it, a table of ample size answers like a map.
    #[test]
    fn answers_like_a_map(
        steps in proptest::collection::vec((0_u64..40, 0_u64..10, 0_u64..50), 1..200),
    ) {
        let table = table(100);
        let mut map = std::collections::HashMap::new();
        let mut now = NOW;
        for (number, passed, ahead) in steps {
            now.0 += passed;
            let known = map.get(&number).copied().filter(|arrival: &Nanos| *arrival > now);
            let arrival = Nanos(now.0 + ahead);
            prop_assert_eq!(set(&table, number, now, arrival), known);
            map.insert(number, arrival);
            let live = map.values().filter(|arrival| **arrival > now).count() as u64;
            prop_assert_eq!(table.tracked(now), live);
        }
    }
}
