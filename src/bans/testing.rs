//! What the tests of bans share.

use super::{By, Kind};
use crate::clock;
use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};
use verdict::{
    Nanos,
    prefix::{Prefix, PrefixLengths},
};

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const LOGIN: By<'_> = By {
    kind: Kind::Limit,
    name: "per-login",
    direct: true,
};

pub fn client(address: &str) -> Prefix {
    Prefix::of(address.parse().unwrap(), PrefixLengths::CLIENT)
}

pub fn numbered(number: u32) -> Prefix {
    let address = Ipv4Addr::from(0x0b00_0000 + number);
    Prefix::of(address.into(), PrefixLengths::CLIENT)
}

pub fn now() -> Nanos {
    clock::now()
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < patience, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}
