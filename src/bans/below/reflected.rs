//! How fast packets come from the ports that floods are reflected from, by two looks at the guard's counts.

use rempart_kernel::filter::Reflector;
use std::time::{Duration, Instant};
use verdict::pressure::Reflected;

/// Looks that are closer than this are one.
const APART: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Reflections {
    looked: Option<Instant>,
    counts: Vec<Reflector>,
    busiest: Option<Reflected>,
}

impl Reflections {
    /// The port that sent most bytes since the last look; `None` where none is counted, or nothing came.
    pub(super) fn look(&mut self, counts: &[Reflector], now: Instant) -> Option<Reflected> {
        let elapsed = self.looked.map(|looked| now.duration_since(looked));
        if elapsed.is_some_and(|elapsed| elapsed < APART) {
            return self.busiest;
        }
        self.busiest = elapsed.and_then(|elapsed| {
            let moved = counts.iter().map(|count| {
                let before = self.counts.iter().find(|before| before.port == count.port);
                let before = before.copied().unwrap_or_default();
                let packets = count.packets.saturating_sub(before.packets);
                (
                    count.port,
                    packets,
                    count.bytes.saturating_sub(before.bytes),
                )
            });
            let (port, packets, bytes) = moved.max_by_key(|(_, _, bytes)| *bytes)?;
            (packets > 0).then(|| Reflected {
                port,
                packets: precise(packets) / elapsed.as_secs_f64(),
                size: precise(bytes) / precise(packets),
            })
        });
        self.looked = Some(now);
        self.counts = counts.to_vec();
        self.busiest
    }
}

#[expect(clippy::cast_precision_loss, reason = "no rate needs 53 bits")]
fn precise(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(port: u16, packets: u64, bytes: u64) -> Reflector {
        Reflector {
            port,
            packets,
            bytes,
            dropped: 0,
        }
    }

    #[test]
    fn the_port_that_sends_most_is_told_with_its_rate() {
        let mut reflections = Reflections::default();
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let first = [count(53, 1_000, 900_000), count(123, 10, 4_400)];
        assert_eq!(reflections.look(&first, after(0)), None);
        let later = [count(53, 1_002, 900_200), count(123, 4_010, 1_764_400)];
        let seen = Reflected {
            port: 123,
            packets: 2_000.0,
            size: 440.0,
        };
        assert_eq!(reflections.look(&later, after(2)), Some(seen));
        // Somebody asked in between: too soon to say.
        let soon = after(2) + Duration::from_millis(10);
        assert_eq!(reflections.look(&later, soon), Some(seen));
        assert_eq!(reflections.look(&later, after(3)), None);
        // A guard that started anew.
        assert_eq!(reflections.look(&first[1..], after(4)), None);
    }
}
