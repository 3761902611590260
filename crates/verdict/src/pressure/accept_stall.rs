//! Clients completed their handshakes and found the queue for `accept()` full: we are too slow.

use super::{AcceptStall, Figures, Finding, State, Window};

pub(super) fn find(window: &Window<'_>, thresholds: &AcceptStall) -> Option<Finding> {
    let overflows = window.rate(|counters| counters.listen_overflows)?;
    if overflows <= thresholds.overflows {
        return None;
    }
    let answered = window.answered();
    let (confidence, because) = match answered {
        Some(answered) if answered > thresholds.answered => (
            0.95,
            "the queue is full, and SYN cookies come back: those are people",
        ),
        None => (
            0.9,
            "the queue is full, and nothing speaks of forged sources",
        ),
        // A flood and a stall at once: who fills the queue is not known.
        Some(_) => (0.6, "the queue is full, while SYN cookies do not come back"),
    };
    let mut figures = Figures::new();
    figures.push(("listen_overflows", overflows));
    if let Some(answered) = answered {
        figures.push(("cookies_answered", answered));
    }
    if let Some(opened) = window.rate(|counters| counters.passive_opens) {
        figures.push(("opened", opened));
    }
    Some(Finding {
        state: State::AcceptStall,
        confidence,
        because,
        forged: false,
        figures,
    })
}
