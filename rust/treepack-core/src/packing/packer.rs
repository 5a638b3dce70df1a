//! The packer: a pool, a rule for when a pack may go, and what happened so far.

use super::pool::Pool;
use super::select::{Outcome, Selector};
use super::{Budgets, PackError, Search, Solver};

/// Largest pool; sums of scaled sizes stay inside 64 bits up to here (see `select/prices.rs`).
pub const MAX_POOL: usize = 1 << 15;

/// What to do with an example that is larger than a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Oversize {
    /// Reject it with an error.
    #[default]
    Raise,
    /// Count it and go on.
    Drop,
    /// Let it go at once in a pack of its own, which exceeds the budget.
    Alone,
}

/// How a packer works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Examples held while looking for a good pack, `1..=32768`.
    pub pool_size: usize,
    /// Policy for examples larger than a budget.
    pub oversize: Oversize,
    /// Look for a pack at each arrival once three quarters of the pool are filled, and let it go
    /// if some budget is full to 1/4096: a smaller pool at the price of more searches.
    pub early: bool,
    /// Rule by which a pack is chosen.
    pub solver: Solver,
    /// Effort of [`Solver::Anchors`].
    pub search: Search,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pool_size: 48,
            oversize: Oversize::default(),
            early: false,
            solver: Solver::default(),
            search: Search::default(),
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), PackError> {
        let bounded = [
            ("pool_size", self.pool_size as u64, 1, MAX_POOL as u64),
            ("anchors", u64::from(self.search.anchors), 1, 64),
            ("steps", u64::from(self.search.steps), 1, 1 << 24),
            ("gamma", u64::from(self.search.gamma), 0, 4096),
            ("age", u64::from(self.search.age), 0, 4096),
        ];
        for (name, value, min, max) in bounded {
            if value < min || value > max {
                return Err(PackError::Setting {
                    name,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}

/// The examples of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack<K> {
    /// Keys, in order of arrival.
    pub keys: Vec<K>,
    /// Packs emitted between the arrival of each example and this pack.
    pub waits: Vec<u64>,
    /// Sum of the costs, one for each budget.
    pub cost: Vec<u64>,
    /// Whether this is a single example that exceeds a budget, as [`Oversize::Alone`] lets through.
    pub is_oversize: bool,
}

/// What a packer has seen, in examples (`packs` in packs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Examples accepted, including those dropped or sent alone.
    pub pushed: u64,
    /// Packs emitted, without oversize ones.
    pub packs: u64,
    /// Examples dropped as oversize.
    pub dropped: u64,
    /// Examples sent alone as oversize.
    pub alone: u64,
}

/// Everything that a packer needs to go on as if it had never stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State<K> {
    /// Keys in the pool, oldest first.
    pub keys: Vec<K>,
    /// Packs that had been emitted when each of them arrived.
    pub arrivals: Vec<u64>,
    /// Their costs, one after the other.
    pub costs: Vec<u64>,
    /// Counters so far; `packs` is the clock of the waits.
    pub counters: Counters,
}

/// Chooses, from a small pool, the examples that together fill one row.
///
/// The choice is a pure function of the pool, its arrival numbers and the packs emitted: integers
/// only, no clock, no random numbers.
#[derive(Debug)]
pub struct Packer<K> {
    budgets: Budgets,
    settings: Settings,
    pool: Pool<K>,
    counters: Counters,
    selector: Selector,
}

impl<K> Packer<K> {
    /// An empty packer.
    ///
    /// # Errors
    /// Budgets or settings out of range.
    pub fn new(budgets: Vec<(String, u64)>, settings: Settings) -> Result<Self, PackError> {
        settings.check()?;
        let budgets = Budgets::new(budgets)?;
        let pool = Pool::new(budgets.sizes(), settings.pool_size);
        let selector = Selector::new(settings.solver, settings.search, budgets.sizes());
        Ok(Self {
            budgets,
            settings,
            pool,
            counters: Counters::default(),
            selector,
        })
    }

    /// Capacities of a pack.
    #[must_use]
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// How the packer works.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Number of examples in the pool.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pool.len()
    }

    /// Whether the pool is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pool.len() == 0
    }

    /// Keys in the pool, oldest first.
    #[must_use]
    pub fn keys(&self) -> &[K] {
        self.pool.keys()
    }

    /// Packs that had been emitted when each example of the pool arrived, oldest first.
    #[must_use]
    pub fn arrivals(&self) -> &[u64] {
        self.pool.arrivals()
    }

    /// Costs of the examples in the pool, oldest first, one after the other.
    #[must_use]
    pub fn costs(&self) -> &[u64] {
        self.pool.costs()
    }

    /// Whether [`Self::push`] would accept a cost.
    ///
    /// # Errors
    /// A bad cost, or an oversize one under [`Oversize::Raise`].
    pub fn check(&self, cost: &[u64]) -> Result<(), PackError> {
        match self.budgets.check(cost) {
            Err(PackError::Oversize { .. }) if self.settings.oversize != Oversize::Raise => Ok(()),
            other => other,
        }
    }

    /// Adds an example and lets at most one pack go.
    ///
    /// # Errors
    /// What [`Self::check`] rejects; the packer is then as before.
    pub fn push(&mut self, key: K, cost: &[u64]) -> Result<Option<Pack<K>>, PackError> {
        self.check(cost)?;
        if !self.budgets.holds(cost) {
            return Ok(self.push_oversize(key, cost));
        }
        self.counters.pushed += 1;
        self.pool
            .add(key, cost, self.budgets.sizes(), self.counters.packs);
        let is_full = self.pool.len() >= self.settings.pool_size;
        if is_full {
            return Ok(self.emit(Outcome::Best));
        }
        let tries = self.settings.early && self.pool.len() * 4 >= self.settings.pool_size * 3;
        Ok(if tries {
            self.emit(Outcome::OnlyFull)
        } else {
            None
        })
    }

    /// Lets one pack go although the pool is not full; `None` when it is empty.
    pub fn pop(&mut self) -> Option<Pack<K>> {
        if self.is_empty() {
            return None;
        }
        self.emit(Outcome::Oldest)
    }

    fn push_oversize(&mut self, key: K, cost: &[u64]) -> Option<Pack<K>> {
        self.counters.pushed += 1;
        if self.settings.oversize == Oversize::Drop {
            self.counters.dropped += 1;
            return None;
        }
        self.counters.alone += 1;
        Some(Pack {
            keys: vec![key],
            waits: vec![0],
            cost: cost.to_vec(),
            is_oversize: true,
        })
    }

    fn emit(&mut self, outcome: Outcome) -> Option<Pack<K>> {
        let now = self.counters.packs;
        let view = self
            .pool
            .view(self.budgets.sizes(), now, self.settings.pool_size as u64);
        let marked = self.selector.select(&view, outcome)?;
        let mut cost = vec![0; self.budgets.sizes().len()];
        let (keys, arrivals) = self.pool.take(marked, &mut cost);
        self.counters.packs += 1;
        let waits = arrivals.into_iter().map(|arrival| now - arrival).collect();
        Some(Pack {
            keys,
            waits,
            cost,
            is_oversize: false,
        })
    }
}

impl<K> Packer<K> {
    /// Goes on from a state; the packer is unchanged if it is rejected.
    ///
    /// # Errors
    /// Lists of unequal length, more examples than the pool holds, a cost that no pack could hold,
    /// or arrival numbers that no run of this packer leaves.
    pub fn restore(&mut self, state: State<K>) -> Result<(), PackError> {
        self.check_state(&state)?;
        let width = self.budgets.sizes().len();
        let mut pool = Pool::new(self.budgets.sizes(), self.settings.pool_size);
        let items = state.keys.into_iter().zip(state.costs.chunks_exact(width));
        for ((key, cost), arrival) in items.zip(state.arrivals) {
            pool.add(key, cost, self.budgets.sizes(), arrival);
        }
        self.pool = pool;
        self.counters = state.counters;
        Ok(())
    }

    fn check_state(&self, state: &State<K>) -> Result<(), PackError> {
        let reject = |text: String| Err(PackError::State(text));
        let (n, width) = (state.keys.len(), self.budgets.sizes().len());
        let (arrivals, costs) = (state.arrivals.len(), state.costs.len());
        if arrivals != n || costs != n * width {
            return reject(format!(
                "the state has {n} keys, {arrivals} arrivals and {costs} costs for {width} budgets"
            ));
        }
        if n >= self.settings.pool_size {
            let size = self.settings.pool_size;
            return reject(format!(
                "the state holds {n} examples; between arrivals a pool of {size} holds fewer"
            ));
        }
        for (i, cost) in state.costs.chunks_exact(width).enumerate() {
            if let Err(error) = self.budgets.check(cost) {
                return reject(format!("example number {i} of the state {error}"));
            }
        }
        // The invariant that bounds every wait must hold for the restored pool too.
        let (now, last) = (state.counters.packs, self.settings.pool_size as u64 - 1);
        for (i, &arrival) in state.arrivals.iter().enumerate() {
            let sorted = i == 0 || state.arrivals[i - 1] <= arrival;
            if !sorted || arrival > now || now - arrival + i as u64 > last {
                return reject(format!(
                    "example number {i} of the state arrived at pack {arrival}, which no packer \
                     with pool_size {size} leaves after {now} packs",
                    size = last + 1
                ));
            }
        }
        Ok(())
    }
}
