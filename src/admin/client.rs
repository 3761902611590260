//! `rempart bans` and `rempart clearances`: the admin API from the command line.
//!
//! Exit codes: 0 done, 1 the answer is no (or none came), 2 wrong usage.

mod access;
mod bans;
mod clearances;

pub use bans::BansCommand;
pub use clearances::ClearancesCommand;

use access::{Access, Endpoint, Failure};
use std::fmt::Write as _;

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

#[cfg(test)]
mod tests;
