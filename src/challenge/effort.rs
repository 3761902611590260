//! How much work a proof of work is at the moment: the state that all workers share. What moves it, and
//! what can't, is `verdict`'s.

use crate::config::model;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use verdict::{
    effort::{Aim, Answer, Controller},
    prefix::Prefix,
};

/// The effort in force; one a generation of the configuration, which goes on where the one before was.
#[derive(Debug)]
pub struct Effort {
    now: AtomicU32,
    /// `None`: it is as configured, for good.
    controller: Option<Mutex<Controller>>,
}

impl Effort {
    /// Goes on from `previous`.
    #[must_use]
    pub fn build(spec: &model::ProofOfWork, previous: Option<&Self>) -> Self {
        let aim = Aim {
            effort: spec.effort,
            wait: u64::try_from(spec.solve_time.as_millis()).unwrap_or(u64::MAX),
        };
        let controller = spec.adapt.then(|| {
            let known = previous.and_then(|previous| previous.controller.as_ref());
            let mut controller = known.map_or_else(
                || Controller::new(aim),
                |known| Controller::clone(&known.lock()),
            );
            controller.aim(aim);
            controller
        });
        let now = controller.as_ref().map_or(spec.effort, Controller::effort);
        Self {
            now: AtomicU32::new(now),
            controller: controller.map(Mutex::new),
        }
    }

    /// Mean hashes of a challenge that is issued now, before the visitor's risk.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.now.load(Relaxed)
    }

    /// A visitor of this network solved one of this effort, in so many milliseconds; `now` in Unix
    /// milliseconds.
    pub fn solved(&self, network: Prefix, effort: u32, took: u64, now: u64) {
        let Some(controller) = &self.controller else {
            return;
        };
        let answer = Answer {
            network,
            effort,
            took,
        };
        let mut controller = controller.lock();
        if controller.solved(answer, now) {
            self.now.store(controller.effort(), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::Ipv4Addr, time::Duration};
    use verdict::{effort::WINDOW, prefix::PrefixLengths};

    fn spec(effort: u32, adapt: bool) -> model::ProofOfWork {
        model::ProofOfWork {
            effort,
            adapt,
            solve_time: Duration::from_millis(500),
        }
    }

    /// Half a hundred visitors that take a tenth of what is aimed at.
    fn solve(effort: &Effort) {
        for number in 0..50_u32 {
            let address = Ipv4Addr::from(number << 8).into();
            let network = Prefix::of(address, PrefixLengths::NETWORK);
            let now = 1_700_000_000_000 + u64::from(number) * WINDOW / 49;
            effort.solved(network, effort.now(), 50, now);
        }
    }

    #[test]
    fn it_follows_and_survives_a_reload() {
        let effort = Effort::build(&spec(1000, true), None);
        solve(&effort);
        assert_eq!(effort.now(), 1150);
        let reloaded = Effort::build(&spec(1000, true), Some(&effort));
        assert_eq!(reloaded.now(), 1150);
        solve(&reloaded);
        assert!(reloaded.now() > 1300);
        // Another start, or none at all.
        assert_eq!(Effort::build(&spec(2000, true), Some(&effort)).now(), 2000);
        assert_eq!(Effort::build(&spec(1000, false), Some(&effort)).now(), 1000);
    }

    #[test]
    fn it_stays_as_configured_when_told_to() {
        let effort = Effort::build(&spec(1000, false), None);
        solve(&effort);
        assert_eq!(effort.now(), 1000);
    }
}
