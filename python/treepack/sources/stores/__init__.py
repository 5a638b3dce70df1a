"""Where records lie: files of several kinds, data sets and lists, read by number.

Found by what a file begins with, not by its name. Reading a store again gives the same records, so
that nothing of them is held in memory, and a store is cheap to send to workers.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from treepack.errors import DataError, DatasetError, TreepackError
from treepack.sources.records.base import shown
from treepack.sources.stores.base import Store
from treepack.sources.stores.joined import Joined
from treepack.sources.stores.lines import JsonList, Lines, unpacked
from treepack.sources.stores.memory import Listed

__all__ = ["Store", "folder_of", "open_store"]


KNOWN = {
    b"BZh": "bzip2: unpack it, or use gzip",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\xfd7zXZ": "xz: unpack it, or use gzip",
    b"\x28\xb5\x2f\xfd": "zstd: unpack it, or use gzip",
    b"\xff\xfe": "UTF-16 or UTF-32: write it in UTF-8",
    b"\xfe\xff": "UTF-16: write it in UTF-8",
}
"""What a file that is not read begins with, and what to do."""


def open_store(records: Any, cache: str | os.PathLike[str] | None = None) -> Store:
    """The store of what a user calls records.

    Args:
        records: a file or a folder that ``datasets`` saved, a pattern or a list of files, a
            ``datasets.Dataset``, a sequence of records, or an iterable of them.
        cache: folder for files that are made once; by default they lie beside the file.

    Raises:
        DataError: a file that cannot be read, or of no known kind.
        DatasetError: what is no collection of records; a package that is not installed.
    """
    if isinstance(records, (str, os.PathLike)):
        return _open_path(Path(records), None if cache is None else Path(cache))
    if _are_files(records):
        return Joined([open_store(path, cache) for path in records])
    return _in_memory(records)


def _are_files(records: Any) -> bool:
    return (
        isinstance(records, (list, tuple))
        and bool(records)
        and all(isinstance(record, (str, os.PathLike)) for record in records)
    )


def folder_of(records: Any) -> Path:
    """Where the relative paths of records start if nobody says it.

    Raises:
        DatasetError: files of several folders.
    """
    if isinstance(records, (str, os.PathLike)):
        return Path(records).parent
    folders = {Path(path).parent for path in records} if _are_files(records) else set()
    if len(folders) > 1:
        raise DatasetError(
            f"the files lie in {len(folders)} folders; say where relative paths start with images="
        )
    return folders.pop() if folders else Path()


def _open_path(path: Path, cache: Path | None) -> Store:
    try:
        if path.is_dir():
            return _open_folder(path)
        if not path.exists() and glob.has_magic(str(path)):
            found = sorted(path.parent.glob(path.name))
            if found:
                return Joined([_open_path(one, cache) for one in found])
        return _open_file(path, cache)
    except OSError as error:
        if ":/" in str(path):
            raise DataError(
                f"{shown(str(path))}: is no file; nothing is downloaded, so fetch it beforehand"
            ) from error
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, TreepackError):
            raise
        raise DataError(f"{shown(str(path))}: is not the name of a file: {error}") from error


def _open_file(path: Path, cache: Path | None, called: str = "") -> Store:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"\x1f\x8b"):
        return _open_file(unpacked(path, cache), cache, str(path))
    if head.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        from treepack.sources.stores.arrow import open_arrow, open_parquet

        return open_parquet(path, cache) if head.startswith(b"PAR1") else open_arrow([path], path)
    if head[257:262] == b"ustar":
        from treepack.sources.stores.tar import open_tar

        return open_tar(path, cache, called)
    if b"\0" in head or head.startswith(tuple(KNOWN)):
        why = next((f" ({why})" for start, why in KNOWN.items() if head.startswith(start)), "")
        raise DataError(
            f"{path}: is of no known kind, it begins with {head[:8]!r}{why}; write JSON lines, a "
            "JSON list (both may be gzipped), Parquet, Arrow or a tar archive"
        )
    is_list = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    return JsonList(path, called) if is_list else Lines(path, called)


def _open_folder(path: Path) -> Store:
    if (path / "state.json").is_file():
        from treepack.sources.stores.arrow import open_saved

        return open_saved(path)
    splits = sorted(child.name for child in path.iterdir() if (child / "state.json").is_file())
    if splits:
        raise DataError(f"{path}: holds the data sets {splits}; name one: {path / splits[0]}")
    raise DataError(
        f"{path}: is a folder that no data set was saved in; name a file, or several with a "
        f"pattern such as {str(path / '*.parquet')!r}"
    )


def _in_memory(records: Any) -> Store:
    kind = type(records)
    if isinstance(records, (bytes, bytearray, memoryview)):
        raise DatasetError(
            f"records is {kind.__name__}; pass a path as a text, or json.loads of the contents"
        )
    if hasattr(records, "iloc"):
        raise DatasetError(
            f"records is a {kind.__name__}; write it with frame.to_parquet(path) and pass the path"
        )
    if isinstance(records, Mapping):
        if records and all(hasattr(value, "column_names") for value in records.values()):
            raise DatasetError(f"records has the splits {list(records)}; pass one of them")
        raise DatasetError("records is one object with named fields; pass a list of records")
    if kind.__module__.startswith("datasets.") and hasattr(records, "with_format"):
        from treepack.sources.stores.hub import DatasetStore

        if hasattr(records, "__len__") and records.format["type"] != "custom":
            return DatasetStore(records)
    if hasattr(kind, "__len__") and hasattr(kind, "__getitem__"):
        return Listed(records)
    if not isinstance(records, Iterable):
        raise DatasetError(
            f"records is a {kind.__name__}; pass a file, a list of records or a datasets.Dataset"
        )
    return Listed(list(records))
