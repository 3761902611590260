//! How fast: a number of units a second, or as many as the other side takes.

use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Units that are sent in one go when nothing holds them back.
const BATCH: u64 = 64;
/// How often a pace is caught up with: units that fall due meanwhile go together.
const TICK: Duration = Duration::from_millis(10);

/// Says how many units are due, until none are left.
pub struct Pace {
    rate: Option<f64>,
    left: u64,
    began: Instant,
    given: u64,
}

impl Pace {
    pub fn new(rate: Option<f64>, units: u64) -> Self {
        Self {
            rate,
            left: units,
            began: Instant::now(),
            given: 0,
        }
    }

    /// Waits until units are due and gives their number; `None` when all have been given.
    pub async fn due(&mut self) -> Option<u64> {
        if self.left == 0 {
            return None;
        }
        let due = match self.rate {
            None => {
                // Other connections take their turn.
                tokio::task::yield_now().await;
                BATCH
            }
            Some(rate) => loop {
                let elapsed = self.began.elapsed().as_secs_f64();
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let owed = ((elapsed * rate) as u64).saturating_add(1);
                let due = owed.saturating_sub(self.given);
                if due > 0 {
                    break due;
                }
                #[allow(clippy::cast_precision_loss)]
                let next = Duration::try_from_secs_f64(self.given as f64 / rate)
                    .unwrap_or(Duration::from_secs(3600));
                sleep_until((self.began + next).max(Instant::now() + TICK)).await;
            },
        };
        let due = due.min(self.left);
        self.left = self.left.saturating_sub(due);
        self.given = self.given.saturating_add(due);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pace_gives_its_units_and_ends() {
        let mut pace = Pace::new(None, 100);
        assert_eq!(pace.due().await, Some(BATCH));
        assert_eq!(pace.due().await, Some(100 - BATCH));
        assert_eq!(pace.due().await, None);
        let mut pace = Pace::new(Some(1000.0), 3);
        let mut given = 0;
        while let Some(due) = pace.due().await {
            given += due;
        }
        assert_eq!(given, 3);
    }
}
