"""Arrow files, and Parquet files by way of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack._packages import needing
from treepack.errors import DataError
from treepack.sources.stores.cache import cached_file

BATCH = 64
"""Records that are converted, or turned into Python objects, at once: each may hold an image."""


def _pyarrow() -> Any:
    with needing("data", "reading Parquet and Arrow files"):
        import pyarrow as pa
        import pyarrow.ipc
        import pyarrow.parquet
    return pa


class ArrowStore:
    """Records of Arrow files, which are mapped into memory and read where they lie.

    Args:
        files: Arrow files or streams, one after the other.
        path: what errors call them.
    """

    def __init__(self, files: Sequence[Path], path: str) -> None:
        self.files: list[str] = [str(file) for file in files]
        self.path = path
        self._batches: list[Any] | None = None
        self.ends: npt.NDArray[np.int64] = np.cumsum(
            [batch.num_rows for batch in self.batches], dtype=np.int64
        )

    @property
    def batches(self) -> list[Any]:
        """The record batches of all files; each process maps them for itself."""
        if self._batches is None:
            self._batches = [batch for file in self.files for batch in _map(file)]
        return self._batches

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": None}

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            for start in range(0, batch.num_rows, BATCH):
                yield from batch.slice(start, BATCH).to_pylist()

    def __getitem__(self, index: int) -> Any:
        which = int(np.searchsorted(self.ends, index, "right"))
        start = int(self.ends[which - 1]) if which else 0
        return self.batches[which].slice(index - start, 1).to_pylist()[0]

    def name(self, index: int) -> str:
        """``train.parquet, record 17``, from 0 on."""
        return f"{self.path}, record {index}"


def open_arrow(files: Sequence[Path], path: Path) -> ArrowStore:
    """The records of Arrow files.

    Raises:
        DataError: one that is damaged.
        MissingPackageError: pyarrow is not installed.
    """
    return ArrowStore(files, str(path))


def open_parquet(path: Path, folder: Path | None) -> ArrowStore:
    """The records of a Parquet file, converted once: one of its rows costs its whole row group.

    Raises:
        DataError: it is damaged, or there is no room.
        MissingPackageError: pyarrow is not installed.
    """
    pa = _pyarrow()

    def make(target: Path) -> None:
        try:
            with pa.parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
                with pa.OSFile(str(target), "wb") as out, pa.ipc.new_file(out, schema) as writer:
                    for batch in file.iter_batches(BATCH, use_threads=False):
                        writer.write_batch(batch)
        except (pa.ArrowException, EOFError) as error:
            if isinstance(error, OSError):
                raise
            raise DataError(f"{path}: cannot be read: {str(error)[:200]}; replace it") from error

    return ArrowStore([cached_file(path, ".arrow", folder, make, "its Arrow form")], str(path))


def open_saved(path: Path) -> ArrowStore:
    """The records in a folder that ``datasets.Dataset.save_to_disk`` wrote.

    Raises:
        DataError: files that are missing or damaged.
        MissingPackageError: pyarrow is not installed.
    """
    try:
        state = json.loads((path / "state.json").read_bytes())
        files = [path / entry["filename"] for entry in state["_data_files"]]
        has_indices = any(state.get(f"_indices{name}_files") for name in ("", "_data"))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: its state.json is not one of a saved data set") from error
    if has_indices:
        raise DataError(
            f"{path}: was saved by an old version as a selection of its entries; load it with "
            "datasets.load_from_disk and pass the data set"
        )
    return ArrowStore(files, str(path))


def _map(file: str) -> list[Any]:
    """The record batches of an Arrow file or stream, mapped into memory."""
    pa = _pyarrow()
    try:
        source = pa.memory_map(file)
        if source.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(source)
            return [reader.get_batch(i) for i in range(reader.num_record_batches)]
        source.seek(0)
        return list(pa.ipc.open_stream(source))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read: {str(error)[:200]}; replace it") from error
