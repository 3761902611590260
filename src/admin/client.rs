//! `rempart bans`: the admin API from the command line.
//!
//! Exit codes: 0 done, 1 the answer is no (or none came), 2 wrong usage.

use super::api::{parse_duration, parse_network};
use crate::config::model::{Admin, Secret};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use reqwest::{Method, StatusCode, redirect};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a token file.
const TOKEN_LIMIT: u64 = 4096;
/// Where the admin API is by default.
const DEFAULT_URL: &str = "http://127.0.0.1:9090";

/// List, add and remove bans, over the admin API.
#[derive(Args, Clone, Debug)]
pub struct BansCommand {
    #[command(subcommand)]
    action: Action,
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
    json: bool,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Show the bans in force, the last placed first.
    #[command(after_help = "Example: rempart bans list --config conf/small-site.yaml")]
    List {
        /// How many at the most.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Ban a client or a network.
    #[command(
        after_help = "Example: rempart bans add 203.0.113.7 --for 10m --config conf/small-site.yaml"
    )]
    Add {
        #[arg(
            value_parser = parse_network,
            help = "Like 203.0.113.7, 203.0.113.0/24 or 2001:db8::/64"
        )]
        prefix: IpNet,
        /// How long.
        #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = checked_duration)]
        duration: String,
        /// Why, for those who see the list.
        #[arg(long)]
        comment: Option<String>,
    },
    /// End the ban of a client or a network, and all bans within it.
    #[command(
        after_help = "Example: rempart bans remove 203.0.113.7 --config conf/small-site.yaml"
    )]
    Remove {
        #[arg(value_parser = parse_network)]
        prefix: IpNet,
    },
}

fn checked_duration(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned())
}

/// Why a command came to nothing.
#[derive(Debug)]
enum Failure {
    /// The command itself makes no sense: exit code 2.
    Usage(String),
    /// The API said no, or nothing: exit code 1.
    Refused(String),
}

impl BansCommand {
    /// Asks the API and prints its answer. `load` reads the `admin` section of a configuration.
    pub fn run(&self, load: impl FnOnce(&Path) -> Result<Option<Admin>, String>) -> ExitCode {
        let done = self.endpoint(load).and_then(|endpoint| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::Refused(error.to_string()))?
                .block_on(self.ask(&endpoint))
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

    fn endpoint(
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

    async fn ask(&self, endpoint: &Endpoint) -> Result<String, Failure> {
        let answer = match &self.action {
            Action::List { limit } => {
                let path = format!("/api/bans?limit={limit}");
                endpoint.call(Method::GET, &path, None).await?
            }
            Action::Add {
                prefix,
                duration,
                comment,
            } => {
                let body = json!({ "prefix": prefix, "duration": duration, "comment": comment });
                endpoint.call(Method::POST, "/api/bans", Some(body)).await?
            }
            Action::Remove { prefix } => {
                let path = format!("/api/bans/{prefix}");
                endpoint.call(Method::DELETE, &path, None).await?
            }
        };
        if self.json {
            return Ok(format!("{answer:#}\n"));
        }
        let text = match &self.action {
            Action::List { .. } => table(&answer),
            Action::Add { .. } => sentence(&answer, "banned", "until"),
            Action::Remove { .. } => sentence(&answer, "no longer banned", "removed"),
        };
        text.ok_or_else(|| Failure::Refused(format!("an answer that makes no sense: {answer}")))
    }
}

/// Where the API is and what opens it.
struct Endpoint {
    url: String,
    token: Secret,
}

impl Endpoint {
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let token = std::str::from_utf8(self.token.expose())
            .map_err(|_| Failure::Usage("the token is not text".into()))?;
        // Err only says that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| Failure::Refused(error.to_string()))?;
        let url = format!("{}{path}", self.url);
        let mut request = client.request(method, &url).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
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
        let value: Option<Value> = serde_json::from_str(&text).ok();
        match value {
            Some(value) if status.is_success() => Ok(value),
            value => Err(Failure::Refused(refusal(status, value.as_ref()))),
        }
    }
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

#[derive(Deserialize)]
struct Listed {
    bans: Vec<Row>,
    total: usize,
}

#[derive(Deserialize)]
struct Row {
    prefix: String,
    source: String,
    comment: Option<String>,
    since: String,
    seconds_left: u64,
    offences: u32,
    hits: u64,
}

fn table(answer: &Value) -> Option<String> {
    let listed = Listed::deserialize(answer).ok()?;
    if listed.bans.is_empty() && listed.total == 0 {
        return Some("nobody is banned\n".into());
    }
    let heads = [
        "PREFIX", "LEFT", "OFFENCES", "HITS", "SOURCE", "SINCE", "COMMENT",
    ];
    let mut rows = vec![heads.map(ToOwned::to_owned)];
    rows.extend(listed.bans.iter().map(|ban| {
        [
            ban.prefix.clone(),
            left(ban.seconds_left),
            ban.offences.to_string(),
            ban.hits.to_string(),
            ban.source.clone(),
            ban.since.clone(),
            printable(ban.comment.as_deref().unwrap_or_default()),
        ]
    }));
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    let beyond = listed.total.saturating_sub(listed.bans.len());
    if beyond > 0 {
        let _ = writeln!(text, "and {beyond} more (--limit shows them)");
    }
    Some(text)
}

/// A comment is some operator's text: no control characters reach the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

fn left(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m {seconds:02}s"),
        _ => format!("{hours}h {minutes:02}m"),
    }
}

fn sentence(answer: &Value, what: &str, detail: &str) -> Option<String> {
    let prefix = answer.get("prefix")?.as_str()?;
    let value = answer.get(detail)?;
    let detail = match value.as_str() {
        Some(text) => format!("{detail} {text}"),
        None => format!("{value} {detail}"),
    };
    let mut text = format!("{prefix} is {what} ({detail})\n");
    let covering = answer.get("still_covered_by").and_then(Value::as_array);
    for wider in covering.into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(text, "but {wider} is, which covers it");
    }
    Some(text)
}

fn read_token(path: &Path) -> Result<Secret, String> {
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
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests;
