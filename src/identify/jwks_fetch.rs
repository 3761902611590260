//! Keeps a key set fresh in the background: fetched at the start, every so often, and soon after a
//! token named a key that is not in it. The last good set stays while the issuer fails.

use super::{
    jwks::{self, KeySet},
    jwt::Keyring,
};
use arc_swap::ArcSwap;
use jsonwebtoken::jwk::Jwk;
use reqwest::{Client, Url, redirect::Policy};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};

/// A bigger key set is refused.
const MAX_BYTES: usize = 256 * 1024;

/// Unknown keys, which anybody can name, cause no more than one fetch in this time.
const CALM: Duration = Duration::from_secs(30);

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);
const TOTAL: Duration = Duration::from_secs(10);

/// What is fetched, when, and on whose wish.
#[derive(Debug)]
pub struct Fetch {
    url: String,
    refresh: Duration,
    calm: Duration,
    first_retry: Duration,
    wishes: mpsc::Receiver<()>,
}

impl Fetch {
    /// `refresh` is the time from one fetch to the next; `wishes` asks for one sooner, and its end
    /// ends the fetching.
    #[must_use]
    pub fn new(url: String, refresh: Duration, wishes: mpsc::Receiver<()>) -> Self {
        Self {
            url,
            refresh: refresh.max(FIRST_RETRY),
            calm: CALM,
            first_retry: FIRST_RETRY,
            wishes,
        }
    }

    #[cfg(test)]
    pub fn hurry(&mut self) {
        self.calm = Duration::from_millis(10);
        self.first_retry = Duration::from_millis(10);
    }
}

/// Fetches until nobody wants the keys any more.
pub async fn run(mut fetch: Fetch, keyring: Weak<ArcSwap<Keyring>>) {
    let client = match client(&fetch.url) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(url = fetch.url, error, "the JWKS can't be fetched");
            return;
        }
    };
    let mut retry = fetch.first_retry;
    loop {
        let pause = match get(&client, &fetch.url).await {
            Ok(keys) => {
                let Some(keyring) = keyring.upgrade() else {
                    return;
                };
                install(&keyring, keys, &fetch.url);
                retry = fetch.first_retry;
                fetch.refresh
            }
            Err(error) => {
                tracing::warn!(
                    url = fetch.url,
                    error,
                    retry_in = retry.as_secs_f32(),
                    "the JWKS could not be fetched; the last good one stays"
                );
                let pause = retry;
                retry = retry.saturating_mul(2).min(LAST_RETRY);
                pause
            }
        };
        if !fetch.rest(pause).await {
            return;
        }
    }
}

impl Fetch {
    /// Waits until the next fetch is due, or wished for and not too soon; false when nobody is left
    /// to wish.
    async fn rest(&mut self, pause: Duration) -> bool {
        let start = Instant::now();
        let soonest = start + self.calm.min(pause);
        // A wish from before the fetch has been granted by it.
        let _ = self.wishes.try_recv();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            wish = self.wishes.recv() => match wish {
                Some(()) => tokio::time::sleep_until(soonest).await,
                None => return false,
            }
        }
        !self.wishes.is_closed()
    }
}

fn install(keyring: &ArcSwap<Keyring>, keys: Vec<Jwk>, url: &str) {
    if keyring.load().keys.is_of(&keys) {
        return;
    }
    let keys = KeySet::new(keys);
    tracing::info!(url, keys = keys.len(), "the JWKS has changed");
    keyring.store(Arc::new(Keyring::new(Arc::new(keys))));
}

/// HTTPS, verified against the system's certificates; plain HTTP from this very machine only.
fn client(url: &str) -> Result<Client, String> {
    let url = Url::parse(url).map_err(|e| e.to_string())?;
    let local = match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => return Err("the URL has no host".to_owned()),
    };
    // The process's default; somebody else may have set it already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .https_only(!local)
        .redirect(Policy::none())
        .connect_timeout(CONNECT)
        .timeout(TOTAL)
        .user_agent(concat!("rempart/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| describe(&e))
}

/// One fetch, thrown away.
#[cfg(test)]
pub async fn check(url: &str) -> Result<(), String> {
    get(&client(url)?, url).await.map(drop)
}

async fn get(client: &Client, url: &str) -> Result<Vec<Jwk>, String> {
    let mut response = client.get(url).send().await.map_err(|e| describe(&e))?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("status {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| describe(&e))? {
        if body.len().saturating_add(chunk.len()) > MAX_BYTES {
            return Err(format!("more than {MAX_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    jwks::parse_public(&body)
}

/// An error with its causes, which reqwest leaves out of its text.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
