//! Chance: for what must not be guessed straight from the system, for the rest from a generator that is
//! seeded there and costs next to nothing (`SplitMix64`: Steele, Lea, Flood, 2014).

use ring::rand::{SecureRandom, SystemRandom};

/// How many random bytes are asked for at once.
const CHUNK: usize = 64;

/// Numbers that nobody can foresee.
#[derive(Debug)]
pub struct Secret {
    bytes: [u8; CHUNK],
    used: usize,
}

impl Secret {
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: [0; CHUNK],
            used: CHUNK,
        }
    }

    /// `None` when the system gives no random bytes.
    fn byte(&mut self) -> Option<u8> {
        if self.used >= CHUNK {
            SystemRandom::new().fill(&mut self.bytes).ok()?;
            self.used = 0;
        }
        let byte = self.bytes.get(self.used).copied();
        self.used = self.used.saturating_add(1);
        byte
    }

    /// From 0 up to but without `bound`, each as likely as the others; `None` when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> Option<usize> {
        let bound = u16::try_from(bound).ok().filter(|bound| *bound > 0)?;
        // Where the last, incomplete round begins: from there on, draw again.
        let fair = u16::MAX - u16::MAX % bound;
        loop {
            let drawn = u16::from_be_bytes([self.byte()?, self.byte()?]);
            if drawn < fair {
                return Some(usize::from(drawn % bound));
            }
        }
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len())?)
    }

    /// Into an order in which each is as likely as the others.
    pub fn shuffle<T>(&mut self, items: &mut [T]) -> Option<()> {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end.saturating_add(1))?);
        }
        Some(())
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Some(bytes)
    }
}

/// Numbers for what is there to be seen anyway.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`.
    #[allow(clippy::cast_precision_loss)] // 24 bits fit
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        let share = (self.number() >> 40) as f32 / 16_777_216.0;
        low + (high - low) * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_below_the_bound_comes() {
        let mut secret = Secret::new();
        let mut counts = [0_u32; 20];
        for _ in 0..20_000 {
            counts[secret.below(20).unwrap()] += 1;
        }
        // Ten standard deviations around a thousand.
        assert!(
            counts.iter().all(|count| (700..1300).contains(count)),
            "{counts:?}"
        );
        assert_eq!(secret.below(0), None);
        assert_eq!(secret.below(1), Some(0));
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut items: Vec<_> = (0..50).collect();
        Secret::new().shuffle(&mut items).unwrap();
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert!(items.iter().copied().eq(0..50));
    }

    #[test]
    fn dice_stay_in_their_range() {
        let mut dice = Dice::new(7);
        assert!((0..10_000).all(|_| (-2.0..=3.0).contains(&dice.between(-2.0, 3.0))));
    }
}
