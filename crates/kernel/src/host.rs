//! How this host is set up for floods: what is read of it, and what should be otherwise.
//!
//! Reading ([`Host::read`]) and judging ([`Host::advise`]) are apart, and nothing is ever changed. A
//! setting that can't be read gets no advice. Reasons are those of the kernel's own documentation
//! (`Documentation/networking/ip-sysctl.rst`, `nf_conntrack-sysctl.rst`, `admin-guide/sysctl/net.rst`).

mod advice;
#[cfg(test)]
mod tests;

pub use advice::{Advice, Fix, Needs};

use std::{fs, path::Path, str::FromStr};

/// What was found; `None` where the host does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub syncookies: Option<u64>,
    pub max_syn_backlog: Option<u64>,
    pub somaxconn: Option<u64>,
    pub synack_retries: Option<u64>,
    pub abort_on_overflow: Option<u64>,
    pub netdev_max_backlog: Option<u64>,
    /// Packets that found that backlog full, since the start of the host.
    pub netdev_dropped: Option<u64>,
    pub conntrack: Option<Conntrack>,
    /// First and last port that connections of our own begin at.
    pub local_ports: Option<(u64, u64)>,
    /// The interface with the least of `rp_filter`, loopback left out, and how much.
    pub rp_filter: Option<(String, u64)>,
    pub bpf_jit: Option<u64>,
    /// The hard limit of open files of this process.
    pub open_files: Option<u64>,
    /// Its effective capabilities, as bits.
    pub capabilities: Option<u64>,
}

/// The table of connections, where that module is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    pub max: u64,
    pub count: u64,
}

impl Host {
    /// Reads `/proc` under this root, which is `/` but in tests.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let sysctl = |name: &str| number(&root.join("proc/sys/net").join(name));
        let conntrack = || {
            Some(Conntrack {
                max: sysctl("netfilter/nf_conntrack_max")?,
                count: sysctl("netfilter/nf_conntrack_count")?,
            })
        };
        Self {
            syncookies: sysctl("ipv4/tcp_syncookies"),
            max_syn_backlog: sysctl("ipv4/tcp_max_syn_backlog"),
            somaxconn: sysctl("core/somaxconn"),
            synack_retries: sysctl("ipv4/tcp_synack_retries"),
            abort_on_overflow: sysctl("ipv4/tcp_abort_on_overflow"),
            netdev_max_backlog: sysctl("core/netdev_max_backlog"),
            netdev_dropped: dropped(&root.join("proc/net/softnet_stat")),
            conntrack: conntrack(),
            local_ports: range(&root.join("proc/sys/net/ipv4/ip_local_port_range")),
            rp_filter: rp_filter(&root.join("proc/sys/net/ipv4/conf")),
            bpf_jit: sysctl("core/bpf_jit_enable"),
            open_files: open_files(&root.join("proc/self/limits")),
            capabilities: capabilities(&root.join("proc/self/status")),
        }
    }
}

fn number<T: FromStr>(path: &Path) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn range(path: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(path).ok()?;
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// The second column, in hexadecimal, of a line a processor.
fn dropped(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let of_each = text.lines().map(|line| {
        let column = line.split_whitespace().nth(1)?;
        u64::from_str_radix(column, 16).ok()
    });
    of_each.sum()
}

/// An interface has the larger one of its own and that of `all`.
fn rp_filter(folder: &Path) -> Option<(String, u64)> {
    let all: u64 = number(&folder.join("all/rp_filter"))?;
    let interfaces = fs::read_dir(folder).ok()?.flatten();
    interfaces
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let own: u64 = number(&entry.path().join("rp_filter"))?;
            let counts = !matches!(&*name, "all" | "default" | "lo");
            counts.then(|| (name, own.max(all)))
        })
        .min_by(|one, other| (one.1, &one.0).cmp(&(other.1, &other.0)))
}

fn open_files(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        hard => hard.parse().ok(),
    }
}

fn capabilities(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let bits = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(bits.trim(), 16).ok()
}
