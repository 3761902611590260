//! Proof of work: many small puzzles, so that the effort is much the same for everybody.
//!
//! One puzzle for leading zeros has a long tail: the unluckiest hundredth waits 4.6 times the mean.
//! The sum of [`PUZZLES`] small ones spreads by an eighth around it, and the unluckiest hundredth
//! waits 1.3 times the mean.
//!
//! Puzzle `i` is solved by a `nonce` for which the first 4 bytes of
//! `SHA-256(seed 32 | i 4 | nonce 4)` (numbers big-endian) are at most [`limit`]. The seed is the
//! seal of the challenge's [ticket](crate::ticket), and so depends on everything in it, the effort too:
//! a client can neither pick an easier challenge nor solve one before it has it.

use ring::digest::{SHA256, digest};

/// How many puzzles a challenge has; also what verifying it costs in hashes.
pub const PUZZLES: u32 = 64;

/// Whether these nonces solve every puzzle, one each and in order. Costs [`PUZZLES`] hashes at the
/// most.
#[must_use]
pub fn is_solved(seed: &[u8; 32], effort: u32, nonces: &[u32]) -> bool {
    let limit = limit(effort);
    usize::try_from(PUZZLES).is_ok_and(|count| nonces.len() == count)
        && (0..PUZZLES)
            .zip(nonces)
            .all(|(puzzle, nonce)| first_word(seed, puzzle, *nonce) <= limit)
}

/// Solves it, as a client does; for tests and for measuring.
#[must_use]
pub fn solve(seed: &[u8; 32], effort: u32) -> Vec<u32> {
    let limit = limit(effort);
    (0..PUZZLES)
        .filter_map(|puzzle| (0..=u32::MAX).find(|nonce| first_word(seed, puzzle, *nonce) <= limit))
        .collect()
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
    use proptest::prelude::*;

    const SEED: [u8; 32] = [7; 32];
    const EFFORT: u32 = 64 * 1000;

    #[test]
    fn solving_solves() {
        assert!(is_solved(&SEED, 5000, &solve(&SEED, 5000)));
    }

    /// CVE-2025-24369: Anubis took any hash that the client claimed, whatever its effort.
    #[test]
    fn any_other_hash_is_no_solution() {
        let good = solve(&SEED, EFFORT);
        let is_solution = |nonces: &[u32]| is_solved(&SEED, EFFORT, nonces);
        assert!(!is_solution(&[]));
        assert!(!is_solution(&[0; 64]));
        assert!(!is_solution(&good[..63]));
        assert!(!is_solution(&[good.as_slice(), &[0]].concat()));
        let mut turned = good.clone();
        turned.rotate_left(1);
        assert!(!is_solution(&turned));
        for at in 0..64 {
            let mut wrong = good.clone();
            // The nonce just before the first that fits, fits not; 0 may have none before it.
            if let Some(before) = wrong[at].checked_sub(1) {
                wrong[at] = before;
                assert!(!is_solution(&wrong), "puzzle {at}");
            }
        }
    }

    #[test]
    fn the_solution_of_one_challenge_is_none_of_another() {
        assert!(!is_solved(&[8; 32], EFFORT, &solve(&SEED, EFFORT)));
    }

    /// CVE-2025-24369, second part: right for less work is wrong.
    #[test]
    fn the_solution_of_an_easier_challenge_is_none() {
        for easier in [64, EFFORT / 8, EFFORT / 2] {
            let nonces = solve(&SEED, easier);
            assert!(is_solved(&SEED, easier, &nonces));
            assert!(!is_solved(&SEED, EFFORT, &nonces), "{easier}");
        }
    }

    #[test]
    fn one_nonce_solves_one_puzzle() {
        let good = solve(&SEED, EFFORT);
        for at in 1..64 {
            let mut doubled = good.clone();
            doubled[at] = doubled[at - 1];
            assert!(!is_solved(&SEED, EFFORT, &doubled), "puzzle {at}");
        }
    }

    /// What the solvers of browsers must find too.
    #[test]
    fn hashes_are_those_of_the_standard() {
        // SHA-256 of 32 bytes of 7, then 0 1 2 3 4 5 6 7.
        assert_eq!(first_word(&SEED, 0x0001_0203, 0x0405_0607), 0x737b_874f);
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
                let solution = solve(&[n; 32], 20_000);
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

    proptest! {
        #[test]
        fn no_guess_solves(nonces in prop::collection::vec(any::<u32>(), 0..130)) {
            prop_assert!(!is_solved(&SEED, EFFORT, &nonces));
        }
    }
}
