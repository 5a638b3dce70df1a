"""Tables of costs from npy, Parquet, CSV and JSON lines files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import CostError
from treepack.sources.costs.parquet import (
    BRANCH_TOKENS,
    KEY,
    LISTS,
    NAME,
    REASON,
    SETTINGS,
    pyarrow,
    read_branches,
)
from treepack.sources.costs.table import UNKNOWN, CostTable
from treepack.sources.costs.traces import read_csv, read_lines


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

    Null means that the example could not be measured. What `measure` and `CostTable.to_parquet`
    wrote is read back whole.

    Args:
        path: of the file or folder.
        names: columns to read; by default every column of integers but the key, and the lists
            ``branch_tokens`` where there are such, which name themselves here like others.
        key: column with the source's index of each entry. ``None``, or a column that is not there
            or holds no integers, takes the entries in the order of the file.

    Raises:
        CostError: a column that is missing or holds no integers, or an index that is missing or
            there twice.
        MissingPackageError: pyarrow is not installed.
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
    pa, pq = pyarrow(f"reading {os.fspath(path)}")
    schema = pq.ParquetDataset(Path(path)).schema
    whole = {field.name for field in schema if pa.types.is_integer(field.type)}
    wanted = [n for n in schema.names if n in whole and n != key] if names is None else list(names)
    lists = [name for name in LISTS if name in schema.names]
    if names is not None and BRANCH_TOKENS not in wanted:
        lists = []
    wanted = [name for name in wanted if name not in lists]
    if not wanted or not whole.issuperset(wanted):
        raise CostError(
            f"{os.fspath(path)} has no integer columns {[n for n in wanted if n not in whole]}; "
            f"its columns are {schema.names}"
        )
    has_keys = key in whole
    told = [REASON] if REASON in schema.names else []
    table = pq.read_table(path, columns=[*wanted, *([key] if has_keys else []), *told, *lists])
    columns = {name: _filled(table.column(name)) for name in wanted}
    keys = _filled(table.column(key)) if has_keys else None
    reasons = _reasons(table, keys) if told else {}
    settings = (schema.metadata or {}).get(SETTINGS)
    return CostTable(
        columns,
        keys,
        settings=json.loads(settings) if settings else None,
        reasons=reasons,
        branches=read_branches(table),
    )


def names_of(path: str | os.PathLike[str], indices: Sequence[int]) -> list[str]:
    """What errors call examples, from a table that `measure` wrote; nothing if it does not say.

    Args:
        path: of the Parquet file.
        indices: of the examples.
    """
    _, pq = pyarrow(f"reading {os.fspath(path)}")
    if not {KEY, NAME} <= set(pq.read_schema(path).names):
        return []
    table = pq.read_table(path, columns=[KEY, NAME], filters=[(KEY, "in", list(indices))])
    found = dict(zip(table.column(KEY).to_pylist(), table.column(NAME).to_pylist(), strict=True))
    return [str(found[index]) for index in indices if index in found]


def _filled(column: Any) -> npt.NDArray[Any]:
    """A column as an array, with -1 for null."""
    array: npt.NDArray[Any] = column.fill_null(UNKNOWN).to_numpy()
    return array


def _reasons(table: Any, keys: npt.NDArray[Any] | None) -> dict[int, str]:
    places = np.flatnonzero(table.column(REASON).is_valid().to_numpy())
    found = table.column(REASON).take(places).to_pylist()
    indices = places if keys is None else keys[places]
    return dict(zip(indices.tolist(), found, strict=True))


def read(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> CostTable:
    r"""Costs from a file of any supported kind, told by the end of its name.

    ==============================  ==============================================================
    ``.parquet``, or a folder       as `from_parquet` reads it
    ``.npy``                        integers ``[n, len(names)]``; names are needed
    ``.csv``                        names in the first line, then an example a line
    ``.jsonl``                      an example a line: ``{"tokens": 3100, "crops": 12}``
    ==============================  ==============================================================

    Args:
        path: of the file or folder.
        names: columns to read; by default every column of integers, but one called ``key``.

    Raises:
        CostError: a file of another kind, or one that makes no sense; it names file, line and
            column.
        MissingPackageError: pyarrow is not installed, and the file needs it.
        OSError: there is no such file, or it cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "trace.csv")
        ...     _ = path.write_text("tokens,crops\n3100,12\n900,0\n")
        ...     table = read(path)
        >>> table, table[0]
        (CostTable(2 examples: tokens, crops), {'tokens': 3100, 'crops': 12})
    """
    file = Path(path)
    kind = file.suffix.lower()
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}")
    if kind == ".parquet" or file.is_dir():
        return from_parquet(file, names)
    if kind == ".npy":
        if names is None:
            raise CostError(f"{file}: an npy file does not name its columns; pass names=")
        return from_numpy(file, names)
    readers = {".csv": read_csv, ".jsonl": read_lines}
    if kind not in readers:
        raise CostError(
            f"{file}: costs are read from .parquet, .npy, .csv and .jsonl files, told by the end "
            "of the name"
        )
    return CostTable(readers[kind](file, names))
