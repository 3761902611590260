//! `rempart check --host`: what to change on this host, and why, in words. Nothing is changed.
//!
//! What is read and judged is [`rempart_kernel::host`]'s.

use crate::{config::Config, listener, server};
use rempart_kernel::host::{Advice, Fix, Host, Needs};
use std::{
    fmt::{self, Write as _},
    path::Path,
};

/// Connections that a configuration allows unless it says otherwise.
const USUAL_TOTAL: u64 = 20_000;
/// Columns of text on a terminal.
const WIDTH: usize = 88;

/// What there is to say of this host to one who runs these configurations.
#[derive(Debug)]
pub struct Report {
    advice: Vec<Advice>,
    /// Whether filters below the sockets may be set up: by XDP, by nftables.
    filters: Option<(bool, bool)>,
    /// Whether names are set off.
    bold: bool,
}

impl Report {
    #[must_use]
    pub fn of<'c>(configs: impl Iterator<Item = &'c Config>, bold: bool) -> Self {
        let totals = configs.map(|config| u64::from(config.connections.total.get()));
        let host = Host::read(Path::new("/"));
        let needs = Needs {
            backlog: u64::from(listener::BACKLOG),
            open_files: server::files_for(totals.max().unwrap_or(USUAL_TOTAL)),
        };
        Self {
            advice: host.advise(needs),
            filters: host.may_filter(),
            bold,
        }
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.advice.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (on, off) = if self.bold {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        if self.is_fine() {
            writeln!(f, "host: ok")?;
        }
        for advice in &self.advice {
            let Advice {
                name, now, wanted, ..
            } = advice;
            writeln!(f, "{on}{name}{off} is {now}, better {wanted}")?;
            paragraph(f, advice.reason)?;
            if let Fix::Other(how) = &advice.fix {
                paragraph(f, &format!("Set it by {how}."))?;
            }
        }
        let lines: Vec<&str> = self.advice.iter().filter_map(sysctl).collect();
        if !lines.is_empty() {
            writeln!(
                f,
                "\n{on}/etc/sysctl.d/60-rempart.conf{off}, then `sysctl --system`:\n"
            )?;
            for line in lines {
                writeln!(f, "    {line}")?;
            }
            f.write_char('\n')?;
        }
        match self.filters {
            None => Ok(()),
            Some((true, _)) => {
                writeln!(f, "filters below the sockets: XDP and nftables are allowed")
            }
            Some((false, true)) => writeln!(
                f,
                "filters below the sockets: nftables is allowed; XDP lacks CAP_BPF and CAP_PERFMON"
            ),
            Some((false, false)) => writeln!(
                f,
                "filters below the sockets: not by this user (XDP needs CAP_NET_ADMIN, CAP_BPF and \
                 CAP_PERFMON; nftables CAP_NET_ADMIN)"
            ),
        }
    }
}

fn sysctl(advice: &Advice) -> Option<&str> {
    match &advice.fix {
        Fix::Sysctl(line) => Some(line),
        Fix::Other(_) => None,
    }
}

/// Indented, and broken between words.
fn paragraph(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column == 0 {
            f.write_str("    ")?;
        } else if column + 1 + length > WIDTH {
            f.write_str("\n    ")?;
            column = 0;
        } else {
            f.write_char(' ')?;
            column += 1;
        }
        f.write_str(word)?;
        column += length;
    }
    f.write_char('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(advice: Vec<Advice>, filters: Option<(bool, bool)>) -> String {
        Report {
            advice,
            filters,
            bold: false,
        }
        .to_string()
    }

    #[test]
    fn it_says_what_why_and_how() {
        let cookies = Advice {
            name: "net.ipv4.tcp_syncookies",
            now: "0".into(),
            wanted: "1".into(),
            reason: "Without SYN cookies a SYN flood keeps everybody out: what finds no room is \
                     dropped, people's connections with the rest.",
            fix: Fix::Sysctl("net.ipv4.tcp_syncookies = 1".into()),
        };
        let files = Advice {
            name: "open files (hard limit)",
            now: "1024".into(),
            wanted: "42048".into(),
            reason: "Past it none is accepted.",
            fix: Fix::Other("LimitNOFILE="),
        };
        let expected = "\
net.ipv4.tcp_syncookies is 0, better 1
    Without SYN cookies a SYN flood keeps everybody out: what finds no room is dropped,
    people's connections with the rest.
open files (hard limit) is 1024, better 42048
    Past it none is accepted.
    Set it by LimitNOFILE=.

/etc/sysctl.d/60-rempart.conf, then `sysctl --system`:

    net.ipv4.tcp_syncookies = 1

filters below the sockets: nftables is allowed; XDP lacks CAP_BPF and CAP_PERFMON
";
        assert_eq!(report(vec![cookies, files], Some((false, true))), expected);
        assert_eq!(report(Vec::new(), None), "host: ok\n");
    }
}
