//! What the network does to this host: the states that are raised, and the rates behind them.

use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use verdict::pressure::State;

/// Set by whoever watches ([`crate::pressure`]).
#[derive(Debug)]
pub struct PressureMetrics {
    raised: IntGaugeVec,
    raised_total: IntCounterVec,
    rates: GaugeVec,
    half_open: IntGauge,
    reading: Gauge,
}

impl PressureMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let raised_total = super::counters(
            registry,
            "rempart_pressure_raised_total",
            "Times that a state was raised.",
            &["state"],
        );
        let raised = super::gauges(
            registry,
            "rempart_pressure",
            "1 while the state is raised.",
            &["state"],
        );
        // There from the start, so that an alert sees the first one.
        for state in State::ALL {
            raised_total.with_label_values(&[state.name()]);
            raised.with_label_values(&[state.name()]);
        }
        let rates = Opts::new(
            "rempart_pressure_rate",
            "Events a second of the last second, of the network namespace.",
        );
        Self {
            raised,
            raised_total,
            rates: super::register(registry, GaugeVec::new(rates, &["event"])),
            half_open: super::gauge(
                registry,
                "rempart_half_open_connections",
                "Half-open connections at our ports; counted on suspicion only, else 0.",
            ),
            reading: super::register(
                registry,
                Gauge::new(
                    "rempart_pressure_reading_seconds",
                    "What the last reading of the kernel's counters took.",
                ),
            ),
        }
    }

    pub fn set(&self, state: State, raised: bool) {
        let gauge = self.raised.with_label_values(&[state.name()]);
        gauge.set(i64::from(raised));
    }

    pub fn count(&self, state: State) {
        self.raised_total.with_label_values(&[state.name()]).inc();
    }

    pub fn rate(&self, event: &'static str, rate: f64) {
        self.rates.with_label_values(&[event]).set(rate);
    }

    /// Nothing is read any more: what was read last is no answer.
    pub fn rest(&self) {
        for state in State::ALL {
            self.set(state, false);
        }
        self.rates.reset();
        self.half_open(0);
        self.reading(0.0);
    }

    pub fn half_open(&self, count: u64) {
        self.half_open.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn reading(&self, seconds: f64) {
        self.reading.set(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_last_does_not_stay_once_nothing_is_read() {
        let registry = Registry::new();
        let metrics = PressureMetrics::new(&registry);
        metrics.set(State::SynFlood, true);
        metrics.rate("resets_sent", 77_900.0);
        metrics.half_open(4097);
        metrics.rest();
        let families = registry.gather();
        let shown: f64 = families
            .iter()
            .flat_map(prometheus::proto::MetricFamily::get_metric)
            .map(|metric| metric.get_gauge().get_value())
            .sum();
        assert!(shown.abs() < f64::EPSILON, "{families:?}");
    }
}
