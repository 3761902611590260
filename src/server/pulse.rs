//! Whether each worker still turns: its runtime ticks a counter, and who asks sees if it moved.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Ticks between two questions: one that comes late is not missed.
const TICKS: u32 = 3;

/// The ticks of one worker.
#[derive(Clone, Debug, Default)]
pub struct Beat(Arc<AtomicU64>);

impl Beat {
    /// Ticks for as long as it is polled, `every` being how often it is asked for.
    pub async fn go_on(self, every: Duration) {
        let mut ticks = tokio::time::interval(every / TICKS);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tick();
        }
    }

    fn tick(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// All workers' ticks.
#[derive(Debug, Default)]
pub struct Pulse(Vec<(Beat, u64)>);

impl Pulse {
    /// One more worker's.
    pub fn add(&mut self) -> Beat {
        let beat = Beat::default();
        self.0.push((beat.clone(), 0));
        beat
    }

    /// Whether every worker has ticked since the last time that this was asked.
    pub fn all_beat(&mut self) -> bool {
        let mut all = true;
        for (beat, seen) in &mut self.0 {
            let now = beat.0.load(Relaxed);
            all &= now != *seen;
            *seen = now;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stands_still_is_noticed_and_forgiven_when_it_goes_on() {
        let mut pulse = Pulse::default();
        let (one, other) = (pulse.add(), pulse.add());
        one.tick();
        other.tick();
        assert!(pulse.all_beat());
        one.tick();
        assert!(!pulse.all_beat());
        one.tick();
        other.tick();
        assert!(pulse.all_beat());
        assert!(!pulse.all_beat());
    }

    #[tokio::test(start_paused = true)]
    async fn it_ticks_more_often_than_it_is_asked() {
        let mut pulse = Pulse::default();
        let every = Duration::from_secs(1);
        tokio::spawn(pulse.add().go_on(every));
        for _ in 0..5 {
            tokio::time::sleep(every).await;
            assert!(pulse.all_beat());
        }
    }
}
