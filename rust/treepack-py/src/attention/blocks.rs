//! The mask in blocks.

#![allow(
    clippy::doc_markdown,
    reason = "docstrings for Python: Google style, with doctests"
)]

use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::prelude::*;
use treepack_core::attention::BlockTable;

use crate::convert::{integer, matrix};
use crate::errors::TreeError;
use crate::mask::{raise, TreeMask};

type Table<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray2<i32>>);
type Tables<'py> = (Table<'py>, Table<'py>, Table<'py>, Table<'py>);

/// Lists the blocks of a mask that have visible pairs, from either side.
///
/// Each of the four tables is ``(counts, indices)``: int32 ``[n]`` and int32 ``[n, m]``. The first
/// ``counts[i]`` entries of ``indices[i]`` are blocks of the other side, increasing; the rest is 0.
/// A full block has no invisible pair; a block in neither list has no visible one.
///
/// Args:
///     mask: a `TreeMask`.
///     block_q: queries of a block.
///     block_k: keys of a block. The last block of either side may be shorter.
///
/// Returns:
///     For each block of queries the blocks of keys that it sees in part, then those that it sees
///     whole; for each block of keys the blocks of queries that see it in part, then whole. These
///     are ``kv_num_blocks, kv_indices``, ``full_kv_num_blocks, full_kv_indices``,
///     ``q_num_blocks, q_indices``, ``full_q_num_blocks, full_q_indices`` of torch's ``BlockMask``.
///
/// Raises:
///     TreeError: a block size below 1.
///
/// Source:
///     FlexAttention, arXiv 2412.05496.
///
/// Example:
///     >>> import treepack as tp
///     >>> from treepack._core import block_lists
///     >>> mask = tp.TreeMask.from_nodes([4, 2, 2], [-1, 0, 0])
///     >>> (counts, indices), (full_counts, full_indices), _, _ = block_lists(mask, 2, 2)
///     >>> counts.tolist(), indices[:, 0].tolist()
///     ([1, 1, 1, 1], [0, 1, 2, 3])
///     >>> full_counts.tolist(), full_indices[2].tolist()
///     ([0, 1, 2, 2], [0, 1, 0, 0])
#[pyfunction]
#[pyo3(signature = (mask, block_q=None, block_k=None), text_signature = "(mask, block_q=128, block_k=128)")]
fn block_lists<'py>(
    py: Python<'py>,
    mask: &Bound<'py, TreeMask>,
    block_q: Option<&Bound<'py, PyAny>>,
    block_k: Option<&Bound<'py, PyAny>>,
) -> PyResult<Tables<'py>> {
    let (q, k) = (size("block_q", block_q)?, size("block_k", block_k)?);
    let mask = &mask.get().0;
    let lists = py.detach(|| mask.block_lists(q, k)).map_err(raise)?;
    let table = |table: BlockTable| -> PyResult<Table<'py>> {
        let shape = [table.counts.len(), table.width];
        Ok((
            table.counts.into_pyarray(py),
            matrix(py, shape, table.indices)?,
        ))
    };
    let (kv, full_kv) = (table(lists.kv_partial)?, table(lists.kv_full)?);
    Ok((kv, full_kv, table(lists.q_partial)?, table(lists.q_full)?))
}

fn size(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<usize> {
    let Some(value) = value else { return Ok(128) };
    let size = integer(name, value)?;
    usize::try_from(size)
        .map_err(|_| TreeError::new_err(format!("{name} is {size}; a block has 1 token or more")))
}

/// Adds the function to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(block_lists, m)?)
}
