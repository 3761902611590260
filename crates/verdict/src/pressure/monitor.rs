//! When a state is raised and when it is lowered.
//!
//! A state is raised once it was found in windows that cover two seconds without a gap, which is two
//! windows in a row: a blip is none. It is lowered when nothing was found for a while
//! ([`Thresholds::quiet`]).
//!
//! Windows are a second long, whatever the pace of the snapshots. When the reader could not run (it was
//! stopped, or the machine was busy), the next window is as long as that took, and counts for as long;
//! past ten seconds it says too little of any moment, and what was seen before is forgotten.

use super::{Finding, Snapshot, State, States, Thresholds, Window};
use crate::Nanos;
use arrayvec::ArrayVec;
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(1);
const RAISED_AFTER: Duration = Duration::from_secs(2);
const LONGEST_WINDOW: Duration = Duration::from_secs(10);
/// Snapshots of one window, and the one before it.
const KEPT: usize = 17;
/// Snapshots that follow faster than this are not kept: a window's would not fit.
const SPACING: Duration = Duration::from_millis(1000 / 15);

/// Follows the snapshots.
#[derive(Debug, Default)]
pub struct Monitor {
    history: ArrayVec<Snapshot, KEPT>,
    /// In the order of [`State::ALL`].
    standings: [Standing; State::ALL.len()],
}

/// How it stands with a state.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Since when it is raised.
    pub raised: Option<Nanos>,
    /// The last finding, with its moment.
    pub last: Option<(Nanos, Finding)>,
    /// Where the first of the windows without a gap ended in which it was found.
    found_since: Option<Nanos>,
    /// Before this, that nothing is found says nothing: there was a time when nothing could be.
    known_since: Nanos,
}

/// A state that was raised or lowered.
#[derive(Clone, Debug)]
pub struct Transition {
    pub raised: bool,
    /// What raised it, or what was last found of it.
    pub finding: Finding,
    /// How long it was raised.
    pub lasted: Duration,
}

/// What one snapshot led to.
pub type Transitions = ArrayVec<Transition, { State::ALL.len() }>;

impl Monitor {
    /// Takes the next snapshot. One that is not after the last is passed over.
    pub fn observe(&mut self, snapshot: Snapshot, thresholds: &Thresholds) -> Transitions {
        let mut transitions = Transitions::new();
        let now = snapshot.at;
        let Some(last) = self.history.last().copied() else {
            self.begin_anew(&snapshot);
            return transitions;
        };
        let gap = now.since(last.at);
        if gap == Duration::ZERO {
            return transitions;
        }
        if gap > LONGEST_WINDOW || Window::between(&last, &snapshot).is_none() {
            self.begin_anew(&snapshot);
            return transitions;
        }
        let Some(earlier) = self.earlier(now).copied() else {
            self.keep(&snapshot, gap);
            return transitions;
        };
        if let Some(window) = Window::between(&earlier, &snapshot) {
            let mut flooded = false;
            for (state, standing) in State::ALL.into_iter().zip(&mut self.standings) {
                // What is left half open by a full flood is part of it.
                let explained = state == State::SlowSynFlood && flooded;
                let finding = state.find(&window, thresholds).filter(|_| !explained);
                flooded |= state == State::SynFlood && standing.raised.is_some();
                let changed = standing.follow(finding, earlier.at, now, thresholds.quiet);
                transitions.extend(changed);
            }
        }
        self.keep(&snapshot, gap);
        transitions
    }

    /// What is raised.
    #[must_use]
    pub fn raised(&self) -> States {
        let raised = |(_, standing): &(State, &Standing)| standing.raised.is_some();
        self.standings()
            .filter(raised)
            .map(|(state, _)| state)
            .collect()
    }

    pub fn standings(&self) -> impl Iterator<Item = (State, &Standing)> {
        State::ALL.into_iter().zip(&self.standings)
    }

    /// The last snapshot that was kept, to see what has moved since.
    #[must_use]
    pub fn last(&self) -> Option<&Snapshot> {
        self.history.last()
    }

    /// The newest snapshot that is a window before `now`.
    #[must_use]
    pub fn earlier(&self, now: Nanos) -> Option<&Snapshot> {
        let mut newest_first = self.history.iter().rev();
        newest_first.find(|snapshot| now.since(snapshot.at) >= WINDOW)
    }

    fn keep(&mut self, snapshot: &Snapshot, gap: Duration) {
        if gap < SPACING {
            return;
        }
        if self.history.is_full() {
            self.history.remove(0);
        }
        self.history.push(*snapshot);
    }

    fn begin_anew(&mut self, snapshot: &Snapshot) {
        self.history.clear();
        self.history.push(*snapshot);
        for standing in &mut self.standings {
            standing.found_since = None;
            standing.known_since = snapshot.at;
        }
    }
}

impl Standing {
    fn follow(
        &mut self,
        finding: Option<Finding>,
        from: Nanos,
        now: Nanos,
        quiet: Duration,
    ) -> Option<Transition> {
        let Some(finding) = finding else {
            self.found_since = None;
            return self.lower(now, quiet);
        };
        let since = *self.found_since.get_or_insert(now);
        self.last = Some((now, finding.clone()));
        // Two windows that share nothing, or one as long as two: windows that overlap share a blip.
        let is_steady = from >= since || now.since(from) >= RAISED_AFTER;
        if self.raised.is_some() || !is_steady {
            return None;
        }
        self.raised = Some(now);
        Some(Transition {
            raised: true,
            finding,
            lasted: Duration::ZERO,
        })
    }

    fn lower(&mut self, now: Nanos, quiet: Duration) -> Option<Transition> {
        let raised = self.raised?;
        let (last, finding) = self.last.as_ref()?;
        if now.since((*last).max(self.known_since)) < quiet {
            return None;
        }
        self.raised = None;
        Some(Transition {
            raised: false,
            finding: finding.clone(),
            lasted: last.since(raised),
        })
    }
}
