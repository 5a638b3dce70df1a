//! What the methods of `TreeMask` take and raise.

use numpy::{IntoPyArray, PyArray1, PyArray2, PyUntypedArray};
use pyo3::prelude::*;
use treepack_core::mask::{self, Bidirectional, ImageRun};

use crate::convert::{integers, matrix};
use crate::errors::TreeError;

/// Arguments of `from_nodes` that give the same mask.
pub type Parts<'py> = (
    Bound<'py, PyArray1<i32>>,
    Bound<'py, PyArray1<i32>>,
    Bound<'py, PyArray2<i64>>,
    &'static str,
    usize,
);

/// The arguments of a mask.
pub fn of<'py>(py: Python<'py>, mask: &mask::TreeMask) -> PyResult<Parts<'py>> {
    let nodes = mask.nodes();
    let bounds = nodes.start.iter().zip(&nodes.end);
    let lengths: Vec<i32> = bounds.map(|(start, end)| end - start).collect();
    let runs = mask.groups().in_order();
    let entries = runs.iter().flat_map(|run| [run.start, run.end, run.image]);
    Ok((
        lengths.into_pyarray(py),
        PyArray1::from_slice(py, &nodes.parent),
        matrix(py, [runs.len(), 3], entries.collect())?,
        mask.bidirectional().name(),
        mask.total(),
    ))
}

/// A bidirectional mode, read from its name.
#[derive(Clone, Copy, Default)]
pub struct Mode(pub Bidirectional);

impl FromPyObject<'_, '_> for Mode {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let name = value.str()?;
        name.to_cow()?.parse().map(Self).map_err(raise)
    }
}

/// Reads image runs `[R, 3]`; an empty list is none.
pub fn image_runs(runs: &Bound<'_, PyAny>) -> PyResult<Vec<ImageRun>> {
    if runs.len().is_ok_and(|len| len == 0) && !runs.is_instance_of::<PyUntypedArray>() {
        return Ok(Vec::new());
    }
    let runs = integers("image_runs", runs, &[None, Some(3)])?;
    let entries = runs.as_slice()?.chunks_exact(3);
    Ok(entries
        .map(|entry| ImageRun {
            start: entry[0],
            end: entry[1],
            image: entry[2],
        })
        .collect())
}

// By value, so that it can stand in `map_err`.
#[allow(clippy::needless_pass_by_value)]
pub fn raise(error: mask::TreeError) -> PyErr {
    TreeError::new_err(error.to_string())
}
