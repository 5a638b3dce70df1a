"""Costs that are known before anything is loaded, from a Parquet or npy file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import CostError, DatasetError
from treepack.sources.protocol import OrderedSource, is_map_style, load_example

__all__ = ["CostTable", "from_numpy", "from_parquet"]


class CostTable:
    """Costs of every example of a map-style source; pass it as ``PackedDataset(costs=)``.

    ``table[i]`` is the cost of example ``i`` as a dict by name.

    Args:
        columns: for each cost an array of integers ``[n]``, in the unit of its budget.
        keys: integers ``[n]``, the source's index of each entry; by default entry ``i`` is example
            ``i``.

    Attributes:
        names: of the costs, in the order of the columns.

    Raises:
        CostError: there are no columns, a column is not integers ``[n]``, or the keys are not the
            numbers from 0 to ``n - 1``, each once.

    Example:
        >>> table = CostTable({"tokens": [9, 4], "crops": [2, 1]}, keys=[1, 0])
        >>> len(table), table[0]
        (2, {'tokens': 4, 'crops': 1})
    """

    def __init__(
        self, columns: Mapping[str, npt.ArrayLike], keys: npt.ArrayLike | None = None
    ) -> None:
        arrays = {name: np.asarray(column) for name, column in columns.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        if not arrays or len(set(shapes.values())) > 1 or any(len(s) != 1 for s in shapes.values()):
            raise CostError(f"cost columns must be one-dimensional and of one length, got {shapes}")
        for name, array in arrays.items():
            if array.dtype.kind not in "iu":
                raise CostError(f"cost column {name!r} must hold integers, got {array.dtype}")
        self.names = tuple(arrays)
        self._entries = np.stack(list(arrays.values()), axis=1)
        if keys is not None:
            self._entries = self._entries[_order(np.asarray(keys), len(self))]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict[str, int]:
        return dict(zip(self.names, self._entries[index].tolist(), strict=True))

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """For each cost an array of integers ``[n]``, in the order of the source."""
        return {name: self._entries[:, place] for place, name in enumerate(self.names)}

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

    def load(self, index: int) -> Any:
        """The example."""
        return load_example(self.source, index)


class OrderedTabledSource(TabledSource, OrderedSource):
    """A mixture whose costs stand in a table."""

    def draw(self, position: int, seed: int = 0, shuffle: bool = True) -> int:
        """The index that the mixture draws at a position."""
        ordered: OrderedSource = self.source
        return ordered.draw(position, seed, shuffle)


def from_numpy(costs: npt.ArrayLike | str | os.PathLike[str], names: Sequence[str]) -> CostTable:
    """Costs from an array or an npy file.

    Args:
        costs: integers ``[n, len(names)]``, one line for each example of the source in its order;
            or the path of an npy file with them.
        names: of the columns, such as ``("tokens", "crops")``.

    Raises:
        CostError: another shape, or a dtype that is not an integer one.
        OSError: the file cannot be read.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2)]
        >>> costs = tp.costs.from_numpy([[3], [4], [2]], ["tokens"])
        >>> dataset = tp.PackedDataset(source, costs=costs, budgets={"tokens": 8}, shuffle=False)
        >>> [batch["treepack"].keys for batch in dataset]
        [[0, 1], [2]]
    """
    array = np.load(costs) if isinstance(costs, (str, os.PathLike)) else np.asarray(costs)
    if array.ndim != 2 or array.shape[1] != len(names):
        raise CostError(
            f"costs must have shape [n, {len(names)}] for {list(names)}, got {list(array.shape)}"
        )
    return CostTable({name: array[:, i] for i, name in enumerate(names)})


def from_parquet(
    path: str | os.PathLike[str], names: Sequence[str] | None = None, key: str | None = "key"
) -> CostTable:
    """Costs from a Parquet file or a folder of them; needs pyarrow, the extra ``data``.

    Args:
        path: of the file or folder.
        names: columns to read; by default every column of integers but the key.
        key: column with the source's index of each entry. ``None``, or a column that is not there
            or holds no integers, takes the entries in the order of the file.

    Raises:
        CostError: a column that is missing or holds no integers, or an index that is missing or
            there twice.
        ImportError: pyarrow is not installed.
        OSError: there is no such file, or it cannot be read.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     columns = {"key": [1, 0], "tokens": [9, 4], "crops": [2, 1]}
        ...     pq.write_table(pa.table(columns), f"{folder}/costs.parquet")
        ...     table = from_parquet(f"{folder}/costs.parquet")
        >>> table.names, table[0]
        (('tokens', 'crops'), {'tokens': 4, 'crops': 1})
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.ParquetDataset(Path(path)).schema
    whole = {field.name for field in schema if pa.types.is_integer(field.type)}
    wanted = [n for n in schema.names if n in whole and n != key] if names is None else list(names)
    if not wanted or not whole.issuperset(wanted):
        raise CostError(
            f"{os.fspath(path)} has no integer columns {[n for n in wanted if n not in whole]}; "
            f"its columns are {schema.names}"
        )
    has_keys = key in whole
    table = pq.read_table(path, columns=[*wanted, *([key] if has_keys else [])])
    columns = {name: table.column(name).to_numpy() for name in wanted}
    return CostTable(columns, table.column(key).to_numpy() if has_keys else None)


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
