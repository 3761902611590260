//! `rempart bans`: who is banned, from the command line.

use super::{Access, Endpoint, Failure, columns, printable};
use crate::{
    admin::api::{parse_duration, parse_network},
    config::model::Admin,
};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Bytes of a list that is imported; the API takes no more.
const LARGEST: u64 = 64 << 20;

/// Who is banned: list, add, remove, export and import, over the admin API.
#[derive(Args, Clone, Debug)]
pub struct BansCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(super) access: Access,
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
    /// Print all bans as a plain list, which `import` and `lists` read.
    #[command(after_help = "Example: rempart bans export --config conf/small-site.yaml > bans.txt")]
    Export,
    /// Place all bans of a plain list, or none if a line is wrong.
    #[command(
        after_help = "Example: rempart bans import bans.txt --for 24h --config conf/small-site.yaml"
    )]
    Import {
        /// A network a line; `# until TIME` and more as `export` writes it. `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// How long, for lines that don't say.
        #[arg(long = "for", value_name = "DURATION", value_parser = checked_duration)]
        duration: Option<String>,
        /// Why, for lines that don't say.
        #[arg(long)]
        comment: Option<String>,
    },
}

fn checked_duration(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned())
}

impl BansCommand {
    /// Asks the API and prints its answer. `load` reads the `admin` section of a configuration.
    pub fn run(&self, load: impl FnOnce(&Path) -> Result<Option<Admin>, String>) -> ExitCode {
        self.access
            .run(load, async |endpoint| self.ask(&endpoint).await)
    }

    pub(super) async fn ask(&self, endpoint: &Endpoint) -> Result<String, Failure> {
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
            Action::Export => return endpoint.text("/api/bans/export").await,
            Action::Import {
                file,
                duration,
                comment,
            } => {
                let asked = [
                    ("for", duration.as_deref()),
                    ("comment", comment.as_deref()),
                ];
                let asked = asked.into_iter().filter_map(|(key, it)| Some((key, it?)));
                let list = read(file).map_err(Failure::Usage)?;
                endpoint.post_text("/api/bans/import", asked, list).await?
            }
        };
        if self.access.json {
            return Ok(format!("{answer:#}\n"));
        }
        let text = match &self.action {
            Action::List { .. } => table(&answer),
            Action::Add { .. } => sentence(&answer, "banned", "until"),
            Action::Remove { .. } => sentence(&answer, "no longer banned", "removed"),
            Action::Export => None,
            Action::Import { .. } => imported(&answer),
        };
        text.ok_or_else(|| Failure::Refused(format!("an answer that makes no sense: {answer}")))
    }
}

#[derive(Deserialize)]
struct Listed {
    bans: Vec<Row>,
    total: usize,
    feeds: Vec<Feed>,
    kernel: Option<Kernel>,
}

#[derive(Deserialize)]
struct Row {
    prefix: String,
    kind: String,
    source: String,
    comment: Option<String>,
    since: String,
    seconds_left: u64,
    offences: u32,
    hits: u64,
    backend: String,
}

#[derive(Deserialize)]
struct Feed {
    list: String,
    networks: usize,
    backend: String,
}

#[derive(Deserialize)]
struct Kernel {
    backend: Option<String>,
    dropped_packets: u64,
    refused: u64,
    notes: Vec<String>,
}

fn table(answer: &Value) -> Option<String> {
    let listed = Listed::deserialize(answer).ok()?;
    let mut text = String::new();
    if listed.total == 0 {
        text.push_str("nobody is banned\n");
    } else {
        let heads = [
            "PREFIX", "LEFT", "SOURCE", "HITS", "BACKEND", "OFFENCES", "SINCE", "COMMENT",
        ];
        let mut rows = vec![heads.map(ToOwned::to_owned)];
        rows.extend(listed.bans.iter().map(|ban| {
            [
                ban.prefix.clone(),
                left(ban.seconds_left),
                if ban.kind == ban.source {
                    ban.source.clone()
                } else {
                    format!("{}:{}", ban.kind, ban.source)
                },
                ban.hits.to_string(),
                ban.backend.clone(),
                ban.offences.to_string(),
                whole_seconds(&ban.since),
                printable(ban.comment.as_deref().unwrap_or_default()),
            ]
        }));
        text.push_str(&columns(&rows));
        let beyond = listed.total.saturating_sub(listed.bans.len());
        if beyond > 0 {
            let _ = writeln!(
                text,
                "and {beyond} more (--limit shows them, up to 10,000; `export` all)"
            );
        }
    }
    for Feed {
        list,
        networks,
        backend,
    } in &listed.feeds
    {
        let _ = writeln!(text, "feed {list}: {networks} networks ({backend})");
    }
    if let Some(kernel) = &listed.kernel {
        let dropped = kernel.dropped_packets;
        let _ = match &kernel.backend {
            Some(backend) => writeln!(text, "kernel: {backend}, {dropped} packets dropped"),
            None => writeln!(
                text,
                "kernel: not in use, bans are enforced in user space alone"
            ),
        };
        if kernel.refused > 0 {
            let _ = writeln!(text, "  {} bans found no room there", kernel.refused);
        }
        for note in &kernel.notes {
            let _ = writeln!(text, "  {}", printable(note));
        }
    }
    Some(text)
}

/// A time without its fraction, which only widens the table.
fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

fn imported(answer: &Value) -> Option<String> {
    let bans = answer.get("bans")?.as_u64()?;
    let ended = answer.get("ended")?.as_u64()?;
    let mut text = format!("{bans} bans were placed\n");
    if ended > 0 {
        let _ = writeln!(text, "{ended} lines were passed over: their time is over");
    }
    Some(text)
}

fn read(file: &Path) -> Result<String, String> {
    let explain = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(LARGEST + 1).read_to_string(&mut text)
    } else {
        let opened = std::fs::File::open(file).map_err(explain)?;
        opened.take(LARGEST + 1).read_to_string(&mut text)
    };
    read.map_err(explain)?;
    if text.len() as u64 > LARGEST {
        return Err(format!("{}: a list is at most 64 MiB long", file.display()));
    }
    Ok(text)
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
