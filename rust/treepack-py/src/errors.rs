//! The error classes that the core raises, each a `ValueError`.

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(
    treepack.errors,
    TreepackError,
    PyValueError,
    "Base of every error that treepack raises."
);
create_exception!(
    treepack.errors,
    BudgetError,
    TreepackError,
    "Budgets, or another setting of a packer, that make no sense."
);
create_exception!(
    treepack.errors,
    CostError,
    TreepackError,
    "A cost that is missing, unknown, negative, fractional or zero in every budget."
);
create_exception!(
    treepack.errors,
    OversizeError,
    CostError,
    "An example that is larger than a budget."
);
create_exception!(
    treepack.errors,
    TreeError,
    TreepackError,
    "Nodes or image runs that do not describe a row of message trees."
);
create_exception!(
    treepack.errors,
    StateError,
    TreepackError,
    "A saved state that does not belong here."
);

/// Adds the classes to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    m.add("TreepackError", py.get_type::<TreepackError>())?;
    m.add("BudgetError", py.get_type::<BudgetError>())?;
    m.add("CostError", py.get_type::<CostError>())?;
    m.add("OversizeError", py.get_type::<OversizeError>())?;
    m.add("TreeError", py.get_type::<TreeError>())?;
    m.add("StateError", py.get_type::<StateError>())?;
    Ok(())
}
