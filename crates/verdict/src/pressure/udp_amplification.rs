//! Datagrams that nobody asked for. Rempart itself speaks UDP to its resolvers alone, so what arrives at
//! closed ports, or drowns a socket, was sent by somebody else's request with our address on it.

use super::{Figures, Finding, State, UdpAmplification, Window};

pub(super) fn find(window: &Window<'_>, thresholds: &UdpAmplification) -> Option<Finding> {
    let unasked = window.rate(|counters| counters.udp_no_ports);
    let lost = window.rate(|counters| counters.udp_overflows);
    let is_unasked = unasked.is_some_and(|rate| rate > thresholds.unasked);
    let is_lost = lost.is_some_and(|rate| rate > thresholds.lost);
    let (confidence, because) = match (is_unasked, is_lost) {
        (true, true) => (0.9, "datagrams come to closed ports, and drown open ones"),
        (true, false) => (0.8, "datagrams come to ports where nobody listens"),
        // A service beside us that is too slow does the same.
        (false, true) => (0.5, "datagrams find the buffers of open ports full"),
        (false, false) => return None,
    };
    let mut figures = Figures::new();
    figures.push(("udp_no_ports", unasked.unwrap_or(0.0)));
    figures.push(("udp_overflows", lost.unwrap_or(0.0)));
    Some(Finding {
        state: State::UdpAmplification,
        confidence,
        because,
        // The senders are reflectors: real hosts, misused.
        forged: true,
        figures,
    })
}
