//! Python binding of `treepack-core`: convert, detach, call the core, map the error. Nothing else.

mod blocks;
mod convert;
mod errors;
mod mask;
mod options;
mod order;
mod packer_state;
mod packing;
mod window;

use pyo3::prelude::*;

/// The compiled core of treepack.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    blocks::register(m)?;
    errors::register(m)?;
    mask::register(m)?;
    order::register(m)?;
    packing::register(m)?;
    window::register(m)?;
    Ok(())
}
