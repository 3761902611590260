//! Floods as they were measured, step by step, with time as an argument.

use super::{monitor::Transitions, *};
use proptest::prelude::*;

const EVERY: u64 = 250;

/// Counters that move by so much a second.
#[derive(Clone, Copy, Default)]
struct Rates {
    cookies_sent: u64,
    cookies_received: u64,
    listen_overflows: u64,
    listen_drops: u64,
    syn_drops: u64,
    syn_retransmits: u64,
    opens: u64,
    resets: u64,
    aborts: u64,
    no_ports: u64,
    lost: u64,
    half_open: Option<(u64, f64)>,
}

/// A host, a clock and a monitor.
struct Host {
    monitor: Monitor,
    thresholds: Thresholds,
    at: u64,
    counters: Counters,
    reflected: Option<Reflected>,
}

fn add(counter: &mut Option<u64>, rate: u64, milliseconds: u64) {
    if let Some(counter) = counter {
        *counter += rate * milliseconds / 1000;
    }
}

impl Host {
    fn new() -> Self {
        let zero = Some(1_000_000);
        Self {
            monitor: Monitor::default(),
            thresholds: Thresholds::default(),
            at: 0,
            reflected: None,
            counters: Counters {
                cookies_sent: zero,
                cookies_received: zero,
                listen_overflows: zero,
                listen_drops: zero,
                syn_drops: zero,
                syn_retransmits: zero,
                passive_opens: zero,
                active_opens: zero,
                resets_sent: zero,
                aborts: zero,
                udp_no_ports: zero,
                udp_overflows: zero,
            },
        }
    }

    /// One step of this length.
    fn step(&mut self, rates: Rates, milliseconds: u64) -> Transitions {
        let counters = &mut self.counters;
        for (counter, rate) in [
            (&mut counters.cookies_sent, rates.cookies_sent),
            (&mut counters.cookies_received, rates.cookies_received),
            (&mut counters.listen_overflows, rates.listen_overflows),
            (&mut counters.listen_drops, rates.listen_drops),
            (&mut counters.syn_drops, rates.syn_drops),
            (&mut counters.syn_retransmits, rates.syn_retransmits),
            (&mut counters.passive_opens, rates.opens),
            (&mut counters.resets_sent, rates.resets),
            (&mut counters.aborts, rates.aborts),
            (&mut counters.udp_no_ports, rates.no_ports),
            (&mut counters.udp_overflows, rates.lost),
        ] {
            add(counter, rate, milliseconds);
        }
        self.at += milliseconds;
        self.see(rates.half_open)
    }

    fn see(&mut self, half_open: Option<(u64, f64)>) -> Transitions {
        let snapshot = Snapshot {
            at: Nanos(self.at * 1_000_000),
            counters: self.counters,
            reflected: self.reflected,
            half_open: half_open.map(|(count, spread)| HalfOpen {
                count,
                unanswered: count / 4,
                at_least: false,
                spread,
            }),
        };
        self.monitor.observe(snapshot, &self.thresholds)
    }

    /// Steps for so many milliseconds; all that was raised and lowered, each with its moment.
    fn go_on(&mut self, rates: Rates, milliseconds: u64) -> Vec<(u64, Transition)> {
        let end = self.at + milliseconds;
        let mut all = Vec::new();
        while self.at < end {
            let transitions = self.step(rates, EVERY);
            all.extend(transitions.into_iter().map(|change| (self.at, change)));
        }
        all
    }
}

const IDLE: Rates = Rates {
    cookies_sent: 0,
    cookies_received: 0,
    listen_overflows: 0,
    listen_drops: 0,
    syn_drops: 0,
    syn_retransmits: 0,
    opens: 50,
    resets: 40,
    aborts: 40,
    no_ports: 1,
    lost: 0,
    half_open: None,
};

/// The floods as they were measured, and what each raises.
fn floods() -> Vec<(State, Rates)> {
    vec![
        (
            State::SynFlood,
            Rates {
                cookies_sent: 20_000,
                cookies_received: 40,
                half_open: Some((8192, 0.99)),
                ..IDLE
            },
        ),
        (
            State::SynFlood,
            Rates {
                listen_drops: 20_000,
                syn_drops: 20_000,
                ..IDLE
            },
        ),
        (
            State::SlowSynFlood,
            Rates {
                syn_retransmits: 747,
                half_open: Some((1216, 0.99)),
                ..IDLE
            },
        ),
        (
            State::AcceptStall,
            Rates {
                cookies_sent: 300,
                cookies_received: 290,
                listen_overflows: 400,
                listen_drops: 400,
                ..IDLE
            },
        ),
        (
            State::AckFlood,
            Rates {
                resets: 20_000,
                ..IDLE
            },
        ),
        (
            State::UdpAmplification,
            Rates {
                no_ports: 9_000,
                ..IDLE
            },
        ),
    ]
}

#[test]
fn each_flood_raises_its_state_within_two_seconds_and_no_other() {
    for (state, rates) in floods() {
        let mut host = Host::new();
        assert!(host.go_on(IDLE, 5_000).is_empty());
        let begun = host.at;
        let changes = host.go_on(rates, 20_000);
        let [(at, change)] = changes.as_slice() else {
            panic!("{state:?}: {changes:?}")
        };
        assert!(change.raised);
        assert_eq!(change.finding.state, state);
        assert!(at - begun <= 2_000, "{state:?} took {} ms", at - begun);
        assert!((0.0..=1.0).contains(&change.finding.confidence));
        assert_eq!(host.monitor.raised(), States::of(state));
        let quiet = u64::try_from(host.thresholds.quiet.as_millis()).unwrap();
        let ended = host.at;
        let changes = host.go_on(IDLE, quiet + 5_000);
        let [(at, change)] = changes.as_slice() else {
            panic!("{state:?}: {changes:?}")
        };
        assert!(!change.raised && *at - ended >= quiet);
        assert!(change.lasted >= Duration::from_secs(18));
        assert!(host.monitor.raised().is_empty());
    }
}

#[test]
fn a_blip_raises_nothing_at_any_pace() {
    for every in 100..=1_000 {
        for (state, rates) in floods() {
            let mut host = Host::new();
            while host.at < 3_000 {
                host.step(IDLE, every);
            }
            let mut changes = host.step(rates, every);
            while host.at < 8_000 {
                changes.extend(host.step(IDLE, every));
            }
            assert!(changes.is_empty(), "{state:?}, every {every} ms");
        }
    }
}

#[test]
fn a_crowd_is_no_flood() {
    let crowds = [
        // Cookies that come back, at any pace.
        Rates {
            cookies_sent: 5_000,
            cookies_received: 4_900,
            opens: 5_000,
            ..IDLE
        },
        // Connections that we refuse, and what their clients still send.
        Rates {
            opens: 8_000,
            resets: 20_000,
            aborts: 8_000,
            ..IDLE
        },
        // Many are half open, since many come.
        Rates {
            opens: 4_000,
            syn_retransmits: 60,
            half_open: Some((1_200, 0.9)),
            ..IDLE
        },
        // Whoever resolves names has some strays.
        Rates {
            no_ports: 900,
            lost: 90,
            ..IDLE
        },
    ];
    for rates in crowds {
        let mut host = Host::new();
        let changes = host.go_on(rates, 20_000);
        assert!(changes.is_empty(), "{changes:?}");
    }
}

#[test]
fn what_waits_half_open_for_us_is_not_held_against_the_clients() {
    let mut host = Host::new();
    let stalled = Rates {
        opens: 0,
        listen_overflows: 300,
        listen_drops: 300,
        half_open: Some((4_000, 0.9)),
        ..IDLE
    };
    let changes = host.go_on(stalled, 10_000);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(host.monitor.raised(), States::of(State::AcceptStall));
}

#[test]
fn a_stall_that_held_the_reader_as_well_is_seen_at_once_afterwards() {
    let mut host = Host::new();
    host.go_on(IDLE, 3_000);
    let stalled = Rates {
        listen_overflows: 100,
        listen_drops: 100,
        ..IDLE
    };
    let changes = host.step(stalled, 3_000);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].finding.state, State::AcceptStall);
}

#[test]
fn after_a_pause_too_long_to_judge_the_monitor_begins_anew() {
    let (state, rates) = floods().remove(0);
    let mut host = Host::new();
    host.go_on(IDLE, 3_000);
    assert!(host.step(rates, 60_000).is_empty());
    assert!(host.go_on(IDLE, 5_000).is_empty());
    // One that was raised before stays so until it was quiet for long enough since.
    host.go_on(rates, 3_000);
    assert_eq!(host.monitor.raised(), States::of(state));
    host.step(IDLE, 60_000);
    assert!(host.go_on(IDLE, 29_000).is_empty());
    assert_eq!(host.go_on(IDLE, 5_000).len(), 1);
}

#[test]
fn counters_that_begin_anew_raise_nothing() {
    let mut host = Host::new();
    host.go_on(IDLE, 3_000);
    host.counters = Host::new().counters;
    assert!(host.see(None).is_empty());
    host.counters.cookies_sent = Some(3);
    host.at += EVERY;
    assert!(host.see(None).is_empty());
    assert!(host.go_on(IDLE, 10_000).is_empty());
}

#[test]
fn counters_of_32_bits_wrap() {
    let mut host = Host::new();
    let near = u64::from(u32::MAX) - 12_000;
    host.counters.udp_no_ports = Some(near);
    host.see(None);
    let mut raised = 0;
    for second in 0..20_u64 {
        host.at += 1_000;
        host.counters.udp_no_ports = Some((near + 5_000 * second) & u64::from(u32::MAX));
        raised += host.see(None).len();
    }
    assert_eq!(raised, 1);
    assert_eq!(host.monitor.raised(), States::of(State::UdpAmplification));
}

#[test]
fn without_counters_nothing_is_found() {
    let mut host = Host::new();
    host.counters = Counters::default();
    for (_, rates) in floods() {
        let half_open = rates.half_open;
        assert!(host.go_on(Rates { half_open, ..rates }, 5_000).is_empty());
    }
}

#[test]
fn what_a_flood_left_half_open_is_no_further_flood() {
    let mut host = Host::new();
    let (_, rates) = floods().remove(0);
    let changes = host.go_on(rates, 5_000);
    assert_eq!(changes.len(), 1, "{changes:?}");
    let left = Rates {
        syn_retransmits: 900,
        half_open: Some((4_000, 0.99)),
        ..IDLE
    };
    assert!(host.go_on(left, 25_000).is_empty());
    // Nor later: nothing of it is new.
    let old = HalfOpen {
        count: 3_000,
        unanswered: 0,
        at_least: false,
        spread: 0.99,
    };
    let mut changes = Vec::new();
    for _ in 0..80 {
        host.at += EVERY;
        let snapshot = Snapshot {
            at: Nanos(host.at * 1_000_000),
            counters: host.counters,
            reflected: None,
            half_open: Some(old),
        };
        changes.extend(host.monitor.observe(snapshot, &host.thresholds));
    }
    assert!(changes.iter().all(|change| !change.raised), "{changes:?}");
}

#[test]
fn forged_sources_are_told_from_few_real_ones() {
    let (_, rates) = floods().remove(2);
    for (spread, forged) in [(0.99, true), (0.3, false)] {
        let mut host = Host::new();
        let half_open = Some((1216, spread));
        let changes = host.go_on(Rates { half_open, ..rates }, 3_000);
        assert_eq!(changes[0].1.finding.forged, forged);
    }
}

#[test]
fn what_the_filter_drops_goes_on_being_seen() {
    let small = Reflected {
        port: 53,
        packets: 9_000.0,
        size: 120.0,
    };
    let few = Reflected {
        packets: 400.0,
        size: 1_400.0,
        ..small
    };
    for seen in [small, few] {
        let mut host = Host::new();
        host.reflected = Some(seen);
        assert!(host.go_on(IDLE, 5_000).is_empty(), "{seen:?}");
    }
    let mut host = Host::new();
    host.reflected = Some(Reflected {
        size: 1_400.0,
        ..small
    });
    // No closed port is reached.
    let changes = host.go_on(IDLE, 60_000);
    let [(_, change)] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    assert!(change.raised && change.finding.state == State::UdpAmplification);
    assert!(change.finding.figures.contains(&("reflector_port", 53.0)));
    host.reflected = Some(small);
    let changes = host.go_on(IDLE, 31_000);
    assert!(changes.len() == 1 && !changes[0].1.raised, "{changes:?}");
}

#[test]
fn the_set_is_its_bits() {
    assert_eq!(State::ALL.into_iter().collect::<States>(), States::ALL);
    for state in State::ALL {
        let one = States::of(state);
        assert_eq!(States::from_bits(one.bits()), one);
        assert_eq!(one.iter().collect::<Vec<_>>(), [state]);
        assert_eq!(one.without(state), States::NONE);
        assert!(one.meets(States::ALL) && !one.meets(States::ALL.without(state)));
    }
    assert_eq!(States::from_bits(u8::MAX), States::ALL);
}

fn counter() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![
        Just(None),
        any::<u64>().prop_map(Some),
        (0_u64..100_000).prop_map(Some),
        Just(Some(u64::MAX)),
    ]
}

prop_compose! {
    fn snapshot()(
        at in prop_oneof![any::<u64>(), 0_u64..20_000_000_000],
        counters in proptest::collection::vec(counter(), 12),
        half_open in proptest::option::of((any::<u64>(), 0.0_f64..=1.0)),
        reflected in proptest::option::of((any::<u16>(), 0.0_f64..1e12, 0.0_f64..65_536.0)),
    ) -> Snapshot {
        Snapshot {
            at: Nanos(at),
            counters: Counters {
                cookies_sent: counters[0],
                cookies_received: counters[1],
                listen_overflows: counters[2],
                listen_drops: counters[3],
                syn_drops: counters[4],
                syn_retransmits: counters[5],
                passive_opens: counters[6],
                active_opens: counters[7],
                resets_sent: counters[8],
                aborts: counters[9],
                udp_no_ports: counters[10],
                udp_overflows: counters[11],
            },
            reflected: reflected.map(|(port, packets, size)| Reflected { port, packets, size }),
            half_open: half_open.map(|(count, spread)| HalfOpen { count, unanswered: count, at_least: false, spread }),
        }
    }
}

proptest! {
    /// Whatever a kernel says: no panic, figures that are numbers, and raised and lowered by turns.
    #[test]
    fn any_counters_are_survived(snapshots in proptest::collection::vec(snapshot(), 1..40)) {
        let mut monitor = Monitor::default();
        let mut raised = States::NONE;
        for snapshot in snapshots {
            for change in monitor.observe(snapshot, &Thresholds::default()) {
                let state = change.finding.state;
                prop_assert_eq!(raised.meets(States::of(state)), !change.raised);
                raised = if change.raised { raised.with(state) } else { raised.without(state) };
                prop_assert!((0.0..=1.0).contains(&change.finding.confidence));
                for (name, figure) in &change.finding.figures {
                    prop_assert!(figure.is_finite() && *figure >= 0.0, "{}: {}", name, figure);
                }
            }
            prop_assert_eq!(monitor.raised(), raised);
        }
    }

    /// At whatever pace it is read, a flood is raised within two seconds and one reading of its begin.
    #[test]
    fn a_steady_flood_is_raised_at_any_pace(every in 20_u64..=1_000, which in 0_usize..6) {
        let (state, rates) = floods().swap_remove(which);
        let mut host = Host::new();
        while host.at < 4_000 {
            prop_assert!(host.step(IDLE, every).is_empty());
        }
        let begun = host.at;
        while host.monitor.raised().is_empty() {
            host.step(rates, every);
            prop_assert!(host.at - begun <= 2_000 + every, "not within {} ms", host.at - begun);
        }
        prop_assert_eq!(host.monitor.raised(), States::of(state));
    }

    /// Below the thresholds nothing is ever raised.
    #[test]
    fn calm_raises_nothing(
        paces in proptest::collection::vec(30_u64..2_000, 10..60),
        opens in 0_u64..5_000,
        cookies in 0_u64..=99,
        overflows in 0_u64..=9,
        resets in 0_u64..=999,
    ) {
        let mut host = Host::new();
        let rates = Rates {
            opens,
            cookies_sent: cookies,
            listen_overflows: overflows,
            listen_drops: overflows + cookies,
            resets,
            aborts: 0,
            ..IDLE
        };
        for pace in paces {
            prop_assert!(host.step(rates, pace).is_empty());
        }
    }
}
