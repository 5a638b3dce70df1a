//! The mask under a sliding window.

#![allow(
    clippy::doc_markdown,
    reason = "docstrings for Python: Google style, with doctests"
)]

use numpy::PyArray1;
use pyo3::prelude::*;

use super::plan;
use crate::convert::integer;
use crate::errors::TreeError;
use crate::mask::{no_memory, raise, TreeMask};

type Ints<'py> = Bound<'py, PyArray1<i32>>;

/// The mask as varlen attention calls for a layer with a sliding window over path positions.
///
/// A query sees what it sees without a window, but nothing that is ``window`` or more tokens before
/// it on its path; image tokens see ahead as before (as in Gemma 3). A window that holds every path
/// gives ``mask.plan()``. Otherwise one call of kind `WINDOW` takes the place of those of kind
/// `SELF` and `CROSS`: its queries are all tokens, the keys of each segment are gathered.
///
/// Args:
///     mask: a `TreeMask`.
///     window: tokens of its path that a query sees, itself included.
///
/// Returns:
///     Entries int32 ``[P]`` and host table int32 ``[4 + 12 * n_calls]``, as from `TreeMask.plan`.
///
/// Raises:
///     TreeError: a window below 1, or a plan of more entries than an int32 counts.
///
/// Source:
///     The layout is drawn in docs/reference/plan.md.
///
/// Example:
///     >>> import treepack as tp
///     >>> from treepack._core import window_plan
///     >>> mask = tp.TreeMask.from_nodes([3, 2, 2], [-1, 0, 0])
///     >>> entries, host = window_plan(mask, 2)
///     >>> host[:4].tolist(), host[4:12].tolist()
///     ([1, 7, 7, 2], [4, 0, 7, 0, 8, 2, 5, 5])
///     >>> entries[host[15] :].tolist()  # keys: a chain, then the end of the root and a branch
///     [0, 1, 2, 3, 4, 2, 5, 6]
#[pyfunction]
fn window_plan<'py>(
    py: Python<'py>,
    mask: &Bound<'py, TreeMask>,
    window: &Bound<'py, PyAny>,
) -> PyResult<(Ints<'py>, Ints<'py>)> {
    let window = integer("window", window)?;
    let window = usize::try_from(window).map_err(|_| {
        TreeError::new_err(format!(
            "window is {window}; it counts the token itself, so 1 or more"
        ))
    })?;
    let mask = &mask.get().0;
    let plan = py.detach(|| mask.window_plan(window)).map_err(raise)?;
    Ok(plan::arrays(py, plan))
}

/// Tokens of the longest path from a root to a leaf of a mask.
///
/// Args:
///     mask: a `TreeMask`.
///
/// Returns:
///     Tokens of the nodes on that path together; a window of so many changes nothing.
///
/// Example:
///     >>> import treepack as tp
///     >>> from treepack._core import longest_path
///     >>> longest_path(tp.TreeMask.from_nodes([3, 2, 4], [-1, 0, 0]))
///     7
#[pyfunction]
fn longest_path(mask: &Bound<'_, TreeMask>) -> PyResult<usize> {
    mask.get().0.longest_path().map_err(no_memory)
}

/// Adds the functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(window_plan, m)?)?;
    m.add_function(wrap_pyfunction!(longest_path, m)?)
}
