//! A whole table of costs packed at once, in steps that a caller can count and stop.

mod repack;

use super::{Budgets, Oversize, PackError, Packer, Search, Settings};
use crate::permutation::{epoch_key, Permutation};
use repack::Repack;

/// Most examples of a table; their numbers are stored in 32 bits.
pub const MAX_EXAMPLES: usize = u32::MAX as usize;

/// In which order examples are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Examples of a window in random order; the packs in random order too.
    #[default]
    Shuffled,
    /// Examples in the order of the table, packs as they fill up.
    Kept,
}

/// How long to look for good packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// As a stream, once.
    #[default]
    Fast,
    /// With a longer search, then packs are taken apart and made again until that stops paying.
    Best,
}

/// How a table is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfflineSettings {
    /// Order of the examples and of the packs.
    pub order: Order,
    /// Length of the search.
    pub effort: Effort,
    /// [`Order::Shuffled`]: no pack has examples of two windows, runs of so many consecutive
    /// examples. [`Order::Kept`]: the size of the pool.
    pub window: usize,
    /// Key of the random orders.
    pub seed: u64,
    /// As [`Settings::early`].
    pub early: bool,
    /// Policy for examples larger than a budget.
    pub oversize: Oversize,
}

/// Packs of examples, one behind the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackList {
    /// Numbers of the examples.
    pub members: Vec<u32>,
    /// Where each pack ends in `members`.
    pub ends: Vec<usize>,
}

impl PackList {
    fn push(&mut self, pack: &[u32]) {
        self.members.extend_from_slice(pack);
        self.ends.push(self.members.len());
    }

    /// Number of packs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The examples of a pack.
    ///
    /// # Panics
    /// If there is no pack of this number.
    #[must_use]
    pub fn get(&self, pack: usize) -> &[u32] {
        let start = if pack == 0 { 0 } else { self.ends[pack - 1] };
        &self.members[start..self.ends[pack]]
    }
}

/// A table that is being packed.
///
/// Every example comes into exactly one pack or is dropped and counted, no pack exceeds a budget,
/// and the same table, settings and seed give the same packs.
#[derive(Debug)]
pub struct Offline {
    settings: OfflineSettings,
    width: usize,
    costs: Vec<u32>,
    packer: Packer<u32>,
    cost: Vec<u64>,
    /// Order of the examples of the present window.
    drawn: Permutation,
    position: usize,
    packs: PackList,
    alone: PackList,
    repack: Option<Repack>,
}

impl Offline {
    /// A table of costs, `[n * D]` in order of examples, none of which is packed yet.
    ///
    /// # Errors
    /// Budgets or a window out of range, costs that are no whole number of examples, or too many.
    pub fn new(
        budgets: Vec<(String, u64)>,
        costs: Vec<u32>,
        settings: OfflineSettings,
    ) -> Result<Self, PackError> {
        let width = budgets.len();
        let checked = Budgets::new(budgets.clone())?;
        let per_row = per_row(&costs, &checked);
        let packer = Packer::new(budgets, stream_settings(settings, per_row))?;
        if costs.len() % width != 0 {
            return Err(PackError::CostCount {
                got: costs.len() % width,
                want: width,
            });
        }
        let bounded = [
            ("window", settings.window, MAX_EXAMPLES),
            (
                "the number of examples",
                costs.len() / width + 1,
                MAX_EXAMPLES,
            ),
        ];
        for (name, value, max) in bounded {
            if !(1..=max).contains(&value) {
                return Err(PackError::Setting {
                    name,
                    value: value as u64,
                    min: 1,
                    max: max as u64,
                });
            }
        }
        Ok(Self {
            settings,
            width,
            costs,
            packer,
            cost: vec![0; width],
            drawn: Permutation::new(0, 0),
            position: 0,
            packs: PackList::default(),
            alone: PackList::default(),
            repack: None,
        })
    }

    /// Number of examples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.costs.len() / self.width
    }

    /// Whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.costs.is_empty()
    }

    /// Work done and work in all, in examples; what is left of the latter may be less.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        let n = self.len();
        let repacks = self.repacks();
        let rounds = if repacks { repack::MAX_ROUNDS } else { 0 };
        // A round takes about a hundredth of the long search before it.
        let done = self.repack.as_ref().map_or(0, |r| r.rounds() * n / 100);
        (self.position + done, n + n * rounds / 100)
    }

    fn repacks(&self) -> bool {
        self.settings.effort == Effort::Best && self.settings.order == Order::Shuffled
    }

    /// Examples dropped as oversize, and sent alone.
    #[must_use]
    pub fn oversize(&self) -> (u64, u64) {
        let counters = self.packer.counters();
        (counters.dropped, counters.alone)
    }

    /// Works on the next `count` examples, or a stretch of repacking that takes as long.
    ///
    /// Returns whether anything is left to do.
    ///
    /// # Errors
    /// A cost of zero in every budget, or an oversize one that is not allowed, with the example.
    pub fn advance(&mut self, count: usize) -> Result<bool, (usize, PackError)> {
        let n = self.len();
        if self.position < n {
            let end = n.min(self.position.saturating_add(count.max(1)));
            while self.position < end {
                self.push_next()?;
            }
            return Ok(end < n || self.repacks());
        }
        if !self.repacks() {
            return Ok(false);
        }
        let packs = &mut self.packs;
        let repack = self.repack.get_or_insert_with(|| {
            let budgets = self.packer.budgets();
            Repack::new(packs, budgets, &self.costs, self.settings)
        });
        let goes_on = repack.advance(&self.costs, count);
        if !goes_on {
            repack.give_back(packs);
        }
        Ok(goes_on)
    }

    fn push_next(&mut self) -> Result<(), (usize, PackError)> {
        let (n, window) = (self.len(), self.settings.window);
        let is_kept = self.settings.order == Order::Kept;
        let start = self.position - self.position % window;
        let length = window.min(n - start);
        let example = if is_kept {
            self.position
        } else {
            if self.position == start {
                let key = epoch_key(self.settings.seed, start as u64);
                self.drawn = Permutation::new(length as u64, key);
            }
            let place = (self.position - start) as u64;
            start + usize::try_from(self.drawn.at(place)).unwrap_or(0)
        };
        let sizes = &self.costs[example * self.width..(example + 1) * self.width];
        for (cost, &size) in self.cost.iter_mut().zip(sizes) {
            *cost = u64::from(size);
        }
        let key = u32::try_from(example).unwrap_or(u32::MAX);
        let pack = self
            .packer
            .push(key, &self.cost)
            .map_err(|e| (example, e))?;
        self.position += 1;
        if let Some(pack) = pack {
            // Taken apart again, an oversize one would not fit.
            let list = if pack.is_oversize && !is_kept {
                &mut self.alone
            } else {
                &mut self.packs
            };
            list.push(&pack.keys);
        }
        if self.position == n || (!is_kept && self.position == start + length) {
            while let Some(pack) = self.packer.pop() {
                self.packs.push(&pack.keys);
            }
        }
        Ok(())
    }

    /// The packs, in their final order; what was not packed by then is not in it.
    #[must_use]
    pub fn finish(mut self) -> PackList {
        if let Some(repack) = self.repack {
            repack.give_back(&mut self.packs);
        }
        if self.settings.order == Order::Kept {
            return self.packs;
        }
        let (n, alone) = (self.packs.len(), self.alone.len());
        let mut shuffled = PackList {
            members: Vec::with_capacity(self.packs.members.len() + self.alone.members.len()),
            ends: Vec::with_capacity(n + alone),
        };
        let total = (n + alone) as u64;
        let order = Permutation::new(total, epoch_key(self.settings.seed, u64::MAX));
        for place in 0..total {
            let pack = usize::try_from(order.at(place)).unwrap_or(0);
            if pack < n {
                shuffled.push(self.packs.get(pack));
            } else {
                shuffled.push(self.alone.get(pack - n));
            }
        }
        shuffled
    }
}

/// How many examples a row holds if they fill the scarcest budget; those larger than one aside.
fn per_row(costs: &[u32], budgets: &Budgets) -> usize {
    let budgets = budgets.sizes();
    let mut sums = vec![0; budgets.len()];
    let mut n = 0u64;
    for cost in costs.chunks_exact(budgets.len()) {
        if cost.iter().zip(budgets).all(|(&c, &b)| u64::from(c) <= b) {
            n += 1;
            for (sum, &c) in sums.iter_mut().zip(cost) {
                *sum += u64::from(c);
            }
        }
    }
    let counts = budgets
        .iter()
        .zip(&sums)
        .map(|(b, &sum)| n * b / sum.max(1));
    usize::try_from(counts.min().unwrap_or(0)).unwrap_or(usize::MAX)
}

/// The packer that the examples run through, of which a row holds so many.
fn stream_settings(settings: OfflineSettings, per_row: usize) -> Settings {
    let is_best = settings.effort == Effort::Best;
    let least = if is_best { 128 } else { 48 };
    let pool_size = match settings.order {
        Order::Kept => settings.window,
        Order::Shuffled => per_row.saturating_mul(ROWS).clamp(least, MOST),
    };
    Settings {
        pool_size,
        oversize: settings.oversize,
        early: settings.early,
        search: if is_best { LONG } else { Search::default() },
        ..Settings::default()
    }
}

/// Rows whose examples a pool holds; one that holds fewer has little to choose from.
const ROWS: usize = 4;

/// Largest pool of [`Order::Shuffled`].
const MOST: usize = 1_024;

/// The search of [`Effort::Best`]: 0.1 % fewer rows than the default, for ten times the time.
const LONG: Search = Search {
    anchors: 8,
    steps: 64_000,
    gamma: 16,
    age: 16,
    steps_after_full: Some(16_000),
};
