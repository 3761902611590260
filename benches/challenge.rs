//! What a challenge costs this side, and a proof of work the other: `cargo bench --bench challenge`.
//! Targets: issuing and verifying under 20 us each.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // As in a test.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::{
    HeaderMap, HeaderValue, Method,
    header::{ACCEPT_LANGUAGE, CONTENT_TYPE, USER_AGENT},
};
use rempart::{
    challenge::{
        ANSWER_PATH, Challenges, Outcome, Visit,
        answer::Answer,
        risk::{Risks, Visitor},
    },
    config::model,
};
use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    task::{Context, Poll, Waker},
};
use verdict::{
    Nanos,
    decision::{Reason, Rung},
    prefix::{Prefix, PrefixLengths},
    proof_of_work::{self, PUZZLES},
    seal::Keyring,
    ticket::Ticket,
};

const SECRET: &[u8] = b"a secret of the bench, long enough";

fn challenges() -> Challenges {
    challenges_of(model::Challenge::default().proof_of_work.effort)
}

fn challenges_of(effort: u32) -> Challenges {
    let usual = model::Challenge::default();
    let spec = model::Challenge {
        secrets: vec![model::Secret::new(SECRET)],
        proof_of_work: model::ProofOfWork {
            effort,
            ..usual.proof_of_work
        },
        ..usual
    };
    Challenges::build(&spec, None).unwrap()
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("fr,en;q=0.5"));
    headers.insert(USER_AGENT, HeaderValue::from_static("Mozilla/5.0"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

fn visit(headers: &HeaderMap) -> Visit<'_> {
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    Visit {
        client: Prefix::of(address, PrefixLengths::CLIENT),
        network: Prefix::of(address, PrefixLengths::NETWORK),
        ja4: "",
        method: &Method::GET,
        headers,
        host: "app.example.com",
        target: "/orders?page=2",
        replay: "",
        secure: true,
        html: true,
        request_id: "0190a8c4-7d3e-7000-8000-000000000001",
        now: 1_700_000_000_000,
        effort: 1,
    }
}

/// What waits for nobody is there at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

fn issue(criterion: &mut Criterion) {
    let (challenges, headers) = (challenges(), headers());
    let page = visit(&headers);
    criterion.bench_function("issue/page", |bench| {
        bench.iter(|| challenges.page(Rung::ProofOfWork, black_box(&page)));
    });
    let data = Visit {
        html: false,
        ..page
    };
    criterion.bench_function("issue/data", |bench| {
        bench.iter(|| challenges.page(Rung::ProofOfWork, black_box(&data)));
    });
}

fn verify(criterion: &mut Criterion) {
    let (challenges, headers) = (challenges(), headers());
    let data = Visit {
        html: false,
        ..visit(&headers)
    };
    let reply = challenges.page(Rung::ProofOfWork, &data);
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    let token = body["challenge"]["token"].as_str().unwrap();
    let opened = Ticket::open(token.as_bytes(), &Keyring::new(SECRET, [])).unwrap();
    let effort: [u8; 4] = opened.ticket.detail.as_slice().try_into().unwrap();
    let effort = u32::from_be_bytes(effort);
    let nonces = proof_of_work::solve(&opened.seed, effort);
    criterion.bench_function("verify/hashes", |bench| {
        bench.iter(|| assert!(proof_of_work::is_solved(&opened.seed, effort, &nonces)));
    });
    // All of it: the answer read, the ticket opened, the hashes, the ticket spent, the clearance sealed. Each
    // ticket is answered once, so they are of as little work as there is: what counts them is the same.
    let easy = challenges_of(PUZZLES);
    let method = Method::POST;
    let answers = Visit {
        target: ANSWER_PATH,
        ..data
    };
    let solved = || {
        let reply = easy.page(Rung::ProofOfWork, &data);
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        let token = body["challenge"]["token"].as_str().unwrap();
        let opened = Ticket::open(token.as_bytes(), &Keyring::new(SECRET, [])).unwrap();
        let nonces = proof_of_work::solve(&opened.seed, PUZZLES);
        serde_json::json!({ "token": token, "nonces": nonces }).to_string()
    };
    let outcome = |body: &str| {
        let answer = Answer::new(&method, &headers, body.as_bytes());
        now(easy.answer(&answers, &answer)).1.unwrap().outcome
    };
    criterion.bench_function("verify/answer", |bench| {
        bench.iter_batched(
            solved,
            |body| assert_eq!(outcome(&body), Outcome::Solved),
            BatchSize::SmallInput,
        );
    });
    let again = solved();
    assert_eq!(outcome(&again), Outcome::Solved);
    criterion.bench_function("verify/replayed", |bench| {
        bench.iter(|| assert_eq!(outcome(&again), Outcome::Replayed));
    });
}

fn assess(criterion: &mut Criterion) {
    let risks = Risks::build(&model::Challenge::default(), None);
    let headers = headers();
    let visit = visit(&headers);
    let visitor = Visitor {
        client: visit.client,
        network: visit.network,
        headers: &headers,
        html: true,
        cleared: false,
        behaved: false,
        now: Nanos(1_000_000_000),
    };
    criterion.bench_function("risk/assess", |bench| {
        bench.iter(|| risks.assess(black_box(&visitor), Reason::Matched));
    });
    criterion.bench_function("risk/issued", |bench| {
        bench.iter(|| risks.issued(black_box(visit.client), visit.network, true, visitor.now));
    });
}

/// An attacker's solver: one core, with the processor's own SHA instructions where it has them.
fn solve(criterion: &mut Criterion) {
    const EFFORT: u32 = 50_000;
    let seed = [7; 32];
    let hashes = |nonces: Vec<u32>| nonces.iter().map(|nonce| u64::from(*nonce) + 1).sum();
    let mut group = criterion.benchmark_group("solve");
    group.throughput(Throughput::Elements(hashes(proof_of_work::solve(
        &seed, EFFORT,
    ))));
    group.sample_size(20);
    group.bench_function("native", |bench| {
        bench.iter(|| proof_of_work::solve(black_box(&seed), EFFORT));
    });
    group.finish();
}

criterion_group!(benches, issue, verify, assess, solve);
criterion_main!(benches);
