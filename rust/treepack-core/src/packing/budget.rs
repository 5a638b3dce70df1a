//! The capacities of a pack, and the one check that every cost passes.

use super::PackError;

/// Largest budget; prices are scaled integers that lose their low bits above it (see
/// `select/prices.rs`).
pub const MAX_BUDGET: u64 = 1 << 31;

/// Most budgets of a packer.
pub const MAX_BUDGETS: usize = 64;

/// Named capacities of a pack, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budgets {
    names: Vec<String>,
    sizes: Vec<u64>,
}

impl Budgets {
    /// Checks names and sizes.
    ///
    /// # Errors
    /// No budgets or too many, a size outside `1..=2^31`, or a name given twice.
    pub fn new(budgets: Vec<(String, u64)>) -> Result<Self, PackError> {
        if budgets.is_empty() {
            return Err(PackError::NoBudgets);
        }
        if budgets.len() > MAX_BUDGETS {
            return Err(PackError::ManyBudgets(budgets.len()));
        }
        for (i, (name, size)) in budgets.iter().enumerate() {
            if !(1..=MAX_BUDGET).contains(size) {
                return Err(PackError::BudgetRange {
                    name: name.clone(),
                    size: *size,
                });
            }
            if budgets[..i].iter().any(|(other, _)| other == name) {
                return Err(PackError::BudgetTwice(name.clone()));
            }
        }
        let (names, sizes) = budgets.into_iter().unzip();
        Ok(Self { names, sizes })
    }

    /// Names, in the order given.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Capacities, in the order of [`Self::names`].
    #[must_use]
    pub fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// Whether a pack could hold an example of this cost.
    #[must_use]
    pub fn holds(&self, cost: &[u64]) -> bool {
        cost.iter()
            .zip(&self.sizes)
            .all(|(size, limit)| size <= limit)
    }

    /// Accepts a cost that a pack could hold.
    ///
    /// # Errors
    /// The wrong number of entries, zero in every budget, or more than a budget.
    pub fn check(&self, cost: &[u64]) -> Result<(), PackError> {
        if cost.len() != self.sizes.len() {
            return Err(PackError::CostCount {
                got: cost.len(),
                want: self.sizes.len(),
            });
        }
        if cost.iter().all(|&c| c == 0) {
            return Err(PackError::CostZero(self.names.join(", ")));
        }
        match (0..cost.len()).find(|&d| cost[d] > self.sizes[d]) {
            None => Ok(()),
            Some(d) => Err(PackError::Oversize {
                name: self.names[d].clone(),
                size: cost[d],
                limit: self.sizes[d],
            }),
        }
    }
}
