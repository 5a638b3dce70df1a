//! Everything that can be wrong with budgets, settings, a cost or a saved state.

use thiserror::Error;

/// Why a packer rejected budgets, a setting, a cost or a state.
///
/// The messages about a cost begin with a verb: the caller, who knows the key, puts the name of the
/// example in front.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PackError {
    /// A packer without budgets.
    #[error("a packer needs at least one budget, got none")]
    NoBudgets,
    /// More budgets than the solver has places for.
    #[error("{0} budgets are too many; a packer takes up to {max}", max = super::MAX_BUDGETS)]
    ManyBudgets(usize),
    /// A budget outside `1..=2^31`.
    #[error("budget '{name}' is {size}; it must be from 1 to {max}", max = super::MAX_BUDGET)]
    BudgetRange {
        /// Name of the budget.
        name: String,
        /// Its size.
        size: u64,
    },
    /// Two budgets of one name.
    #[error("budget '{0}' is given twice; names must differ")]
    BudgetTwice(String),
    /// A setting outside its range.
    #[error("{name} is {value}; it must be from {min} to {max}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        value: u64,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
    /// A cost with the wrong number of entries.
    #[error("has {got} costs for {want} budgets; give one for each")]
    CostCount {
        /// Entries given.
        got: usize,
        /// Number of budgets.
        want: usize,
    },
    /// A cost of zero in every budget: any number of such examples would fit.
    #[error("costs nothing in every budget ({0}); at least one cost must be positive")]
    CostZero(String),
    /// An example larger than a budget.
    #[error(
        "has {size} {name}, pack budget is {limit}; \
         set oversize=\"drop\" or raise budgets[\"{name}\"]"
    )]
    Oversize {
        /// Name of the budget.
        name: String,
        /// What the example needs of it.
        size: u64,
        /// The size of the budget.
        limit: u64,
    },
    /// A state that contradicts itself or the packer.
    #[error("{0}")]
    State(String),
}
