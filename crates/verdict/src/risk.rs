//! How suspect a visitor is that has to be challenged: signs, the points they bring, and the rung and
//! effort that so many points call for. One table, so that an operator can tell what will happen.
//!
//! | sign | points |
//! |---|---|
//! | it is over a limit | 2, and 2 altogether at least |
//! | ... while it holds a clearance | 1 |
//! | challenges it left unsolved: 3, 6, 12, 24 or more | 1, 2, 3, 5 |
//! | challenges issued to its network (for pages, or for data) of late: 60, 240 or more | 1, 2 |
//! | it asks for a page without `accept-language` | 1 |
//! | it asks for a page without `user-agent` | 1 |
//! | this process is under load, and its network had 12 challenges of late, or it left 3 unsolved | 1, and 2 altogether at least |
//! | ... under ten times the load | 2, and 3 altogether at least |
//! | it behaved well of late | -1 |
//!
//! | points | rung | effort |
//! |---|---|---|
//! | 0, 1 | silent | 1 |
//! | 2 | proof of work | 1 |
//! | 3 | proof of work | 2 |
//! | 4 | proof of work | 4 |
//! | 5, 6 | captcha | 4 |
//! | 7 and more | third party | 4 |
//!
//! Of the rungs in the configured ladder the mildest counts that is no milder; the hardest of all when
//! there is none. Where the counts come from is the caller's ([`Tally`] keeps them).

use crate::{
    Nanos,
    decision::Rung,
    key_table::{KeyHash, KeyTable},
    prefix::Prefix,
};
use std::{
    hash::{Hash, Hasher},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// What speaks for and against a visitor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // signs
pub struct Signs {
    pub over_limit: bool,
    /// It holds a clearance, of any rung.
    pub cleared: bool,
    /// Challenges of this client that it has not solved, for what it asks for: a page, or data.
    pub unsolved: u32,
    /// Challenges that its network was given of late for the like, solved or not.
    pub network: u32,
    /// It says that it wants a page, but in no language.
    pub no_language: bool,
    /// It says that it wants a page, and gives no name.
    pub no_agent: bool,
    pub load: Load,
    pub behaved: bool,
}

/// How many challenges this process issues, by what is usual for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    #[default]
    Usual,
    /// More than the configured number a second.
    High,
    /// Ten times that.
    Extreme,
}

/// A network that was given fewer challenges of late takes no part in a load.
const QUIET: u32 = 12;

/// The sum of a visitor's signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Risk(pub u32);

impl Risk {
    /// Adds up the points.
    #[must_use]
    pub fn of(signs: &Signs) -> Self {
        // A limit that is over is lifted by work, and never by what costs nothing.
        let (limit, least_of_limit) = if signs.over_limit {
            (2 + u32::from(signs.cleared), 2)
        } else {
            (0, 0)
        };
        let unsolved = match signs.unsolved {
            0..3 => 0,
            3..6 => 1,
            6..12 => 2,
            12..24 => 3,
            24.. => 5,
        };
        let network = match signs.network {
            0..60 => 0,
            60..240 => 1,
            240.. => 2,
        };
        // Nobody pays for a load that others make.
        let takes_part = signs.network >= QUIET || signs.unsolved >= 3;
        let (load, least) = match signs.load {
            Load::High if takes_part => (1, 2),
            Load::Extreme if takes_part => (2, 3),
            _ => (0, 0),
        };
        let marks = u32::from(signs.no_language) + u32::from(signs.no_agent);
        let sum = limit + unsolved + network + marks + load;
        let sum = sum.saturating_sub(signs.behaved.into());
        Self(sum.max(least).max(least_of_limit))
    }

    /// The rung that it calls for, were they all there.
    #[must_use]
    pub fn wanted(self) -> Rung {
        match self.0 {
            0..2 => Rung::Silent,
            2..5 => Rung::ProofOfWork,
            5..7 => Rung::Captcha,
            7.. => Rung::ThirdParty,
        }
    }

    /// The mildest of `ladder` (mildest first) that will do, or its hardest.
    #[must_use]
    pub fn rung(self, ladder: &[Rung]) -> Rung {
        let wanted = self.wanted();
        let will_do = ladder.iter().find(|rung| **rung >= wanted);
        *will_do.or(ladder.last()).unwrap_or(&wanted)
    }

    /// How many times the usual effort a proof of work takes.
    #[must_use]
    pub fn effort(self) -> u32 {
        match self.0 {
            0..3 => 1,
            3 => 2,
            4.. => 4,
        }
    }
}

/// A client's unsolved challenges are forgotten at one a minute.
const CLIENT_INTERVAL: Duration = Duration::from_secs(60);
/// No more are counted, so that nobody is marked for longer than this many minutes.
const CLIENT_MOST: u32 = 30;
/// A network's challenges are forgotten at one every two seconds.
const NETWORK_INTERVAL: Duration = Duration::from_secs(2);
const NETWORK_MOST: u32 = 300;

/// Clients, and networks, that are kept: about 1.8 MB each once they are full.
const MOST_KEYS: u32 = 65_536;

/// How long load counts as such after its last second.
const LOAD_LASTS: u64 = 10;

/// Counts challenges: of each client, of each network, and of the process. Bounded; of too many
/// clients the least indebted are forgotten.
///
/// Those for pages and those for data are counted apart: a program that solves nothing and goes on
/// asking makes life no harder for the people behind the same address.
#[derive(Debug)]
pub struct Tally {
    clients: KeyTable,
    networks: KeyTable,
    /// The second, and how many were issued in it: upper and lower half.
    second: AtomicU64,
    /// Seconds in which high and extreme load end.
    high_until: AtomicU64,
    extreme_until: AtomicU64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            clients: KeyTable::new(MOST_KEYS),
            networks: KeyTable::new(MOST_KEYS),
            second: AtomicU64::new(0),
            high_until: AtomicU64::new(0),
            extreme_until: AtomicU64::new(0),
        }
    }
}

impl Tally {
    /// A challenge was issued, for a page or for data. `usual`: how many a second are no load.
    pub fn issued(&self, client: Prefix, network: Prefix, page: bool, usual: u32, now: Nanos) {
        let Self {
            clients, networks, ..
        } = self;
        add(
            clients,
            key(clients, client, page),
            (CLIENT_INTERVAL, CLIENT_MOST),
            now,
        );
        add(
            networks,
            key(networks, network, page),
            (NETWORK_INTERVAL, NETWORK_MOST),
            now,
        );
        self.one_more(usual, now);
    }

    /// The client solved one. The silent rung costs nothing, and so takes back no more than itself,
    /// which was for a page; any other clears the client.
    pub fn solved(&self, client: Prefix, rung: Rung, now: Nanos) {
        let table = &self.clients;
        let is_silent = rung == Rung::Silent;
        for page in [true, false] {
            if is_silent && !page {
                continue;
            }
            table.update(key(table, client, page), now, |arrival| {
                let Some(left) = arrival else {
                    return ((), None);
                };
                let left = if is_silent {
                    left.0.saturating_sub(nanos(CLIENT_INTERVAL))
                } else {
                    0
                };
                ((), Some(Nanos(left.max(now.0))))
            });
        }
    }

    /// Challenges of this client that are not solved, for pages or for data.
    #[must_use]
    pub fn unsolved(&self, client: Prefix, page: bool, now: Nanos) -> u32 {
        let key = key(&self.clients, client, page);
        count(&self.clients, key, CLIENT_INTERVAL, now)
    }

    /// Challenges of this network of late, for pages or for data.
    #[must_use]
    pub fn network(&self, network: Prefix, page: bool, now: Nanos) -> u32 {
        let key = key(&self.networks, network, page);
        count(&self.networks, key, NETWORK_INTERVAL, now)
    }

    #[must_use]
    pub fn load(&self, now: Nanos) -> Load {
        let second = seconds(now);
        if second < self.extreme_until.load(Relaxed) {
            Load::Extreme
        } else if second < self.high_until.load(Relaxed) {
            Load::High
        } else {
            Load::Usual
        }
    }

    fn one_more(&self, usual: u32, now: Nanos) {
        let second = seconds(now);
        let next = |known: u64| {
            // What a late thread adds to the next second does no harm.
            if known >> 32 < second & u64::from(u32::MAX) {
                second << 32 | 1
            } else {
                known.saturating_add(1)
            }
        };
        let before = self
            .second
            .fetch_update(Relaxed, Relaxed, |known| Some(next(known)))
            .unwrap_or_default();
        let issued = next(before) & u64::from(u32::MAX);
        let until = second.saturating_add(LOAD_LASTS);
        let usual = u64::from(usual);
        if issued > usual {
            self.high_until.fetch_max(until, Relaxed);
        }
        if issued > usual.saturating_mul(10) {
            self.extreme_until.fetch_max(until, Relaxed);
        }
    }
}

/// Each costs an interval: the arrival time lies as many of them ahead as there are.
fn add(table: &KeyTable, key: KeyHash, (interval, most): (Duration, u32), now: Nanos) {
    let interval = nanos(interval);
    let end = now
        .0
        .saturating_add(interval.saturating_mul(u64::from(most)));
    table.update(key, now, |arrival| {
        let arrival = arrival.unwrap_or(now).0.saturating_add(interval).min(end);
        ((), Some(Nanos(arrival)))
    });
}

fn count(table: &KeyTable, key: KeyHash, interval: Duration, now: Nanos) -> u32 {
    table.update(key, now, |arrival| {
        let ahead = arrival.map_or(0, |arrival| arrival.0.saturating_sub(now.0));
        let count = ahead.div_ceil(nanos(interval).max(1));
        (u32::try_from(count).unwrap_or(u32::MAX), None)
    })
}

fn key(table: &KeyTable, prefix: Prefix, page: bool) -> KeyHash {
    let mut hasher = table.seed().hasher();
    (prefix, page).hash(&mut hasher);
    KeyHash(hasher.finish())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn seconds(now: Nanos) -> u64 {
    now.0 / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::PrefixLengths;
    use std::net::{IpAddr, Ipv4Addr};

    const ALL: [Rung; 4] = Rung::ALL;

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    fn client(number: u32) -> Prefix {
        Prefix::of(IpAddr::V4(Ipv4Addr::from(number)), PrefixLengths::CLIENT)
    }

    fn network(number: u32) -> Prefix {
        Prefix::of(IpAddr::V4(Ipv4Addr::from(number)), PrefixLengths::NETWORK)
    }

    #[test]
    #[allow(clippy::too_many_lines)] // a table
    fn signs_add_up_as_the_table_says() {
        let none = Signs::default();
        let stories = [
            ("a first visit", none, 0),
            (
                "over a limit",
                Signs {
                    over_limit: true,
                    ..none
                },
                2,
            ),
            (
                "over a limit, with a clearance",
                Signs {
                    over_limit: true,
                    cleared: true,
                    ..none
                },
                3,
            ),
            (
                "a clearance alone",
                Signs {
                    cleared: true,
                    ..none
                },
                0,
            ),
            (
                "a few unsolved",
                Signs {
                    unsolved: 3,
                    ..none
                },
                1,
            ),
            (
                "many unsolved",
                Signs {
                    unsolved: 12,
                    ..none
                },
                3,
            ),
            (
                "nothing but unsolved",
                Signs {
                    unsolved: 24,
                    ..none
                },
                5,
            ),
            (
                "a busy network",
                Signs {
                    network: 60,
                    ..none
                },
                1,
            ),
            (
                "a very busy network",
                Signs {
                    network: 240,
                    ..none
                },
                2,
            ),
            (
                "a script",
                Signs {
                    no_language: true,
                    no_agent: true,
                    ..none
                },
                2,
            ),
            (
                "load that others make",
                Signs {
                    load: Load::Extreme,
                    network: 11,
                    unsolved: 2,
                    ..none
                },
                0,
            ),
            (
                "load that others make, over a limit",
                Signs {
                    load: Load::High,
                    over_limit: true,
                    ..none
                },
                2,
            ),
            (
                "load of its network",
                Signs {
                    load: Load::High,
                    network: 12,
                    ..none
                },
                2,
            ),
            (
                "its own load",
                Signs {
                    load: Load::High,
                    unsolved: 3,
                    ..none
                },
                2,
            ),
            (
                "load of its network, and behaved",
                Signs {
                    load: Load::High,
                    network: 12,
                    behaved: true,
                    ..none
                },
                2,
            ),
            (
                "load of its network, and over a limit",
                Signs {
                    load: Load::High,
                    network: 12,
                    over_limit: true,
                    ..none
                },
                3,
            ),
            (
                "extreme load of its network",
                Signs {
                    load: Load::Extreme,
                    network: 12,
                    ..none
                },
                3,
            ),
            (
                "behaved",
                Signs {
                    behaved: true,
                    ..none
                },
                0,
            ),
            (
                "behaved, over a limit",
                Signs {
                    behaved: true,
                    over_limit: true,
                    ..none
                },
                2,
            ),
            (
                "all at once",
                Signs {
                    over_limit: true,
                    cleared: true,
                    unsolved: 99,
                    network: 999,
                    no_language: true,
                    no_agent: true,
                    load: Load::Extreme,
                    behaved: false,
                },
                14,
            ),
        ];
        for (story, signs, points) in stories {
            assert_eq!(Risk::of(&signs), Risk(points), "{story}");
        }
    }

    #[test]
    fn points_climb_the_ladder() {
        use Rung::{Captcha, ProofOfWork, Silent, ThirdParty};
        let rungs = |ladder: &[Rung]| -> Vec<Rung> {
            (0..9).map(|points| Risk(points).rung(ladder)).collect()
        };
        let all = [Silent; 2]
            .into_iter()
            .chain([ProofOfWork; 3])
            .chain([Captcha; 2])
            .chain([ThirdParty; 2]);
        assert_eq!(rungs(&ALL), all.collect::<Vec<_>>());
        assert_eq!(rungs(&[ProofOfWork]), [ProofOfWork; 9]);
        assert_eq!(
            rungs(&[Silent, Captcha])[..],
            [
                Silent, Silent, Captcha, Captcha, Captcha, Captcha, Captcha, Captcha, Captcha
            ]
        );
        assert_eq!(
            rungs(&[ProofOfWork, ThirdParty])[..],
            [
                ProofOfWork,
                ProofOfWork,
                ProofOfWork,
                ProofOfWork,
                ProofOfWork,
                ThirdParty,
                ThirdParty,
                ThirdParty,
                ThirdParty
            ]
        );
        let efforts: Vec<u32> = (0..7).map(|points| Risk(points).effort()).collect();
        assert_eq!(efforts, [1, 1, 1, 2, 4, 4, 4]);
    }

    #[test]
    fn unsolved_challenges_are_counted_and_forgotten_one_a_minute() {
        let tally = Tally::default();
        for _ in 0..5 {
            tally.issued(client(1), network(1), true, 1000, at(100));
        }
        assert_eq!(tally.unsolved(client(1), true, at(100)), 5);
        assert_eq!(tally.unsolved(client(2), true, at(100)), 0);
        assert_eq!(tally.unsolved(client(1), true, at(160)), 4);
        assert_eq!(tally.unsolved(client(1), true, at(400)), 0);
        for _ in 0..1000 {
            tally.issued(client(1), network(1), true, 1_000_000, at(500));
        }
        assert_eq!(tally.unsolved(client(1), true, at(500)), CLIENT_MOST);
        assert_eq!(tally.network(network(1), true, at(500)), NETWORK_MOST);
        assert_eq!(tally.network(network(1), true, at(510)), NETWORK_MOST - 5);
    }

    #[test]
    fn solving_clears_but_the_silent_rung_takes_back_only_itself() {
        let tally = Tally::default();
        let issue = |count| {
            (0..count).for_each(|_| tally.issued(client(1), network(1), true, 1000, at(100)));
        };
        issue(10);
        tally.solved(client(1), Rung::Silent, at(100));
        assert_eq!(tally.unsolved(client(1), true, at(100)), 9);
        tally.solved(client(1), Rung::ProofOfWork, at(100));
        assert_eq!(tally.unsolved(client(1), true, at(100)), 0);
        // Nothing is owed to who solves what was not counted.
        tally.solved(client(1), Rung::Silent, at(100));
        tally.solved(client(1), Rung::Captcha, at(100));
        issue(1);
        assert_eq!(tally.unsolved(client(1), true, at(100)), 1);
        assert_eq!(tally.network(network(1), true, at(100)), 11);
    }

    #[test]
    fn programs_that_solve_nothing_do_not_mark_the_people_beside_them() {
        let tally = Tally::default();
        let data = |count| {
            (0..count).for_each(|_| tally.issued(client(1), network(1), false, 100_000, at(100)));
        };
        data(1000);
        assert_eq!(tally.unsolved(client(1), true, at(100)), 0);
        assert_eq!(tally.network(network(1), true, at(100)), 0);
        // They are known for it themselves, until somebody works there; coming back with a cookie
        // is none of that.
        assert_eq!(tally.unsolved(client(1), false, at(100)), CLIENT_MOST);
        assert_eq!(tally.network(network(1), false, at(100)), NETWORK_MOST);
        tally.solved(client(1), Rung::Silent, at(100));
        assert_eq!(tally.unsolved(client(1), false, at(100)), CLIENT_MOST);
        tally.solved(client(1), Rung::ProofOfWork, at(100));
        assert_eq!(tally.unsolved(client(1), false, at(100)), 0);
    }

    #[test]
    fn load_is_more_than_usual_in_a_second_and_lasts_a_while() {
        let tally = Tally::default();
        let issue = |count, second| {
            for number in 0..count {
                tally.issued(client(number), network(number), true, 100, at(second));
            }
        };
        (0..50).for_each(|second| issue(100, second));
        assert_eq!(tally.load(at(49)), Load::Usual);
        issue(101, 50);
        assert_eq!(tally.load(at(50)), Load::High);
        assert_eq!(tally.load(at(59)), Load::High);
        assert_eq!(tally.load(at(60)), Load::Usual);
        issue(1001, 70);
        assert_eq!(tally.load(at(70)), Load::Extreme);
        assert_eq!(tally.load(at(80)), Load::Usual);
    }

    #[test]
    fn a_flood_of_clients_stays_in_its_bound_and_hides_nobody() {
        let tally = Tally::default();
        for _ in 0..20 {
            tally.issued(client(7), network(7), true, 100, at(1));
        }
        for number in 1000..400_000 {
            tally.issued(client(number), network(number), true, 100, at(1));
        }
        assert_eq!(tally.unsolved(client(7), true, at(1)), 20);
        assert!(tally.clients.tracked(at(1)) < u64::from(MOST_KEYS) * 2);
    }
}
