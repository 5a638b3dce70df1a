//! The state of a packer as a JSON-safe dict.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use treepack_core::packing::{Counters, Packer, State};

use super::options::{OVERSIZE, SOLVER};
use crate::errors::StateError;

type Key = Py<PyAny>;

/// Raised when the layout of the dict changes, or the packs that follow a state.
const VERSION: u32 = 2;

/// Counters by name.
pub fn counters(py: Python<'_>, counters: Counters) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("pushed", counters.pushed)?;
    dict.set_item("packs", counters.packs)?;
    dict.set_item("dropped", counters.dropped)?;
    dict.set_item("alone", counters.alone)?;
    Ok(dict)
}

/// The state of `packer`, whose keys and fingerprint are given as Python objects.
pub fn save(
    py: Python<'_>,
    packer: &Packer<Key>,
    keys: &[Key],
    fingerprint: &Py<PyString>,
) -> PyResult<Py<PyDict>> {
    let (arrivals, costs) = (packer.arrivals(), packer.costs());
    let costs: Vec<&[u64]> = costs.chunks_exact(packer.budgets().sizes().len()).collect();
    let dict = PyDict::new(py);
    dict.set_item("version", VERSION)?;
    dict.set_item("fingerprint", fingerprint)?;
    dict.set_item("counters", counters(py, packer.counters())?)?;
    dict.set_item("keys", keys)?;
    dict.set_item("arrivals", arrivals)?;
    dict.set_item("costs", costs)?;
    Ok(dict.unbind())
}

/// Reads what `save` wrote, if it belongs to a packer like this one.
pub fn load(state: &Bound<'_, PyAny>, packer: &Packer<Key>) -> PyResult<State<Key>> {
    let version: u32 = field(state, "version")?;
    if version != VERSION {
        return Err(StateError::new_err(format!(
            "the state has version {version}, this treepack reads {VERSION}"
        )));
    }
    let (theirs, ours): (String, _) = (field(state, "fingerprint")?, fingerprint(packer));
    if theirs != ours {
        return Err(StateError::new_err(format!(
            "the state belongs to another packer, {theirs}; this one is {ours}"
        )));
    }
    let counts: Bound<'_, PyAny> = field(state, "counters")?;
    let costs: Vec<Vec<u64>> = field(state, "costs")?;
    let width = packer.budgets().sizes().len();
    if costs.iter().any(|cost| cost.len() != width) {
        return Err(StateError::new_err(format!(
            "a cost of the state has not {width} entries"
        )));
    }
    Ok(State {
        keys: field(state, "keys")?,
        arrivals: field(state, "arrivals")?,
        costs: costs.concat(),
        counters: Counters {
            pushed: field(&counts, "pushed")?,
            packs: field(&counts, "packs")?,
            dropped: field(&counts, "dropped")?,
            alone: field(&counts, "alone")?,
        },
    })
}

fn field<'py, T: FromPyObjectOwned<'py>>(state: &Bound<'py, PyAny>, name: &str) -> PyResult<T> {
    let read = || state.get_item(name)?.extract::<T>().map_err(Into::into);
    read().map_err(|error: PyErr| {
        StateError::new_err(format!("the state has no good field {name:?}: {error}"))
    })
}

/// Everything that the packs depend on beside the stream.
pub fn fingerprint(packer: &Packer<Key>) -> String {
    let budgets = packer.budgets();
    let sizes = budgets.names().iter().zip(budgets.sizes());
    let sizes: Vec<String> = sizes.map(|(name, size)| format!("{name}={size}")).collect();
    let settings = packer.settings();
    let search = settings.search;
    format!(
        "{} pool_size={} oversize={} early={} solver={} anchors={} steps={} gamma={} age={}",
        sizes.join(" "),
        settings.pool_size,
        OVERSIZE.name(settings.oversize),
        settings.early,
        SOLVER.name(settings.solver),
        search.anchors,
        search.steps,
        search.gamma,
        search.age,
    )
}
