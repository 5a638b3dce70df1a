//! Bin completion: the most valuable items that fit beside an anchor, by bounded search.

use super::super::pool::FRONT;
use super::prices::Prices;
use super::sizes::{add, fits, subtract, Sizes};

/// Steps left once the scarcest budget is full: what remains is fine-tuning of the others. Twice as
/// many pay where there is more to choose from than the front of a pool.
const STEPS_AFTER_FULL: u32 = 700;
const STEPS_AFTER_FULL_BEYOND: u32 = 1_400;

/// Candidates from behind the front of the pool.
const BEHIND: usize = 12;

/// An item of the pool with what it is worth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<const W: usize> {
    /// Its place in the pool.
    pub index: usize,
    pub size: Sizes<W>,
    /// Value with its premium, Q36.
    pub value: u64,
    /// Premium, Q8.
    pub premium: u64,
}

/// A candidate and everything from it on.
#[derive(Debug, Clone, Copy)]
struct Candidate<const W: usize> {
    size: Sizes<W>,
    /// Value with its premium, Q36.
    value: u64,
    /// Sum and minimum of the sizes from here on.
    sum: Sizes<W>,
    least: Sizes<W>,
    /// Largest premium from here on, Q8.
    premium: u64,
    /// The next candidate of another size.
    other: usize,
    index: usize,
}

impl<const W: usize> Candidate<W> {
    /// What stands behind the last one: nothing fits.
    const END: Self = Self {
        size: [0; W],
        value: 0,
        sum: [0; W],
        least: [u64::MAX; W],
        premium: 0,
        other: 0,
        index: 0,
    };
}

/// The candidates beside one anchor, in search order, and the best set of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Completion<const W: usize> {
    candidates: Vec<Candidate<W>>,
    path: Vec<usize>,
    best: Vec<usize>,
}

impl<const W: usize> Completion<W> {
    /// Takes the items that may stand beside an anchor: those but it that fit into `rest`, all of
    /// the front and of the others 12, evenly spaced in search order.
    ///
    /// So the search, whose steps do not grow with the pool, sees items of all sizes, and what lies
    /// behind the front is not stripped of those that combine well.
    pub fn collect(&mut self, order: &[Item<W>], anchor: usize, rest: &Sizes<W>) {
        self.candidates.clear();
        let fitting = || {
            let others = order.iter().filter(|item| item.index != anchor);
            others.filter(|item| fits(&item.size, rest))
        };
        let behind = if order.len() > FRONT {
            fitting().filter(|item| item.index >= FRONT).count()
        } else {
            0
        };
        let mut seen = 0;
        for item in fitting() {
            let Item {
                size,
                value,
                premium,
                index,
            } = *item;
            if index >= FRONT {
                seen += 1;
                if seen * BEHIND / behind == (seen - 1) * BEHIND / behind {
                    continue;
                }
            }
            self.candidates.push(Candidate {
                size,
                value,
                premium,
                index,
                ..Candidate::END
            });
        }
        let n = self.candidates.len();
        self.candidates.push(Candidate::END);
        for i in (0..n).rev() {
            let next = self.candidates[i + 1];
            let this = &mut self.candidates[i];
            this.sum = this.size;
            add(&mut this.sum, &next.sum);
            this.least = std::array::from_fn(|d| next.least[d].min(this.size[d]));
            this.premium = this.premium.max(next.premium);
            // Every item costs something, so that none is equal to the end.
            let is_equal = this.size == next.size;
            this.other = if is_equal { next.other } else { i + 1 };
        }
    }

    /// Steps to grant once the scarcest budget of a pool of `n` items is full.
    pub const fn steps_after_full(n: usize) -> u32 {
        if n > FRONT {
            STEPS_AFTER_FULL_BEYOND
        } else {
            STEPS_AFTER_FULL
        }
    }

    /// Searches depth first for the most valuable set that fits into `rest`; at most `steps` steps,
    /// and `after_full` of them once the scarcest budget is full.
    ///
    /// Returns the steps used. With enough steps the set is the best there is, unless one that fills
    /// every budget is met on the way.
    pub fn search(
        &mut self,
        prices: &Prices<W>,
        rest: &Sizes<W>,
        steps: u32,
        after_full: u32,
    ) -> u32 {
        self.path.clear();
        self.best.clear();
        let mut rest = *rest;
        let (mut value, mut best) = (0u64, 0u64);
        let (mut i, mut used, mut limit) = (0, 0, steps);
        let mut was_full = false;
        while used < limit {
            used += 1;
            let this = &self.candidates[i];
            // Hope: something from here on fits, and the fractional bound of it all beats the best.
            let has_hope = fits(&this.least, &rest)
                && value + (prices.fractional_bound(&this.sum, &rest) >> 8) * this.premium > best;
            if !has_hope {
                let Some(last) = self.path.pop() else { break };
                let last = &self.candidates[last];
                value -= last.value;
                add(&mut rest, &last.size);
                // An equal item behind it, being younger, is worth less.
                i = last.other;
                continue;
            }
            i += 1;
            if !fits(&this.size, &rest) {
                continue;
            }
            subtract(&mut rest, &this.size);
            value += this.value;
            self.path.push(i - 1);
            if value > best {
                best = value;
                self.best.clone_from(&self.path);
            }
            if !was_full && prices.scarce_is_full(&rest) {
                was_full = true;
                limit = limit.min(used + after_full);
            }
            if was_full && prices.all_are_full(&rest) {
                break;
            }
        }
        used
    }

    /// Marks the set that the last search found and takes it off `rest`.
    pub fn apply(&self, rest: &mut Sizes<W>, marked: &mut [bool]) {
        for &i in &self.best {
            marked[self.candidates[i].index] = true;
            subtract(rest, &self.candidates[i].size);
        }
    }
}
