//! Asks the provider, away from the workers: the question goes out on the control runtime, a worker
//! waits for its end without holding up anything else, and for a bounded time. A provider that fails
//! is left alone for a while ([`super::breaker`]).

use super::{
    breaker::{Breaker, Change},
    siteverify::{self, Expected, Said},
};
use crate::{clock, config::model::ThirdParty, listener::log_limit::LogLimit};
use parking_lot::Mutex;
use reqwest::{Client, Url, header::CONTENT_TYPE, redirect::Policy};
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};

/// Questions under way at once; over it, visitors take the captcha.
const IN_FLIGHT: usize = 64;
/// A longer answer is none.
const MAX_BYTES: usize = 16 * 1024;
/// A worker waits so much longer than the question may take, for its result to come over.
const SLACK: Duration = Duration::from_millis(500);
/// What no provider takes for a token: the answer shows whether it works, and whether the keys do.
const PROBE: &str = "rempart-probe";

/// Counts a result, under its name.
pub type Count = Arc<dyn Fn(&'static str) + Send + Sync>;

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Refused,
    /// Nobody knows: the provider failed, or is not asked just now.
    Unknown,
}

/// Asks one provider; shared by all workers, and by the generations that ask the same one.
pub struct Verifier {
    spec: ThirdParty,
    client: Client,
    url: String,
    control: Handle,
    flights: Arc<Semaphore>,
    breaker: Mutex<Breaker>,
    log: LogLimit,
    /// The operator's own mistakes: not to be left out for the provider's.
    mistakes: LogLimit,
    count: Count,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("url", &self.url)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// # Errors
    /// A sentence, when there is no such URL or no TLS.
    pub fn new(
        spec: &ThirdParty,
        breaker: Breaker,
        control: &Handle,
        count: Count,
    ) -> Result<Self, String> {
        let url = spec.verify_url.as_deref();
        let url = url.unwrap_or(spec.provider.verify_url());
        Ok(Self {
            client: client(url, spec.timeout)?,
            url: url.to_owned(),
            spec: spec.clone(),
            control: control.clone(),
            flights: Arc::new(Semaphore::new(IN_FLIGHT)),
            breaker: Mutex::new(breaker),
            log: LogLimit::new(),
            mistakes: LogLimit::new(),
            count,
        })
    }

    /// Whether it asks the same provider in the same way.
    #[must_use]
    pub fn is_for(&self, spec: &ThirdParty) -> bool {
        let ours = &self.spec;
        ours.provider == spec.provider
            && ours.site_key == spec.site_key
            && ours.secret.expose() == spec.secret.expose()
            && ours.verify_url == spec.verify_url
            && ours.timeout == spec.timeout
            && ours.minimum_score.to_bits() == spec.minimum_score.to_bits()
    }

    /// Whether visitors are to be sent to the provider. Where it failed long enough ago, this also
    /// sends a question of our own.
    pub fn is_available(self: &Arc<Self>) -> bool {
        let mut breaker = self.breaker.lock();
        if breaker.is_closed() {
            return true;
        }
        if breaker.wants_probe(clock::now()) {
            drop(breaker);
            let this = Arc::clone(self);
            self.control.spawn(async move { this.probe().await });
        }
        false
    }

    /// Asks whether a token is good.
    pub async fn verify(self: &Arc<Self>, token: String, expected: Expected) -> Verdict {
        if !self.is_available() {
            (self.count)("open");
            return Verdict::Unknown;
        }
        let Ok(place) = Arc::clone(&self.flights).try_acquire_owned() else {
            (self.count)("busy");
            return Verdict::Unknown;
        };
        let this = Arc::clone(self);
        // Goes on by itself when the visitor leaves: the answer tells how the provider is.
        let asking = self.control.spawn(async move {
            let result = this.ask(&token, &expected).await;
            drop(place);
            this.learn(&result)
        });
        match timeout(self.spec.timeout.saturating_add(SLACK), asking).await {
            Ok(Ok(verdict)) => verdict,
            _ => Verdict::Unknown,
        }
    }

    /// Counts and reports a result.
    fn learn(&self, result: &Result<Said, Failure>) -> Verdict {
        let (name, verdict) = match result {
            Ok(Said::Passed) => ("ok", Verdict::Passed),
            Ok(Said::Refused) => ("refused", Verdict::Refused),
            other => (self.complain(other), Verdict::Unknown),
        };
        (self.count)(name);
        let answered = verdict != Verdict::Unknown;
        let change = self.breaker.lock().report(answered, clock::now());
        self.tell(change);
        verdict
    }

    async fn probe(&self) {
        let expected = Expected {
            host: String::new(),
            now: 0,
        };
        let result = self.ask(PROBE, &expected).await;
        let answered = matches!(result, Ok(Said::Passed | Said::Refused));
        if !answered {
            self.complain(&result);
        }
        let change = self.breaker.lock().probed(answered, clock::now());
        self.tell(change);
    }

    fn tell(&self, change: Change) {
        let provider = self.spec.provider.name();
        match change {
            Change::Nothing => {}
            Change::Opened => tracing::error!(
                provider,
                "the captcha provider fails; visitors take our own captcha until it answers again"
            ),
            Change::Closed => tracing::info!(provider, "the captcha provider answers again"),
        }
    }

    /// Logs why there is no verdict, once in a while; the result's name.
    fn complain(&self, result: &Result<Said, Failure>) -> &'static str {
        let provider = self.spec.provider.name();
        let (name, problem) = match result {
            Ok(Said::Misconfigured(code)) => {
                if let Some(left_out) = self.mistakes.admit() {
                    tracing::error!(
                        provider,
                        code,
                        left_out,
                        "the captcha provider refuses our keys or question; \
                         check `challenge.third_party`"
                    );
                }
                return "misconfigured";
            }
            Ok(Said::Broken(problem)) => ("error", *problem),
            Err(Failure::Timeout) => ("timeout", "no answer in time"),
            Err(Failure::Other(problem)) => ("error", problem.as_str()),
            Ok(Said::Passed | Said::Refused) => return "ok",
        };
        if let Some(left_out) = self.log.admit() {
            tracing::warn!(
                provider,
                problem,
                left_out,
                "the captcha provider did not answer"
            );
        }
        name
    }

    /// One question, and a second one where that can't do harm; all of it in `timeout`.
    async fn ask(&self, token: &str, expected: &Expected) -> Result<Said, Failure> {
        let id = uuid::Uuid::now_v7().to_string();
        let form = siteverify::form(&self.spec, token, &id);
        let asking = async {
            let (first, harmless) = self.ask_once(&form, expected).await;
            if harmless {
                return self.ask_once(&form, expected).await.0;
            }
            first
        };
        let result = timeout(self.spec.timeout, asking).await;
        result.unwrap_or(Err(Failure::Timeout))
    }

    /// The result, and whether asking again is of use and does no harm: a token counts once, so that
    /// a question which may have arrived is repeated only where the provider knows it again.
    async fn ask_once(&self, form: &str, expected: &Expected) -> (Result<Said, Failure>, bool) {
        let idempotent = self.spec.provider.is_idempotent();
        match self.send(form).await {
            Ok((status, body)) => {
                let said = siteverify::judge(&self.spec, status, &body, expected);
                let again = idempotent && matches!(said, Said::Broken(_));
                (Ok(said), again)
            }
            Err(Sending::Failed(error)) => {
                let again = idempotent || error.is_connect();
                (Err(Failure::of(&error)), again)
            }
            Err(Sending::TooLong) => (Ok(Said::Broken("an answer that is too long")), false),
        }
    }

    async fn send(&self, form: &str) -> Result<(u16, Vec<u8>), Sending> {
        let request = self
            .client
            .post(&self.url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.to_owned());
        let mut response = request.send().await.map_err(Sending::Failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(Sending::Failed)? {
            if body.len().saturating_add(chunk.len()) > MAX_BYTES {
                return Err(Sending::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status().as_u16(), body))
    }
}

enum Sending {
    Failed(reqwest::Error),
    TooLong,
}

#[derive(Debug)]
enum Failure {
    Timeout,
    Other(String),
}

impl Failure {
    /// With its causes, which reqwest leaves out of its text.
    fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::Other(text)
    }
}

/// HTTPS, verified against the system's certificates; plain HTTP to this very machine only.
fn client(url: &str, patience: Duration) -> Result<Client, String> {
    let bad = |problem: String| format!("the captcha provider at {url} can't be asked: {problem}");
    let parsed = Url::parse(url).map_err(|e| bad(e.to_string()))?;
    let host = parsed.host_str().unwrap_or_default();
    let local = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if parsed.scheme() != "https" && !local {
        return Err(bad("only `https` keeps the secret secret".to_owned()));
    }
    // The process's default; somebody else may have set it already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .https_only(!local)
        .redirect(Policy::none())
        .timeout(patience)
        .user_agent(concat!("rempart/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| bad(e.to_string()))
}
