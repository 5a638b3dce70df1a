//! Plans as arrays, and how they are laid out.

use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use treepack_core::attention::{HostCall, HostHeader, Kind, Plan, ALIGN};

type Ints<'py> = Bound<'py, PyArray1<i32>>;

/// The entries and the host table of a plan.
pub fn arrays(py: Python<'_>, plan: Plan) -> (Ints<'_>, Ints<'_>) {
    (plan.entries.into_pyarray(py), plan.host.into_pyarray(py))
}

/// Adds the layout to the module: the number of each kind of call, the names of the fields of the
/// host table in their order, and the alignment.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    for kind in Kind::ALL {
        m.add(kind.name(), kind as i32)?;
    }
    m.add("PLAN_HEADER", PyTuple::new(m.py(), HostHeader::FIELDS)?)?;
    m.add("PLAN_FIELDS", PyTuple::new(m.py(), HostCall::FIELDS)?)?;
    m.add("PLAN_ALIGN", ALIGN)
}
