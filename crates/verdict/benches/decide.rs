//! What a decision costs: `cargo bench -p verdict --bench decide`.

use criterion::{Criterion, criterion_group, criterion_main};
use std::{hint::black_box, net::IpAddr};
use verdict::{
    Nanos,
    decision::Action,
    facts::Facts,
    policy::{Policy, PolicySpec},
};

#[path = "decide/site.rs"]
mod site;

/// Clients that take turns.
const CLIENTS: u32 = 1_000;

fn decide(criterion: &mut Criterion) {
    let roles = ["customer".to_owned(), "beta".to_owned()];
    let clients: Vec<Facts<'_>> = (0..CLIENTS)
        .map(|number| site::facts(IpAddr::V4((0xc633_0000 + number).into()), "ada", &roles))
        .collect();
    let all = || site::spec(1_000_000);
    let parts: [(&str, PolicySpec); 4] = [
        ("1000 networks, 10 limits, 20 rules", all()),
        (
            "1000 networks",
            PolicySpec {
                rules: vec![],
                limits: vec![],
                ..all()
            },
        ),
        (
            "10 limits",
            PolicySpec {
                rules: vec![],
                lists: vec![],
                ..all()
            },
        ),
        (
            "20 rules",
            PolicySpec {
                limits: vec![],
                lists: all()
                    .lists
                    .into_iter()
                    .map(|mut list| {
                        list.then = None;
                        list
                    })
                    .collect(),
                ..all()
            },
        ),
    ];
    for (name, spec) in parts {
        let policy = Policy::build(spec, None);
        let mut now = Nanos(1_000_000_000);
        let mut turn = clients.iter().cycle();
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                now.0 += 10_000;
                let Some(facts) = turn.next() else { return };
                let decision = policy.decide(black_box(facts), now);
                assert_eq!(decision.action, Action::Allow);
            });
        });
    }
}

criterion_group!(benches, decide);
criterion_main!(benches);
