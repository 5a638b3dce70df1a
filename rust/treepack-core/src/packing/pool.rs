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
    /// The two budgets that order the items for a search.
    ordering: [usize; 2],
    /// Sort key and place of the items in search order.
    order: Vec<(u64, usize)>,
    /// Places to come of the items, while some are taken out.
    places: Vec<usize>,
    /// Empty, with room for the keys.
    spare: Vec<K>,
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
    /// The items in search order: a sort key, and the place of each.
    pub order: &'a [(u64, usize)],
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
            order: self.order,
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
    pub fn new(budgets: &[u64], capacity: usize) -> Self {
        let width = budgets.len();
        Self {
            width,
            keys: Vec::with_capacity(capacity),
            arrivals: Vec::with_capacity(capacity),
            costs: Vec::with_capacity(capacity * width),
            shares: Vec::with_capacity(capacity),
            ordering: smallest_two(budgets),
            order: Vec::with_capacity(capacity),
            places: Vec::with_capacity(capacity),
            spare: Vec::with_capacity(capacity),
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
        let [first, second] = self.ordering.map(|d| cost[d]);
        // Budgets end at 2^31, so two sizes fit into one key; the complement sorts it downwards.
        let sort_key = !(first << 32 | second);
        let place = self.order.partition_point(|&(other, _)| other <= sort_key);
        self.order.insert(place, (sort_key, self.keys.len()));
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
            order: &self.order,
            now,
            pool_size,
        }
    }

    /// Takes the marked items out, in order of arrival, as keys and arrivals; `cost` gets their sum.
    pub fn take(&mut self, marked: &[bool], cost: &mut [u64]) -> (Vec<K>, Vec<u64>) {
        let width = self.width;
        let count = marked.iter().filter(|&&marked| marked).count();
        let (mut keys, mut arrivals) = (Vec::with_capacity(count), Vec::with_capacity(count));
        std::mem::swap(&mut self.keys, &mut self.spare);
        for ((i, key), &is_taken) in self.spare.drain(..).enumerate().zip(marked) {
            if is_taken {
                keys.push(key);
                arrivals.push(self.arrivals[i]);
                let own = &self.costs[i * width..(i + 1) * width];
                cost.iter_mut().zip(own).for_each(|(sum, c)| *sum += c);
            } else {
                self.keys.push(key);
            }
        }
        self.close_ranks(marked);
        (keys, arrivals)
    }

    /// Moves the numbers of what is not marked to the front; no branch depends on what is marked.
    fn close_ranks(&mut self, marked: &[bool]) {
        let width = self.width;
        self.places.clear();
        let mut kept = 0;
        for (i, &is_taken) in marked.iter().enumerate() {
            self.places.push(kept);
            self.arrivals[kept] = self.arrivals[i];
            self.shares[kept] = self.shares[i];
            for d in 0..width {
                self.costs[kept * width + d] = self.costs[i * width + d];
            }
            kept += usize::from(!is_taken);
        }
        self.arrivals.truncate(kept);
        self.shares.truncate(kept);
        self.costs.truncate(kept * width);
        let mut ordered = 0;
        for i in 0..self.order.len() {
            let (sort_key, place) = self.order[i];
            self.order[ordered] = (sort_key, self.places[place]);
            ordered += usize::from(!marked[place]);
        }
        self.order.truncate(ordered);
    }
}

/// The two smallest budgets, or the only one twice.
fn smallest_two(budgets: &[u64]) -> [usize; 2] {
    let mut by_size: Vec<usize> = (0..budgets.len()).collect();
    by_size.sort_by_key(|&d| budgets[d]);
    [by_size[0], by_size[by_size.len().min(2) - 1]]
}
