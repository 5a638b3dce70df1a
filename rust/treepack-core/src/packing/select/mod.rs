//! Which items of the pool make the next pack.
//!
//! The algorithm, with what was tried and given up, is described in `docs/reference/packing.md`;
//! `treepack/_reference/packing.py` is all of it in plain Python.

mod anchors;
mod completion;
mod first_fit;
mod prices;
mod sizes;

use super::pool::View;
use anchors::Anchors;
use first_fit::FirstFit;

/// Rule by which a pack is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Solver {
    /// Bin completion from several anchors: the default.
    #[default]
    Anchors,
    /// The oldest example, then whatever fits, oldest first.
    FirstFit,
}

/// Effort of [`Solver::Anchors`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Items tried as the start of a pack: the oldest, then the hardest to place.
    pub anchors: u32,
    /// Steps of the search over all anchors of a pack.
    pub steps: u32,
    /// How much more an item that fills a budget is worth than small ones of the same sum, in 1/256.
    pub gamma: u32,
    /// How much more an item is worth once it has waited `pool_size` packs, in 3/1024; it gains
    /// steadily and at most 1/4.
    pub age: u32,
    /// Steps left once the scarcest budget is full; `None` is 700, and 1,400 in a pool that is
    /// larger than its front.
    pub steps_after_full: Option<u32>,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            anchors: 8,
            steps: 4_000,
            gamma: 16,
            age: 16,
            steps_after_full: None,
        }
    }
}

/// What a selection is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The best pack.
    Best,
    /// The best pack if it fills some budget, else nothing.
    OnlyFull,
    /// The best pack with the oldest item.
    Oldest,
}

/// A solver with its working memory, which is reused from pack to pack.
trait Select: std::fmt::Debug + Send + Sync {
    /// Marks the items of the next pack.
    ///
    /// The view has at least one item, every item fits into an empty pack, and nothing is marked.
    fn select(&mut self, view: &View<'_>, outcome: Outcome, marked: &mut [bool]);
}

/// The solver of a packer.
#[derive(Debug)]
pub(super) struct Selector {
    solver: Box<dyn Select>,
    marked: Vec<bool>,
}

impl Selector {
    pub fn new(solver: Solver, search: Search, budgets: &[u64]) -> Self {
        let solver = match solver {
            Solver::FirstFit => Box::new(FirstFit),
            // Sizes of a fixed width keep the search in registers; unused places stay zero.
            Solver::Anchors => match budgets.len() {
                1 => boxed::<1>(search, budgets),
                2 => boxed::<2>(search, budgets),
                3..=4 => boxed::<4>(search, budgets),
                5..=8 => boxed::<8>(search, budgets),
                _ => boxed::<{ super::MAX_BUDGETS }>(search, budgets),
            },
        };
        Self {
            solver,
            marked: Vec::new(),
        }
    }

    /// Marks the items of the next pack, or gives `None` if it should not go yet.
    ///
    /// The view has at least one item, and every item fits into an empty pack.
    pub fn select(&mut self, view: &View<'_>, outcome: Outcome) -> Option<&[bool]> {
        self.marked.clear();
        self.marked.resize(view.len(), false);
        self.solver.select(view, outcome, &mut self.marked);
        let goes = outcome != Outcome::OnlyFull || fills_a_budget(view, &self.marked);
        goes.then_some(self.marked.as_slice())
    }
}

fn boxed<const W: usize>(search: Search, budgets: &[u64]) -> Box<dyn Select> {
    Box::new(Anchors::<W>::new(search, budgets))
}

fn fills_a_budget(view: &View<'_>, marked: &[bool]) -> bool {
    let width = view.budgets.len();
    let mut sums = vec![0; width];
    for (cost, _) in view
        .costs
        .chunks_exact(width)
        .zip(marked)
        .filter(|(_, &marked)| marked)
    {
        sums.iter_mut().zip(cost).for_each(|(sum, c)| *sum += c);
    }
    sums.iter()
        .zip(view.budgets)
        .any(|(&sum, &budget)| budget - sum <= tolerance(budget))
}

/// A budget with no more than this left counts as full, in units of the budget.
const fn tolerance(budget: u64) -> u64 {
    budget / 4096
}
