//! When packets from a port are a reflected flood, and when it is over.
//!
//! A flood: more than 500 packets a second whose mean is above 200 bytes, in three looks a second apart
//! one after the other. It is over when there were fewer than half as many for ten looks.

use crate::filter::{Nanos, Reflector};
use std::collections::HashMap;

const LOOK_EVERY: Nanos = 1_000_000_000;
const PACKETS_A_SECOND: u64 = 500;
const MEAN_BYTES: u64 = 200;
const LOOKS_TO_BEGIN: u32 = 3;
const LOOKS_TO_END: u32 = 10;

#[derive(Debug, Default)]
pub(super) struct Reflections {
    looked: Option<Nanos>,
    ports: HashMap<u16, Port>,
}

#[derive(Debug, Default)]
struct Port {
    packets: u64,
    bytes: u64,
    flooding: bool,
    /// Looks one after the other that spoke for a change.
    looks: u32,
}

impl Reflections {
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        self.looked
            .is_none_or(|looked| now.saturating_sub(looked) >= LOOK_EVERY)
    }

    /// Looks at the counts of all ports; gives those that are flooding if they are others than before.
    pub(super) fn sample(&mut self, counts: &[Reflector], now: Nanos) -> Option<Vec<u16>> {
        let elapsed = self.looked.map(|looked| now.saturating_sub(looked).max(1));
        self.looked = Some(now);
        let mut changed = false;
        for count in counts {
            let port = self.ports.entry(count.port).or_default();
            let packets = count.packets.saturating_sub(port.packets);
            let bytes = count.bytes.saturating_sub(port.bytes);
            (port.packets, port.bytes) = (count.packets, count.bytes);
            if let Some(elapsed) = elapsed {
                let a_second = packets.saturating_mul(LOOK_EVERY) / elapsed;
                changed |= port.look(a_second, bytes / packets.max(1));
            }
        }
        changed.then(|| {
            let mut flooding: Vec<_> = self
                .ports
                .iter()
                .filter(|(_, one)| one.flooding)
                .map(|(port, _)| *port)
                .collect();
            flooding.sort_unstable();
            flooding
        })
    }
}

impl Port {
    /// Whether that changed what it is.
    fn look(&mut self, packets: u64, mean: u64) -> bool {
        let (speaks_for_change, enough) = if self.flooding {
            (packets < PACKETS_A_SECOND / 2, LOOKS_TO_END)
        } else {
            (
                packets > PACKETS_A_SECOND && mean > MEAN_BYTES,
                LOOKS_TO_BEGIN,
            )
        };
        self.looks = if speaks_for_change { self.looks + 1 } else { 0 };
        let change = self.looks >= enough;
        if change {
            self.flooding = !self.flooding;
            self.looks = 0;
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks once a second at a port that sends so many packets of so many bytes, for some seconds.
    fn looks(
        reflections: &mut Reflections,
        seconds: u64,
        packets: u64,
        bytes: u64,
    ) -> Vec<Vec<u16>> {
        let mut told = Vec::new();
        for _ in 0..seconds {
            let now = reflections.looked.unwrap_or(0) + LOOK_EVERY;
            let before = reflections.ports.get(&53);
            let count = Reflector {
                port: 53,
                packets: before.map_or(0, |one| one.packets) + packets,
                bytes: before.map_or(0, |one| one.bytes) + packets * bytes,
                dropped: 0,
            };
            told.extend(reflections.sample(&[count], now));
        }
        told
    }

    #[test]
    fn a_flood_is_told_after_three_seconds_and_its_end_after_ten() {
        let mut reflections = Reflections::default();
        assert!(looks(&mut reflections, 5, 10, 400).is_empty());
        assert!(looks(&mut reflections, 2, 501, 201).is_empty());
        assert_eq!(looks(&mut reflections, 1, 501, 201), [[53]]);
        assert!(looks(&mut reflections, 60, 501, 201).is_empty());
        assert!(looks(&mut reflections, 9, 10, 201).is_empty());
        assert_eq!(looks(&mut reflections, 1, 10, 201), [[]; 1]);
    }

    #[test]
    fn much_that_is_small_and_little_that_is_large_are_none() {
        let mut reflections = Reflections::default();
        assert!(looks(&mut reflections, 20, 50_000, 100).is_empty());
        assert!(looks(&mut reflections, 20, 400, 1400).is_empty());
    }

    #[test]
    fn a_pause_starts_the_three_seconds_anew() {
        let mut reflections = Reflections::default();
        for _ in 0..5 {
            assert!(looks(&mut reflections, 2, 5000, 1000).is_empty());
            assert!(looks(&mut reflections, 1, 5, 1000).is_empty());
        }
    }

    #[test]
    fn what_was_counted_before_the_first_look_is_no_flood() {
        let mut reflections = Reflections::default();
        assert!(looks(&mut reflections, 1, 1_000_000, 1000).is_empty());
        assert!(looks(&mut reflections, 5, 0, 1000).is_empty());
    }
}
