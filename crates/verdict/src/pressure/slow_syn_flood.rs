//! Connections that are begun and never completed, few enough that the kernel still has room for them.
//!
//! By Little's law, what is half open is the rate of completed ones times the time that takes: a round
//! trip. When the quotient is far longer than any network's, it is not by clients that mean to connect.

use super::{
    FORGED_SPREAD, Figures, Finding, State, Thresholds, Window, syn_flood, window::precise,
};

/// So many of the threshold must have come of late: others are left over from a flood that has ended.
const STILL_COMING: f64 = 0.125;

pub(super) fn find(window: &Window<'_>, thresholds: &Thresholds) -> Option<Finding> {
    let half_open = window.half_open()?;
    let opened = window.rate(|counters| counters.passive_opens)?;
    let slow = &thresholds.slow_syn_flood;
    let count = precise(half_open.count);
    if count <= slow.half_open || count <= slow.seconds * opened {
        return None;
    }
    if precise(half_open.unanswered) <= slow.half_open * STILL_COMING {
        return None;
    }
    if syn_flood::find(window, &thresholds.syn_flood).is_some() {
        // Past the room there is: a full flood says it all.
        return None;
    }
    // Who was answered waits half open while our own queue is full.
    let overflows = window.rate(|counters| counters.listen_overflows);
    if overflows.is_some_and(|rate| rate > thresholds.accept_stall.overflows) {
        return None;
    }
    let forged = half_open.spread > FORGED_SPREAD;
    let (confidence, because) = if forged {
        (
            0.9,
            "far more are half open than complete, and their sources are spread as forged ones are",
        )
    } else {
        // A path that loses our answers looks alike.
        (
            0.7,
            "far more are half open than complete, from few networks",
        )
    };
    let mut figures = Figures::new();
    figures.push(("half_open", count));
    figures.push(("source_spread", half_open.spread));
    figures.push(("opened", opened));
    if let Some(retransmits) = window.rate(|counters| counters.syn_retransmits) {
        figures.push(("syn_retransmits", retransmits));
    }
    Some(Finding {
        state: State::SlowSynFlood,
        confidence,
        because,
        forged,
        figures,
    })
}
