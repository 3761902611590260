//! `rempart bans` and `rempart clearances`: the admin API from the command line.
//!
//! Exit codes: 0 done, 1 the answer is no (or none came), 2 wrong usage.

mod access;
mod clearances;

pub use clearances::ClearancesCommand;

use super::api::{parse_duration, parse_network};
use crate::config::model::Admin;
use access::{Access, Endpoint, Failure};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fmt::Write as _, path::Path, process::ExitCode};

/// List, add and remove bans, over the admin API.
#[derive(Args, Clone, Debug)]
pub struct BansCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    access: Access,
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

impl BansCommand {
    /// Asks the API and prints its answer. `load` reads the `admin` section of a configuration.
    pub fn run(&self, load: impl FnOnce(&Path) -> Result<Option<Admin>, String>) -> ExitCode {
        self.access
            .run(load, async |endpoint| self.ask(&endpoint).await)
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
        if self.access.json {
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
    let mut text = columns(&rows);
    let beyond = listed.total.saturating_sub(listed.bans.len());
    if beyond > 0 {
        let _ = writeln!(text, "and {beyond} more (--limit shows them)");
    }
    Some(text)
}

/// Rows under their heads, aligned.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
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

#[cfg(test)]
mod tests;
