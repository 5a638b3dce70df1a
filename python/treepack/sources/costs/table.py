"""Costs of all examples of a source, in memory, and a source that looks them up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import CostError, DatasetError
from treepack.sources.costs.branches import Branches, Lengths
from treepack.sources.costs.parquet import write_parquet
from treepack.sources.costs.shared import SharedArrays
from treepack.sources.protocol import OrderedSource, is_map_style, load_example

UNKNOWN = -1
"""Stands in a column where the example could not be measured."""


class CostTable:
    """Costs of every example of a map-style source; pass it as ``PackedDataset(costs=)``.

    ``table[i]`` is the cost of example ``i`` as a dict by name.

    Args:
        columns: for each cost an array of integers ``[n]``, in the unit of its budget; -1 where the
            example could not be measured.
        keys: integers ``[n]``, the source's index of each entry; by default entry ``i`` is example
            ``i``.
        settings: what the costs depend on, JSON-safe, as `measure` writes it; by default nothing
            is known of them. A `PackedDataset` whose model family has other settings rejects the
            table.
        reasons: why an example could not be measured, by its index.
        branches: tokens of the branches of each entry, a ``treepack.costs.Branches``, so that trees
            can be split without being loaded (``oversize="split"``).

    Attributes:
        names: of the costs, in the order of the columns.
        settings: as given.
        reasons: as given.
        branches: in the order of the examples, or ``None``.

    Raises:
        CostError: there are no columns, a column is not integers ``[n]``, there are branches of
            another number of examples, or the keys are not the
            numbers from 0 to ``n - 1``, each once.

    Example:
        >>> table = CostTable({"tokens": [9, 4], "crops": [2, 1]}, keys=[1, 0])
        >>> len(table), table[0]
        (2, {'tokens': 4, 'crops': 1})
        >>> table.columns["tokens"]
        array([4, 9], dtype=int32)
    """

    def __init__(
        self,
        columns: Mapping[str, npt.ArrayLike],
        keys: npt.ArrayLike | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        reasons: Mapping[int, str] | None = None,
        branches: Branches | None = None,
    ) -> None:
        arrays = {name: np.asarray(column) for name, column in columns.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        if not arrays or len(set(shapes.values())) > 1 or any(len(s) != 1 for s in shapes.values()):
            raise CostError(f"cost columns must be one-dimensional and of one length, got {shapes}")
        for name, array in arrays.items():
            if array.dtype.kind not in "iu":
                raise CostError(f"cost column {name!r} must hold integers, got {array.dtype}")
            if len(array) and int(array.max()) >= 2**63:
                raise CostError(f"cost column {name!r} holds {array.max()}; it must be below 2**63")
        self.names: tuple[str, ...] = tuple(arrays)
        self.settings = settings
        self.reasons: dict[int, str] = dict(reasons or {})
        self._n = len(next(iter(arrays.values())))
        order = None if keys is None else _order(np.asarray(keys), self._n)
        self._columns = {
            name: _narrow(array if order is None else array[order])
            for name, array in arrays.items()
        }
        if branches is not None and len(branches) != self._n:
            raise CostError(
                f"there are branches of {len(branches)} examples and costs of {self._n}"
            )
        self.branches = branches if branches is None or order is None else branches.take(order)
        # What workers are sent, made when the first one is.
        self._shared: SharedArrays | None = None
        self._gaps = frozenset(self.unmeasured.tolist())

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The costs by name, integers ``[n]`` each, entry ``i`` that of example ``i``."""
        return dict(self._columns)

    @property
    def unmeasured(self) -> npt.NDArray[np.intp]:
        """Indices of the examples that could not be measured, increasing."""
        bad = np.zeros(self._n, bool)
        for column in self._columns.values():
            bad |= column < 0
        return np.flatnonzero(bad)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> dict[str, int]:
        if self._gaps:
            self._check_known(range(self._n)[index])
        return {name: column.item(index) for name, column in self._columns.items()}

    def _check_known(self, index: int) -> None:
        if index in self._gaps:
            reason = self.reasons.get(index, "it could not be measured when the table was made")
            raise CostError(f"example {index}: the table has no costs of it: {reason}")

    def __getstate__(self) -> dict[str, Any]:
        arrays = {f"cost {place}": self._columns[name] for place, name in enumerate(self.names)}
        if self.branches is not None:
            arrays |= self.branches.arrays
        if self._shared is None:
            self._shared = SharedArrays(arrays)
        return {**self.__dict__, "_columns": None, "branches": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        arrays = state["_shared"].arrays
        places = enumerate(self.names)
        self._columns = {name: arrays[f"cost {place}"] for place, name in places}
        if "offsets" in arrays:
            self.branches = Branches.of_arrays(arrays)

    def __repr__(self) -> str:
        unmeasured = len(self.unmeasured)
        more = f", {unmeasured} of them unmeasured" if unmeasured else ""
        return f"CostTable({len(self)} examples: {', '.join(self.names)}{more})"

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file that `from_parquet` reads; needs pyarrow, the extra ``data``.

        The columns are ``key``, the index of the example, and the costs, null where an example
        could not be measured; then there is a column ``error``, too. The tokens of branches, if
        they are known, are lists, ``branch_tokens``, ``branch_joined`` and ``branch_shared``. The
        file appears when it is whole, and replaces one of that name.

        Args:
            path: of the file; its folder must exist.

        Raises:
            MissingPackageError: pyarrow is not installed.
            OSError: the file cannot be written.

        Example:
            >>> import tempfile, treepack as tp
            >>> table = CostTable({"tokens": [9, -1]}, reasons={1: "no such file"})
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     table.to_parquet(f"{folder}/costs.parquet")
            ...     again = tp.costs.from_parquet(f"{folder}/costs.parquet")
            >>> again, again.reasons
            (CostTable(2 examples: tokens, 1 of them unmeasured), {1: 'no such file'})
        """
        write_parquet(path, self._columns, self.reasons, self.settings, self.branches)

    def attach(self, source: Any) -> TabledSource:
        """The same source with a ``measure`` that looks costs up, in the same order.

        ``PackedDataset(costs=)`` calls it.

        Args:
            source: the examples, read by index. It is shared, not copied.

        Returns:
            A map-style source. If a tree costs something else once it is loaded, that is an error
            of `PackedDataset`, or the tree is re-queued (``on_cost_mismatch``).

        Raises:
            DatasetError: the source is not read by index, or has another length than the table.

        Example:
            >>> source = CostTable({"tokens": [1, 2]}).attach(["a", "b"])
            >>> source.measure(1), source.load(1)
            ({'tokens': 2}, 'b')
        """
        kind = OrderedTabledSource if isinstance(source, OrderedSource) else TabledSource
        return kind(source, self)


class TabledSource:
    """A map-style source whose costs stand in a table.

    Args:
        source: the examples.
        costs: as many costs.

    Raises:
        DatasetError: the source is not read by index, or has another length than the table.
    """

    def __init__(self, source: Any, costs: CostTable) -> None:
        if not is_map_style(source):
            raise DatasetError(
                f"costs= needs a source with __len__ and __getitem__, got {type(source).__name__}"
            )
        if len(source) != len(costs):
            raise DatasetError(
                f"the cost table has {len(costs)} entries and the source {len(source)} examples; "
                "measure the source that is packed"
            )
        self.source = source
        self.costs = costs

    def __repr__(self) -> str:
        return f"{self.source!r} with costs"

    def __len__(self) -> int:
        return len(self.costs)

    def __getitem__(self, index: int) -> Any:
        return self.source[index]

    def measure(self, index: int) -> dict[str, int]:
        """The cost of an example, without loading it."""
        return self.costs[index]

    def branches(self, index: int) -> Lengths | None:
        """Tokens of each branch of an example; ``None`` where the table does not have them."""
        return None if self.costs.branches is None else self.costs.branches[index]

    def load(self, index: int) -> Any:
        """The example."""
        return load_example(self.source, index)


class OrderedTabledSource(TabledSource, OrderedSource):
    """A mixture whose costs stand in a table."""

    def draw(self, position: int, seed: int = 0, shuffle: bool = True) -> int:
        """The index that the mixture draws at a position."""
        ordered: OrderedSource = self.source
        return ordered.draw(position, seed, shuffle)


def _narrow(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same numbers in 32 bits if they fit: ten million examples of two costs take 80 MB."""
    least, most = (int(array.min()), int(array.max())) if len(array) else (0, 0)
    fits = least >= -(2**31) and most < 2**31
    return np.ascontiguousarray(array, np.int32 if fits else np.int64)


def _order(keys: npt.NDArray[Any], n: int) -> npt.NDArray[np.intp]:
    """Where the entry of each index stands."""
    if keys.shape != (n,) or keys.dtype.kind not in "iu":
        raise CostError(f"keys must be {n} integers, got {keys.dtype} of shape {keys.shape}")
    order = np.argsort(keys, kind="stable")
    wrong = np.flatnonzero(keys[order] != np.arange(n))
    if len(wrong):
        place = int(wrong[0])
        raise CostError(
            f"the keys must be the indices 0 to {n - 1}, each once; when sorted, key "
            f"{keys[order][place]} stands where {place} should"
        )
    return order
