//! What the methods of `Packer` take and raise.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyMapping};
use treepack_core::packing::PackError;

use crate::errors::{BudgetError, CostError, OversizeError, StateError};

/// A non-negative integer; anything with ``__index__`` but no bool.
pub fn read_size(value: &Bound<'_, PyAny>) -> Option<u64> {
    if value.is_instance_of::<PyBool>() {
        return None;
    }
    value
        .extract::<i64>()
        .ok()
        .and_then(|size| u64::try_from(size).ok())
}

/// Names and sizes of the budgets, in the order given.
pub fn read_budgets(budgets: &Bound<'_, PyMapping>) -> PyResult<Vec<(String, u64)>> {
    let mut read = Vec::new();
    for item in budgets.items()?.iter() {
        let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        let (Ok(text), Some(size)) = (name.extract::<String>(), read_size(&value)) else {
            let (name, value) = (name.repr()?, value.repr()?);
            return Err(BudgetError::new_err(format!(
                "budget {name}: {value} must be a positive integer under a string name"
            )));
        };
        read.push((text, size));
    }
    Ok(read)
}

/// A setting in the type of the core, which checks its range.
pub fn setting<T: TryFrom<i64>>(name: &str, value: i64) -> PyResult<T> {
    T::try_from(value)
        .map_err(|_| BudgetError::new_err(format!("{name} is {value}; it is out of range")))
}

/// How errors name an example.
pub fn name(key: &Bound<'_, PyAny>) -> String {
    key.repr()
        .map_or_else(|_| "example".into(), |text| format!("example {text}"))
}

/// The Python error of a core error, with the example in front of what is wrong with its cost.
pub fn raise(error: &PackError, key: Option<&Bound<'_, PyAny>>) -> PyErr {
    let text = key.map_or_else(|| error.to_string(), |key| format!("{} {error}", name(key)));
    match error {
        PackError::NoBudgets
        | PackError::ManyBudgets(_)
        | PackError::BudgetRange { .. }
        | PackError::BudgetTwice(_)
        | PackError::Setting { .. } => BudgetError::new_err(text),
        PackError::Oversize { .. } => OversizeError::new_err(text),
        PackError::CostCount { .. } | PackError::CostZero(_) => CostError::new_err(text),
        PackError::State(_) => StateError::new_err(text),
    }
}
