//! Sizes in a fixed number of places, so that the innermost loops have no lengths to check.
//!
//! With fewer budgets than places, the others are zero in every size and in every remainder.

/// One entry for each budget.
pub(super) type Sizes<const W: usize> = [u64; W];

/// The sizes with zeros behind them.
pub(super) fn padded<const W: usize>(sizes: &[u64]) -> Sizes<W> {
    let mut all = [0; W];
    all[..sizes.len()].copy_from_slice(sizes);
    all
}

#[allow(clippy::needless_bitwise_bool, reason = "one branch instead of many")]
pub(super) fn fits<const W: usize>(size: &Sizes<W>, rest: &Sizes<W>) -> bool {
    size.iter()
        .zip(rest)
        .fold(true, |fit, (s, r)| fit & (s <= r))
}

pub(super) fn subtract<const W: usize>(rest: &mut Sizes<W>, size: &Sizes<W>) {
    rest.iter_mut().zip(size).for_each(|(r, s)| *r -= s);
}

pub(super) fn add<const W: usize>(rest: &mut Sizes<W>, size: &Sizes<W>) {
    rest.iter_mut().zip(size).for_each(|(r, s)| *r += s);
}
