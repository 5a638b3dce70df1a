//! `TreeMask`.

#![allow(
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "docstrings for Python: Google style, with doctests"
)]

mod arguments;

use numpy::{IntoPyArray, PyArray1, PyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use treepack_core::mask::{self, RootPositions, TargetNodes};

use crate::attention::plan;
use crate::convert::{integer, integers, matrix, reals};
use arguments::{copied, vector, Mode, Parts};
pub use arguments::{no_memory, raise};

type Ints<'py> = Bound<'py, PyArray1<i32>>;
type Longs<'py> = Bound<'py, PyArray1<i64>>;
type Floats<'py> = Bound<'py, PyArray1<f32>>;

/// The attention mask of one packed row of message trees, in memory proportional to its nodes.
///
/// Tokens lie in preorder: each node's own tokens, then the subtrees of its children. A query sees
/// a key iff both are of one example, the key's node is the query's node or an ancestor of it, and
/// the key is not later, or both are image tokens of one bidirectional group. Padding neither sees
/// nor is seen.
///
/// The whole mask is three vectors: query ``q`` sees key ``k`` iff
/// ``key_lo[k] <= q < key_end[k]`` and ``k <= query_hi[q]``.
///
/// Made by `TreeMask.from_nodes`; immutable, hashable, comparable and cheap to pickle. Arrays are
/// new on each access.
///
/// Attributes:
///     total: length of the row with padding.
///     used: tokens of the row; the rest is padding.
///     area: number of visible pairs.
///     bidirectional: ``"none"``, ``"image_tokens"`` or ``"within_image"``.
///     n_nodes: number of nodes.
///     n_examples: number of roots.
///     node_start: int32 ``[N]``, first own token of each node.
///     node_end: int32 ``[N]``, one past the last own token.
///     subtree_end: int32 ``[N]``, one past the last token of the subtree.
///     node_parent: int32 ``[N]``, -1 for a root.
///     node_depth: int32 ``[N]``, edges to the root.
///     node_example: int32 ``[N]``, number of the example, counted in roots.
///     run_start: int32 ``[R]``, first token of each maximal run of image tokens, group by group.
///     run_end: int32 ``[R]``, one past the last token of each run.
///     group_ptr: int32 ``[G + 1]``: group ``g`` is the runs ``group_ptr[g]:group_ptr[g + 1]``.
///     key_lo: int32 ``[total]``, first query that sees the key.
///     key_end: int32 ``[total]``, one past the last query that sees the key; 0 for padding.
///     query_hi: int32 ``[total]``, last key that the query sees; -1 for padding.
#[pyclass(module = "treepack", frozen, eq, hash, weakref)]
#[derive(PartialEq, Eq, Hash)]
pub struct TreeMask(pub mask::TreeMask);

#[pymethods]
impl TreeMask {
    /// Builds the mask of a row from its nodes, after checking that they make sense.
    ///
    /// Args:
    ///     lengths: int ``[N]``, own tokens of each node, depth first. A root has at least one;
    ///         other nodes may be empty.
    ///     parents: int ``[N]``, index of each node's parent; -1 is a root, which begins an example.
    ///     image_runs: int ``[R, 3]``, each ``(start, end, image)`` in row positions, sorted, not
    ///         overlapping, each inside one node; an image lies in one node. ``None`` is no runs.
    ///     bidirectional: which image tokens see each other regardless of order: ``"none"``,
    ///         ``"image_tokens"`` (all of a node) or ``"within_image"`` (those of one image).
    ///     total: length of the row, at least the tokens of all nodes and below 2**31; the rest is
    ///         padding. ``None`` leaves no padding.
    ///
    /// Returns:
    ///     A `TreeMask`. The inputs are copied.
    ///
    /// Raises:
    ///     TreeError: anything else than the above, with the node or run, the number seen, the
    ///         limit and what to change.
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> mask = tp.TreeMask.from_nodes([3, 2, 2], [-1, 0, 0], total=8)
    ///     >>> mask.to_dense().astype(int)
    ///     array([[1, 0, 0, 0, 0, 0, 0, 0],
    ///            [1, 1, 0, 0, 0, 0, 0, 0],
    ///            [1, 1, 1, 0, 0, 0, 0, 0],
    ///            [1, 1, 1, 1, 0, 0, 0, 0],
    ///            [1, 1, 1, 1, 1, 0, 0, 0],
    ///            [1, 1, 1, 0, 0, 1, 0, 0],
    ///            [1, 1, 1, 0, 0, 1, 1, 0],
    ///            [0, 0, 0, 0, 0, 0, 0, 0]])
    ///     >>> mask.area, mask.key_end.tolist()
    ///     (24, [7, 7, 7, 5, 5, 7, 7, 0])
    #[staticmethod]
    #[pyo3(
        signature = (lengths, parents, image_runs=None, bidirectional=Mode::default(), total=None),
        text_signature = "(lengths, parents, image_runs=None, bidirectional='none', total=None)"
    )]
    fn from_nodes(
        py: Python<'_>,
        lengths: &Bound<'_, PyAny>,
        parents: &Bound<'_, PyAny>,
        image_runs: Option<&Bound<'_, PyAny>>,
        bidirectional: Mode,
        total: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let lengths = integers("lengths", lengths, &[None])?;
        let parents = integers("parents", parents, &[None])?;
        let runs = image_runs.map_or_else(|| Ok(Vec::new()), arguments::image_runs)?;
        let total = total.map(|total| integer("total", total)).transpose()?;
        let (lengths, parents) = (lengths.as_slice()?, parents.as_slice()?);
        py.detach(|| mask::TreeMask::from_nodes(lengths, parents, &runs, bidirectional.0, total))
            .map(Self)
            .map_err(raise)
    }

    /// Whether one query sees one key.
    ///
    /// Args:
    ///     q: row position of the query, ``0 <= q < total``.
    ///     k: row position of the key, ``0 <= k < total``.
    ///
    /// Raises:
    ///     TreeError: a position outside the row.
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> mask = tp.TreeMask.from_nodes([3, 2, 2], [-1, 0, 0])
    ///     >>> mask.visible(5, 2), mask.visible(5, 3)
    ///     (True, False)
    fn visible(&self, q: &Bound<'_, PyAny>, k: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.0
            .visible(integer("q", q)?, integer("k", k)?)
            .map_err(raise)
    }

    /// The mask as a matrix, for tests and pictures: it takes ``total ** 2`` bytes.
    ///
    /// Returns:
    ///     bool ``[total, total]``, queries down, keys across.
    ///
    /// Raises:
    ///     TreeError: a row whose square does not fit into memory.
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> tp.TreeMask.from_nodes([2], [-1]).to_dense().tolist()
    ///     [[True, False], [True, True]]
    fn to_dense<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<bool>>> {
        let dense = py.detach(|| self.0.to_dense()).map_err(raise)?;
        matrix(py, [self.0.total(); 2], dense)
    }

    /// The mask as varlen attention calls, no pair in two of them.
    ///
    /// Returns:
    ///     The entries int32 ``[P]``, which go to the device, and the host table int32
    ///     ``[4 + 12 * n_calls]``: the fields `PLAN_HEADER` once, then `PLAN_FIELDS` for each call.
    ///     Every array in the entries begins at a multiple of `PLAN_ALIGN`. The pairs of all calls
    ///     add up to ``area``.
    ///
    /// Raises:
    ///     TreeError: a plan of more entries than an int32 counts.
    ///
    /// Source:
    ///     The layout is drawn in docs/reference/plan.md.
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> from treepack import _core
    ///     >>> entries, host = tp.TreeMask.from_nodes([6, 4, 3], [-1, 0, 0], total=14).plan()
    ///     >>> dict(zip(_core.PLAN_HEADER, host[:4].tolist()))
    ///     {'n_calls': 2, 'total': 14, 'used': 13, 'window': 0}
    ///     >>> calls = [dict(zip(_core.PLAN_FIELDS, call)) for call in host[4:].reshape(2, 12).tolist()]
    ///     >>> [(call["kind"], call["q_start"], call["q_len"], call["k_len"]) for call in calls]
    ///     [(0, 0, 13, 13), (1, 10, 3, 6)]
    ///     >>> cu_q = calls[0]["off_cu_q"]
    ///     >>> entries[cu_q : cu_q + calls[0]["n_seg"] + 1].tolist()  # two causal segments
    ///     [0, 10, 13]
    fn plan<'py>(&self, py: Python<'py>) -> PyResult<(Ints<'py>, Ints<'py>)> {
        let plan = py.detach(|| self.0.plan()).map_err(raise)?;
        Ok(plan::arrays(py, plan))
    }

    /// Position ids: a branch goes on where its parent stopped.
    ///
    /// A node goes on from the last token of its nearest ancestor that has tokens, plus one, on
    /// each axis.
    ///
    /// Args:
    ///     root_positions: int ``[A, total]``, positions of the tokens of roots on ``A`` axes;
    ///         other entries are not read. ``None`` counts each root from 0 on one axis.
    ///
    /// Returns:
    ///     int64 ``[A, total]``; 0 on padding.
    ///
    /// Raises:
    ///     TreeError: another shape or dtype, or positions beyond int64.
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> tp.TreeMask.from_nodes([3, 2, 2], [-1, 0, 0], total=8).positions().tolist()
    ///     [[0, 1, 2, 3, 4, 3, 4, 0]]
    #[pyo3(signature = (root_positions=None))]
    fn positions<'py>(
        &self,
        py: Python<'py>,
        root_positions: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<i64>>> {
        let Some(given) = root_positions else {
            let positions = py.detach(|| self.0.positions(None)).map_err(raise)?;
            return matrix(py, [1, self.0.total()], positions);
        };
        let given = integers("root_positions", given, &[None, Some(self.0.total())])?;
        let (axes, values) = (given.shape()[0], given.as_slice()?);
        let roots = RootPositions { values, axes };
        let positions = py.detach(|| self.0.positions(Some(roots))).map_err(raise)?;
        matrix(py, [axes, self.0.total()], positions)
    }

    /// What each trained token is predicted by.
    ///
    /// A label is predicted by the token before it on its path: within the node the token before,
    /// else the last token of the nearest ancestor that has tokens. The first label of a root has
    /// no predictor and is skipped. An end target is predicted by the last token of its node, or
    /// of the same ancestor if the node is empty.
    ///
    /// Args:
    ///     nodes: int ``[M]``, increasing indices of the nodes that have labels or an end target.
    ///     labels: int ``[L]``, labels of their tokens laid end to end; -100 is no loss.
    ///     weights: float ``[L]``, loss weights of the labels.
    ///     end_targets: int ``[M]``, token that the end of each node should predict; -100 is none.
    ///     end_weights: float ``[M]``, loss weights of the end targets.
    ///
    /// Returns:
    ///     Row positions int64, target tokens int64 and weights float32, each ``[T]``: node by
    ///     node, token by token, a node's end target last. Positions repeat where several branches
    ///     begin at one token.
    ///
    /// Raises:
    ///     TreeError: nodes that do not exist or do not increase, or arrays of another length.
    ///
    /// Example:
    ///     >>> import treepack as tp
    ///     >>> mask = tp.TreeMask.from_nodes([3, 2, 2], [-1, 0, 0])
    ///     >>> position, token, weight = mask.targets(
    ///     ...     [1, 2], [5, 6, -100, 7], [1.0, 1.0, 1.0, 0.5], [9, -100], [1.0, 1.0])
    ///     >>> position.tolist(), token.tolist(), weight.tolist()
    ///     ([2, 3, 4, 5], [5, 6, 9, 7], [1.0, 1.0, 1.0, 0.5])
    fn targets<'py>(
        &self,
        py: Python<'py>,
        nodes: &Bound<'py, PyAny>,
        labels: &Bound<'py, PyAny>,
        weights: &Bound<'py, PyAny>,
        end_targets: &Bound<'py, PyAny>,
        end_weights: &Bound<'py, PyAny>,
    ) -> PyResult<(Longs<'py>, Longs<'py>, Floats<'py>)> {
        let nodes = integers("nodes", nodes, &[None])?;
        let labels = integers("labels", labels, &[None])?;
        let weights = reals("weights", weights)?;
        let end_targets = integers("end_targets", end_targets, &[None])?;
        let end_weights = reals("end_weights", end_weights)?;
        let input = TargetNodes {
            nodes: nodes.as_slice()?,
            labels: labels.as_slice()?,
            weights: weights.as_slice()?,
            end_targets: end_targets.as_slice()?,
            end_weights: end_weights.as_slice()?,
        };
        let found = py.detach(|| self.0.targets(&input)).map_err(raise)?;
        let (position, token) = (
            found.position.into_pyarray(py),
            found.token.into_pyarray(py),
        );
        Ok((position, token, found.weight.into_pyarray(py)))
    }

    #[getter]
    fn total(&self) -> usize {
        self.0.total()
    }

    #[getter]
    fn used(&self) -> usize {
        self.0.used()
    }

    #[getter]
    fn area(&self) -> u64 {
        self.0.area()
    }

    #[getter]
    fn bidirectional(&self) -> &'static str {
        self.0.bidirectional().name()
    }

    #[getter]
    fn n_nodes(&self) -> usize {
        self.0.nodes().len()
    }

    #[getter]
    fn n_examples(&self) -> usize {
        self.0.nodes().n_examples()
    }

    #[getter]
    fn node_start<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        copied(py, &self.0.nodes().start)
    }

    #[getter]
    fn node_end<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        copied(py, &self.0.nodes().end)
    }

    #[getter]
    fn subtree_end<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        copied(py, &self.0.nodes().subtree_end)
    }

    #[getter]
    fn node_parent<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        copied(py, &self.0.nodes().parent)
    }

    #[getter]
    fn node_depth<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        copied(py, &self.0.nodes().depth)
    }

    #[getter]
    fn node_example<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        copied(py, &self.0.nodes().example)
    }

    #[getter]
    fn run_start<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        copied(py, &self.0.groups().run_start)
    }

    #[getter]
    fn run_end<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        copied(py, &self.0.groups().run_end)
    }

    #[getter]
    fn group_ptr<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        copied(py, &self.0.groups().ptr)
    }

    #[getter]
    fn key_lo<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        vector(py, || self.0.key_lo())
    }

    #[getter]
    fn key_end<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        vector(py, || self.0.key_end())
    }

    #[getter]
    fn query_hi<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        vector(py, || self.0.query_hi())
    }

    fn __repr__(&self) -> String {
        format!(
            "TreeMask(examples={}, nodes={}, used={}, total={}, bidirectional='{}', area={})",
            self.n_examples(),
            self.n_nodes(),
            self.used(),
            self.total(),
            self.bidirectional(),
            self.area(),
        )
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Parts<'py>)> {
        let from_nodes = py.get_type::<Self>().getattr("from_nodes")?;
        Ok((from_nodes, arguments::of(py, &self.0)?))
    }
}

/// Adds the class to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<TreeMask>()
}
