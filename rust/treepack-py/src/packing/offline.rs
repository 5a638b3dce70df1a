//! A whole table packed at once.

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping};
use treepack_core::packing::{Offline, OfflineSettings};

use super::arguments::{raise, read_budgets};
use super::options::{EFFORT, ORDER, OVERSIZE};

/// A table of costs that is packed in steps; `treepack.packing.offline` drives it.
///
/// Args:
///     budgets: capacity of a pack by name.
///     costs: uint32 ``[n * len(budgets)]``, those of an example side by side.
///     order: ``"shuffled"`` or ``"kept"``.
///     effort: ``"fast"`` or ``"best"``.
///     window: examples that are shuffled together, or the size of the pool.
///     seed: unsigned 64-bit seed.
///     early: as of `Packer`.
///     oversize: as of `Packer`.
///
/// Raises:
///     BudgetError: a budget or setting out of range.
///     CostError: the costs are no whole number of examples.
#[pyclass(module = "treepack._core")]
pub struct OfflinePacker {
    core: Option<Offline>,
}

#[pymethods]
impl OfflinePacker {
    #[new]
    #[pyo3(signature = (budgets, costs, *, order, effort, window, seed, early, oversize))]
    #[allow(
        clippy::too_many_arguments,
        clippy::needless_pass_by_value,
        reason = "keywords of Python, extracted for the call"
    )]
    fn new(
        budgets: &Bound<'_, PyMapping>,
        costs: PyReadonlyArray1<'_, u32>,
        order: &str,
        effort: &str,
        window: usize,
        seed: u64,
        early: bool,
        oversize: &str,
    ) -> PyResult<Self> {
        let settings = OfflineSettings {
            order: ORDER.read("order", order)?,
            effort: EFFORT.read("effort", effort)?,
            window,
            seed,
            early,
            oversize: OVERSIZE.read("oversize", oversize)?,
        };
        let (budgets, costs) = (read_budgets(budgets)?, costs.as_slice()?.to_vec());
        let core = Offline::new(budgets, costs, settings).map_err(|e| raise(&e, None))?;
        Ok(Self { core: Some(core) })
    }

    /// Works on the next ``count`` examples, or repacks for about as long.
    ///
    /// Returns:
    ///     Whether there is more to do.
    ///
    /// Raises:
    ///     CostError: an example costs nothing.
    ///     OversizeError: an example is larger than a budget, under ``oversize="raise"``.
    fn advance(&mut self, py: Python<'_>, count: usize) -> PyResult<bool> {
        let Some(core) = self.core.as_mut() else {
            return Ok(false);
        };
        py.detach(|| core.advance(count)).map_err(|(example, e)| {
            example
                .into_pyobject(py)
                .map_or_else(|_| raise(&e, None), |key| raise(&e, Some(key.as_any())))
        })
    }

    /// Work done and work in all, in examples.
    #[getter]
    fn progress(&self) -> (usize, usize) {
        self.core.as_ref().map_or((0, 0), Offline::progress)
    }

    /// The packs; nothing is left afterwards.
    ///
    /// Returns:
    ///     ``offsets``, int64 ``[n_packs + 1]``, and ``members``, int64 ``[n]``, the numbers of the
    ///     examples; and how many examples were ``dropped`` and sent ``alone``.
    fn finish<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Some(core) = self.core.take() else {
            return Err(PyValueError::new_err("the packs have been taken already"));
        };
        let (dropped, alone) = core.oversize();
        let packs = py.detach(|| core.finish());
        let ends = packs
            .ends
            .iter()
            .map(|&end| i64::try_from(end).unwrap_or(i64::MAX));
        let offsets = std::iter::once(0).chain(ends);
        let dict = PyDict::new(py);
        dict.set_item("offsets", PyArray1::from_iter(py, offsets))?;
        let members = packs.members.iter().map(|&member| i64::from(member));
        dict.set_item("members", PyArray1::from_iter(py, members))?;
        dict.set_item("dropped", dropped)?;
        dict.set_item("alone", alone)?;
        Ok(dict)
    }
}
