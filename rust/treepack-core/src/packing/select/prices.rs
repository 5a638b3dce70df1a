//! What each budget is worth at the moment, and so each item.
//!
//! Everything is a u64 with a fixed binary point: `Qn` counts in units of `2^-n`. No sum or product
//! overflows, since budgets and sizes are at most 2^31 ([`MAX_BUDGET`]), items at most 2^15
//! ([`MAX_POOL`]) and budgets at most 2^6
//! ([`MAX_BUDGETS`](super::super::MAX_BUDGETS)):
//!
//! | quantity | format | largest value | largest intermediate |
//! |---|---|---|---|
//! | share of a budget, of an item | Q10 | 2^10 | size · 2^10 ≤ 2^41 |
//! | demand of a budget, in rows | Q16 | 2^31 | sum of sizes · 2^16 ≤ 2^62 |
//! | relative demand, and its 16th power | Q16 | 2^16 | demand · 2^16 ≤ 2^47 |
//! | price of one unit of a budget | Q36 | 2^36 | power · 2^20 ≤ 2^36 |
//! | price of a whole budget | Q36 | 2^36 | |
//! | value of sizes that fit into a row | Q36 | 2^42 | 2^6 prices of at most a whole budget |
//! | premium of an item | Q8 | 4416 < 2^13 | waited · age · 48 ≤ 2^33 |
//! | value with its premium | Q36 | 2^47 | (value · 2^-8) · premium; two of them ≤ 2^48 |
//! | price of an empty budget | Q16 | 2^16 | square of a Q16 ≤ 2^32 |
//! | loss of a row | Q18 | 2^24 | 2^6 products Q16 · Q10 ≤ 2^32 |
//!
//! Divisions round down. A price that rounds to 0 gives its budget no say in what is valuable (it
//! still holds): that takes more than 2^20 units, and a demand well below the largest, at the limit
//! of 2^31 units below four fifths of it.

use super::super::pool::View;
use super::super::{MAX_BUDGET, MAX_POOL};
use super::sizes::{add, Sizes};
use super::tolerance;

// The tightest line of the table: the demand of the fullest pool, scaled.
const _: () = assert!(MAX_POOL as u64 <= (u64::MAX >> 16) / MAX_BUDGET);

/// Prices of the budgets, from the demand of the pool.
///
/// A budget that the pool asks for more than the others costs more, steeply: the price is the
/// 16th power of its relative demand.
#[derive(Debug, Clone)]
pub(super) struct Prices<const W: usize> {
    /// Capacity of each budget; beyond the last one, 1.
    budgets: Sizes<W>,
    /// What may be left of each budget when it counts as full.
    tolerances: Sizes<W>,
    /// Price of one unit of each budget, Q36.
    unit: Sizes<W>,
    /// Price of leaving each budget empty, Q16: the square of its price.
    waste: Sizes<W>,
    /// The budget of the highest price.
    scarce: usize,
}

impl<const W: usize> Prices<W> {
    pub fn new(budgets: &[u64]) -> Self {
        let mut all = [1; W];
        all[..budgets.len()].copy_from_slice(budgets);
        Self {
            budgets: all,
            tolerances: all.map(tolerance),
            unit: [0; W],
            waste: [0; W],
            scarce: 0,
        }
    }

    /// Prices for the demand of a pool of these sizes.
    pub fn update(&mut self, sizes: &[Sizes<W>], n_budgets: usize) {
        let mut demand = [0; W];
        for size in sizes {
            add(&mut demand, size);
        }
        for (sum, budget) in demand.iter_mut().zip(&self.budgets) {
            // Q16: the rows that the pool would fill if this budget were the only one.
            *sum = (*sum << 16) / budget;
        }
        let most = demand.iter().copied().max().unwrap_or(0).max(1);
        self.scarce = 0;
        for (d, (&asked, &budget)) in demand.iter().zip(&self.budgets).take(n_budgets).enumerate() {
            // Q16: the demand relative to the largest, then squared four times.
            let mut x = (asked << 16) / most;
            for _ in 0..4 {
                x = (x * x) >> 16;
            }
            // Q36: a whole budget costs x, one unit a `budget`th of it.
            self.unit[d] = (x.max(1) << 20) / budget;
            // Q16 again, as rounded for one unit.
            let y = (self.unit[d] * budget) >> 20;
            self.waste[d] = (y * y) >> 16;
            if self.unit[d] * budget > self.unit[self.scarce] * self.budgets[self.scarce] {
                self.scarce = d;
            }
        }
    }

    /// Value of the given sizes before any premium, Q36.
    pub fn value(&self, sizes: &Sizes<W>) -> u64 {
        self.unit
            .iter()
            .zip(sizes)
            .map(|(unit, size)| unit * size)
            .sum()
    }

    /// The fractional bound, Q36: no items of these sizes together add more value to `rest`, before
    /// any premium, than if they could be cut to fill each budget on its own.
    pub fn fractional_bound(&self, sizes: &Sizes<W>, rest: &Sizes<W>) -> u64 {
        let parts = self.unit.iter().zip(sizes).zip(rest);
        parts
            .map(|((unit, size), left)| unit * size.min(left))
            .sum()
    }

    /// What it costs to leave `rest` empty, Q18.
    pub fn loss(&self, rest: &Sizes<W>) -> u64 {
        let parts = self.waste.iter().zip(rest).zip(&self.budgets);
        // Q16 times the empty share of the budget, Q10; then Q26 to Q18.
        parts
            .map(|((waste, left), budget)| waste * (left * 1024 / budget))
            .sum::<u64>()
            >> 8
    }

    /// Whether the scarcest budget is full.
    pub fn scarce_is_full(&self, rest: &Sizes<W>) -> bool {
        rest[self.scarce] <= self.tolerances[self.scarce]
    }

    /// Whether every budget is full.
    pub fn all_are_full(&self, rest: &Sizes<W>) -> bool {
        super::sizes::fits(rest, &self.tolerances)
    }
}

/// Premium on each item's value, Q8: large items and old ones go first.
///
/// 1, plus `gamma / 256` times the largest share of a budget that the item takes, plus
/// `3 age / 1024` for each `pool_size` packs that it has waited, at most 1/4.
pub(super) fn premiums(view: &View<'_>, search: super::Search, premiums: &mut Vec<u64>) {
    premiums.clear();
    let (mut arrival, mut old) = (view.now, 0);
    for (&arrived, share) in view.arrivals.iter().zip(view.shares) {
        // Neighbours often arrived together, and a division costs more than the rest.
        if arrived != arrival {
            arrival = arrived;
            let waited = view.now - arrived;
            // Q14, then Q8.
            old = (waited * u64::from(search.age) * 48 / view.pool_size).min(4096) / 64;
        }
        premiums.push(256 + ((share * u64::from(search.gamma)) >> 10) + old);
    }
}
