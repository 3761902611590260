//! The thread that reads the kernel's counters, four times a second unless told otherwise, and what is
//! half open when the counters give reason to.

use super::{Pressure, View, log};
use crate::{
    bans::below::Below, clock, config::model, edge::Edge, record::metrics::PressureMetrics,
};
use rempart_kernel::{counters::CounterReader, half_open::HalfOpenReader};
use std::{
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};
use verdict::{
    Nanos,
    pressure::{Counters, HalfOpen, Monitor, Reflected, Snapshot, State, States, Window},
};

/// Between two looks at the configuration while there is nothing else to do.
const IDLE: Duration = Duration::from_secs(1);
/// How long a count of what is half open stands, on suspicion: no longer than to the next reading...
const COUNTED: Duration = Duration::from_millis(90);
/// ...but where there is little to count, or what it would tell is known already.
const SETTLED: Duration = Duration::from_secs(1);
const LITTLE: u64 = 64;
const KNOWN: States = States::of(State::SynFlood).with(State::SlowSynFlood);

/// An event, and where it is counted.
type Event = (&'static str, fn(&Counters) -> Option<u64>);

/// What operators are shown of the counters.
const EVENTS: [Event; 8] = [
    ("syn_cookies_sent", |counters| counters.cookies_sent),
    ("syn_cookies_received", |counters| counters.cookies_received),
    ("syn_retransmits", |counters| counters.syn_retransmits),
    ("listen_overflows", |counters| counters.listen_overflows),
    ("listen_drops", |counters| counters.listen_drops),
    ("resets_sent", |counters| counters.resets_sent),
    ("udp_no_ports", |counters| counters.udp_no_ports),
    ("udp_overflows", |counters| counters.udp_overflows),
];

/// Watches until the edge is gone. `ports` are those that are listened on.
///
/// # Errors
/// When there is no thread to be had.
pub fn watch(edge: &Arc<Edge>, ports: Vec<u16>) -> io::Result<()> {
    let pressure = Arc::clone(&edge.pressure);
    let edge = Arc::downgrade(edge);
    let run = move || {
        let mut watcher = Watcher::new(pressure, ports);
        while let Some(pause) = watcher.turn(&edge) {
            thread::sleep(pause);
        }
    };
    thread::Builder::new().name("pressure".into()).spawn(run)?;
    Ok(())
}

struct Watcher {
    pressure: Arc<Pressure>,
    ports: Vec<u16>,
    monitor: Monitor,
    counters: CounterReader,
    half_open: HalfOpenReader,
    counted: Option<(Nanos, HalfOpen)>,
    told: Told,
}

/// What was said once, and need not be said again.
#[derive(Default)]
struct Told {
    no_counters: bool,
    no_half_open: bool,
}

impl Watcher {
    fn new(pressure: Arc<Pressure>, ports: Vec<u16>) -> Self {
        Self {
            pressure,
            ports,
            monitor: Monitor::default(),
            counters: CounterReader::new(),
            half_open: HalfOpenReader::default(),
            counted: None,
            told: Told::default(),
        }
    }

    /// Looks once. How long to wait until the next time; `None`: nobody is left to watch for.
    fn turn(&mut self, edge: &Weak<Edge>) -> Option<Duration> {
        let edge = edge.upgrade()?;
        let config = edge.config.load();
        let metrics = edge.recorder.metrics().pressure();
        let Some(settings) = &config.pressure else {
            self.rest(metrics);
            return Some(IDLE);
        };
        let began = clock::now();
        match self.counters.read() {
            Ok(counters) => {
                let reflected = edge.below.get().and_then(Below::reflected);
                self.look(counters, reflected, settings, metrics);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told.no_counters, true) {
                    tracing::warn!(%error, "the kernel's counters can't be read: floods are not seen");
                }
                self.rest(metrics);
                return Some(settings.every.max(IDLE));
            }
        }
        metrics.reading(clock::now().since(began).as_secs_f64());
        Some(settings.every)
    }

    fn look(
        &mut self,
        counters: Counters,
        reflected: Option<Reflected>,
        settings: &model::Pressure,
        metrics: &PressureMetrics,
    ) {
        let mut snapshot = Snapshot {
            at: clock::now(),
            counters,
            reflected,
            half_open: None,
        };
        let mut rates = Vec::new();
        if let Some(earlier) = self.monitor.earlier(snapshot.at).copied()
            && let Some(window) = Window::between(&earlier, &snapshot)
        {
            for (event, field) in EVENTS {
                rates.extend(window.rate(field).map(|rate| (event, rate)));
            }
            if window.is_suspicious() {
                snapshot.half_open = self.count(snapshot.at);
            }
        }
        for (event, rate) in &rates {
            metrics.rate(event, *rate);
        }
        let half_open = snapshot.half_open;
        metrics.half_open(half_open.map_or(0, |half_open| half_open.count));
        for transition in self.monitor.observe(snapshot, &settings.thresholds) {
            let state = transition.finding.state;
            log::transition(&transition);
            metrics.set(state, transition.raised);
            if transition.raised {
                metrics.count(state);
            }
        }
        let standings = self.monitor.standings();
        let view = View {
            standings: standings.map(|(state, how)| (state, how.clone())).collect(),
            rates,
            half_open,
            read: Some(snapshot.at),
        };
        self.pressure.set(self.monitor.raised(), view);
    }

    fn count(&mut self, now: Nanos) -> Option<HalfOpen> {
        if let Some((at, half_open)) = self.counted {
            let settled = half_open.count < LITTLE || self.monitor.raised().meets(KNOWN);
            if now.since(at) < if settled { SETTLED } else { COUNTED } {
                return Some(half_open);
            }
        }
        match self.half_open.read(&self.ports) {
            Ok(half_open) => {
                self.counted = Some((now, half_open));
                Some(half_open)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told.no_half_open, true) {
                    tracing::warn!(
                        %error,
                        "half-open connections can't be counted (inet_diag): slow SYN floods are not \
                         seen"
                    );
                }
                None
            }
        }
    }

    /// Nothing is known, so nothing is raised.
    fn rest(&mut self, metrics: &PressureMetrics) {
        if self.monitor.last().is_some() {
            self.monitor = Monitor::default();
            metrics.rest();
            self.pressure.set(States::NONE, View::default());
        }
    }
}

/// Nobody would lower what is raised.
impl Drop for Watcher {
    fn drop(&mut self) {
        self.pressure.set(States::NONE, View::default());
    }
}
