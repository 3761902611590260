//! Keys from a URL: fetched, rotated, missing, broken.

use super::*;
use crate::identify::{jwks_fetch, jwt::TokenVerifier};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A tiny issuer on loopback, that answers what it is told to.
struct Server {
    url: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(ok(body)));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shared, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = shared.lock().clone();
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                            return;
                        }
                        head.push(byte[0]);
                    }
                    let _ = stream.write_all(answer.as_bytes()).await;
                    count.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { url, answer, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until it has been asked `times` more.
    async fn wait(&self, times: usize) {
        let goal = self.asked() + times;
        until(|| self.asked() >= goal).await;
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Polls a condition; gives up after half a minute.
async fn until(mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(30), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("it never happened");
}

fn remote(url: &str, refresh: Duration, previous: Option<&Identifier>) -> Arc<Identifier> {
    let keys = JwksSource::Url {
        url: url.to_owned(),
        refresh,
    };
    let spec = Identity {
        api_keys: None,
        jwt: Some(jwt(&[Algorithm::RS256, Algorithm::HS256], keys)),
    };
    let identifier = Arc::new(Identifier::build(&spec, previous));
    identifier.tokens.as_ref().unwrap().hurry();
    identifier
}

fn start(identifier: &Arc<Identifier>) {
    identifier.spawn_tasks(&tokio::runtime::Handle::current());
}

const HOUR: Duration = Duration::from_secs(3600);

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

#[tokio::test]
async fn an_unknown_key_causes_a_refetch() {
    let (old, new) = (&*ISSUER_KEYS, Issuer::new());
    let server = Server::start(&set(&[old.rsa_jwk("old")])).await;
    let identifier = remote(&server.url, HOUR, None);
    let old_token = old.token(&json!({ "alg": "RS256", "kid": "old" }), &claims());
    let new_token = new.token(&json!({ "alg": "RS256", "kid": "new" }), &claims());
    assert_eq!(
        user(&identifier, &old_token),
        Err(CredentialError::KeysUnavailable)
    );

    start(&identifier);
    until(|| user(&identifier, &old_token) == ada()).await;

    // The issuer rotates: the request that notices is anonymous, a later one is not.
    *server.answer.lock() = ok(&set(&[new.rsa_jwk("new")]));
    assert_eq!(
        user(&identifier, &new_token),
        Err(CredentialError::UnknownKey)
    );
    until(|| user(&identifier, &new_token) == ada()).await;
    // The old key is gone, and what was cached under it too.
    assert_eq!(
        user(&identifier, &old_token),
        Err(CredentialError::UnknownKey)
    );
}

#[tokio::test]
async fn keys_are_refreshed_without_being_asked() {
    let new = Issuer::new();
    let server = Server::start(&set(&[ISSUER_KEYS.rsa_jwk("one")])).await;
    let identifier = remote(&server.url, Duration::from_secs(1), None);
    start(&identifier);
    server.wait(1).await;
    *server.answer.lock() = ok(&set(&[new.rsa_jwk("two")]));
    let token = new.token(&json!({ "alg": "RS256" }), &claims());
    until(|| user(&identifier, &token) == ada()).await;
}

#[tokio::test]
async fn the_last_good_keys_stay() {
    let server = Server::start(&set(&[ISSUER_KEYS.rsa_jwk("one")])).await;
    let identifier = remote(&server.url, HOUR, None);
    start(&identifier);
    let token = ISSUER_KEYS.token(&json!({ "alg": "RS256", "kid": "one" }), &claims());
    let unknown = ISSUER_KEYS.token(&json!({ "alg": "RS256", "kid": "two" }), &claims());
    until(|| user(&identifier, &token) == ada()).await;
    let big = set(&[json!({ "kty": "RSA", "n": "A".repeat(300 * 1024), "e": "AQAB" })]);
    for bad in [
        "HTTP/1.1 500 Oops\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 302 Found\r\nlocation: /x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            .to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        ok("not json"),
        ok("{}"),
        ok(&set(&[])),
        ok(&set(&[json!({ "kty": "AKP" }), json!(7)])),
        ok(&big),
        ok(&set(&[json!({ "kty": "oct", "k": B64.encode([7; 32]) })])),
    ] {
        *server.answer.lock() = bad.clone();
        let asked = server.asked();
        // Twice: what is answered by then was asked for after the change.
        until(|| {
            let _ = user(&identifier, &unknown);
            server.asked() >= asked + 2
        })
        .await;
        assert_eq!(user(&identifier, &token), ada(), "after {bad:.60}");
    }
}

#[tokio::test]
async fn a_secret_from_a_url_is_no_key() {
    let keys = set(&[
        ISSUER_KEYS.rsa_jwk("rsa"),
        json!({ "kty": "oct", "kid": "secret", "k": B64.encode(ISSUER_KEYS.secret) }),
    ]);
    let server = Server::start(&keys).await;
    let identifier = remote(&server.url, HOUR, None);
    start(&identifier);
    let rsa = ISSUER_KEYS.token(&json!({ "alg": "RS256", "kid": "rsa" }), &claims());
    until(|| user(&identifier, &rsa) == ada()).await;
    let secret = ISSUER_KEYS.token(&json!({ "alg": "HS256", "kid": "secret" }), &claims());
    assert_eq!(user(&identifier, &secret), Err(CredentialError::UnknownKey));
}

#[tokio::test]
async fn a_reload_keeps_the_keys_of_the_same_url() {
    let server = Server::start(&set(&[ISSUER_KEYS.rsa_jwk("one")])).await;
    let first = remote(&server.url, HOUR, None);
    start(&first);
    let token = ISSUER_KEYS.token(&json!({ "alg": "RS256", "kid": "one" }), &claims());
    until(|| user(&first, &token) == ada()).await;
    assert_eq!(
        user(&remote(&server.url, HOUR, Some(&first)), &token),
        ada()
    );
    assert_eq!(
        user(
            &remote("http://127.0.0.1:1/jwks", HOUR, Some(&first)),
            &token
        ),
        Err(CredentialError::KeysUnavailable)
    );
}

#[tokio::test]
async fn the_task_ends_when_its_generation_retires_or_is_dropped() {
    for retire in [true, false] {
        let server = Server::start(&set(&[ISSUER_KEYS.rsa_jwk("one")])).await;
        let identifier = remote(&server.url, HOUR, None);
        start(&identifier);
        let token = ISSUER_KEYS.token(&json!({ "alg": "RS256", "kid": "one" }), &claims());
        until(|| user(&identifier, &token) == ada()).await;
        let tasks = || {
            let runtime = tokio::runtime::Handle::current();
            runtime.metrics().num_alive_tasks()
        };
        let before = tasks();
        if retire {
            identifier.retire();
            until(|| tasks() < before).await;
            // Requests that still go by it keep its keys.
            assert_eq!(user(&identifier, &token), ada());
        } else {
            drop(identifier);
            until(|| tasks() < before).await;
        }
    }
}

#[tokio::test]
async fn plain_http_is_for_this_machine_only() {
    for url in ["http://id.example.com/jwks", "not a url", "data:,x"] {
        assert!(jwks_fetch::check(url).await.is_err(), "{url}");
    }
}

#[test]
fn unknown_keys_without_a_task_are_harmless() {
    let identifier = remote("http://127.0.0.1:1/jwks", HOUR, None);
    let token = ISSUER_KEYS.token(&json!({ "alg": "RS256", "kid": "one" }), &claims());
    for _ in 0..10 {
        assert!(user(&identifier, &token).is_err());
    }
    assert!(
        TokenVerifier::build(&jwt(&[], file(json!({ "keys": [] }))), None)
            .identify(&bearer(&token), NOW)
            .is_err()
    );
}
