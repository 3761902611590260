//! How many lookups are under way, and how many began in this second: of all strangers together, and
//! of one network, so that no network takes the places of all.

use arrayvec::ArrayVec;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use verdict::{Nanos, prefix::Prefix};

pub const IN_FLIGHT: usize = 32;
pub const IN_FLIGHT_OF_NETWORK: usize = 4;
/// Lookups that may begin in a second.
pub const PER_SECOND: usize = 50;
pub const PER_SECOND_OF_NETWORK: usize = 8;
const SECOND: Duration = Duration::from_secs(1);

/// The lookups of all workers.
#[derive(Debug, Default)]
pub struct Flights(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// For whom each is under way.
    under_way: ArrayVec<Prefix, IN_FLIGHT>,
    /// When the second began, and for whom those of it are.
    second: Nanos,
    begun: ArrayVec<Prefix, PER_SECOND>,
}

/// One lookup under way, until it is dropped.
#[derive(Debug)]
pub struct Place {
    flights: Arc<Flights>,
    network: Prefix,
}

impl Flights {
    /// A place for a lookup of an address of this /24 or /48; `None` when there are too many.
    #[must_use]
    pub fn enter(self: &Arc<Self>, network: Prefix, now: Nanos) -> Option<Place> {
        let mut state = self.0.lock();
        if state.begun.is_empty() || now >= state.second.after(SECOND) {
            state.second = now;
            state.begun.clear();
        }
        let of_network = |places: &[Prefix]| places.iter().filter(|at| **at == network).count();
        if of_network(&state.under_way) >= IN_FLIGHT_OF_NETWORK
            || of_network(&state.begun) >= PER_SECOND_OF_NETWORK
            || state.begun.is_full()
        {
            return None;
        }
        state.under_way.try_push(network).ok()?;
        state.begun.try_push(network).ok()?;
        Some(Place {
            flights: Arc::clone(self),
            network,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.flights.0.lock();
        let at = state.under_way.iter().position(|at| *at == self.network);
        if let Some(at) = at {
            state.under_way.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use verdict::prefix::PrefixLengths;

    fn network(number: u32) -> Prefix {
        let address = IpAddr::V4((number << 8).into());
        Prefix::of(address, PrefixLengths::NETWORK)
    }

    fn second(number: u64) -> Nanos {
        Nanos(number * 1_000_000_000 + 7)
    }

    #[test]
    fn one_network_leaves_room_for_others() {
        let flights = Arc::new(Flights::default());
        let enter = |number| flights.enter(network(number), second(1));
        let places: Vec<_> = (0..1000).filter_map(|_| enter(1)).collect();
        assert_eq!(places.len(), IN_FLIGHT_OF_NETWORK);
        let others: Vec<_> = (2..1000).filter_map(enter).collect();
        assert_eq!(others.len(), IN_FLIGHT - IN_FLIGHT_OF_NETWORK);
        assert!(enter(2000).is_none());
        drop(places);
        assert!(enter(2000).is_some());
    }

    #[test]
    fn lookups_of_a_second_are_counted() {
        let flights = Arc::new(Flights::default());
        for n in 1..4 {
            // Each ends at once.
            let begun = |numbers: &mut dyn Iterator<Item = u32>| {
                numbers
                    .filter(|number| flights.enter(network(*number), second(n)).is_some())
                    .count()
            };
            assert_eq!(begun(&mut (0..1000).map(|_| 1)), PER_SECOND_OF_NETWORK);
            let rest = PER_SECOND - PER_SECOND_OF_NETWORK;
            assert_eq!(begun(&mut (2..1000)), rest);
        }
    }
}
