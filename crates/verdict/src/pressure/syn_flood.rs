//! More connections begun than the kernel has room for. With SYN cookies it answers nevertheless, and
//! counts how many of them come back: people's do. Without cookies it drops them.

use super::{FORGED_SPREAD, Figures, Finding, State, SynFlood, Window};

pub(super) fn find(window: &Window<'_>, thresholds: &SynFlood) -> Option<Finding> {
    let sent = window.rate(|counters| counters.cookies_sent).unwrap_or(0.0);
    // How many come back must be known: without it, this might be a crowd.
    let answered = window
        .answered()
        .filter(|share| *share < thresholds.answered);
    let dropped = dropped(window).unwrap_or(0.0);
    let by_cookies = answered.filter(|_| sent > thresholds.syns);
    let by_drops = dropped > thresholds.syns;
    if by_cookies.is_none() && !by_drops {
        return None;
    }
    let half_open = window.half_open();
    let spread = half_open.map(|half_open| half_open.spread);
    let forged = spread.is_some_and(|spread| spread > FORGED_SPREAD);
    let (confidence, because) = match (by_cookies, forged) {
        (Some(_), true) => (
            0.98,
            "SYN cookies do not come back, and half-open sources are spread as forged ones are",
        ),
        (Some(answered), false) if answered < thresholds.answered / 4.0 => {
            (0.95, "next to no SYN cookies come back")
        }
        (Some(_), false) => (0.8, "few SYN cookies come back"),
        (None, true) => (
            0.9,
            "SYNs are dropped for want of room, and half-open sources are spread as forged ones are",
        ),
        // A crowd that is too large does the same where cookies are off.
        (None, false) => (
            0.6,
            "SYNs are dropped for want of room, and SYN cookies are off",
        ),
    };
    let mut figures = Figures::new();
    figures.push(("cookies_sent", sent));
    figures.push(("cookies_answered", window.answered().unwrap_or(0.0)));
    figures.push(("syns_dropped", dropped));
    if let Some(half_open) = half_open {
        figures.push(("half_open", super::window::precise(half_open.count)));
        figures.push(("source_spread", half_open.spread));
    }
    Some(Finding {
        state: State::SynFlood,
        confidence,
        because,
        // Whoever floods from own addresses loses by it: where nothing was counted, take them as forged.
        forged: spread.is_none() || forged,
        figures,
    })
}

/// SYNs that were dropped though our queue had room.
fn dropped(window: &Window<'_>) -> Option<f64> {
    let full = window.rate(|counters| counters.syn_drops);
    let drops = window.rate(|counters| counters.listen_drops);
    let overflows = window.rate(|counters| counters.listen_overflows);
    let others = drops
        .zip(overflows)
        .map(|(drops, overflows)| (drops - overflows).max(0.0));
    match (full, others) {
        (Some(full), Some(others)) => Some(full.max(others)),
        (full, others) => full.or(others),
    }
}
