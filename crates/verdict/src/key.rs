//! What a limit counts by: the parts of a composite key, read from facts and hashed for one table.
//!
//! Every part is written with its kind and length, so no two different keys read the same.

use crate::{
    facts::Facts,
    key_table::{KeyHash, Seed},
    policy::KeyPart,
    prefix::Prefix,
};
use siphasher::sip::SipHasher13;
use std::{hash::Hasher, net::IpAddr};

/// The key of a request under `seed`; `None` when a part is absent, so the limit does not apply.
///
/// - Client address, network, host, path and method are never absent: a request that lacks its Host
///   counts under the empty one, all of them together.
/// - `client.ja4`, `user.id`, `route` and `upstream` are absent when empty; headers and cookies when
///   they were not sent. An empty header is a value.
/// - `user.role` is the set of the user's roles, in whatever order they came: users with the same
///   roles share one bucket. It is absent when there are none.
pub(crate) fn hash(parts: &[KeyPart], facts: &Facts<'_>, seed: Seed) -> Option<KeyHash> {
    Some(KeyHash(written(parts, facts, seed)?.finish()))
}

/// The key under which the same request counts once its client holds a clearance.
pub(crate) fn hash_cleared(parts: &[KeyPart], facts: &Facts<'_>, seed: Seed) -> Option<KeyHash> {
    let mut hasher = written(parts, facts, seed)?;
    head(&mut hasher, 15, 0);
    Some(KeyHash(hasher.finish()))
}

fn written(parts: &[KeyPart], facts: &Facts<'_>, seed: Seed) -> Option<SipHasher13> {
    let mut hasher = seed.hasher();
    for part in parts {
        match part {
            KeyPart::ClientIp => prefix(&mut hasher, 1, facts.client.prefix),
            KeyPart::ClientNetwork => prefix(&mut hasher, 3, facts.client.network),
            KeyPart::ClientJa4 => text(&mut hasher, 5, present(facts.client.ja4)?),
            KeyPart::UserId => text(&mut hasher, 6, present(facts.user.id)?),
            KeyPart::UserRole => roles(&mut hasher, 7, facts.user.roles, seed)?,
            // By name: an index means another route after a reload.
            KeyPart::Route => text(&mut hasher, 8, present(facts.route_name)?),
            KeyPart::Upstream => text(&mut hasher, 9, present(facts.upstream)?),
            KeyPart::Host => text(&mut hasher, 10, facts.request.host),
            KeyPart::Path => text(&mut hasher, 11, facts.request.path),
            KeyPart::Method => text(&mut hasher, 12, facts.request.method.as_bytes()),
            KeyPart::Header(name) => text(&mut hasher, 13, facts.request.headers.header(name)?),
            KeyPart::Cookie(name) => text(&mut hasher, 14, facts.request.headers.cookie(name)?),
        }
    }
    Some(hasher)
}

fn present(text: &str) -> Option<&[u8]> {
    (!text.is_empty()).then_some(text.as_bytes())
}

/// Kind in the top byte, length below: what follows can't be mistaken for another part.
fn head(hasher: &mut SipHasher13, kind: u8, length: usize) {
    hasher.write_u64(u64::from(kind) << 56 | length as u64);
}

fn text(hasher: &mut SipHasher13, kind: u8, text: &[u8]) {
    head(hasher, kind, text.len());
    hasher.write(text);
}

/// `kind` stands for IPv4, the next one for IPv6.
fn prefix(hasher: &mut SipHasher13, kind: u8, prefix: Prefix) {
    let length = u64::from(prefix.length()) << 48;
    match prefix.address() {
        IpAddr::V4(v4) => {
            hasher.write_u64(u64::from(kind) << 56 | length | u64::from(u32::from(v4)));
        }
        IpAddr::V6(v6) => {
            hasher.write_u64(u64::from(kind + 1) << 56 | length);
            hasher.write(&v6.octets());
        }
    }
}

/// A sum of hashes under secret keys: the same for the same roles in any order.
fn roles(hasher: &mut SipHasher13, kind: u8, roles: &[String], seed: Seed) -> Option<()> {
    let sum = roles.iter().fold(0_u64, |sum, role| {
        let mut one = seed.hasher();
        one.write(role.as_bytes());
        sum.wrapping_add(one.finish())
    });
    head(hasher, kind, roles.len());
    hasher.write_u64(sum);
    (!roles.is_empty()).then_some(())
}
