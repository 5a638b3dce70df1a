"""Columns of costs from text files: CSV with a line of names, and JSON lines."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import CostError
from treepack.sources.costs.parquet import KEY
from treepack.sources.costs.table import UNKNOWN

Columns = dict[str, npt.NDArray[np.int64]]


def read_csv(path: Path, names: Sequence[str] | None = None) -> Columns:
    """Columns of a CSV file whose first line names them; an empty field is -1.

    Args:
        path: of the file.
        names: columns to read; by default those whose first entry is an integer, but ``key``.

    Raises:
        CostError: a column that is not there, or what is no integer, with line and column.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]

        def entries() -> Iterator[tuple[int, Mapping[str, Any]]]:
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise CostError(
                        f"{path}:{reader.line_num}: has {len(fields)} fields and the first line "
                        f"{len(header)}: {header}"
                    )
                yield reader.line_num, dict(zip(header, fields, strict=True))

        return _columns(path, entries(), names)


def read_lines(path: Path, names: Sequence[str] | None = None) -> Columns:
    """Columns of a file of JSON lines, an object for each example; null is -1.

    Args:
        path: of the file.
        names: fields to read; by default those that hold an integer in the first line, but
            ``key``.

    Raises:
        CostError: a line that is no object, a field that is not there, or what is no integer, with
            line and field.
    """

    def entries() -> Iterator[tuple[int, Mapping[str, Any]]]:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError as error:
                    raise CostError(f"{path}:{number}: is no JSON: {error}") from error
                if not isinstance(entry, dict):
                    raise CostError(
                        f"{path}:{number}: is a {type(entry).__name__}; a line must be an object "
                        'of costs by name, such as {"tokens": 3100}'
                    )
                yield number, entry

    return _columns(path, entries(), names)


def _columns(
    path: Path, entries: Iterable[tuple[int, Mapping[str, Any]]], names: Sequence[str] | None
) -> Columns:
    found: dict[str, array[int]] = {name: array("q") for name in names or ()}
    for number, entry in entries:
        if not found:
            found = {name: array("q") for name in entry if name != KEY and _is_whole(entry[name])}
            if not found:
                raise CostError(f"{path}:{number}: has no integers, only {sorted(entry)}")
        for name, column in found.items():
            if name not in entry:
                raise CostError(
                    f"{path}:{number}: has no column {name!r}; its columns are {list(entry)}"
                )
            column.append(_whole(entry[name], f"{path}:{number}: {name}"))
    if not found or not len(next(iter(found.values()))):
        raise CostError(f"{path}: holds no examples")
    return {name: np.frombuffer(column, np.int64) for name, column in found.items()}


def _is_whole(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().isdecimal()
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(value: Any, where: str) -> int:
    if value is None or value == "":
        return UNKNOWN
    if not _is_whole(value) or not 0 <= int(value) < 2**63:
        raise CostError(f"{where} is {value!r:.80}; a cost must be an integer of 0 or more")
    return int(value)
