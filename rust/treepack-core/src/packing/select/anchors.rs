//! Bin completion from several anchors: which start of a pack wastes least.

use super::super::pool::{View, FRONT};
use super::completion::{Completion, Item};
use super::prices::{premiums, Prices};
use super::sizes::{fits, padded, subtract, Sizes};
use super::{Outcome, Search, Select};

/// Fewest steps that an anchor gets, however many the ones before it took.
const LEAST_STEPS: u32 = 64;

/// The default solver: completes a pack around the oldest item and around the hardest ones, and
/// takes the one that leaves least of the scarce budgets empty.
#[derive(Debug, Clone)]
pub(super) struct Anchors<const W: usize> {
    search: Search,
    budgets: Sizes<W>,
    prices: Prices<W>,
    /// Sizes of the pool, oldest first, and their minimum.
    sizes: Vec<Sizes<W>>,
    least: Sizes<W>,
    /// Premium of each of them, Q8.
    premiums: Vec<u64>,
    /// The items in search order.
    items: Vec<Item<W>>,
    completion: Completion<W>,
    trial: Vec<bool>,
}

impl<const W: usize> Anchors<W> {
    pub fn new(search: Search, budgets: &[u64]) -> Self {
        Self {
            search,
            budgets: padded(budgets),
            prices: Prices::new(budgets),
            sizes: Vec::new(),
            least: [0; W],
            premiums: Vec::new(),
            items: Vec::new(),
            completion: Completion::new(),
            trial: Vec::new(),
        }
    }

    fn read(&mut self, view: &View<'_>, front: &View<'_>) {
        let width = view.budgets.len();
        self.sizes.clear();
        self.sizes
            .extend(view.costs.chunks_exact(width).map(padded::<W>));
        let least = |a: Sizes<W>, b: &Sizes<W>| std::array::from_fn(|d| a[d].min(b[d]));
        self.least = self.sizes.iter().fold([u64::MAX; W], least);
        self.prices.update(&self.sizes, width);
        let View { now, pool_size, .. } = *front;
        let aged = View {
            now,
            pool_size,
            ..*view
        };
        premiums(&aged, self.search, &mut self.premiums);
    }

    /// Puts the items into search order: by their sizes in the two smallest budgets, then by age.
    fn arrange(&mut self, order: &[(u64, usize)]) {
        self.items.clear();
        for &(_, index) in order {
            let size = self.sizes[index];
            let premium = self.premiums[index];
            let priced = self.prices.price(&size);
            // Q36 to Q28, times Q8.
            let value = (priced.iter().sum::<u64>() >> 8) * premium;
            self.items.push(Item {
                index,
                size,
                priced,
                value,
                premium,
            });
        }
    }

    /// Fills a pack around an anchor; `trial` marks its items.
    ///
    /// Returns what it leaves empty, and the steps used.
    fn complete(&mut self, anchor: usize, steps: u32) -> (Sizes<W>, u32) {
        self.trial.clear();
        self.trial.resize(self.sizes.len(), false);
        self.trial[anchor] = true;
        let mut rest = self.budgets;
        subtract(&mut rest, &self.sizes[anchor]);
        self.completion.collect(&self.items, anchor, &rest);
        let default = Completion::<W>::steps_after_full(self.sizes.len());
        let after_full = self.search.steps_after_full.unwrap_or(default);
        let used = self
            .completion
            .search(&self.prices, &rest, steps, after_full);
        self.completion.apply(&mut rest, &mut self.trial);
        // Mostly nothing fits any more.
        let n = if fits(&self.least, &rest) {
            self.sizes.len()
        } else {
            0
        };
        for (size, marked) in self.sizes[..n].iter().zip(&mut self.trial) {
            if !*marked && fits(size, &rest) {
                *marked = true;
                subtract(&mut rest, size);
            }
        }
        (rest, used)
    }
}

impl<const W: usize> Select for Anchors<W> {
    fn select(&mut self, view: &View<'_>, outcome: Outcome, marked: &mut [bool]) {
        let front = &view.front();
        self.read(view, front);
        self.arrange(view.order);
        let count = count_starts(view, front, outcome, self.search);
        let (mut start, mut last) = (0, None);
        let mut steps = self.search.steps;
        let mut lowest = None;
        for number in 0..count {
            let is_last = number + 1 == count;
            let share = if is_last { steps } else { steps / 2 };
            if number > 0 {
                (start, last) = next_hardest(front.shares, last);
            }
            let (rest, used) = self.complete(start, share.max(LEAST_STEPS));
            steps = steps.saturating_sub(used);
            if !leaves_time(front, &self.trial) || !leaves_time(view, &self.trial) {
                continue;
            }
            let loss = self.prices.loss(&rest);
            if lowest.is_none_or(|best| loss < best) {
                lowest = Some(loss);
                marked.copy_from_slice(&self.trial);
            }
            if loss == 0 || self.prices.scarce_is_full(&rest) {
                break;
            }
        }
    }
}

/// How many items start a pack: the oldest and the hardest of the front; only the oldest where it
/// must go now.
fn count_starts(view: &View<'_>, front: &View<'_>, outcome: Outcome, search: Search) -> usize {
    if outcome == Outcome::Oldest || !has_slack(view) || !has_slack(front) {
        1
    } else {
        front.len().min(search.anchors as usize)
    }
}

/// The hardest item after the last one, of equals the older, and what it was found by.
///
/// Found one by one, since the first anchors often fill a pack.
fn next_hardest(shares: &[u64], last: Option<u64>) -> (usize, Option<u64>) {
    // A share is Q10 and at most 1; the complement of the place sorts the older up.
    let keys = (1..shares.len()).map(|i| shares[i] << 32 | (FRONT - i) as u64);
    let next = keys.filter(|&key| last.is_none_or(|last| key < last)).max();
    let place = next.map_or(0, |key| {
        FRONT - usize::try_from(key & 0xffff_ffff).unwrap_or(0)
    });
    (place, next)
}

/// Whether the oldest item may wait for another pack.
fn has_slack(view: &View<'_>) -> bool {
    view.now + 1 - view.arrivals[0] < view.pool_size
}

/// Whether every item that a pack leaves behind can still go in time.
///
/// An item at position `i` of the pool needs at most `i + 1` more packs, since the oldest can
/// always go next; so it must not have waited longer than `pool_size - 1 - i` by then.
fn leaves_time(view: &View<'_>, marked: &[bool]) -> bool {
    if marked[0] {
        return true;
    }
    let left = (0..view.len()).filter(|&item| !marked[item]);
    left.zip(0u64..)
        .all(|(item, i)| view.now + 1 - view.arrivals[item] + i < view.pool_size)
}
