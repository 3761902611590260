//! What should be otherwise on a host, and why. Pure: a [`Host`] goes in, advice comes out.

use super::Host;

/// What our process will want of the host.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// What `listen()` is called with.
    pub backlog: u64,
    /// Files open at once.
    pub open_files: u64,
}

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What it is called.
    pub name: &'static str,
    pub now: String,
    pub wanted: String,
    pub reason: &'static str,
    pub fix: Fix,
}

/// How it is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// A line for a file in `/etc/sysctl.d`.
    Sysctl(String),
    /// In other words.
    Other(&'static str),
}

/// Half-open connections are given up after 15 s then, in place of 63.
const SYNACK_RETRIES: u64 = 3;
const NETDEV_BACKLOG: u64 = 4096;
const CONNTRACK: u64 = 262_144;
/// The kernel's own range.
const LOCAL_PORTS: (u64, u64) = (32_768, 60_999);

/// Bits of capabilities.
const CAP_NET_ADMIN: u32 = 12;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

impl Host {
    /// What should be otherwise, the weightiest first; nothing: all is well.
    #[must_use]
    pub fn advise(&self, needs: Needs) -> Vec<Advice> {
        let all = [
            self.syncookies(),
            self.max_syn_backlog(needs),
            self.somaxconn(needs),
            self.abort_on_overflow(),
            self.synack_retries(),
            self.open_files(needs),
            self.conntrack(needs),
            self.netdev(),
            self.local_ports(),
            self.rp_filter(),
            self.bpf_jit(),
        ];
        all.into_iter().flatten().collect()
    }

    /// Whether this process may put filters below the sockets: by XDP, by nftables. `None`: not known.
    #[must_use]
    pub fn may_filter(&self) -> Option<(bool, bool)> {
        let bits = self.capabilities?;
        let has = |capability: u32| bits >> capability & 1 == 1;
        let nftables = has(CAP_NET_ADMIN);
        Some((nftables && has(CAP_BPF) && has(CAP_PERFMON), nftables))
    }

    fn syncookies(&self) -> Option<Advice> {
        let reason = match self.syncookies? {
            0 => {
                "Without SYN cookies a SYN flood keeps everybody out: what finds no room is dropped, \
                 people's connections with the rest."
            }
            2 => {
                "2 sends a cookie for every connection, flood or not; it is there to test with. \
                 Connections lose options by it."
            }
            _ => return None,
        };
        sysctl("net.ipv4.tcp_syncookies", self.syncookies?, 1, reason)
    }

    /// With cookies on, `listen()` and `somaxconn` bound what is half open, and this is not asked.
    fn max_syn_backlog(&self, needs: Needs) -> Option<Advice> {
        let now = self.max_syn_backlog?;
        let matters = self.syncookies? == 0 && now < needs.backlog;
        let reason = "While SYN cookies are off, three quarters of it may be half open for clients \
                      that are not known.";
        matters.then(|| sysctl("net.ipv4.tcp_max_syn_backlog", now, needs.backlog, reason))?
    }

    fn somaxconn(&self, needs: Needs) -> Option<Advice> {
        let now = self.somaxconn?;
        let reason = "It cuts the queue of connections that wait for a worker, and of those that are \
                      half open, below what Rempart asks for: a short burst overflows it.";
        (now < needs.backlog).then(|| sysctl("net.core.somaxconn", now, needs.backlog, reason))?
    }

    fn abort_on_overflow(&self) -> Option<Advice> {
        let now = self.abort_on_overflow?;
        let reason = "A burst that overflows the queue resets people's connections, which would \
                      otherwise get in a moment later.";
        (now != 0).then(|| sysctl("net.ipv4.tcp_abort_on_overflow", now, 0, reason))?
    }

    fn synack_retries(&self) -> Option<Advice> {
        let now = self.synack_retries?;
        let reason = "Forged connections stay half open until the last answer was sent again: 63 s \
                      with 5, 15 s with 3. A slow flood fills the queue the sooner.";
        (now > SYNACK_RETRIES)
            .then(|| sysctl("net.ipv4.tcp_synack_retries", now, SYNACK_RETRIES, reason))?
    }

    fn open_files(&self, needs: Needs) -> Option<Advice> {
        let now = self.open_files?;
        (now < needs.open_files).then(|| Advice {
            name: "open files (hard limit)",
            now: now.to_string(),
            wanted: needs.open_files.to_string(),
            reason: "Each connection is a file, and one more to its upstream: past the limit none is \
                     accepted.",
            fix: Fix::Other("LimitNOFILE= in the systemd unit, or `ulimit -Hn` before the start"),
        })
    }

    fn conntrack(&self, needs: Needs) -> Option<Advice> {
        let conntrack = self.conntrack?;
        let wanted = CONNTRACK
            .max(needs.open_files.saturating_mul(2))
            .max(conntrack.count.saturating_mul(4));
        let tight = conntrack.max < CONNTRACK || conntrack.count.saturating_mul(2) > conntrack.max;
        let reason = "Connections are tracked here, and each SYN of a flood takes a place: a full table \
                      drops everybody's packets. Better still, do not track the listeners' ports \
                      (`notrack`).";
        tight.then(|| {
            sysctl(
                "net.netfilter.nf_conntrack_max",
                conntrack.max,
                wanted,
                reason,
            )
        })?
    }

    /// What was dropped is counted from the host's start: once the queue is long enough, that says
    /// nothing of it any more.
    fn netdev(&self) -> Option<Advice> {
        let now = self.netdev_max_backlog?;
        if now >= NETDEV_BACKLOG {
            return None;
        }
        let reason = "Packets were dropped since a processor's queue of received ones was full \
                      (second column of /proc/net/softnet_stat).";
        (self.netdev_dropped? > 0)
            .then(|| sysctl("net.core.netdev_max_backlog", now, NETDEV_BACKLOG, reason))?
    }

    fn local_ports(&self) -> Option<Advice> {
        let (first, last) = self.local_ports?;
        let usual = LOCAL_PORTS.1 - LOCAL_PORTS.0;
        (last.saturating_sub(first) < usual).then(|| Advice {
            name: "net.ipv4.ip_local_port_range",
            now: format!("{first} {last}"),
            wanted: format!("{} {}", LOCAL_PORTS.0, LOCAL_PORTS.1),
            reason: "Each connection to an upstream's endpoint takes a port of these for itself.",
            fix: Fix::Sysctl(format!(
                "net.ipv4.ip_local_port_range = {} {}",
                LOCAL_PORTS.0, LOCAL_PORTS.1
            )),
        })
    }

    fn rp_filter(&self) -> Option<Advice> {
        let (interface, now) = self.rp_filter.as_ref()?;
        (*now == 0).then(|| Advice {
            name: "net.ipv4.conf.all.rp_filter",
            now: format!("0 ({interface})"),
            wanted: "1".to_owned(),
            reason: "Packets are taken from sources that could never be answered this way, as forged \
                     ones are (RFC 3704). With more than one uplink write 2.",
            fix: Fix::Sysctl("net.ipv4.conf.all.rp_filter = 1".to_owned()),
        })
    }

    fn bpf_jit(&self) -> Option<Advice> {
        let now = self.bpf_jit?;
        let reason = "Filters below the sockets (XDP) are interpreted, not compiled: several times \
                      slower a packet.";
        (now == 0).then(|| sysctl("net.core.bpf_jit_enable", now, 1, reason))?
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as its callers give it")]
fn sysctl(name: &'static str, now: u64, wanted: u64, reason: &'static str) -> Option<Advice> {
    Some(Advice {
        name,
        now: now.to_string(),
        wanted: wanted.to_string(),
        reason,
        fix: Fix::Sysctl(format!("{name} = {wanted}")),
    })
}
