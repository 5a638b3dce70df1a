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
//! | candidates of a search at prices, each budget | Q36 | 2^42 | 60 prices of at most a whole budget |
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

    /// The given sizes at these prices, Q36; their sum is the value before any premium.
    pub fn price(&self, sizes: &Sizes<W>) -> Sizes<W> {
        std::array::from_fn(|d| self.unit[d] * sizes[d])
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

/// The fractional bound, Q36: no items that cost `sum` together add more value to a row with room
/// for `rest`, before any premium, than if they could be cut to fill each budget on its own.
///
/// Both are sizes at prices, Q36.
pub(super) fn fractional_bound<const W: usize>(sum: &Sizes<W>, rest: &Sizes<W>) -> u64 {
    sum.iter().zip(rest).map(|(sum, left)| sum.min(left)).sum()
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
            // What lies behind the front has come since, and has not waited there.
            let waited = view.now.saturating_sub(arrived);
            // Q14, then Q8.
            old = (waited * u64::from(search.age) * 48 / view.pool_size).min(4096) / 64;
        }
        premiums.push(256 + ((share * u64::from(search.gamma)) >> 10) + old);
    }
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss, reason = "compared within their rounding")]
mod tests {
    use super::*;
    use crate::packing::{Search, MAX_BUDGETS};
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Budgets of two kinds, and sizes of a pool within them.
    fn pools() -> impl Strategy<Value = ([u64; 3], Vec<Sizes<3>>)> {
        let budget = prop_oneof![1u64..100, 10_000u64..20_000, Just(MAX_BUDGET)];
        (budget.clone(), budget.clone(), budget).prop_flat_map(|(a, b, c)| {
            let sizes = (0..=a, 0..=b, 0..=c).prop_map(|(a, b, c)| [a, b, c]);
            (Just([a, b, c]), vec(sizes, 1..30))
        })
    }

    fn prices(budgets: [u64; 3], sizes: &[Sizes<3>]) -> Prices<3> {
        let mut prices = Prices::new(&budgets);
        prices.update(sizes, 3);
        prices
    }

    proptest! {
        #[test]
        fn the_scarce_budget_is_the_one_in_demand((budgets, sizes) in pools()) {
            let prices = prices(budgets, &sizes);
            let demand = |d: usize| sizes.iter().map(|size| size[d]).sum::<u64>() * 65_536 / budgets[d];
            let most = (0..3).map(demand).max().unwrap();
            // A 16th power of 16 bits tells demands apart that differ by more than one in 2^16.
            prop_assert!(demand(prices.scarce) >= most - most / 65_536 - 1);
            // It costs 1 as a whole, up to the rounding of the price of one of its units.
            let whole = prices.unit[prices.scarce] * budgets[prices.scarce];
            prop_assert!(whole <= 1 << 36);
            if most > 0 {
                prop_assert!(whole >= (1 << 36) - (17 << 20) - budgets[prices.scarce]);
            }
        }

        #[test]
        fn prices_are_the_16th_power_of_the_relative_demand((budgets, sizes) in pools()) {
            let prices = prices(budgets, &sizes);
            let demand: Vec<f64> = (0..3)
                .map(|d| sizes.iter().map(|size| size[d] as f64).sum::<f64>() / budgets[d] as f64)
                .collect();
            let most = demand.iter().copied().fold(0.0, f64::max);
            prop_assume!(most > 1.0);
            for d in 0..3 {
                let whole = (prices.unit[d] * budgets[d]) as f64 / f64::from(2).powi(36);
                // Rounded down by one, five times: the power makes up to 16 of the first.
                let rounding = 64.0 / 65_536.0 + budgets[d] as f64 / f64::from(2).powi(36);
                prop_assert!((whole - (demand[d] / most).powi(16)).abs() <= rounding);
                let waste = prices.waste[d] as f64 / 65_536.0;
                prop_assert!((waste - whole * whole).abs() <= 4.0 / 65_536.0);
            }
        }

        #[test]
        fn the_fractional_bound_is_one((budgets, sizes) in pools(), chosen in vec(any::<bool>(), 30)) {
            let prices = prices(budgets, &sizes);
            let (mut sum, mut own, mut rest) = ([0; 3], [0; 3], budgets);
            for (size, chosen) in sizes.iter().zip(chosen) {
                add(&mut sum, size);
                if chosen && crate::packing::select::sizes::fits(size, &rest) {
                    crate::packing::select::sizes::subtract(&mut rest, size);
                    add(&mut own, size);
                }
            }
            let value = |sizes| prices.price(sizes).iter().sum::<u64>();
            let bound = |sizes| fractional_bound(&prices.price(sizes), &prices.price(&budgets));
            prop_assert!(value(&own) <= bound(&sum));
            // It is reached where everything fits, and by what fills a budget.
            prop_assert_eq!(bound(&own), value(&own));
            prop_assert_eq!(bound(&budgets.map(|budget| 9 * budget)), value(&budgets));
        }

        #[test]
        fn a_full_row_loses_nothing_and_an_emptier_one_more((budgets, sizes) in pools()) {
            let prices = prices(budgets, &sizes);
            prop_assert_eq!(prices.loss(&[0; 3]), 0);
            prop_assert!(prices.all_are_full(&[0; 3]) && prices.scarce_is_full(&[0; 3]));
            // An empty row loses 1 for the scarce budget, Q18, and no more for the others.
            let empty = prices.loss(&budgets);
            let of_scarce = prices.waste[prices.scarce] << 2;
            prop_assert!((of_scarce..=3 * of_scarce).contains(&empty));
            let half = budgets.map(|budget| budget / 2);
            prop_assert!(prices.loss(&half) <= empty);
        }

        #[test]
        fn a_budget_is_full_within_one_in_4096((budgets, sizes) in pools()) {
            let prices = prices(budgets, &sizes);
            for d in 0..3 {
                let mut rest = [0; 3];
                rest[d] = budgets[d] / 4096;
                prop_assert!(prices.all_are_full(&rest) && prices.scarce_is_full(&rest));
                rest[d] += 1;
                prop_assert!(!prices.all_are_full(&rest));
                prop_assert_eq!(prices.scarce_is_full(&rest), d != prices.scarce);
            }
        }
    }

    #[test]
    fn of_budgets_in_equal_demand_the_first_is_scarce() {
        let prices = prices([9, 10, 10], &[[1, 3, 5], [1, 5, 3]]);
        assert_eq!(prices.scarce, 1);
        assert!(prices.scarce_is_full(&[9, 0, 10]) && !prices.scarce_is_full(&[0, 1, 0]));
    }

    #[test]
    fn the_largest_pool_stays_inside_64_bits() {
        let budgets = [MAX_BUDGET; MAX_BUDGETS];
        let mut prices = Prices::<MAX_BUDGETS>::new(&budgets);
        prices.update(&vec![budgets; MAX_POOL], MAX_BUDGETS);
        let full = prices.price(&budgets);
        assert_eq!(full.iter().sum::<u64>(), 64 << 36);
        assert_eq!(fractional_bound(&full, &full), 64 << 36);
        assert_eq!(prices.loss(&budgets), 64 << 18);
    }

    #[test]
    fn premiums_grow_with_size_and_age_up_to_their_limits() {
        let premium = |share: u64, waited: u64, gamma: u32, age: u32| {
            let view = View {
                budgets: &[1],
                costs: &[0],
                arrivals: &[100_000 - waited],
                shares: &[share],
                order: &[],
                now: 100_000,
                pool_size: 48,
            };
            let search = Search {
                gamma,
                age,
                ..Search::default()
            };
            let mut found = vec![7];
            premiums(&view, search, &mut found);
            assert_eq!(found.len(), 1);
            found[0]
        };
        assert_eq!(premium(0, 0, 16, 16), 256);
        // A whole budget is worth gamma / 256 more, half of one half of that.
        assert_eq!(premium(1_024, 0, 16, 16), 256 + 16);
        assert_eq!(premium(512, 0, 16, 16), 256 + 8);
        assert_eq!(premium(1_024, 0, 4_096, 0), 256 + 4_096);
        // A wait of pool_size packs is worth 3 age / 1024 more, however long at most a quarter.
        assert_eq!(premium(0, 48, 16, 16), 256 + 12);
        assert_eq!(premium(0, 24, 16, 16), 256 + 6);
        assert_eq!(premium(0, 47, 0, 4_096), 256 + 64);
        assert_eq!(premium(1_024, 48, 16, 16), 256 + 16 + 12);
    }
}
