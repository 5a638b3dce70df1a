//! What the methods of `TreeMask` take and raise.

use numpy::{IntoPyArray, PyArray1, PyArray2, PyUntypedArray};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use treepack_core::mask::{self, Bidirectional, ImageRun};
use treepack_core::room::{room, NoMemory};

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
    let mut lengths = room("nodes", nodes.len()).map_err(no_memory)?;
    lengths.extend(bounds.map(|(start, end)| end - start));
    let runs = mask.groups().in_order().map_err(no_memory)?;
    let mut entries = room("image runs", 3 * runs.len()).map_err(no_memory)?;
    entries.extend(runs.iter().flat_map(|run| [run.start, run.end, run.image]));
    Ok((
        lengths.into_pyarray(py),
        copied(py, &nodes.parent)?,
        matrix(py, [runs.len(), 3], entries)?,
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
    let mut found = room("image runs", entries.len()).map_err(no_memory)?;
    found.extend(entries.map(|entry| ImageRun {
        start: entry[0],
        end: entry[1],
        image: entry[2],
    }));
    Ok(found)
}

/// A vector that the core makes, without the GIL, as an array.
pub fn vector(
    py: Python<'_>,
    make: impl FnOnce() -> Result<Vec<i32>, NoMemory> + Send,
) -> PyResult<Bound<'_, PyArray1<i32>>> {
    let numbers = py.detach(make).map_err(no_memory)?;
    Ok(numbers.into_pyarray(py))
}

/// A copy as an array.
pub fn copied<'py>(py: Python<'py>, numbers: &[i32]) -> PyResult<Bound<'py, PyArray1<i32>>> {
    let mut copy = room("numbers", numbers.len()).map_err(no_memory)?;
    copy.extend_from_slice(numbers);
    Ok(copy.into_pyarray(py))
}

// By value, so that it can stand in `map_err`.
#[allow(clippy::needless_pass_by_value)]
pub fn raise(error: mask::TreeError) -> PyErr {
    match error {
        mask::TreeError::NoMemory(error) => no_memory(error),
        error => TreeError::new_err(error.to_string()),
    }
}

#[allow(clippy::needless_pass_by_value)]
pub fn no_memory(error: NoMemory) -> PyErr {
    PyMemoryError::new_err(error.to_string())
}
