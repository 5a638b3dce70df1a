//! `Packer` and `Pack`.

#![allow(
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "docstrings for Python: Google style, with doctests"
)]

mod arguments;
mod offline;
mod options;
mod state;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyMapping, PyString};
use treepack_core::packing::{self, Search, Settings};

use crate::errors::CostError;
use arguments::{name, raise, read_budgets, read_size, setting};
use options::{OVERSIZE, SOLVER};

/// The examples of one row.
///
/// Attributes:
///     keys: the keys, in order of arrival.
///     cost: sum of the costs, by budget, each in the unit of its budget.
///     waits: for each key, the packs emitted between its arrival and this pack.
///     is_oversize: whether this is one example that exceeds a budget, let through by
///         ``oversize="alone"``.
#[pyclass(module = "treepack", frozen)]
pub struct Pack {
    #[pyo3(get)]
    keys: Py<PyList>,
    #[pyo3(get)]
    cost: Py<PyDict>,
    #[pyo3(get)]
    waits: Vec<u64>,
    #[pyo3(get)]
    is_oversize: bool,
}

#[pymethods]
impl Pack {
    fn __len__(&self) -> usize {
        self.waits.len()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (keys, cost) = (self.keys.bind(py).repr()?, self.cost.bind(py).repr()?);
        let flag = if self.is_oversize {
            ", is_oversize=True"
        } else {
            ""
        };
        Ok(format!("Pack(keys={keys}, cost={cost}{flag})"))
    }
}

/// Chooses, from a small pool, the examples that together fill one row under every budget.
///
/// Keys go in, keys come out; the packer never sees payload. When the pool is full, each arrival
/// lets at most one pack go. The choice is bin completion from several anchors: the oldest example
/// and the hardest to place are each completed by a bounded search, and the pack that leaves least
/// of the scarce budgets empty goes. Integers only: the same input gives the same packs on every
/// machine.
///
/// Guarantees: every example leaves exactly once (after `flush`), unless it is dropped and counted;
/// no pack exceeds a budget; no example waits longer than ``pool_size - 1`` packs.
///
/// Args:
///     budgets: capacity of a pack by name, at most 64 positive integers up to 2**31.
///     pool_size: examples held while looking for a good pack, at most 32768.
///     oversize: an example larger than a budget: ``"raise"``, ``"drop"`` and count it, or
///         ``"alone"``, a pack of its own at once, flagged ``is_oversize``, which exceeds the
///         budget and does not count in any wait.
///     early: search from three quarters of the pool on, and let a pack go if it fills a budget
///         to 1/4096: fewer examples in memory for more searches.
///     solver: ``"anchors"``, or ``"first_fit"``, oldest first.
///     anchors: starts of a pack that are tried, 1 to 64.
///     steps: steps of the search over all anchors of a pack, 1 to 2**24.
///     gamma: how much more an example that fills a budget is worth than small ones of the same
///         sum, in 1/256, 0 to 4096.
///     age: how much more an example is worth once it has waited ``pool_size`` packs, in 3/1024,
///         0 to 4096; it gains steadily and at most a quarter.
///
/// Raises:
///     BudgetError: a budget or setting out of range.
///
/// Source:
///     Bin completion: Korf, "A New Algorithm for Optimal Bin Packing", AAAI 2002. Formats, bounds
///     and what else was tried: docs/reference/packing.md.
///
/// Example:
///     >>> import treepack as tp
///     >>> packer = tp.Packer({"tokens": 100, "crops": 8}, pool_size=3)
///     >>> packer.push("a", {"tokens": 60, "crops": 2})
///     >>> packer.push("b", {"tokens": 70, "crops": 1})
///     >>> packer.push("c", {"tokens": 40, "crops": 6})
///     Pack(keys=['a', 'c'], cost={'tokens': 100, 'crops': 8})
///     >>> packer.flush()
///     [Pack(keys=['b'], cost={'tokens': 70, 'crops': 1})]
#[pyclass(module = "treepack")]
pub struct Packer {
    core: packing::Packer<Py<PyAny>>,
    /// Names of the budgets as Python strings, for look-ups without a copy.
    names: Vec<Py<PyString>>,
    /// Everything that the packs depend on beside the stream.
    fingerprint: Py<PyString>,
}

#[pymethods]
impl Packer {
    #[new]
    #[pyo3(signature = (budgets, pool_size=48, oversize="raise", *, early=false, solver="anchors",
                        anchors=8, steps=4_000, gamma=16, age=16))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        budgets: &Bound<'_, PyMapping>,
        pool_size: i64,
        oversize: &str,
        early: bool,
        solver: &str,
        anchors: i64,
        steps: i64,
        gamma: i64,
        age: i64,
    ) -> PyResult<Self> {
        let settings = Settings {
            pool_size: setting("pool_size", pool_size)?,
            oversize: OVERSIZE.read("oversize", oversize)?,
            early,
            solver: SOLVER.read("solver", solver)?,
            search: Search {
                anchors: setting("anchors", anchors)?,
                steps: setting("steps", steps)?,
                gamma: setting("gamma", gamma)?,
                age: setting("age", age)?,
                steps_after_full: None,
            },
        };
        let budgets = read_budgets(budgets)?;
        let names = budgets
            .iter()
            .map(|(name, _)| PyString::new(py, name).unbind())
            .collect();
        let core = packing::Packer::new(budgets, settings).map_err(|e| raise(&e, None))?;
        let fingerprint = PyString::new(py, &state::fingerprint(&core)).unbind();
        Ok(Self {
            core,
            names,
            fingerprint,
        })
    }

    /// Adds an example and lets at most one pack go.
    ///
    /// After an error the packer is as it was before the call.
    ///
    /// Args:
    ///     key: names the example; any object. Keys need not differ.
    ///     cost: non-negative integers, one for each budget, not all zero.
    ///
    /// Returns:
    ///     A `Pack`, or ``None`` while the pool is not full.
    ///
    /// Raises:
    ///     CostError: a cost that is missing, unknown, negative, fractional or zero everywhere.
    ///     OversizeError: more than a budget, under ``oversize="raise"``.
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> packer = tp.Packer({"tokens": 100}, pool_size=2)
    ///     >>> packer.push("a", {"tokens": 60})
    ///     >>> packer.push("b", {"tokens": 30}).keys
    ///     ['a', 'b']
    fn push(
        &mut self,
        py: Python<'_>,
        key: Py<PyAny>,
        cost: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Pack>> {
        let cost = self.read_cost(&key, cost)?;
        // Checked while the key can still be named; what follows cannot fail.
        if let Err(error) = self.core.check(&cost) {
            return Err(raise(&error, Some(key.bind(py))));
        }
        let core = &mut self.core;
        let pack = py
            .detach(|| core.push(key, &cost))
            .map_err(|e| raise(&e, None))?;
        pack.map(|pack| self.pack(py, pack)).transpose()
    }

    /// Lets one pack go although the pool is not full.
    ///
    /// Returns:
    ///     The best `Pack` that contains the oldest example; ``None`` when the pool is empty.
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> packer = tp.Packer({"tokens": 100})
    ///     >>> packer.push("a", {"tokens": 60})
    ///     >>> packer.pop(), packer.pop()
    ///     (Pack(keys=['a'], cost={'tokens': 60}), None)
    fn pop(&mut self, py: Python<'_>) -> PyResult<Option<Pack>> {
        let core = &mut self.core;
        let pack = py.detach(|| core.pop());
        pack.map(|pack| self.pack(py, pack)).transpose()
    }

    /// Empties the pool.
    ///
    /// Returns:
    ///     All remaining packs, in the order in which `pop` lets them go.
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> packer = tp.Packer({"tokens": 100})
    ///     >>> for key, tokens in {"a": 60, "b": 70}.items():
    ///     ...     packer.push(key, {"tokens": tokens})
    ///     >>> [pack.keys for pack in packer.flush()], len(packer)
    ///     ([['a'], ['b']], 0)
    fn flush(&mut self, py: Python<'_>) -> PyResult<Vec<Pack>> {
        let mut packs = Vec::new();
        while let Some(pack) = self.pop(py)? {
            packs.push(pack);
        }
        Ok(packs)
    }

    /// Everything needed to go on later as if the packer had never stopped.
    ///
    /// Returns:
    ///     A dict of ints, strings and lists, JSON-safe if the keys are: ``version``,
    ///     ``fingerprint`` (budgets and settings), ``counters``, and of the pool, oldest first,
    ///     ``keys``, ``costs`` and ``arrivals`` (packs emitted when each arrived).
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> packer = tp.Packer({"tokens": 100})
    ///     >>> packer.push("a", {"tokens": 60})
    ///     >>> state = packer.state()
    ///     >>> state["keys"], state["costs"], state["arrivals"]
    ///     (['a'], [[60]], [0])
    fn state(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        state::save(py, &self.core, &self.keys(py), &self.fingerprint)
    }

    /// Goes on from a `state`, in place of what the packer holds.
    ///
    /// Args:
    ///     state: what `state` of a packer with the same budgets and settings returned.
    ///
    /// Raises:
    ///     StateError: a state of another version, of other budgets or settings, or one that
    ///         contradicts itself; the packer is unchanged then.
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> packer, other = (tp.Packer({"tokens": 100}) for _ in range(2))
    ///     >>> packer.push("a", {"tokens": 60})
    ///     >>> other.restore(packer.state())
    ///     >>> other.keys
    ///     ['a']
    fn restore(&mut self, state: &Bound<'_, PyAny>) -> PyResult<()> {
        let state = state::load(state, &self.core)?;
        self.core.restore(state).map_err(|e| raise(&e, None))
    }

    /// Capacity of a pack, by name.
    #[getter]
    fn budgets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.by_name(py, self.core.budgets().sizes())
    }

    /// Examples that the pool may hold.
    #[getter]
    fn pool_size(&self) -> usize {
        self.core.settings().pool_size
    }

    /// Keys in the pool, oldest first.
    #[getter]
    fn keys(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        self.core
            .keys()
            .iter()
            .map(|key| key.clone_ref(py))
            .collect()
    }

    /// Counts so far: examples ``pushed``, ``dropped`` and sent ``alone``, and ``packs`` emitted.
    #[getter]
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        state::counters(py, self.core.counters())
    }

    /// Number of examples in the pool.
    fn __len__(&self) -> usize {
        self.core.len()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let budgets = self.budgets(py)?.repr()?;
        Ok(format!(
            "Packer({budgets}, pool_size={}, held={})",
            self.pool_size(),
            self.core.len()
        ))
    }
}

impl Packer {
    fn pack(&self, py: Python<'_>, pack: packing::Pack<Py<PyAny>>) -> PyResult<Pack> {
        Ok(Pack {
            keys: PyList::new(py, pack.keys)?.unbind(),
            cost: self.by_name(py, &pack.cost)?.unbind(),
            waits: pack.waits,
            is_oversize: pack.is_oversize,
        })
    }

    fn by_name<'py>(&self, py: Python<'py>, sizes: &[u64]) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, size) in self.names.iter().zip(sizes) {
            dict.set_item(name, size)?;
        }
        Ok(dict)
    }

    fn read_cost(&self, key: &Py<PyAny>, cost: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
        let py = cost.py();
        let fail = |text: String| Err(CostError::new_err(format!("{} {text}", name(key.bind(py)))));
        let Ok(mapping) = cost.cast::<PyMapping>() else {
            return fail(format!("has cost {}; give a dict by budget", cost.repr()?));
        };
        let mut sizes = Vec::with_capacity(self.names.len());
        for budget in &self.names {
            let Ok(value) = mapping.get_item(budget) else {
                let budget = budget.bind(py).repr()?;
                return fail(format!(
                    "has no cost for budget {budget}; got {}: give 0 where it costs nothing",
                    cost.repr()?
                ));
            };
            match read_size(&value) {
                Some(size) => sizes.push(size),
                None => {
                    return fail(format!(
                        "has {} {}; a cost is a non-negative integer below 2**63",
                        value.repr()?,
                        budget.bind(py)
                    ))
                }
            }
        }
        if mapping.len()? != sizes.len() {
            let names = self.core.budgets().names();
            return fail(format!(
                "has costs {}; the budgets are {names:?}",
                mapping.keys()?.repr()?
            ));
        }
        Ok(sizes)
    }
}

/// Adds the classes to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Pack>()?;
    m.add_class::<offline::OfflinePacker>()?;
    m.add_class::<Packer>()
}
