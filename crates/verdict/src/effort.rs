//! How hard proofs of work are, following the time that visitors took over the last ones.
//!
//! [`Controller`] aims at a wait for the median visitor. Attackers answer too, and choose when: one
//! with a native solver answers at once and would make everybody else work harder, one that dawdles
//! would make the work a trifle. Against both:
//!
//! - A window counts one answer of each /24, and of each /32 of IPv6, which is what one customer of a
//!   registry gets; of more than it has room for, a random choice: answers by the thousand from one
//!   place weigh as one.
//! - The median of a window counts, so that it takes half of all networks to choose it.
//! - The effort moves by at most [`STEP`] per cent a window, and stays within an eighth and eight
//!   times what the operator set.
//! - An answer counts by the effort of its own ticket: four times the work in four times the time
//!   says what the usual work in the usual time says.

use crate::prefix::{Prefix, PrefixLengths};
use std::hash::{BuildHasher, RandomState};

/// How far the effort moves in a window, at most, in per cent.
pub const STEP: u64 = 15;

/// The effort stays between the configured one divided and multiplied by this.
pub const RANGE: u32 = 8;

/// Networks that a window counts, at most.
const MOST: usize = 256;

/// Networks that a window needs: of so many, no handful decides.
pub const LEAST: usize = 20;

/// How long a window lasts at least, in milliseconds.
pub const WINDOW: u64 = 30_000;

/// What is older than this, in milliseconds, tells nothing of today's visitors.
const STALE: u64 = 3_600_000;

/// What is counted once: a /48 of IPv6 is had by the 65,536.
const SOURCE: PrefixLengths = PrefixLengths { ipv4: 24, ipv6: 32 };

/// Times, of the usual effort, are taken to be within these bounds, in milliseconds.
const SHORTEST: u64 = 10;
const LONGEST: u64 = 60_000;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// Mean hashes: where it starts, and what bounds are told from.
    pub effort: u32,
    /// What the median visitor is to wait, in milliseconds.
    pub wait: u64,
}

impl Aim {
    /// The least and the most effort.
    #[must_use]
    pub fn bounds(self) -> (u32, u32) {
        let least = self.effort.checked_div(RANGE).unwrap_or(1).max(1);
        (least, self.effort.saturating_mul(RANGE).max(least))
    }
}

/// A solved proof of work.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The /24 or /48 that it came from.
    pub network: Prefix,
    /// Of its ticket.
    pub effort: u32,
    /// From the ticket's issue to its answer, in milliseconds.
    pub took: u64,
}

/// Follows the solve times; one a process.
#[derive(Clone, Debug)]
pub struct Controller {
    aim: Aim,
    effort: u32,
    hasher: RandomState,
    /// When the window began, in milliseconds of the caller's clock.
    began: u64,
    /// Hash of the network, and the effort that would have made it take the time aimed at; by hash.
    window: Vec<(u64, u64)>,
}

impl Controller {
    #[must_use]
    pub fn new(aim: Aim) -> Self {
        Self {
            aim,
            effort: aim.effort,
            hasher: RandomState::new(),
            began: 0,
            window: Vec::new(),
        }
    }

    /// Mean hashes of a challenge that is issued now.
    #[must_use]
    pub fn effort(&self) -> u32 {
        self.effort
    }

    /// Goes on towards another aim. With another effort to start from, it starts again.
    pub fn aim(&mut self, aim: Aim) {
        if aim == self.aim {
            return;
        }
        if aim.effort != self.aim.effort {
            self.effort = aim.effort;
        }
        self.aim = aim;
        self.window.clear();
    }

    /// Somebody solved one at `now`, in milliseconds; after a step of the clock the window begins anew.
    /// Says whether the effort is another from now on.
    pub fn solved(&mut self, answer: Answer, now: u64) -> bool {
        let age = now.checked_sub(self.began);
        if self.window.is_empty() || age.is_none_or(|age| age > STALE) {
            self.window.clear();
            self.began = now;
        }
        self.count(answer);
        let is_over = now.saturating_sub(self.began) >= WINDOW && self.window.len() >= LEAST;
        is_over && self.close()
    }

    fn count(&mut self, answer: Answer) {
        let usual = u64::from(self.effort);
        // As long as it would have taken for the usual effort.
        let took = answer.took.saturating_mul(usual);
        let took = took.checked_div(answer.effort.into()).unwrap_or(LONGEST);
        let wanted = usual.saturating_mul(self.aim.wait) / took.clamp(SHORTEST, LONGEST);
        // The networks with the smallest hashes stay: a random choice that nobody can sway.
        let source = Prefix::of(answer.network.address(), SOURCE);
        let hash = self.hasher.hash_one(source);
        if let Err(at) = self.window.binary_search_by_key(&hash, |known| known.0)
            && at < MOST
        {
            self.window.truncate(MOST.saturating_sub(1));
            self.window.insert(at, (hash, wanted));
        }
    }

    /// Moves towards what the median visitor wants, and begins a new window.
    fn close(&mut self) -> bool {
        let mut wanted: Vec<u64> = self.window.drain(..).map(|(_, wanted)| wanted).collect();
        let middle = wanted.len() / 2;
        let (_, median, _) = wanted.select_nth_unstable(middle);
        let now = u64::from(self.effort);
        // At least 1, so that the smallest efforts move too.
        let step = (now.saturating_mul(STEP) / 100).max(1);
        let moved = (*median).clamp(now.saturating_sub(step), now.saturating_add(step));
        let (least, most) = self.aim.bounds();
        let moved = u32::try_from(moved).unwrap_or(u32::MAX).clamp(least, most);
        let changed = moved != self.effort;
        self.effort = moved;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::PrefixLengths;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr};

    const AIM: Aim = Aim {
        effort: 500_000,
        wait: 500,
    };

    fn network(number: u32) -> Prefix {
        Prefix::of(
            IpAddr::V4(Ipv4Addr::from(number << 8)),
            PrefixLengths::NETWORK,
        )
    }

    fn answer(number: u32, effort: u32, took: u64) -> Answer {
        Answer {
            network: network(number),
            effort,
            took,
        }
    }

    /// `visitors` tell how long the visitor of a network takes for an effort.
    fn simulate(
        controller: &mut Controller,
        windows: u64,
        networks: u32,
        visitors: impl Fn(u32, u32) -> u64,
    ) {
        for window in 0..windows {
            for number in 0..networks {
                let effort = controller.effort();
                let took = visitors(number, effort);
                let now = window * 2 * WINDOW + u64::from(number) * WINDOW / u64::from(networks);
                controller.solved(answer(number, effort, took), now + 1);
            }
            let last = answer(0, controller.effort(), 500);
            controller.solved(last, window * 2 * WINDOW + WINDOW + 1);
        }
    }

    /// Hashes a millisecond, from a fifth of the median to five times that, evenly by logarithm.
    fn spread(number: u32, networks: u32, median: f64) -> f64 {
        median * 5_f64.powf(f64::from(number) / f64::from(networks) * 2.0 - 1.0)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn wait(effort: u32, speed: f64) -> u64 {
        80 + (f64::from(effort) / speed) as u64
    }

    #[test]
    fn nobody_moves_it_alone() {
        let mut controller = Controller::new(AIM);
        for now in 0..100_000 {
            controller.solved(answer(7, AIM.effort, 1), now * 10);
        }
        assert_eq!(controller.effort(), AIM.effort);
        // Not even at the side of others: one of many.
        let mut alone = Controller::new(AIM);
        let mut beside = Controller::new(AIM);
        for window in 0..20 {
            for number in 0..50 {
                let now = window * 2 * WINDOW + u64::from(number) * WINDOW / 49;
                for controller in [&mut alone, &mut beside] {
                    let effort = controller.effort();
                    let took = wait(effort, spread(number, 50, 1000.0));
                    controller.solved(answer(number, effort, took), now + 1);
                }
                for _ in 0..1000 {
                    beside.solved(answer(5000, beside.effort(), 1), now + 1);
                }
            }
        }
        let (alone, beside) = (f64::from(alone.effort()), f64::from(beside.effort()));
        assert!((beside / alone - 1.0).abs() < 0.15, "{alone} {beside}");
    }

    #[test]
    fn a_few_networks_decide_nothing() {
        let mut controller = Controller::new(AIM);
        for now in 0..1000 {
            for number in 1..u32::try_from(LEAST).unwrap() {
                assert!(!controller.solved(answer(number, AIM.effort, 10), now * 1000 + 1));
            }
        }
        assert_eq!(controller.effort(), AIM.effort);
    }

    #[test]
    fn an_attacker_with_a_third_of_the_networks_gets_no_more_than_the_bound() {
        for lie in [1, 100_000] {
            let mut honest = Controller::new(AIM);
            let mut poisoned = Controller::new(AIM);
            let took = |number: u32, effort| wait(effort, spread(number, 100, 1000.0));
            simulate(&mut honest, 100, 100, took);
            simulate(&mut poisoned, 100, 100, |number, effort| {
                // Spread over all speeds.
                if number % 10 < 3 {
                    lie
                } else {
                    took(number, effort)
                }
            });
            let ratio = f64::from(poisoned.effort()) / f64::from(honest.effort());
            // The median of all is then the 29th or 71st hundredth of the visitors.
            assert!((0.45..2.3).contains(&ratio), "{ratio}");
        }
    }

    #[test]
    fn even_all_networks_together_stay_within_the_bounds_and_are_slow() {
        for (took, end) in [(1, AIM.effort * 8), (100_000, AIM.effort / 8)] {
            let mut controller = Controller::new(AIM);
            simulate(&mut controller, 1, 400, |_, _| took);
            let after = f64::from(controller.effort()) / f64::from(AIM.effort);
            assert!((0.84..=1.16).contains(&after), "{after}");
            simulate(&mut controller, 100, 400, |_, _| took);
            assert_eq!(controller.effort(), end);
        }
    }

    #[test]
    fn more_work_in_as_much_more_time_is_an_ordinary_answer() {
        for times in [1, 2, 4] {
            let mut controller = Controller::new(AIM);
            simulate(&mut controller, 10, 100, |_, _| 500);
            for window in 20..30_u64 {
                for number in 0..100 {
                    let now = window * 2 * WINDOW + u64::from(number) * WINDOW / 90;
                    let one = answer(number, AIM.effort * times, 500 * u64::from(times));
                    controller.solved(one, now);
                }
            }
            assert_eq!(controller.effort(), AIM.effort, "{times}");
        }
        // And in the usual time, it says that the visitor is that much faster.
        let mut controller = Controller::new(AIM);
        for number in 0..100 {
            let now = 1 + u64::from(number) * WINDOW / 90;
            controller.solved(answer(number, AIM.effort * 4, 500), now);
        }
        assert!(controller.effort() > AIM.effort);
    }

    #[test]
    fn who_has_a_lot_of_ipv6_weighs_as_one_for_each_32_bits() {
        let of = |number: u32, base: u128, shift: u32| Answer {
            network: Prefix::of(
                IpAddr::V6((base | u128::from(number) << shift).into()),
                PrefixLengths::NETWORK,
            ),
            effort: AIM.effort,
            took: 60_000,
        };
        let mut controller = Controller::new(AIM);
        // All 65,536 networks of a /32, and those of a /29 after it.
        for number in 0..65_536 {
            controller.solved(of(number, 0x2001_0db8 << 96, 80), 1);
        }
        assert_eq!(controller.window.len(), 1);
        for number in 0..80_000 {
            controller.solved(of(number % 8, 0x2a00_0000 << 96, 96), 1);
        }
        assert_eq!(controller.window.len(), 9);
        // Among visitors who wait as was aimed at, that is nothing.
        for number in 0..100 {
            let now = 1 + u64::from(number) * WINDOW / 90;
            controller.solved(answer(number, AIM.effort, 500), now);
        }
        assert_eq!(controller.effort(), AIM.effort);
    }

    #[test]
    fn a_full_window_is_bounded() {
        let mut controller = Controller::new(AIM);
        for number in 0..100_000 {
            controller.solved(answer(number, AIM.effort, 500), 1);
        }
        assert_eq!(controller.window.len(), MOST);
        assert!(controller.window.is_sorted());
    }

    #[test]
    fn another_aim_keeps_what_was_learnt_unless_the_start_is_another() {
        let mut controller = Controller::new(AIM);
        simulate(&mut controller, 5, 100, |_, _| 100);
        let learnt = controller.effort();
        assert!(learnt > AIM.effort);
        controller.aim(Aim { wait: 700, ..AIM });
        assert_eq!(controller.effort(), learnt);
        let other = Aim {
            effort: 1000,
            wait: 700,
        };
        controller.aim(other);
        assert_eq!(controller.effort(), 1000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_median_visitor_comes_to_wait_as_long_as_was_aimed_at(median in 200.0..5000.0_f64, networks in 21_u32..200) {
            let mut controller = Controller::new(AIM);
            let took = |number: u32, effort| wait(effort, spread(number, networks, median));
            simulate(&mut controller, 60, networks, took);
            let median = took(networks / 2, controller.effort());
            prop_assert!((400..620).contains(&median), "{}", median);
        }

        #[test]
        fn no_answers_break_the_bounds(answers in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u64>(), 0..10_000_u64), 0..2000), effort in 1..=u32::MAX, wait in 50..10_000_u64) {
            let aim = Aim { effort, wait };
            let mut controller = Controller::new(aim);
            let (least, most) = aim.bounds();
            let mut now = 0;
            for (number, effort, took, pause) in answers {
                now += pause;
                let effort = if effort % 2 == 0 { controller.effort() } else { effort };
                controller.solved(answer(number, effort, took), now);
                prop_assert!((least..=most).contains(&controller.effort()));
            }
        }
    }
}
