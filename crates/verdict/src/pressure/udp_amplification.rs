//! Datagrams that nobody asked for. Rempart itself speaks UDP to its resolvers alone, so what arrives at
//! closed ports, or drowns a socket, was sent by somebody else's request with our address on it. Where a
//! filter in the driver counts them, what comes from the ports of misused services is seen before that,
//! and also while the filter drops it.

use super::{Figures, Finding, State, UdpAmplification, Window};

/// Bytes: what is worth reflecting is larger than what it is asked with.
const LARGE: f64 = 200.0;

pub(super) fn find(window: &Window<'_>, thresholds: &UdpAmplification) -> Option<Finding> {
    let unasked = window.rate(|counters| counters.udp_no_ports);
    let lost = window.rate(|counters| counters.udp_overflows);
    let reflected = window
        .reflected()
        .filter(|seen| seen.packets > thresholds.reflected && seen.size > LARGE);
    let is_unasked = unasked.is_some_and(|rate| rate > thresholds.unasked);
    let is_lost = lost.is_some_and(|rate| rate > thresholds.lost);
    let (confidence, because) = match (reflected.is_some(), is_unasked, is_lost) {
        (true, true, _) => (
            0.95,
            "large packets of a misused service come to ports where nobody listens",
        ),
        (_, true, true) => (0.9, "datagrams come to closed ports, and drown open ones"),
        (_, true, false) => (0.8, "datagrams come to ports where nobody listens"),
        // A busy resolver beside us is answered like this.
        (true, false, _) => (
            0.7,
            "large packets come from a port that floods are reflected from",
        ),
        // A service beside us that is too slow does the same.
        (false, false, true) => (0.5, "datagrams find the buffers of open ports full"),
        (false, false, false) => return None,
    };
    let mut figures = Figures::new();
    figures.push(("udp_no_ports", unasked.unwrap_or(0.0)));
    figures.push(("udp_overflows", lost.unwrap_or(0.0)));
    if let Some(seen) = reflected {
        figures.push(("reflector_port", seen.port.into()));
        figures.push(("reflected_packets", seen.packets));
        figures.push(("reflected_size", seen.size));
    }
    Some(Finding {
        state: State::UdpAmplification,
        confidence,
        because,
        // The senders are reflectors: real hosts, misused.
        forged: true,
        figures,
    })
}
