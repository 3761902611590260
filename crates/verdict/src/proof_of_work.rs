//! Proof of work: many small puzzles, so that the effort is much the same for everybody.
//!
//! One puzzle for leading zeros has a long tail: the unluckiest hundredth waits 4.6 times the mean.
//! The sum of [`PUZZLES`] small ones spreads by an eighth around it, and the unluckiest hundredth
//! waits 1.3 times the mean.
//!
//! Puzzle `i` is solved by a `nonce` for which the first 4 bytes of
//! `SHA-256(seed 32 | i 4 | nonce 4)` (numbers big-endian) are at most [`limit`]. The seed is the
//! seal of the challenge's token, and so depends on everything in it, the effort too: a client can
//! neither pick an easier challenge nor solve one before it has it.

use crate::{
    clearance::{PREFIX_BYTES, prefix_from_bytes, prefix_to_bytes},
    prefix::Prefix,
    seal::{Key, MAX_BYTES, Purpose, Writer},
};
use ring::digest::{SHA256, digest};

/// How many puzzles a challenge has; also what verifying it costs in hashes.
pub const PUZZLES: u32 = 64;

/// The longest path and query to return to.
pub const MAX_TARGET: usize = 1024;

const ID: u8 = 1;
const HOST: u8 = 2;
const NETWORK: u8 = 3;
const ISSUED: u8 = 4;
const EXPIRES: u8 = 5;
const EFFORT: u8 = 6;
const TARGET: u8 = 7;

/// A challenge, as it stands sealed in its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Random, and what makes each challenge solvable once.
    pub id: [u8; 16],
    pub host: String,
    pub network: Prefix,
    /// Unix seconds.
    pub issued: u64,
    /// Unix seconds.
    pub expires: u64,
    /// Mean hashes that solving takes.
    pub effort: u32,
    /// Path and query of the request that was challenged.
    pub target: String,
}

/// A challenge and its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub challenge: Challenge,
    pub seed: [u8; 32],
}

impl Challenge {
    /// The token; `None` when a field is too long.
    #[must_use]
    pub fn seal(&self, key: &Key) -> Option<String> {
        if self.target.len() > MAX_TARGET || self.host.len() > 253 {
            return None;
        }
        let fields = Writer::new(Purpose::ProofOfWork)
            .field(ID, &self.id)
            .field(HOST, self.host.as_bytes())
            .field(NETWORK, &prefix_to_bytes(self.network))
            .field(ISSUED, &self.issued.to_be_bytes())
            .field(EXPIRES, &self.expires.to_be_bytes())
            .field(EFFORT, &self.effort.to_be_bytes())
            .field(TARGET, self.target.as_bytes());
        key.seal(fields)
    }

    /// Opens a token that this key sealed. Whether it is still good, and here, is the caller's to
    /// ask.
    #[must_use]
    pub fn open(token: &[u8], key: &Key) -> Option<Opened> {
        let mut buffer = [0; MAX_BYTES];
        let mut fields = key.open(token, Purpose::ProofOfWork, &mut buffer)?;
        let seed = fields.tag();
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let challenge = Self {
            id: fields.array(ID)?,
            host: text(fields.field(HOST)?)?,
            network: prefix_from_bytes(fields.array::<PREFIX_BYTES>(NETWORK)?)?,
            issued: fields.number(ISSUED)?,
            expires: fields.number(EXPIRES)?,
            effort: u32::from_be_bytes(fields.array(EFFORT)?),
            target: text(fields.field(TARGET)?)?,
        };
        fields.is_at_end().then_some(Opened { challenge, seed })
    }
}

impl Opened {
    /// Whether these nonces solve every puzzle, one each and in order. Costs [`PUZZLES`] hashes at
    /// the most.
    #[must_use]
    pub fn is_solved_by(&self, nonces: &[u32]) -> bool {
        let limit = limit(self.challenge.effort);
        usize::try_from(PUZZLES).is_ok_and(|count| nonces.len() == count)
            && (0..PUZZLES)
                .zip(nonces)
                .all(|(puzzle, nonce)| first_word(&self.seed, puzzle, *nonce) <= limit)
    }

    /// Solves it, as a client does; for tests and for measuring.
    #[must_use]
    pub fn solve(&self) -> Vec<u32> {
        let limit = limit(self.challenge.effort);
        (0..PUZZLES)
            .filter_map(|puzzle| {
                (0..=u32::MAX).find(|nonce| first_word(&self.seed, puzzle, *nonce) <= limit)
            })
            .collect()
    }
}

/// The largest first word of a hash that solves a puzzle, for a challenge of `effort` mean hashes.
#[must_use]
pub fn limit(effort: u32) -> u32 {
    let mean = effort.checked_div(PUZZLES).unwrap_or(0).max(1);
    let hits = (1_u64 << 32).checked_div(u64::from(mean)).unwrap_or(1);
    u32::try_from(hits.saturating_sub(1)).unwrap_or(u32::MAX)
}

fn first_word(seed: &[u8; 32], puzzle: u32, nonce: u32) -> u32 {
    let mut message = [0; 40];
    let bytes = seed
        .iter()
        .copied()
        .chain(puzzle.to_be_bytes())
        .chain(nonce.to_be_bytes());
    for (to, from) in message.iter_mut().zip(bytes) {
        *to = from;
    }
    digest(&SHA256, &message)
        .as_ref()
        .first_chunk()
        .map_or(u32::MAX, |word| u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::PrefixLengths;
    use proptest::prelude::*;

    fn key() -> Key {
        Key::new(b"a secret of the tests, long enough")
    }

    fn challenge(effort: u32) -> Challenge {
        Challenge {
            id: [7; 16],
            host: "app.example.com".to_owned(),
            network: Prefix::of("192.0.2.7".parse().unwrap(), PrefixLengths::CLIENT),
            issued: 1_700_000_000,
            expires: 1_700_000_300,
            effort,
            target: "/a?b=c".to_owned(),
        }
    }

    fn opened(effort: u32) -> Opened {
        let token = challenge(effort).seal(&key()).unwrap();
        Challenge::open(token.as_bytes(), &key()).unwrap()
    }

    #[test]
    fn what_was_sealed_comes_out() {
        assert_eq!(opened(5000).challenge, challenge(5000));
    }

    #[test]
    fn solving_solves() {
        let opened = opened(5000);
        assert!(opened.is_solved_by(&opened.solve()));
    }

    #[test]
    fn any_other_hash_is_no_solution() {
        let opened = opened(64 * 1000);
        let good = opened.solve();
        assert!(!opened.is_solved_by(&[]));
        assert!(!opened.is_solved_by(&[0; 64]));
        assert!(!opened.is_solved_by(&good[..63]));
        assert!(!opened.is_solved_by(&[good.as_slice(), &[0]].concat()));
        let mut turned = good.clone();
        turned.rotate_left(1);
        assert!(!opened.is_solved_by(&turned));
        for at in 0..64 {
            let mut wrong = good.clone();
            // The nonce just before the first that fits, fits not; 0 may have none before it.
            if let Some(before) = wrong[at].checked_sub(1) {
                wrong[at] = before;
                assert!(!opened.is_solved_by(&wrong), "puzzle {at}");
            }
        }
    }

    #[test]
    fn the_solution_of_one_challenge_is_none_of_another() {
        let one = opened(64 * 1000);
        let mut other = challenge(64 * 1000);
        other.id = [8; 16];
        let other = Challenge::open(other.seal(&key()).unwrap().as_bytes(), &key()).unwrap();
        assert_ne!(one.seed, other.seed);
        assert!(!other.is_solved_by(&one.solve()));
    }

    #[test]
    fn an_easier_challenge_is_another_one() {
        let hard = opened(64 * 1000);
        let easy = opened(64);
        assert_ne!(hard.seed, easy.seed);
        assert!(!hard.is_solved_by(&easy.solve()));
        // A client that lowers the effort in the token breaks its seal.
        let token = challenge(64 * 1000).seal(&key()).unwrap();
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] ^= 1;
            assert_eq!(Challenge::open(&forged, &key()), None);
            assert_eq!(Challenge::open(&token.as_bytes()[..at], &key()), None);
        }
    }

    #[test]
    fn the_limit_makes_the_effort() {
        assert_eq!(limit(0), u32::MAX);
        assert_eq!(limit(64), u32::MAX);
        assert_eq!(limit(128), u32::MAX / 2);
        assert_eq!(limit(64 << 16), 0xffff);
        assert_eq!(limit(u32::MAX), 63);
    }

    #[test]
    fn the_effort_is_what_was_asked_for_and_spreads_little() {
        let efforts: Vec<u32> = (0..40_u8)
            .map(|n| {
                let mut challenge = challenge(20_000);
                challenge.id = [n; 16];
                let token = challenge.seal(&key()).unwrap();
                let solution = Challenge::open(token.as_bytes(), &key()).unwrap().solve();
                solution.iter().map(|nonce| nonce + 1).sum()
            })
            .collect();
        let mean = efforts.iter().sum::<u32>() / 40;
        assert!((18_000..22_000).contains(&mean), "{mean}");
        assert!(
            efforts
                .iter()
                .all(|effort| (10_000..33_000).contains(effort)),
            "{efforts:?}"
        );
    }

    #[test]
    fn what_is_too_long_has_no_token() {
        let mut long = challenge(1);
        long.target = "a".repeat(MAX_TARGET + 1);
        assert_eq!(long.seal(&key()), None);
        long.target.pop();
        long.host = "h".repeat(253);
        assert!(long.seal(&key()).is_some());
        long.host = "h".repeat(254);
        assert_eq!(long.seal(&key()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_challenge(token in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Challenge::open(&token, &key()), None);
        }

        #[test]
        fn no_guess_solves(nonces in prop::collection::vec(any::<u32>(), 0..130)) {
            prop_assert!(!opened(64 * 1000).is_solved_by(&nonces));
        }
    }
}
