//! What each budget is worth at the moment, and so each item.

use super::super::pool::View;
use super::sizes::{add, Sizes};
use super::tolerance;

/// Prices of the budgets, from the demand of the pool; all scaled integers.
///
/// A budget that the pool asks for more than the others costs more, steeply: the price is the
/// 16th power of its relative demand.
#[derive(Debug, Clone)]
pub(super) struct Prices<const W: usize> {
    /// Capacity of each budget; beyond the last one, 1.
    budgets: Sizes<W>,
    /// What may be left of each budget when it counts as full.
    tolerances: Sizes<W>,
    /// Price of one unit of each budget.
    unit: Sizes<W>,
    /// Price of what each budget leaves empty, in 1/65536 of the dearest.
    waste: Sizes<W>,
    /// The dearest budget.
    dear: usize,
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
            dear: 0,
        }
    }

    /// Prices for the demand of a pool of these sizes.
    pub fn update(&mut self, sizes: &[Sizes<W>], n_budgets: usize) {
        let mut demand = [0; W];
        for size in sizes {
            add(&mut demand, size);
        }
        for (sum, budget) in demand.iter_mut().zip(&self.budgets) {
            *sum = (*sum << 16) / budget;
        }
        let most = demand.iter().copied().max().unwrap_or(0).max(1);
        self.dear = 0;
        for (d, (&asked, &budget)) in demand.iter().zip(&self.budgets).take(n_budgets).enumerate() {
            let mut x = (asked << 16) / most;
            for _ in 0..4 {
                x = (x * x) >> 16;
            }
            self.unit[d] = (x.max(1) << 20) / budget;
            let y = (self.unit[d] * budget) >> 20;
            self.waste[d] = (y * y) >> 16;
            if self.unit[d] * budget > self.unit[self.dear] * self.budgets[self.dear] {
                self.dear = d;
            }
        }
    }

    /// Value of the given sizes before any premium.
    pub fn value(&self, sizes: &Sizes<W>) -> u64 {
        self.unit
            .iter()
            .zip(sizes)
            .map(|(unit, size)| unit * size)
            .sum()
    }

    /// Value of what fits into `rest` if items of these sizes filled it like sand.
    pub fn sand(&self, sizes: &Sizes<W>, rest: &Sizes<W>) -> u64 {
        let parts = self.unit.iter().zip(sizes).zip(rest);
        parts
            .map(|((unit, size), left)| unit * size.min(left))
            .sum()
    }

    /// What it costs to leave `rest` empty.
    pub fn loss(&self, rest: &Sizes<W>) -> u64 {
        let parts = self.waste.iter().zip(rest).zip(&self.budgets);
        parts
            .map(|((waste, left), budget)| waste * (left * 1024 / budget))
            .sum::<u64>()
            >> 8
    }

    /// Whether the dearest budget is full.
    pub fn dear_is_full(&self, rest: &Sizes<W>) -> bool {
        rest[self.dear] <= self.tolerances[self.dear]
    }

    /// Whether every budget is full.
    pub fn all_are_full(&self, rest: &Sizes<W>) -> bool {
        super::sizes::fits(rest, &self.tolerances)
    }
}

/// Premium on each item's value, in 1/256: large items and old ones go first.
pub(super) fn premiums(view: &View<'_>, search: super::Search, premiums: &mut Vec<u64>) {
    premiums.clear();
    let (mut arrival, mut old) = (view.now, 0);
    for (&arrived, share) in view.arrivals.iter().zip(view.shares) {
        // Neighbours often arrived together, and a division costs more than the rest.
        if arrived != arrival {
            arrival = arrived;
            let waited = view.now - arrived;
            old = (waited * u64::from(search.age) * 48 / view.pool_size).min(4096) / 64;
        }
        premiums.push(256 + ((share * u64::from(search.gamma)) >> 10) + old);
    }
}
