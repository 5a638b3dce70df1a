"""Tar archives of samples as webdataset writes them, read by number through an index."""

from __future__ import annotations

import itertools
import json
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import DataError
from treepack.sources.records.base import fields_once, shown
from treepack.sources.stores.base import one_or_error
from treepack.sources.stores.cache import cached_file

IMAGES = frozenset(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"))
VIDEOS = frozenset(("mp4", "webm", "mkv", "avi", "mov", "mpg", "mpeg", "m4v"))
SOUNDS = frozenset(("wav", "flac", "mp3", "ogg", "m4a", "opus"))


class TarStore:
    """Samples of a tar archive: files that stand together and share a name up to its first dot.

    A sample becomes a record: the fields of its ``json``, the bytes of its images and videos in
    the order of the archive, its ``txt`` as a caption; other files under their endings.

    Args:
        file: the archive, not compressed.
        path: what errors call it.
        index: ``.npz`` file that `write_index` made.
    """

    def __init__(self, file: Path, path: str, index: Path) -> None:
        self.file: str = str(file)
        self.path = path
        with np.load(index, allow_pickle=False) as found:
            self.ends: npt.NDArray[np.int64] = found["ends"]
            self.offsets: npt.NDArray[np.int64] = found["offsets"]
            self.sizes: npt.NDArray[np.int64] = found["sizes"]
            self.names: npt.NDArray[np.uint8] = found["names"]
            self.name_ends: npt.NDArray[np.int64] = found["name_ends"]

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[Any]:
        return (one_or_error(self, index) for index in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        with Path(self.file).open("rb") as file:
            members = {}
            for member in self._members(index):
                file.seek(self.offsets[member])
                content = file.read(self.sizes[member])
                if len(content) < self.sizes[member]:
                    raise DataError(f"{self.name(index)}: the archive is cut off; replace it")
                called = self._member_name(member)
                if called in members:
                    raise DataError(
                        f"{self.name(index)}: holds {shown(called)} twice; give each file a name"
                    )
                members[called] = content
        return _record(members, self.name(index))

    def name(self, index: int) -> str:
        """``train.tar, sample 000017``."""
        first = self._member_name(self._members(index)[0])
        return f"{self.path}, sample {_split(first)[0]}"

    def _members(self, index: int) -> range:
        return range(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))

    def _member_name(self, member: int) -> str:
        start = self.name_ends[member - 1] if member else 0
        name: bytes = self.names[start : self.name_ends[member]].tobytes()
        return name.decode("utf-8", "replace")


def open_tar(path: Path, folder: Path | None, shown: str = "") -> TarStore:
    """The samples of a tar archive; its index is made once.

    Raises:
        DataError: it is damaged, or there is no room for the index.
    """
    index = cached_file(path, ".npz", folder, lambda target: write_index(path, target), "its index")
    return TarStore(path, shown or str(path), index)


def write_index(path: Path, target: Path) -> None:
    """Write where the members of an archive lie.

    Arrays: ``ends`` int64 ``[samples]``, the members of each sample end there; ``offsets`` and
    ``sizes`` int64 ``[members]`` in bytes; ``names`` uint8, ``name_ends`` int64 ``[members]``.

    Raises:
        DataError: it is damaged.
    """
    offsets, sizes, keys, names = array("q"), array("q"), [], []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile() and not PurePosixPath(member.name).name.startswith("."):
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
                    keys.append(_split(member.name)[0])
                    names.append(member.name.encode("utf-8", "replace"))
                # Otherwise the archive remembers all its members.
                archive.members = []  # type: ignore[attr-defined]
    except tarfile.TarError as error:
        raise DataError(f"{path}: cannot be read: {error}; replace it") from error
    counts = [len(list(members)) for _, members in itertools.groupby(keys)]
    with target.open("wb") as file:
        np.savez(
            file,
            ends=np.cumsum(counts, dtype=np.int64),
            offsets=np.array(offsets, np.int64),
            sizes=np.array(sizes, np.int64),
            names=np.frombuffer(b"".join(names), np.uint8),
            name_ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        )


def _split(name: str) -> tuple[str, str]:
    """Name of the sample, and what stands behind the first dot of its last part."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}{slash}{stem}", ending


def _record(members: dict[str, bytes], name: str) -> dict[str, Any]:
    record: dict[str, Any] = {}
    media: dict[str, list[Any]] = {"images": [], "videos": []}
    for member, content in members.items():
        ending = _split(member)[1]
        kind = ending.rpartition(".")[2].lower()
        if kind in IMAGES:
            media["images"].append({"bytes": content, "path": member})
        elif kind in VIDEOS:
            media["videos"].append({"bytes": content, "path": member})
        elif kind == "json":
            record |= _fields(content, name)
        elif kind == "txt":
            record.setdefault("caption", _text(content, name))
        else:
            record["audio" if kind in SOUNDS else ending] = content
    for field, values in media.items():
        if values:
            record.pop(field.removesuffix("s"), None)
            record[field] = values
    return record


def _fields(content: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(content, object_pairs_hook=fields_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: its json is not JSON: {error}; correct it") from error
    if isinstance(value, list):
        return {"conversations": value}
    if not isinstance(value, dict):
        raise DataError(f"{name}: its json must hold an object or a list of turns")
    return value


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: its txt is not UTF-8: {error}; correct it") from error
