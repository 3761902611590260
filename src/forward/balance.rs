//! Which of several endpoints takes a request. A scan over a handful of endpoints: no allocation.

use super::endpoint::Endpoint;
use crate::config::model::Balance;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
};
use verdict::prefix::Prefix;

/// Picks among the endpoints that `fits` accepts. `turn` differs from call to call by one.
pub fn pick(
    balance: Balance,
    endpoints: &[Arc<Endpoint>],
    client: Prefix,
    turn: usize,
    fits: impl Fn(&Endpoint) -> bool,
) -> Option<&Arc<Endpoint>> {
    let fitting = || endpoints.iter().filter(|endpoint| fits(endpoint));
    match balance {
        Balance::RoundRobin => {
            // The n-th of those that fit: skipping the others would double their neighbours' load.
            let nth = turn.checked_rem(fitting().count())?;
            fitting().nth(nth).or_else(|| fitting().next())
        }
        Balance::LeastConnections => {
            let start = turn.checked_rem(endpoints.len())?;
            let (before, after) = endpoints.split_at_checked(start)?;
            // Ties go round.
            after
                .iter()
                .chain(before)
                .filter(|endpoint| fits(endpoint))
                .min_by_key(|endpoint| endpoint.fare.in_flight())
        }
        Balance::Hash => {
            // Rendezvous hashing (Thaler and Ravishankar, 1998): when an endpoint goes, only its own
            // clients move, and they spread over all others.
            let mut hasher = DefaultHasher::new();
            client.hash(&mut hasher);
            let client = hasher.finish();
            fitting().max_by_key(|endpoint| mix(client ^ endpoint.seed))
        }
    }
}

/// What [`Balance::Hash`] knows an address by; the same in every replica.
#[must_use]
pub fn seed(address: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    address.hash(&mut hasher);
    hasher.finish()
}

/// The finaliser of `SplitMix64`.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::endpoint::Fare;
    use pingora_core::upstreams::peer::HttpPeer;
    use std::net::{IpAddr, Ipv4Addr};
    use verdict::prefix::PrefixLengths;

    fn endpoints(count: u8) -> Vec<Arc<Endpoint>> {
        (1..=count)
            .map(|last| {
                let address = SocketAddr::from(([10, 0, 0, last], 80));
                Arc::new(Endpoint {
                    address,
                    seed: seed(address),
                    peer: HttpPeer::new(address, false, String::new()),
                    fare: Arc::new(Fare::default()),
                })
            })
            .collect()
    }

    fn client(number: u32) -> Prefix {
        Prefix::of(IpAddr::V4(Ipv4Addr::from(number)), PrefixLengths::CLIENT)
    }

    fn last(endpoint: Option<&Arc<Endpoint>>) -> u8 {
        match endpoint.unwrap().address.ip() {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => unreachable!(),
        }
    }

    #[test]
    fn round_robin_takes_turns_among_those_that_fit() {
        let all = endpoints(4);
        let mut counts = [0; 5];
        for turn in 0..300 {
            let picked = pick(Balance::RoundRobin, &all, client(1), turn, |endpoint| {
                endpoint.address.ip() != IpAddr::from([10, 0, 0, 2])
            });
            counts[usize::from(last(picked))] += 1;
        }
        assert_eq!(counts, [0, 100, 0, 100, 100]);
    }

    #[test]
    fn least_connections_takes_the_idlest() {
        let all = endpoints(3);
        all[0].fare.begin();
        all[2].fare.begin();
        for turn in 0..6 {
            assert_eq!(
                last(pick(
                    Balance::LeastConnections,
                    &all,
                    client(1),
                    turn,
                    |_| true
                )),
                2
            );
        }
        all[1].fare.begin();
        let taken: Vec<u8> = (0..3)
            .map(|turn| {
                last(pick(
                    Balance::LeastConnections,
                    &all,
                    client(1),
                    turn,
                    |_| true,
                ))
            })
            .collect();
        assert_eq!(taken, [1, 2, 3]);
    }

    #[test]
    fn hash_moves_only_the_clients_of_the_lost_endpoint() {
        let all = endpoints(5);
        let lost = all[3].address;
        let mut counts = [0_u32; 6];
        let mut moved = [0_u32; 6];
        for number in 0..10_000 {
            let first = last(pick(Balance::Hash, &all, client(number), 0, |_| true));
            let again = last(pick(Balance::Hash, &all, client(number), 7, |_| true));
            let without = last(pick(Balance::Hash, &all, client(number), 0, |endpoint| {
                endpoint.address != lost
            }));
            assert_eq!(first, again);
            assert!(first == 4 || first == without);
            counts[usize::from(first)] += 1;
            if first == 4 {
                moved[usize::from(without)] += 1;
            }
        }
        assert!(
            counts[1..]
                .iter()
                .all(|count| (1_700..2_300).contains(count)),
            "{counts:?}"
        );
        assert!(
            [1, 2, 3, 5].iter().all(|other| moved[*other] > 350),
            "{moved:?}"
        );
    }

    #[test]
    fn nothing_comes_of_nothing() {
        for balance in [
            Balance::RoundRobin,
            Balance::LeastConnections,
            Balance::Hash,
        ] {
            assert!(pick(balance, &[], client(1), 3, |_| true).is_none());
            assert!(pick(balance, &endpoints(2), client(1), 3, |_| false).is_none());
        }
    }
}
