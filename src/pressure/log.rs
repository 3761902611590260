//! What operators are told when a state is raised or lowered, and what to do about it.

use std::fmt;
use verdict::pressure::{Figures, State, Transition};

pub fn transition(change: &Transition) {
    let finding = &change.finding;
    let state = finding.state.name();
    let figures = Shown(&finding.figures);
    if change.raised {
        tracing::warn!(
            state,
            confidence = finding.confidence,
            because = finding.because,
            forged_sources = finding.forged,
            %figures,
            advice = advice(finding.state, finding.forged),
            "pressure raised"
        );
    } else {
        let seconds = change.lasted.as_secs();
        tracing::info!(state, seconds, %figures, "pressure lowered");
    }
}

/// What to do about it; docs/tasks/syn-flood.md says more.
#[must_use]
pub fn advice(state: State, forged: bool) -> &'static str {
    match (state, forged) {
        (State::SynFlood | State::SlowSynFlood, true) => {
            "the sources are forged: do not ban them. SYN cookies keep people coming in \
             (`rempart check --host`); if the uplink is full, call the provider"
        }
        (State::SynFlood | State::SlowSynFlood, false) => {
            "few networks do this: they can be banned once they complete handshakes, or be dropped \
             by prefix at the firewall"
        }
        (State::AcceptStall, _) => {
            "no attack: the workers are too slow to accept. Look at the CPU, and for what holds it"
        }
        (State::AckFlood, _) => {
            "the sources may be forged: do not ban them. A stateful firewall drops segments without \
             a connection more cheaply"
        }
        (State::UdpAmplification, _) => {
            "the senders are misused hosts: do not ban them. Drop UDP from the reflectors' ports \
             (`rempart guard`, or the provider), but spare the answers of your own resolvers"
        }
    }
}

/// `name=1.5 other=2`.
struct Shown<'a>(&'a Figures);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, figure)) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            // Shares need decimals, counts don't.
            if figure.fract() == 0.0 || *figure >= 100.0 {
                write!(f, "{space}{name}={figure:.0}")?;
            } else {
                write!(f, "{space}{name}={figure:.3}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let mut figures = Figures::new();
        figures.push(("sent", 20_000.7));
        figures.push(("answered", 0.002));
        figures.push(("dropped", 0.0));
        let shown = Shown(&figures).to_string();
        assert_eq!(shown, "sent=20001 answered=0.002 dropped=0");
    }
}
