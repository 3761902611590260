//! Segments that belong to no connection are answered by resets. Those that we send to end connections
//! of our own are subtracted; a client that still sends into a connection we reset gets a few more.

use super::{AckFlood, Figures, Finding, State, Window};

pub(super) fn find(window: &Window<'_>, thresholds: &AckFlood) -> Option<Finding> {
    let sent = window.rate(|counters| counters.resets_sent)?;
    let opened = window.rate(|counters| counters.passive_opens)?;
    let aborts = window.rate(|counters| counters.aborts);
    let begun = window.rate(|counters| counters.active_opens).unwrap_or(0.0);
    let resets = (sent - aborts.unwrap_or(0.0)).max(0.0);
    let connections = opened + begun;
    if resets <= thresholds.resets || resets <= thresholds.per_connection * connections {
        return None;
    }
    let (confidence, because) = if aborts.is_some() {
        (
            0.9,
            "resets far beyond the connections there are, our own subtracted",
        )
    } else {
        (0.7, "resets far beyond the connections there are")
    };
    let mut figures = Figures::new();
    figures.push(("resets", resets));
    figures.push(("aborts", aborts.unwrap_or(0.0)));
    figures.push(("opened", opened));
    Some(Finding {
        state: State::AckFlood,
        confidence,
        because,
        // No handshake vouches for any of them.
        forged: true,
        figures,
    })
}
