//! The seekable shuffle.

use pyo3::prelude::*;
use treepack_core::permutation;

/// The item at `position` of the shuffled order of `n` items in one epoch.
///
/// A keyed permutation, computed at any position in constant time and memory.
///
/// Args:
///     position: place in the epoch, `0 <= position < n`.
///     n: number of items.
///     seed: unsigned 64-bit seed.
///     epoch: each epoch has an order of its own.
///
/// Returns:
///     An item in `[0, n)`; over all positions, each item once.
#[pyfunction]
fn permute(position: u64, n: u64, seed: u64, epoch: u64) -> u64 {
    permutation::permute(position, n, permutation::epoch_key(seed, epoch))
}

/// Adds the functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(permute, m)?)
}
