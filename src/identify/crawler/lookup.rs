//! One verification: from the address to its names, and from those back to it.

use super::Mask;
use hickory_resolver::{
    TokioResolver,
    net::NetError,
    proto::rr::{Name, RData, RecordType},
};
use std::{net::IpAddr, time::Duration};
use tokio::time::timeout;

/// Names of an address that are followed, of those in the wanted domains.
const MOST_NAMES: usize = 4;
/// Records of one answer that are looked at.
const MOST_RECORDS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);

/// What the DNS says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// For these crawlers.
    Verified(Mask),
    /// It belongs to none of them.
    Other,
    /// There was no answer.
    Failed,
}

/// Looks up both ways, in bounded time.
pub async fn verify(resolver: &TokioResolver, ip: IpAddr, domains: &[(Name, Mask)]) -> Found {
    let looking = look(resolver, ip, domains);
    timeout(PATIENCE, looking).await.unwrap_or(Found::Failed)
}

async fn look(resolver: &TokioResolver, ip: IpAddr, domains: &[(Name, Mask)]) -> Found {
    let names = match records(resolver, Name::from(ip), RecordType::PTR).await {
        Ok(names) => names,
        Err(found) => return found,
    };
    let names = names.into_iter().filter_map(|data| match data {
        RData::PTR(name) => Some(name.0),
        _ => None,
    });
    // Whoever owns an address may give it any name: only those count that the domain's owner has
    // given it too.
    let claimed = |name: &Name| -> Mask {
        let inside = domains.iter().filter(|(domain, _)| domain.zone_of(name));
        inside.fold(0, |mask, (_, bit)| mask | bit)
    };
    let names = names.map(|name| (claimed(&name), name));
    let names: Vec<_> = names
        .filter(|(mask, _)| *mask != 0)
        .take(MOST_NAMES)
        .collect();
    let record_type = match ip {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    };
    let mut verified = 0;
    let mut failed = false;
    for (mask, mut name) in names {
        // As it stands: no search domains.
        name.set_fqdn(true);
        match records(resolver, name, record_type).await {
            Ok(addresses) => {
                let leads_back = addresses.iter().any(|data| match data {
                    RData::A(v4) => IpAddr::V4(v4.0) == ip,
                    RData::AAAA(v6) => IpAddr::V6(v6.0) == ip,
                    _ => false,
                });
                if leads_back {
                    verified |= mask;
                }
            }
            Err(Found::Failed) => failed = true,
            Err(_) => {}
        }
    }
    match (verified, failed) {
        (0, true) => Found::Failed,
        (0, false) => Found::Other,
        (mask, _) => Found::Verified(mask),
    }
}

/// Records of this type; `Other` when there are none, `Failed` when nobody says so.
async fn records(
    resolver: &TokioResolver,
    name: Name,
    record_type: RecordType,
) -> Result<Vec<RData>, Found> {
    match resolver.lookup(name, record_type).await {
        Ok(answer) => {
            let answers = answer.answers().iter().take(MOST_RECORDS);
            Ok(answers.map(|record| record.data.clone()).collect())
        }
        Err(error) if is_none(&error) => Err(Found::Other),
        Err(_) => Err(Found::Failed),
    }
}

fn is_none(error: &NetError) -> bool {
    error.is_nx_domain() || error.is_no_records_found()
}
