//! Files of networks: our own plain lists and those that others publish, told apart line by line.
//!
//! | line | from |
//! |---|---|
//! | `192.0.2.0/24 # words` | plain lists, FireHOL netsets, `rempart bans export` |
//! | `192.0.2.0/24 ; SBL123` | Spamhaus DROP as text |
//! | `{"cidr":"192.0.2.0/24","sblid":"SBL123"}` | Spamhaus DROP as JSON lines |

use super::{
    addresses,
    decode::{Context, quote},
    files,
    problem::Place,
    yaml::Node,
};
use ipnet::IpNet;
use serde::Deserialize;

/// One network or address a line; `#` and `;` begin comments.
pub fn read(ctx: &mut Context, node: &Node) -> Option<Vec<IpNet>> {
    let file = files::read(ctx, node, files::LARGE)?;
    let text = file.text(ctx)?;
    let mut networks = Vec::new();
    let mut good = Some(());
    for (index, line) in text.lines().enumerate() {
        let number = index.saturating_add(1);
        let indent = line.chars().take_while(|c| c.is_whitespace()).count();
        let place = Place::new(&file.name, number, indent.saturating_add(1));
        let network = if line.trim_start().starts_with('{') {
            json(ctx, &place, line)
        } else {
            let entry = line.split(['#', ';']).next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            addresses::network_at(ctx, &place, entry).map(Some)
        };
        match network {
            Some(Some(network)) => networks.push(network),
            Some(None) => {}
            None => good = None,
        }
    }
    good?;
    Some(networks)
}

#[derive(Deserialize)]
struct Entry {
    cidr: Option<String>,
    /// `metadata` on a line that says something of the list.
    r#type: Option<String>,
}

/// `Some(None)`: a line of no network.
#[allow(clippy::option_option)] // the outer one is "reported a problem", as everywhere here
fn json(ctx: &mut Context, place: &Place, line: &str) -> Option<Option<IpNet>> {
    match serde_json::from_str(line) {
        Ok(Entry {
            cidr: Some(cidr), ..
        }) => addresses::network_at(ctx, place, &cidr).map(Some),
        Ok(Entry {
            r#type: Some(_), ..
        }) => Some(None),
        Ok(_) => ctx.fail(place, "a line of JSON without `cidr`"),
        Err(_) => ctx.fail(
            place,
            format!(
                "{} is not a line of JSON like `{{\"cidr\":\"192.0.2.0/24\"}}`",
                quote(line)
            ),
        ),
    }
}
