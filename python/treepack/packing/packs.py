"""Packs of a whole table, kept as two arrays of integers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack._packages import needing
from treepack.errors import DataError
from treepack.packing.splitting import Expanded

__all__ = ["Packs"]

KIND = "treepack.packs"
VERSION = 1

PARTS = ("part_offsets", "part_ends")

Int64 = npt.NDArray[np.int64]
Read = tuple[Int64, Int64, Any, tuple[Int64, ...]]
"""Offsets and members, what else is known, and the arrays of parts if there are any."""


@dataclass(frozen=True, eq=False)
class Packs:
    """Which examples go together, for a whole table; `treepack.pack` makes them.

    ``packs[i]`` is the examples of pack ``i``, int64 ``[k]``, as indices into the table; ``len`` is
    the number of packs.

    Args:
        offsets: int64 ``[len + 1]``, where each pack begins in ``members``, and the end.
        members: int64 ``[n]``, the examples of the packs, one behind the other.
        part_offsets: int64 ``[n + 1]``, where the branches of each member begin in ``part_ends``;
            ``None`` if no example was split.
        part_ends: int64, of each member that is a part of an example its branches, as numbers
            ``start, end, start, end, ...``; none for whole examples.
        settings: what the packs were made with: ``budgets``, ``order``, ``window``, ``seed``,
            ``early``, ``effort``, ``oversize``, and ``examples``, the length of the table.
        statistics: ``rows``; ``fill``, by budget the part of the rows' capacity that is used;
            ``rows_per_bound``, rows over the largest of sum / budget, below which nothing packs;
            ``dropped`` and ``alone``, oversize examples, which are not in the other numbers;
            ``skipped``, examples without costs; ``split``, those that became several parts.

    Raises:
        DataError: the offsets do not cut the members into packs, or an example stands in two
            without being split.

    Example:
        >>> import treepack as tp
        >>> packs = tp.pack({"tokens": [60, 70, 40]}, {"tokens": 100}, order="kept")
        >>> len(packs), packs[0].tolist(), packs.statistics["rows"]
        (2, [0, 2], 2)
    """

    offsets: npt.NDArray[np.int64]
    members: npt.NDArray[np.int64]
    settings: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)
    part_offsets: npt.NDArray[np.int64] | None = None
    part_ends: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        offsets, members = self.offsets, self.members
        for name, array in (("offsets", offsets), ("members", members)):
            if array.dtype != np.int64 or array.ndim != 1:
                raise DataError(f"{name} must be int64 [n], got {array.dtype} {list(array.shape)}")
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(members):
            raise DataError(
                f"offsets must run from 0 to the {len(members)} members, got "
                f"{offsets[[0, -1]].tolist() if len(offsets) else []}"
            )
        empty = np.flatnonzero(np.diff(offsets) < 1)
        if len(empty):
            raise DataError(f"pack {empty[0]} has no members; each offset must exceed the last")
        whole = members
        if self.part_offsets is not None:
            _check_parts(self.part_offsets, self.part_ends, len(members))
            whole = members[np.diff(self.part_offsets) == 0]
        _check_members(whole)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, pack: int) -> npt.NDArray[np.int64]:
        if not -len(self) <= pack < len(self):
            raise IndexError(f"pack {pack} of {len(self)}")
        pack %= len(self)
        return self.members[self.offsets[pack] : self.offsets[pack + 1]]

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        return (self[pack] for pack in range(len(self)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the packs to a file: Parquet if its name ends so (needs pyarrow), else npz.

        Args:
            path: of the file. One that is there is replaced once the new one is whole.

        Raises:
            MissingPackageError: the name ends with ``.parquet`` and pyarrow is not installed.
            OSError: the file cannot be written.

        Example:
            >>> import tempfile, treepack as tp
            >>> packs = tp.pack({"tokens": [60, 70, 40]}, {"tokens": 100})
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     packs.save(f"{folder}/packs.npz")
            ...     len(tp.packing.Packs.load(f"{folder}/packs.npz"))
            2
        """
        path = Path(path)
        part = path.with_name(f"{path.name}.part")
        facts = {
            "kind": KIND,
            "version": VERSION,
            "settings": self.settings,
            "statistics": self.statistics,
        }
        try:
            if path.suffix == ".parquet":
                _write_parquet(part, self, json.dumps(facts))
            else:
                with part.open("wb") as file:
                    parts = {name: getattr(self, name) for name in PARTS}
                    given = {name: array for name, array in parts.items() if array is not None}
                    arrays = {"offsets": self.offsets, "members": self.members, **given}
                    np.savez(file, facts=json.dumps(facts), **arrays)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Packs:
        """Read what `save` wrote.

        Args:
            path: of the file.

        Raises:
            DataError: a file of something else, of another version, or whose packs contradict
                themselves.
            MissingPackageError: a Parquet file, and pyarrow is not installed.
            OSError: there is no such file, or it cannot be read.

        Example:
            >>> import tempfile, treepack as tp
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     tp.pack({"tokens": [60, 40]}, {"tokens": 100}).save(f"{folder}/packs.npz")
            ...     tp.packing.Packs.load(f"{folder}/packs.npz").settings["budgets"]
            {'tokens': 100}
        """
        path = Path(path)
        read = _read_parquet if path.suffix == ".parquet" else _read_npz
        offsets, members, facts, parts = read(path)
        if facts.get("kind") != KIND or facts.get("version") != VERSION:
            raise DataError(
                f"{path} holds no packs of version {VERSION}, but "
                f"{facts.get('kind', 'something else')} {facts.get('version', '')}".rstrip()
            )
        return cls(offsets, members, facts["settings"], facts["statistics"], *parts)


def _check_parts(offsets: Any, ends: Any, n: int) -> None:
    sound = ends is not None and len(offsets) == n + 1 and offsets[0] == 0
    if not sound or offsets[-1] != len(ends) or (np.diff(offsets) < 0).any():
        raise DataError(
            f"part_offsets must rise from 0 to the ends of branches in part_ends, for {n} members"
        )


def _check_members(members: npt.NDArray[np.int64]) -> None:
    if not len(members):
        return
    ordered = np.sort(members)
    if ordered[0] < 0:
        raise DataError(f"member {ordered[0]} is no index; examples count from 0")
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise DataError(f"example {ordered[twice[0]]} stands in the packs twice")


def _write_parquet(path: Path, packs: Packs, facts: str) -> None:
    with needing("data", "writing Parquet files"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    numbers = np.repeat(np.arange(len(packs)), np.diff(packs.offsets))
    columns = {"pack": pa.array(numbers), "example": pa.array(packs.members)}
    if packs.part_offsets is not None:
        ends = pa.array(packs.part_ends)
        columns["branches"] = pa.LargeListArray.from_arrays(pa.array(packs.part_offsets), ends)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata({KIND: facts}), path)


def _read_parquet(path: Path) -> Read:
    with needing("data", "reading Parquet files"):
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    try:
        table = pq.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is no Parquet file: {error}") from error
    facts = (table.schema.metadata or {}).get(KIND.encode())
    if facts is None:
        return np.zeros(1, np.int64), np.zeros(0, np.int64), {}, ()
    numbers = table.column("pack").to_numpy()
    offsets = np.concatenate([[0], np.bincount(numbers).cumsum()]).astype(np.int64)
    parts: tuple[npt.NDArray[np.int64], ...] = ()
    if "branches" in table.column_names:
        lists = table.column("branches")
        counts = pc.list_value_length(lists).to_numpy()
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        parts = starts, pc.list_flatten(lists).to_numpy()
    return offsets, table.column("example").to_numpy(), json.loads(facts), parts


def _read_npz(path: Path) -> Read:
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = tuple(file[name] for name in PARTS if name in file.files)
            return file["offsets"], file["members"], json.loads(str(file["facts"])), parts
    except (ValueError, KeyError, EOFError, AttributeError, TypeError) as error:
        raise DataError(f"{path} is no file of packs: {error}") from error


def of_parts(packs: Packs, found: Expanded, kept: npt.NDArray[np.intp] | None, total: int) -> Packs:
    """Packs of an expanded table as those of the table itself.

    Args:
        packs: whose members are entries of the expanded table.
        found: that table.
        kept: indices of the examples that it was made of; by default all.
        total: examples of the table.
    """
    none: tuple[int, ...] = ()
    ends = [found.parts.get(entry, none) for entry in packs.members.tolist()]
    offsets = np.cumsum([0, *map(len, ends)]).astype(np.int64)
    origin = found.origin[packs.members]
    members = origin if kept is None else kept[origin].astype(np.int64)
    flat = np.array([end for each in ends for end in each], np.int64)
    skipped = 0 if kept is None else total - len(kept)
    statistics = {**packs.statistics, "split": found.split, "skipped": skipped}
    settings = {**packs.settings, "oversize": "split", "examples": total}
    return Packs(packs.offsets, members, settings, statistics, offsets, flat)
