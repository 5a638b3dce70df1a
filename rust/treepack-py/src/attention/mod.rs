//! What attention kernels take: plans, with or without a window, and block lists.

mod blocks;
pub mod plan;
mod window;

use pyo3::prelude::*;

/// Adds the functions and constants to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    blocks::register(m)?;
    plan::register(m)?;
    window::register(m)
}
