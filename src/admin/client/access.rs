//! What all commands that ask the admin API share: where it is, what opens it, and how an answer or
//! none becomes an exit code.

use crate::config::model::{Admin, Secret};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, StatusCode, redirect};
use serde_json::Value;
use std::{
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// For a list of a million bans.
const LONG_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a token file.
const TOKEN_LIMIT: u64 = 4096;
/// Where the admin API is by default.
const DEFAULT_URL: &str = "http://127.0.0.1:9090";

/// Where the API is, and how its answers are shown.
#[derive(Args, Clone, Debug)]
pub(super) struct Access {
    /// Take address and token from this configuration.
    #[arg(long, value_name = "FILE", global = true, conflicts_with_all = ["admin", "token_file"])]
    config: Option<PathBuf>,
    #[arg(
        long,
        value_name = "URL",
        global = true,
        help = "Where the admin API is [default: http://127.0.0.1:9090]"
    )]
    admin: Option<String>,
    /// The file that holds the admin token.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Print what the API answers, as JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// Why a command came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command itself makes no sense: exit code 2.
    Usage(String),
    /// The API said no, or nothing: exit code 1.
    Refused(String),
}

impl Access {
    /// Asks, and prints the answer. `load` reads the `admin` section of a configuration.
    pub(super) fn run(
        &self,
        load: impl FnOnce(&Path) -> Result<Option<Admin>, String>,
        ask: impl AsyncFnOnce(Endpoint) -> Result<String, Failure>,
    ) -> ExitCode {
        let done = self.endpoint(load).and_then(|endpoint| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::Refused(error.to_string()))?
                .block_on(ask(endpoint))
        });
        match done {
            Ok(text) => {
                // A reader that has left (`| head`) is no failure.
                let _ = std::io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Err(Failure::Refused(text)) => {
                eprintln!("{text}");
                ExitCode::FAILURE
            }
            Err(Failure::Usage(text)) => {
                eprintln!("{text}");
                ExitCode::from(2)
            }
        }
    }

    pub(super) fn endpoint(
        &self,
        load: impl FnOnce(&Path) -> Result<Option<Admin>, String>,
    ) -> Result<Endpoint, Failure> {
        if let Some(path) = &self.config {
            let admin = load(path).map_err(Failure::Refused)?;
            let off = || format!("{}: the admin API is off", path.display());
            let admin = admin.ok_or_else(|| Failure::Refused(off()))?;
            let token = admin.token.ok_or_else(|| {
                Failure::Refused(format!("{}: `admin.token_file` is missing", path.display()))
            })?;
            return Ok(Endpoint {
                url: format!("http://{}", reachable(admin.address)),
                token,
            });
        }
        let Some(path) = &self.token_file else {
            return Err(Failure::Usage(
                "who may do this? give --config FILE, or --token-file FILE".into(),
            ));
        };
        let url = self.admin.as_deref().unwrap_or(DEFAULT_URL);
        Ok(Endpoint {
            url: url.trim_end_matches('/').to_owned(),
            token: read_token(path)
                .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?,
        })
    }
}

/// Where the API is and what opens it.
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) token: Secret,
}

impl Endpoint {
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let text = self
            .ask(method, path, TIMEOUT, |request| match body {
                Some(body) => request.json(&body),
                None => request,
            })
            .await?;
        understood(&text)
    }

    /// An answer that is text.
    pub(super) async fn text(&self, path: &str) -> Result<String, Failure> {
        self.ask(Method::GET, path, LONG_TIMEOUT, |request| request)
            .await
    }

    /// Sends text, and what is asked about it.
    pub(super) async fn post_text<'a>(
        &self,
        path: &str,
        asked: impl Iterator<Item = (&'a str, &'a str)>,
        text: String,
    ) -> Result<Value, Failure> {
        let mut path = path.to_owned();
        let mut before = '?';
        for (key, value) in asked {
            let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
            let _ = write!(path, "{before}{key}={value}");
            before = '&';
        }
        let body = |request: RequestBuilder| request.body(text);
        let text = self.ask(Method::POST, &path, LONG_TIMEOUT, body).await?;
        understood(&text)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        timeout: Duration,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<String, Failure> {
        let token = std::str::from_utf8(self.token.expose())
            .map_err(|_| Failure::Usage("the token is not text".into()))?;
        // Err only says that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(timeout)
            .build()
            .map_err(|error| Failure::Refused(error.to_string()))?;
        let url = format!("{}{path}", self.url);
        let request = with(client.request(method, &url).bearer_auth(token));
        let response = request.send().await.map_err(|error| {
            if error.is_builder() {
                return Failure::Usage(format!("{url} is not a URL"));
            }
            Failure::Refused(format!(
                "no answer from {}: is it running? ({})",
                self.url,
                cause(&error)
            ))
        })?;
        let status = response.status();
        let text = response
            .text()
            .await
            .map_err(|error| Failure::Refused(cause(&error)))?;
        if status.is_success() {
            return Ok(text);
        }
        let problem: Option<Value> = serde_json::from_str(&text).ok();
        Err(Failure::Refused(refusal(status, problem.as_ref())))
    }
}

fn understood(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .map_err(|_| Failure::Refused("the admin API answered with something else".into()))
}

/// The last of an error's causes says most.
fn cause(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn refusal(status: StatusCode, problem: Option<&Value>) -> String {
    let detail = problem.and_then(|problem| problem.get("detail")?.as_str());
    detail.map_or_else(
        || format!("the admin API answered {status}"),
        ToOwned::to_owned,
    )
}

pub(super) fn read_token(path: &Path) -> Result<Secret, String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(TOKEN_LIMIT).read_to_string(&mut text))
        .map_err(|error| error.to_string())?;
    let token = text.trim();
    if token.is_empty() {
        return Err("the file is empty".into());
    }
    Ok(Secret::new(token))
}

/// Where a listener on all addresses is reached from here.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
