//! The candidates, in order of arrival.

/// The front of a pool are its oldest items, up to this many: anchors are picked there and waits
/// are measured there, so that a pool of any size packs as one of this size does, or better.
pub(super) const FRONT: usize = 48;

/// Keys, costs and arrival numbers of the examples that wait, oldest first.
#[derive(Debug, Clone)]
pub(super) struct Pool<K> {
    width: usize,
    keys: Vec<K>,
    arrivals: Vec<u64>,
    costs: Vec<u64>,
    /// Largest share that each takes of any budget, Q10: in 1/1024.
    shares: Vec<u64>,
}

/// What a selector sees of a pool: numbers only.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// Capacity of each budget, `[D]`.
    pub budgets: &'a [u64],
    /// Costs of the items, oldest first, `[n * D]`.
    pub costs: &'a [u64],
    /// Packs that had been emitted when each item arrived, `[n]`.
    pub arrivals: &'a [u64],
    /// Largest share that each item takes of any budget, Q10, `[n]`.
    pub shares: &'a [u64],
    /// Packs emitted so far.
    pub now: u64,
    /// Capacity of the pool, which bounds every wait.
    pub pool_size: u64,
}

impl View<'_> {
    pub fn len(&self) -> usize {
        self.arrivals.len()
    }

    /// The front of the pool, as if it were a pool of its own into which the youngest of it has
    /// just come.
    pub fn front(&self) -> Self {
        let n = self.len().min(FRONT);
        let is_all = n == self.len();
        Self {
            budgets: self.budgets,
            costs: &self.costs[..n * self.budgets.len()],
            arrivals: &self.arrivals[..n],
            shares: &self.shares[..n],
            now: if is_all {
                self.now
            } else {
                self.arrivals[n - 1]
            },
            pool_size: self.pool_size.min(FRONT as u64),
        }
    }
}

impl<K> Pool<K> {
    pub fn new(width: usize, capacity: usize) -> Self {
        Self {
            width,
            keys: Vec::with_capacity(capacity),
            arrivals: Vec::with_capacity(capacity),
            costs: Vec::with_capacity(capacity * width),
            shares: Vec::with_capacity(capacity),
        }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn keys(&self) -> &[K] {
        &self.keys
    }

    pub fn arrivals(&self) -> &[u64] {
        &self.arrivals
    }

    pub fn costs(&self) -> &[u64] {
        &self.costs
    }

    pub fn add(&mut self, key: K, cost: &[u64], budgets: &[u64], now: u64) {
        let shares = cost
            .iter()
            .zip(budgets)
            .map(|(c, budget)| c * 1024 / budget);
        self.shares.push(shares.max().unwrap_or(0));
        self.keys.push(key);
        self.arrivals.push(now);
        self.costs.extend_from_slice(cost);
    }

    pub fn view<'a>(&'a self, budgets: &'a [u64], now: u64, pool_size: u64) -> View<'a> {
        View {
            budgets,
            costs: &self.costs,
            arrivals: &self.arrivals,
            shares: &self.shares,
            now,
            pool_size,
        }
    }

    /// Takes the marked items out, in order of arrival, as `(key, arrival)`; `cost` gets their sum.
    pub fn take(&mut self, marked: &[bool], cost: &mut [u64]) -> Vec<(K, u64)> {
        let width = self.width;
        let mut taken = Vec::new();
        let mut kept = 0;
        let keys = std::mem::take(&mut self.keys);
        self.keys.reserve(keys.capacity());
        for (i, key) in keys.into_iter().enumerate() {
            if marked[i] {
                for (sum, c) in cost.iter_mut().zip(&self.costs[i * width..]) {
                    *sum += c;
                }
                taken.push((key, self.arrivals[i]));
            } else {
                self.keys.push(key);
                self.arrivals[kept] = self.arrivals[i];
                self.shares[kept] = self.shares[i];
                self.costs
                    .copy_within(i * width..(i + 1) * width, kept * width);
                kept += 1;
            }
        }
        self.arrivals.truncate(kept);
        self.shares.truncate(kept);
        self.costs.truncate(kept * width);
        taken
    }
}
