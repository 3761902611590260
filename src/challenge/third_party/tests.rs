//! The third party's rung, with a provider of the tests.

use super::{verifier::Verdict, *};
use crate::{
    challenge::{
        Challenges,
        tests::{SECRET, form_headers, network, spec as challenge_spec, visit},
    },
    config::model::Secret,
};
use http::Method;
use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Answers each question as it was told to last; `None`: never.
struct Provided {
    address: SocketAddr,
    answer: Arc<Mutex<Option<String>>>,
    bodies: Arc<Mutex<Vec<String>>>,
    /// Connections closed without an answer, to begin with.
    drops: Arc<AtomicUsize>,
}

const PASSED: &str = r#"{"success":true}"#;
const REFUSED: &str = r#"{"success":false,"error-codes":["invalid-input-response"]}"#;

#[allow(clippy::unnecessary_wraps)] // As what it is told to answer is optional.
fn http(status: u16, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    ))
}

impl Provided {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provided = Self {
            address: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(http(200, PASSED))),
            bodies: Arc::default(),
            drops: Arc::default(),
        };
        let (answer, bodies) = (Arc::clone(&provided.answer), Arc::clone(&provided.bodies));
        let drops = Arc::clone(&provided.drops);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, bodies) = (Arc::clone(&answer), Arc::clone(&bodies));
                let drops = Arc::clone(&drops);
                tokio::spawn(async move {
                    let heard = crate::forward::testing::read_request(&mut stream).await;
                    let Some(heard) = heard else { return };
                    assert!(heard.head.starts_with("POST /verify HTTP/1.1"));
                    assert_eq!(
                        heard.header("content-type"),
                        Some("application/x-www-form-urlencoded")
                    );
                    bodies.lock().push(String::from_utf8(heard.body).unwrap());
                    let left = drops.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
                    if left.is_ok() {
                        return;
                    }
                    let said = answer.lock().clone();
                    match said {
                        Some(said) => {
                            let _ = stream.write_all(said.as_bytes()).await;
                        }
                        None => {
                            let _ = stream.read(&mut [0]).await;
                        }
                    }
                });
            }
        });
        provided
    }

    fn says(&self, answer: Option<String>) {
        *self.answer.lock() = answer;
    }

    fn spec(&self, provider: Provider) -> model::ThirdParty {
        model::ThirdParty {
            provider,
            site_key: "key".into(),
            secret: Secret::new(b"secret-of-the-tests"),
            verify_url: Some(format!("http://{}/verify", self.address)),
            script_url: None,
            minimum_score: 0.5,
            timeout: Duration::from_secs(1),
        }
    }
}

struct Asking {
    verifier: Arc<Verifier>,
    results: Arc<Mutex<Vec<&'static str>>>,
}

impl Asking {
    fn new(spec: &model::ThirdParty) -> Self {
        let results: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let told = Arc::clone(&results);
        let count: Count = Arc::new(move |result| told.lock().push(result));
        let breaker = Breaker::new(Duration::from_millis(20));
        let verifier = Verifier::new(spec, breaker, &Handle::current(), count).unwrap();
        Self {
            verifier: Arc::new(verifier),
            results,
        }
    }

    async fn ask(&self) -> Verdict {
        let expected = Expected {
            host: "app.example.com".into(),
            now: 0,
        };
        self.verifier.verify("token".into(), expected).await
    }

    fn last(&self) -> &'static str {
        self.results.lock().last().copied().unwrap_or_default()
    }
}

#[tokio::test]
async fn answers_of_all_kinds_are_told_apart() {
    let provided = Provided::start().await;
    let asking = Asking::new(&provided.spec(Provider::Hcaptcha));
    let huge = format!(r#"{{"success":true,"x":"{}"}}"#, "a".repeat(40_000));
    let bad_secret = r#"{"success":false,"error-codes":["invalid-input-secret"]}"#;
    let redirect = "HTTP/1.1 307 X\r\nlocation: /verify\r\ncontent-length: 0\r\n\r\n";
    for (answer, verdict, result) in [
        (http(200, PASSED), Verdict::Passed, "ok"),
        (http(200, REFUSED), Verdict::Refused, "refused"),
        (http(400, REFUSED), Verdict::Refused, "refused"),
        (http(200, bad_secret), Verdict::Unknown, "misconfigured"),
        (http(200, PASSED), Verdict::Passed, "ok"),
        (http(503, PASSED), Verdict::Unknown, "error"),
        (http(200, "<html>"), Verdict::Unknown, "error"),
        (http(200, PASSED), Verdict::Passed, "ok"),
        (http(200, &huge), Verdict::Unknown, "error"),
        (Some(redirect.to_owned()), Verdict::Unknown, "error"),
        (
            Some("nonsense\r\n\r\n".to_owned()),
            Verdict::Unknown,
            "error",
        ),
        (http(200, PASSED), Verdict::Passed, "ok"),
        (None, Verdict::Unknown, "timeout"),
    ] {
        let shown = format!("{answer:?}");
        provided.says(answer);
        assert_eq!(asking.ask().await, verdict, "{shown:.80}");
        assert_eq!(asking.last(), result, "{shown:.80}");
    }
    for body in provided.bodies.lock().iter() {
        assert_eq!(
            body,
            "secret=secret%2Dof%2Dthe%2Dtests&response=token&sitekey=key"
        );
    }
}

#[tokio::test]
async fn only_what_is_idempotent_is_asked_twice_and_under_the_same_key() {
    let provided = Provided::start().await;
    provided.drops.store(1, Relaxed);
    let asking = Asking::new(&provided.spec(Provider::Turnstile));
    assert_eq!(asking.ask().await, Verdict::Passed);
    {
        let bodies = provided.bodies.lock();
        assert_eq!(bodies.len(), 2);
        assert_eq!(bodies[0], bodies[1]);
        assert!(bodies[0].contains("&idempotency_key="));
    }
    assert_eq!(asking.ask().await, Verdict::Passed);
    let bodies = provided.bodies.lock().clone();
    assert_ne!(bodies[2], bodies[0]);

    provided.drops.store(1, Relaxed);
    let asking = Asking::new(&provided.spec(Provider::Recaptcha));
    assert_eq!(asking.ask().await, Verdict::Unknown);
    assert_eq!(provided.bodies.lock().len(), 4, "a token counts once");
}

#[tokio::test]
async fn a_failing_provider_is_left_alone_and_found_again() {
    let provided = Provided::start().await;
    let asking = Asking::new(&provided.spec(Provider::Turnstile));
    provided.says(http(500, ""));
    for _ in 0..5 {
        assert!(asking.verifier.is_available());
        assert_eq!(asking.ask().await, Verdict::Unknown);
        assert_eq!(asking.last(), "error");
    }
    assert!(!asking.verifier.is_available());
    let asked = provided.bodies.lock().len();
    assert_eq!(asking.ask().await, Verdict::Unknown);
    assert_eq!(asking.last(), "open");
    provided.says(http(200, REFUSED));
    let waiting = async {
        // Asking whether it is there is what sends the probe.
        while !asking.verifier.is_available() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(limit.is_ok(), "not found again");
    let bodies = provided.bodies.lock().split_off(asked);
    assert!(
        bodies
            .iter()
            .all(|body| body.contains("response=rempart%2Dprobe"))
    );
}

#[tokio::test]
async fn so_many_are_under_way_at_once_and_no_more() {
    let provided = Provided::start().await;
    provided.says(None);
    let mut spec = provided.spec(Provider::Turnstile);
    spec.timeout = Duration::from_secs(30);
    let asking = Arc::new(Asking::new(&spec));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let asking = Arc::clone(&asking);
            tokio::spawn(async move { asking.ask().await })
        })
        .collect();
    let waiting = async {
        while provided.bodies.lock().len() < 64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(limit.is_ok(), "{}", provided.bodies.lock().len());
    assert_eq!(asking.ask().await, Verdict::Unknown);
    assert_eq!(asking.last(), "busy");
    assert!(asking.verifier.is_available(), "busy is no failure");
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}

#[test]
fn the_page_may_load_its_provider_and_nobody_else() {
    let spec = |provider, script_url: Option<&str>| model::ThirdParty {
        provider,
        site_key: "key".into(),
        secret: Secret::new(b"secret-of-the-tests"),
        verify_url: None,
        script_url: script_url.map(str::to_owned),
        minimum_score: 0.5,
        timeout: Duration::from_secs(1),
    };
    let policy = sources(&spec(Provider::Turnstile, None));
    assert_eq!(
        policy,
        "script-src https://challenges.cloudflare.com; frame-src https://challenges.cloudflare.com; "
    );
    let mirror = Some("https://www.recaptcha.net/recaptcha/api.js");
    let policy = sources(&spec(Provider::Recaptcha, mirror));
    assert!(
        policy.contains("script-src https://www.recaptcha.net;"),
        "{policy}"
    );
    assert!(!policy.contains("cloudflare") && !policy.contains("hcaptcha"));
}

#[tokio::test]
async fn a_secret_goes_nowhere_in_the_clear() {
    let provided = Provided::start().await;
    let mut spec = provided.spec(Provider::Turnstile);
    spec.verify_url = Some("http://192.0.2.1/verify".into());
    let count: Count = Arc::new(|_| {});
    let error = Verifier::new(&spec, Breaker::default(), &Handle::current(), count).unwrap_err();
    assert!(error.contains("https"), "{error}");
    assert!(!format!("{spec:?}").contains("secret-of-the-tests"));
}

/// The whole rung, asking a provider that answers `said`.
async fn rung(said: Option<String>) -> (Provided, Arc<Challenges>) {
    let provided = Provided::start().await;
    provided.says(said);
    let mut spec = challenge_spec(Some(SECRET));
    spec.third_party = Some(provided.spec(Provider::Turnstile));
    let count: Count = Arc::new(|_| {});
    let third_party = ThirdParty::build(&spec, None, &Handle::current(), &count).unwrap();
    let challenges = Challenges::build(&spec, None).unwrap();
    (provided, Arc::new(challenges.with_third_party(third_party)))
}

fn ticket(challenges: &Challenges, visit: &Visit<'_>) -> String {
    let reply = challenges.page(Rung::ThirdParty, visit);
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["challenge"]["kind"], "third_party");
    body["challenge"]["token"].as_str().unwrap().to_owned()
}

async fn answer(challenges: &Challenges, visit: &Visit<'_>, ticket: &str) -> Outcome {
    let headers = form_headers();
    let body = format!("token={ticket}&cf-turnstile-response=token");
    let visit = Visit {
        target: ANSWER_PATH,
        headers: &headers,
        ..*visit
    };
    let answer = Answer::new(&Method::POST, &headers, body.as_bytes());
    challenges.answer(&visit, &answer).await.1.unwrap().outcome
}

/// All are begun before any has ended.
async fn at_once(challenges: &Arc<Challenges>, tickets: &[String]) -> Vec<Outcome> {
    let tasks: Vec<_> = tickets
        .iter()
        .map(|ticket| {
            let (challenges, ticket) = (Arc::clone(challenges), ticket.clone());
            tokio::spawn(async move { answer(&challenges, &visit(), &ticket).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}

#[tokio::test]
async fn of_many_answers_at_once_one_is_taken_to_the_provider() {
    for (said, outcome) in [
        (PASSED, Outcome::Solved),
        (REFUSED, Outcome::Failed),
        ("", Outcome::ProviderFailed),
    ] {
        let (provided, challenges) = rung(http(200, said)).await;
        let ticket = ticket(&challenges, &visit());
        let outcomes = at_once(&challenges, &vec![ticket.clone(); 50]).await;
        let of = |wanted| outcomes.iter().filter(|got| **got == wanted).count();
        assert_eq!((of(outcome), of(Outcome::Replayed)), (1, 49), "{said}");
        // One who babbles is asked again, once, where it knows the question.
        let questions = if said.is_empty() { 2 } else { 1 };
        assert_eq!(provided.bodies.lock().len(), questions, "{said}");
        assert_eq!(
            answer(&challenges, &visit(), &ticket).await,
            Outcome::Replayed
        );
    }
}

#[tokio::test]
async fn who_is_refused_too_often_makes_us_ask_no_more() {
    let (provided, challenges) = rung(http(200, REFUSED)).await;
    let tickets: Vec<_> = (0..40).map(|_| ticket(&challenges, &visit())).collect();
    let visitor = visit();
    let outcomes = at_once(&challenges, &tickets).await;
    let of = |wanted| outcomes.iter().filter(|got| **got == wanted).count();
    assert_eq!((of(Outcome::Failed), of(Outcome::TooMany)), (10, 30));
    assert_eq!(provided.bodies.lock().len(), 10);
    // It is shown our own captcha from now on; its neighbour isn't.
    let reply = challenges.page(Rung::ThirdParty, &visitor);
    assert!(String::from_utf8_lossy(&reply.body).contains(r#""kind":"captcha""#));
    let neighbour = Visit {
        client: network("192.0.2.8"),
        ..visit()
    };
    let other = ticket(&challenges, &neighbour);
    assert_eq!(
        answer(&challenges, &neighbour, &other).await,
        Outcome::Failed
    );
    // An hour later it may try again, and no question that was answered well counts.
    provided.says(http(200, PASSED));
    for n in 1..=30 {
        let later = Visit {
            now: visitor.now + 3_600_000 + n,
            ..visitor
        };
        let ticket = ticket(&challenges, &later);
        assert_eq!(answer(&challenges, &later, &ticket).await, Outcome::Solved);
    }
}
