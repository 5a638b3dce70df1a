//! Python binding of `treepack-core`: convert, detach, call the core, map the error. Nothing else.

mod attention;
mod convert;
mod errors;
mod mask;
mod packing;
mod permutation;

use pyo3::prelude::*;

/// The compiled core of treepack.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    attention::register(m)?;
    errors::register(m)?;
    mask::register(m)?;
    packing::register(m)?;
    permutation::register(m)?;
    Ok(())
}
