"""Part files: what a run has measured so far, so that another one goes on from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from treepack.errors import CostError
from treepack.measuring.measurer import Piece
from treepack.sources.costs.branches import Branches
from treepack.sources.costs.parquet import (
    KEY,
    LISTS,
    NAME,
    REASON,
    appearing,
    pyarrow,
    read_branches,
    write_pieces,
)
from treepack.sources.costs.table import UNKNOWN

ABOUT = "about.json"


class Parts:
    """The folder ``<out>.parts`` beside the table that they become.

    Args:
        out: path of the table.
        about: what the pieces depend on, JSON-safe.
        n: examples of the source.
        chunk: examples of a piece, if the folder is new.

    Attributes:
        chunk: examples of a piece.

    Raises:
        CostError: parts of another run lie there.
    """

    def __init__(self, out: Path, about: Mapping[str, Any], n: int, chunk: int) -> None:
        pyarrow(f"writing {out}")
        self.out = out
        self.folder: Path = out.with_name(f"{out.name}.parts")
        self.n = n
        self.about: Any = json.loads(json.dumps(about))
        self.chunk: int = self._begin(chunk)

    def _begin(self, chunk: int) -> int:
        note = self.folder / ABOUT
        if not note.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with appearing(note) as unfinished:
                unfinished.write_text(json.dumps({"chunk": chunk, "about": self.about}))
            return chunk
        found = json.loads(note.read_text())
        if found["about"] != self.about:
            names = {*found["about"], *self.about}
            different = [n for n in sorted(names) if found["about"].get(n) != self.about.get(n)]
            raise CostError(
                f"{self.folder} holds parts of a run with another {' and '.join(different)}; "
                "delete that folder, or write to another file"
            )
        return int(found["chunk"])

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:012}.parquet"

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Where each piece starts and ends."""
        return [(a, min(a + self.chunk, self.n)) for a in range(0, self.n, self.chunk)]

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Those that are not measured yet."""
        return [(start, end) for start, end in self.ranges if not self._path(start).exists()]

    def write(self, piece: Piece) -> None:
        """Keep a piece, whole or not at all."""
        write_pieces(self._path(piece.start), [_columns(piece)], None, has_reasons=True)

    def read(self) -> Iterator[Piece]:
        """All pieces in order."""
        _, pq = pyarrow(f"reading {self.folder}")
        for start, _ in self.ranges:
            table = pq.read_table(self._path(start))
            columns = {
                name: table.column(name).fill_null(UNKNOWN).to_numpy().astype(np.int64)
                for name in table.column_names
                if name not in (KEY, NAME, REASON, *LISTS)
            }
            reasons = enumerate(table.column(REASON).to_pylist(), start)
            told = {index: reason for index, reason in reasons if reason is not None}
            names = table.column(NAME).to_pylist()
            yield Piece(start, columns, names, told, read_branches(table))

    def join(self, settings: Mapping[str, Any]) -> None:
        """Write the table and remove the parts."""
        write_pieces(self.out, map(_columns, self.read()), settings, has_reasons=True)
        shutil.rmtree(self.folder)


def _columns(piece: Piece) -> tuple[Any, Any, list[str], dict[int, str], Branches | None]:
    keys = np.arange(piece.start, piece.start + len(piece.names))
    return keys, piece.columns, piece.names, piece.reasons, piece.branches
