//! What is to be done: the kind, the target and the bounds. Only addresses of this machine pass.

use crate::kinds::Kind;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

/// One attack. [`Attack::new`] gives the bounds of the kind; the rest is for the caller to set.
#[derive(Clone, Debug)]
pub struct Attack {
    pub kind: &'static Kind,
    /// One of [`Kind::variants`]; `None`: the first.
    pub variant: Option<&'static str>,
    pub target: Loopback,
    /// SNI, `:authority` and `Host`.
    pub name: String,
    /// What is asked for.
    pub path: String,
    /// Connections held at once.
    pub connections: usize,
    /// Connections opened altogether: above [`Self::connections`], closed ones are replaced.
    pub total: usize,
    /// Units of the kind (frames, bytes, handshakes) a second, on each connection; `None`: as many as go.
    pub rate: Option<f64>,
    /// Units of the kind on each connection, at most.
    pub units: u64,
    /// When it ends.
    pub duration: Duration,
    /// Where connections come from, each from the next address.
    pub sources: Option<Sources>,
    /// Without TLS; HTTP/2 with prior knowledge.
    pub plain: bool,
}

/// An address of this machine that no other machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loopback(SocketAddr);

impl TryFrom<SocketAddr> for Loopback {
    type Error = NotLoopback;

    fn try_from(address: SocketAddr) -> Result<Self, NotLoopback> {
        if address.ip().is_loopback() {
            Ok(Self(address))
        } else {
            Err(NotLoopback(address.ip()))
        }
    }
}

/// A target or source that is not of this machine.
#[derive(Debug)]
pub struct NotLoopback(pub IpAddr);

impl fmt::Display for NotLoopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is not an address of the loopback: this attacks nothing but this machine",
            self.0
        )
    }
}

impl std::error::Error for NotLoopback {}

impl Attack {
    /// # Errors
    /// When the target is not on the loopback.
    pub fn new(kind: &'static Kind, target: SocketAddr) -> Result<Self, NotLoopback> {
        let target = Loopback::try_from(target)?;
        Ok(Self {
            kind,
            variant: None,
            target,
            name: "localhost".into(),
            path: "/".into(),
            connections: 4,
            total: 4,
            rate: kind.rate,
            units: 1_000_000,
            duration: Duration::from_secs(5),
            sources: None,
            plain: false,
        })
    }

    #[must_use]
    pub fn target(&self) -> SocketAddr {
        self.target.0
    }

    /// The variant that was asked for, or the kind's first; empty when it has none.
    #[must_use]
    pub fn variant(&self) -> &'static str {
        self.variant
            .or(self.kind.variants.first().copied())
            .unwrap_or_default()
    }
}

/// Addresses of `127.0.0.0/8` to connect from: a network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    network: u32,
    /// How many addresses, the network's own and the last left out.
    count: u32,
}

impl Sources {
    /// The address of the connection with this number.
    #[must_use]
    pub fn address(&self, number: usize) -> Ipv4Addr {
        if self.count == 1 {
            return Ipv4Addr::from(self.network);
        }
        let step = u32::try_from(number).unwrap_or(u32::MAX) % self.count;
        Ipv4Addr::from(self.network.saturating_add(step).saturating_add(1))
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address
            .parse()
            .map_err(|_| format!("{text:?} is no IPv4 network like 127.9.0.0/24"))?;
        let length: u32 = length
            .parse()
            .ok()
            .filter(|length| (8..=32).contains(length))
            .ok_or_else(|| format!("{text:?}: the prefix length is 8 to 32"))?;
        if !address.is_loopback() {
            return Err(NotLoopback(address.into()).to_string());
        }
        let host_bits = 32_u32.saturating_sub(length);
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        let size = 1_u32.checked_shl(host_bits).unwrap_or(0);
        Ok(Self {
            network: u32::from(address) & mask,
            count: size.saturating_sub(2).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_go_round_their_network() {
        let sources: Sources = "127.9.1.77/30".parse().unwrap();
        let addresses: Vec<_> = (0..3).map(|n| sources.address(n).to_string()).collect();
        assert_eq!(addresses, ["127.9.1.77", "127.9.1.78", "127.9.1.77"]);
        let one: Sources = "127.9.1.77".parse().unwrap();
        assert_eq!(one.address(9).to_string(), "127.9.1.77");
    }

    #[test]
    fn nothing_but_the_loopback_passes() {
        for elsewhere in [
            "10.0.0.1:443",
            "192.0.2.1:80",
            "[2001:db8::1]:443",
            "0.0.0.0:1",
        ] {
            let kind = crate::KINDS.first().unwrap();
            assert!(
                Attack::new(kind, elsewhere.parse().unwrap()).is_err(),
                "{elsewhere}"
            );
        }
        for elsewhere in [
            "10.0.0.0/24",
            "126.0.0.0/8",
            "127.0.0.0/7",
            "::1",
            "127.0.0.1/33",
        ] {
            assert!(elsewhere.parse::<Sources>().is_err(), "{elsewhere}");
        }
    }
}
