"""Measures examples one after the other, by the code with which a dataset measures them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.dataset import PackedDataset
from treepack.dataset.shards.examples import Arrival, Examples
from treepack.dataset.shards.parts import joined_of
from treepack.dataset.shards.readers import IndexedReader
from treepack.errors import CostError, MissingPackageError
from treepack.measuring.shapes import SHAPES, Shape, shape_of_outline, shape_of_tree
from treepack.packing.splitting import stays_with
from treepack.sources.costs.branches import Branches, Lengths
from treepack.sources.costs.table import UNKNOWN
from treepack.tree import MessageTree

ANY = 2**31 - 1
"""A budget that any example fits."""

REASON_LENGTH = 400


class Piece(NamedTuple):
    """The costs of examples that follow one another.

    Attributes:
        start: index of the first one.
        columns: for each cost and shape int64 ``[m]``, -1 where it could not be measured.
        names: what errors call the examples.
        reasons: why some could not be measured, by index.
        branches: tokens of their branches, or ``None`` if they were not asked for.
    """

    start: int
    columns: dict[str, npt.NDArray[np.int64]]
    names: list[str]
    reasons: dict[int, str]
    branches: Branches | None = None


@dataclass(frozen=True)
class Task:
    """What is measured, and how; it is sent to the workers whole.

    Attributes:
        source: map-style.
        family: of the model, or ``None`` if the source gives trees.
        names: of the costs.
        has_shapes: whether branches, their tokens, targets and pairs are measured, too.
        skips: whether an example that fails is noted instead of raised.
    """

    source: Any
    family: Any
    names: tuple[str, ...]
    has_shapes: bool
    skips: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""
        return (*self.names, *(SHAPES if self.has_shapes else ()))


class Measurer:
    """Measures the examples of a task.

    Args:
        task: which, and how.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        budgets = dict.fromkeys(task.names, ANY)
        dataset = PackedDataset(task.source, budgets=budgets, family=task.family)
        self.examples: _Outlining = _Outlining(dataset.settings)

    def measure(self, start: int, end: int) -> Piece:
        """The costs of the examples ``start`` to ``end - 1``.

        Raises:
            TreepackError: one of them cannot be measured, and the task does not skip such.
        """
        found, names, reasons, lengths = [], [], {}, []
        for index in range(start, end):
            try:
                name, cost, branches = self._measure(index)
            except Exception as error:
                if not self.task.skips or isinstance(error, MissingPackageError):
                    raise
                name, cost = str(index), dict.fromkeys(self.task.columns, UNKNOWN)
                reasons[index], branches = str(error)[:REASON_LENGTH], ([], None, None)
            names.append(name)
            lengths.append(branches)
            found.append([cost[column] for column in self.task.columns])
        array = np.array(found, np.int64).reshape(-1, len(self.task.columns))
        columns = {name: array[:, place].copy() for place, name in enumerate(self.task.columns)}
        listed = Branches.of(lengths) if self.task.has_shapes else None
        return Piece(start, columns, names, reasons, listed)

    def _measure(self, index: int) -> tuple[str, Mapping[str, int], Lengths]:
        # As a shard reads it that has all examples in order.
        reader = IndexedReader(self.task.source, lambda position: position, None, index, 1)
        arrival, cost = self.examples.measure(next(reader))
        _check_names(cost, self.task.names, arrival)
        if not self.task.has_shapes:
            return str(arrival.name), cost, ([], None, None)
        shape, name, lengths = self.examples.shape, arrival.name, self.examples.lengths
        if shape is None:
            tree = self.examples.load(arrival, cost)
            shape = shape_of_tree(tree, self.examples.bidirectional)
            name = name if tree.key is None else tree.key
            tokens, shared = tree.branch_lengths()
            lengths = tokens, joined_of(tree), shared
        return str(name), {**cost, **shape._asdict()}, lengths


class _Outlining(Examples):
    """Keeps the shape of the example measured last, where it is known without loading."""

    shape: Shape | None = None
    lengths: Lengths = ([], None, None)

    def measure(self, arrival: Arrival) -> tuple[Arrival, dict[str, int]]:
        """The cost of an example; its shape stands in ``shape``."""
        self.shape = None
        return super().measure(arrival)

    def _cost(self, item: Any, name: Any) -> tuple[Any, Mapping[str, int]]:
        if isinstance(item, MessageTree) or not hasattr(self._family(item), "outline"):
            return super()._cost(item, name)
        outline = self._family(item).outline(item)
        self.shape = shape_of_outline(outline, self.bidirectional)
        is_one_node = not item.media and len(outline.branches) == 1
        branches = [] if is_one_node else list(outline.branches)
        roles = [item.roles[n] for n in outline.order] or item.roles
        shared = list(outline.shared) or None
        self.lengths = branches, stays_with(roles)[: len(branches)], shared
        return item, outline.costs


def _check_names(cost: Mapping[str, int], names: Sequence[str], arrival: Arrival) -> None:
    missing = [name for name in names if name not in cost]
    if missing:
        raise CostError(
            f"example {arrival.name}: has no costs {missing}; every example must have those of the "
            "first one, or pass names="
        )


def names_of_first(source: Any, family: Any) -> tuple[str, ...]:
    """Names of the costs: those of the family, else those of the first example.

    Raises:
        CostError: the first example has none.
    """
    if family is not None:
        return tuple(family.costs)
    if hasattr(source, "measure"):
        return tuple(source.measure(0))
    first = source[0]
    if isinstance(first, MessageTree):
        return tuple(first.cost)
    raise CostError(
        f"the source gave a {type(first).__name__}; pass the family of the model, or its "
        "processor, to measure records"
    )
