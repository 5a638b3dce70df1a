//! The seekable shuffle.

#![allow(
    clippy::doc_markdown,
    reason = "docstrings for Python: Google style, with doctests"
)]

use pyo3::prelude::*;
use treepack_core::permutation;

/// The item at `position` of the shuffled order of `n` items in one epoch.
///
/// A keyed permutation, computed at any position in constant time and memory.
///
/// Args:
///     position: place in the epoch, ``0 <= position < n``.
///     n: number of items.
///     seed: unsigned 64-bit seed.
///     epoch: each epoch has an order of its own.
///
/// Returns:
///     An item in ``[0, n)``; over all positions, each item once. A position beyond is returned.
///
/// Raises:
///     OverflowError: a negative number, or one beyond 64 bits.
///
/// Source:
///     Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002; SplitMix64.
///
/// Example:
///     >>> from treepack._core import permute
///     >>> sorted(permute(position, 10, seed=7, epoch=0) for position in range(10))
///     [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
#[pyfunction]
fn permute(position: u64, n: u64, seed: u64, epoch: u64) -> u64 {
    permutation::permute(position, n, permutation::epoch_key(seed, epoch))
}

/// Adds the functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(permute, m)?)
}
