//! `rempart clearances`: what visitors got for solving challenges, taken back.

use super::{Access, Endpoint, Failure, columns};
use crate::{
    admin::{api::parse_network, clearances::parse_ja4},
    config::model::Admin,
};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{path::Path, process::ExitCode};

/// Take back what visitors got for solving challenges, over the admin API.
#[derive(Args, Clone, Debug)]
pub struct ClearancesCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    access: Access,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Show what was revoked and may still matter, the last first.
    #[command(after_help = "Example: rempart clearances list --config conf/small-site.yaml")]
    List,
    /// Void the clearances of a network, or of clients with a JA4, that were issued until now.
    #[command(
        after_help = "Example: rempart clearances revoke 203.0.113.0/24 --config conf/small-site.yaml"
    )]
    Revoke {
        #[arg(
            value_name = "PREFIX|JA4",
            value_parser = checked,
            help = "Like 203.0.113.0/24, 2001:db8::/48 or t13d1516h2_8daaf6152771_02713d6af862, of \
                    which the middle counts"
        )]
        whose: String,
    },
}

fn checked(text: &str) -> Result<String, String> {
    if parse_network(text).is_err() && parse_ja4(text).is_err() {
        return Err("neither a prefix like 203.0.113.0/24 nor a JA4".into());
    }
    Ok(text.to_owned())
}

impl ClearancesCommand {
    /// Asks the API and prints its answer. `load` reads the `admin` section of a configuration.
    pub fn run(&self, load: impl FnOnce(&Path) -> Result<Option<Admin>, String>) -> ExitCode {
        self.access
            .run(load, async |endpoint| self.ask(&endpoint).await)
    }

    pub(super) async fn ask(&self, endpoint: &Endpoint) -> Result<String, Failure> {
        let answer = match &self.action {
            Action::List => {
                let path = "/api/clearances/revoked";
                endpoint.call(Method::GET, path, None).await?
            }
            Action::Revoke { whose } => {
                let body = if parse_ja4(whose).is_ok() {
                    json!({ "ja4": whose })
                } else {
                    json!({ "prefix": whose })
                };
                let path = "/api/clearances/revoke";
                endpoint.call(Method::POST, path, Some(body)).await?
            }
        };
        if self.access.json {
            return Ok(format!("{answer:#}\n"));
        }
        let text = match &self.action {
            Action::List => table(&answer),
            Action::Revoke { .. } => Row::deserialize(&answer).ok().map(|row| {
                format!(
                    "clearances of {} that were issued until {} are revoked\n",
                    row.whose(),
                    row.issued_until
                )
            }),
        };
        text.ok_or_else(|| Failure::Refused(format!("an answer that makes no sense: {answer}")))
    }
}

#[derive(Deserialize)]
struct Listed {
    revoked: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    prefix: Option<String>,
    ja4: Option<String>,
    issued_until: String,
    forgotten: String,
}

impl Row {
    fn whose(&self) -> String {
        let ja4 = || self.ja4.as_ref().map(|ja4| format!("ja4 {ja4}"));
        self.prefix.clone().or_else(ja4).unwrap_or_default()
    }
}

fn table(answer: &Value) -> Option<String> {
    let listed = Listed::deserialize(answer).ok()?;
    if listed.revoked.is_empty() {
        return Some("nothing is revoked\n".into());
    }
    let heads = ["WHOSE", "ISSUED UNTIL", "FORGOTTEN"];
    let mut rows = vec![heads.map(ToOwned::to_owned)];
    rows.extend(
        listed
            .revoked
            .into_iter()
            .map(|row| [row.whose(), row.issued_until, row.forgotten]),
    );
    Some(columns(&rows))
}
