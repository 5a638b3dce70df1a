//! A keyed permutation of `0..n` that can be computed at any position.
//!
//! A shuffled epoch needs no list and no replay: `permute(p, n, key)` is the item at position `p`.
//! Four Feistel rounds over the smallest even number of bits that holds `n`, with cycle walking
//! back into range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The round
//! function is the `SplitMix64` finaliser, so the published constants fix the stream for ever.

/// The finaliser of `SplitMix64`: a bijection on 64 bits whose output bits all depend on all input
/// bits.
///
/// ```
/// // The first output of SplitMix64 seeded with 0.
/// assert_eq!(treepack_core::permutation::mix64(0x9E37_79B9_7F4A_7C15), 0xE220_A839_7B1D_CDAF);
/// ```
#[must_use]
pub const fn mix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
const ROUNDS: usize = 4;

/// A key for [`permute`] from a seed and an epoch.
#[must_use]
pub const fn epoch_key(seed: u64, epoch: u64) -> u64 {
    mix64(mix64(seed.wrapping_add(GAMMA)) ^ epoch.wrapping_mul(GAMMA))
}

/// The item at `position` of the permutation of `0..n` that `key` selects.
///
/// Constant memory; expected fewer than four iterations of the rounds. `position >= n` returns `position`.
///
/// ```
/// use treepack_core::permutation::permute;
/// let mut items: Vec<u64> = (0..10).map(|p| permute(p, 10, 7)).collect();
/// items.sort_unstable();
/// assert_eq!(items, (0..10).collect::<Vec<u64>>());
/// ```
#[must_use]
pub const fn permute(position: u64, n: u64, key: u64) -> u64 {
    Permutation::new(n, key).at(position)
}

/// [`permute`] at many positions of one permutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    n: u64,
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` that `key` selects.
    #[must_use]
    pub const fn new(n: u64, key: u64) -> Self {
        let mut keys = [0; ROUNDS];
        let mut round = 0;
        while round < ROUNDS {
            keys[round] = mix64(key.wrapping_add((round as u64).wrapping_mul(GAMMA)));
            round += 1;
        }
        let half = (64 - n.saturating_sub(1).leading_zeros()).div_ceil(2);
        Self { n, half, keys }
    }

    /// The item at `position`; beyond the last one, `position`.
    #[must_use]
    pub const fn at(&self, position: u64) -> u64 {
        if self.n < 2 || position >= self.n {
            return position;
        }
        let mut x = self.feistel(position);
        while x >= self.n {
            x = self.feistel(x);
        }
        x
    }

    const fn feistel(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half, x & mask);
        let mut round = 0;
        while round < ROUNDS {
            let f = mix64(right ^ self.keys[round]) & mask;
            (left, right) = (right, left ^ f);
            round += 1;
        }
        (left << self.half) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_a_bijection() {
        for n in 0..200 {
            for key in [0, 1, u64::MAX] {
                let mut seen: Vec<u64> = (0..n).map(|p| permute(p, n, key)).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..n).collect::<Vec<_>>(), "n={n} key={key}");
            }
        }
    }

    #[test]
    fn the_largest_domain_works() {
        assert!(permute(5, u64::MAX, 3) < u64::MAX);
        assert_eq!(permute(u64::MAX, u64::MAX, 3), u64::MAX);
    }

    #[test]
    fn positions_spread_over_all_items() {
        // Each of 64 positions should visit items all over the range as the key changes: the mean
        // of 4,000 draws lies within five standard errors of the middle.
        let n = 1_000u64;
        for position in 0..64 {
            let sum: u64 = (0..4_000)
                .map(|k| permute(position, n, epoch_key(k, 0)))
                .sum();
            let mean = f64::from(u32::try_from(sum).unwrap()) / 4_000.0;
            assert!(
                (mean - 499.5).abs() < 5.0 * 288.7 / 4_000f64.sqrt(),
                "{position}: {mean}"
            );
        }
    }

    #[test]
    fn epochs_differ() {
        let order = |epoch| {
            (0..100)
                .map(|p| permute(p, 100, epoch_key(9, epoch)))
                .collect()
        };
        let (first, second): (Vec<u64>, Vec<u64>) = (order(0), order(1));
        assert_ne!(first, second);
    }
}
