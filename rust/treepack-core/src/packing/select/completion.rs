//! Bin completion: the most valuable items that fit beside an anchor, by bounded search.

use super::super::pool::FRONT;
use super::prices::{fractional_bound, Prices};
use super::sizes::{add, fits, subtract, Sizes};

/// Steps left once the scarcest budget is full: what remains is fine-tuning of the others. Twice as
/// many pay where there is more to choose from than the front of a pool.
const STEPS_AFTER_FULL: u32 = 700;
const STEPS_AFTER_FULL_BEYOND: u32 = 1_400;

/// Candidates from behind the front of the pool.
const BEHIND: usize = 12;

/// Places for candidates, the end included; a power of two, so that a place costs no check.
const PLACES: usize = 64;
const _: () = assert!(FRONT + BEHIND < PLACES);

/// An item of the pool with what it is worth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<const W: usize> {
    /// Its place in the pool.
    pub index: usize,
    pub size: Sizes<W>,
    /// The size at the prices of the budgets, Q36.
    pub priced: Sizes<W>,
    /// Value with its premium, Q36.
    pub value: u64,
    /// Premium, Q8.
    pub premium: u64,
}

/// A candidate.
#[derive(Debug, Clone, Copy)]
struct Candidate<const W: usize> {
    priced: Sizes<W>,
    /// Value with its premium, Q36.
    value: u64,
    /// The next candidate of another size.
    other: usize,
    /// Its place in the pool.
    index: usize,
}

/// Everything from a candidate on.
#[derive(Debug, Clone, Copy)]
struct Tail<const W: usize> {
    /// Minimum of the sizes.
    least: Sizes<W>,
    /// Sum of the sizes at the prices of the budgets, Q36.
    sum: Sizes<W>,
    /// Largest premium, Q8.
    premium: u64,
}

impl<const W: usize> Tail<W> {
    /// What stands behind the last candidate: nothing fits.
    const END: Self = Self {
        least: [u64::MAX; W],
        sum: [0; W],
        premium: 0,
    };

    /// Whether something of it fits, and the fractional bound of all of it exceeds `missing`.
    #[allow(clippy::needless_bitwise_bool, reason = "one branch instead of two")]
    fn has_hope(&self, rest: &Rest<W>, missing: u64) -> bool {
        let bound = fractional_bound(&self.sum, &rest.priced);
        fits(&self.least, &rest.size) & ((bound >> 8) * self.premium > missing)
    }
}

/// What is left of a row, as sizes and at the prices of the budgets.
#[derive(Debug, Clone, Copy)]
struct Rest<const W: usize> {
    size: Sizes<W>,
    priced: Sizes<W>,
}

/// The candidates beside one anchor, in search order, and the best set of them.
#[derive(Debug, Clone)]
pub(super) struct Completion<const W: usize> {
    /// Number of candidates; behind them stands an end that fits any rest and has no hope.
    n: usize,
    sizes: [Sizes<W>; PLACES],
    tails: [Tail<W>; PLACES],
    candidates: [Candidate<W>; PLACES],
    path: [u8; PLACES],
    best: [u8; PLACES],
    n_best: usize,
}

impl<const W: usize> Completion<W> {
    pub fn new() -> Self {
        let nobody = Candidate {
            priced: [0; W],
            value: 0,
            other: 0,
            index: 0,
        };
        Self {
            n: 0,
            sizes: [[0; W]; PLACES],
            tails: [Tail::END; PLACES],
            candidates: [nobody; PLACES],
            path: [0; PLACES],
            best: [0; PLACES],
            n_best: 0,
        }
    }

    /// Takes the items that may stand beside an anchor: those but it that fit into `rest`, all of
    /// the front and of the others 12, evenly spaced in search order.
    ///
    /// So the search, whose steps do not grow with the pool, sees items of all sizes, and what lies
    /// behind the front is not stripped of those that combine well.
    pub fn collect(&mut self, order: &[Item<W>], anchor: usize, rest: &Sizes<W>) {
        let fitting = || {
            let others = order.iter().filter(|item| item.index != anchor);
            others.filter(|item| fits(&item.size, rest))
        };
        let behind = if order.len() > FRONT {
            fitting().filter(|item| item.index >= FRONT).count()
        } else {
            0
        };
        let (mut n, mut seen) = (0, 0);
        for item in fitting() {
            if item.index >= FRONT {
                seen += 1;
                if seen * BEHIND / behind == (seen - 1) * BEHIND / behind {
                    continue;
                }
            }
            self.put(n, item);
            n += 1;
        }
        self.n = n;
        self.sizes[n % PLACES] = [0; W];
        self.sum_up();
    }

    fn put(&mut self, place: usize, item: &Item<W>) {
        let place = place % PLACES;
        self.sizes[place] = item.size;
        self.tails[place].premium = item.premium;
        self.candidates[place] = Candidate {
            priced: item.priced,
            value: item.value,
            other: 0,
            index: item.index,
        };
    }

    /// Fills in what there is from each candidate on.
    fn sum_up(&mut self) {
        let mut tail = Tail::END;
        let mut other = self.n;
        self.tails[self.n % PLACES] = tail;
        for i in (0..self.n.min(PLACES - 1)).rev() {
            let (size, candidate) = (self.sizes[i], &mut self.candidates[i]);
            add(&mut tail.sum, &candidate.priced);
            tail.least = std::array::from_fn(|d| tail.least[d].min(size[d]));
            tail.premium = tail.premium.max(self.tails[i].premium);
            self.tails[i] = tail;
            // Every item costs something, so that none is equal to the end.
            if size != self.sizes[i + 1] {
                other = i + 1;
            }
            candidate.other = other;
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
        self.n_best = 0;
        let mut rest = Rest {
            size: *rest,
            priced: prices.price(rest),
        };
        let (mut value, mut best) = (0u64, 0u64);
        let (mut i, mut depth, mut used, mut limit) = (0, 0, 0, steps);
        let mut was_full = false;
        while used < limit {
            used += 1;
            if !self.tails[i % PLACES].has_hope(&rest, best - value) {
                if depth == 0 {
                    break;
                }
                depth -= 1;
                let last = usize::from(self.path[depth % PLACES]) % PLACES;
                value -= self.candidates[last].value;
                add(&mut rest.size, &self.sizes[last]);
                add(&mut rest.priced, &self.candidates[last].priced);
                // An equal item behind it, being younger, is worth less.
                i = self.candidates[last].other;
                continue;
            }
            i += 1;
            let place = (i - 1) % PLACES;
            if !fits(&self.sizes[place], &rest.size) {
                continue;
            }
            subtract(&mut rest.size, &self.sizes[place]);
            subtract(&mut rest.priced, &self.candidates[place].priced);
            value += self.candidates[place].value;
            self.path[depth % PLACES] = u8::try_from(place).unwrap_or(0);
            depth += 1;
            if value > best {
                best = value;
                (self.best, self.n_best) = (self.path, depth);
            }
            if !was_full && prices.scarce_is_full(&rest.size) {
                was_full = true;
                limit = limit.min(used + after_full);
            }
            if was_full && prices.all_are_full(&rest.size) {
                break;
            }
        }
        used
    }

    /// Marks the set that the last search found and takes it off `rest`.
    pub fn apply(&self, rest: &mut Sizes<W>, marked: &mut [bool]) {
        for &i in &self.best[..self.n_best] {
            let i = usize::from(i);
            marked[self.candidates[i].index] = true;
            subtract(rest, &self.sizes[i]);
        }
    }
}
