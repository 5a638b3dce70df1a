"""The Parquet file of a cost table: its columns, and what the costs depend on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from treepack._packages import needing
from treepack.sources.costs.branches import Branches

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY, NAME, REASON = "key", "name", "error"
"""Columns beside the costs: the index in the source, what errors call the example, and why it has
no costs."""

LISTS = BRANCH_TOKENS, BRANCH_JOINED, BRANCH_SHARED = (
    "branch_tokens",
    "branch_joined",
    "branch_shared",
)
"""Columns of lists, an entry for each branch."""

"""Columns of lists, an entry for each branch: its tokens, and whether it stays with the one before
it."""

SETTINGS = b"treepack"
"""Name in the metadata under which the settings of the costs stand, as JSON."""

Columns = Mapping[str, npt.NDArray[Any]]


def pyarrow(doing: str) -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        MissingPackageError: it is not installed.
    """
    with needing("data", doing):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet


@contextmanager
def appearing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to; when the block ends well, its file moves to ``path``, at once."""
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def write_parquet(
    path: str | os.PathLike[str],
    columns: Columns,
    reasons: Mapping[int, str],
    settings: Mapping[str, Any] | None,
    branches: Branches | None = None,
) -> None:
    """Write a whole table; see `CostTable.to_parquet`."""
    n = len(next(iter(columns.values())))
    write_pieces(path, [(np.arange(n), columns, None, reasons, branches)], settings, bool(reasons))


def write_pieces(
    path: str | os.PathLike[str],
    pieces: Iterable[
        tuple[npt.NDArray[Any], Columns, list[str] | None, Mapping[int, str], Branches | None]
    ],
    settings: Mapping[str, Any] | None,
    has_reasons: bool,
) -> None:
    """Write a table piece by piece, so that it need not be in memory whole.

    Args:
        path: of the file, which appears when it is whole.
        pieces: keys, costs, names, reasons and branches of some examples each; at least one piece.
        settings: what the costs depend on.
        has_reasons: whether there is a column for them.
    """
    pa, pq = pyarrow(f"writing {os.fspath(path)}")
    told = {} if settings is None else {SETTINGS: json.dumps(settings).encode()}
    with appearing(path) as unfinished:
        writer = None
        for keys, columns, names, reasons, branches in pieces:
            arrays = {KEY: pa.array(keys, pa.int64())}
            if names is not None:
                arrays[NAME] = pa.array(names, pa.string())
            for name, column in columns.items():
                arrays[name] = pa.array(column.astype(np.int64), mask=column < 0)
            if branches is not None:
                arrays |= _lists(pa, branches)
            if has_reasons:
                found = [reasons.get(key) for key in keys.tolist()]
                arrays[REASON] = pa.array(found, pa.string())
            table = pa.table(arrays)
            if writer is None:
                writer = pq.ParquetWriter(unfinished, table.schema.with_metadata(told))
            writer.write_table(table.replace_schema_metadata(told))
        if writer is not None:
            writer.close()


def _lists(pa: Any, branches: Branches) -> dict[str, Any]:
    offsets = pa.array(branches.offsets, pa.int64())
    values = {
        BRANCH_TOKENS: pa.array(branches.tokens, pa.int32()),
        BRANCH_JOINED: pa.array(branches.is_joined, pa.bool_()),
        BRANCH_SHARED: pa.array(branches.common, pa.int32()),
    }
    return {name: pa.LargeListArray.from_arrays(offsets, each) for name, each in values.items()}


def read_branches(table: Any) -> Branches | None:
    """The branches of a table of Arrow, or ``None`` if it has none.

    Args:
        table: with or without the three columns of lists; null is a list without entries.
    """
    import pyarrow.compute as pc

    if BRANCH_TOKENS not in table.column_names:
        return None
    lists = table.column(BRANCH_TOKENS)
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    joined, shared = (
        pc.list_flatten(table.column(name)).to_numpy() if name in table.column_names else None
        for name in (BRANCH_JOINED, BRANCH_SHARED)
    )
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return Branches(offsets, pc.list_flatten(lists).to_numpy(), joined, shared)
