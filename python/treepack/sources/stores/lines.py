"""JSON in files: one record a line, or one list of records; gzipped ones are unpacked once."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import shutil
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from treepack.errors import DataError
from treepack.sources.stores.cache import cached_file

CHUNK = 1 << 20


class _Spans:
    """Records of a file as stretches of its bytes; of them only the offsets are kept.

    Attributes:
        path: what errors call the file.
        file: the file that is read, which may be a cache of ``path``.
        starts: int64 ``[n]``, offsets in bytes.
        ends: int64 ``[n]``.
    """

    def __init__(self, file: Path, shown: str) -> None:
        self.file: str = str(file)
        self.path: str = shown or self.file
        self._state = _state_of(os.stat(self.file))  # noqa: PTH116
        found = self._find()
        self.starts: npt.NDArray[np.int64] = found[0]
        self.ends: npt.NDArray[np.int64] = found[1]

    def _find(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[bytes]:
        with self._open() as file:
            for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
                file.seek(start)
                yield file.read(end - start)

    def __getitem__(self, index: int) -> bytes:
        with self._open() as file:
            file.seek(self.starts[index])
            return file.read(self.ends[index] - self.starts[index])

    def _open(self) -> BinaryIO:
        file = Path(self.file).open("rb")  # noqa: SIM115
        if _state_of(os.fstat(file.fileno())) != self._state:
            file.close()
            raise DataError(
                f"{self.path}: has changed since its records were grouped; group them anew"
            )
        return file


class Lines(_Spans):
    """The lines of a JSONL file that are not blank, as bytes, read when they are asked for."""

    def _find(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        numbers, starts, ends = array("q"), array("q"), array("q")
        offset = 0
        with Path(self.file).open("rb") as file:
            for number, line in enumerate(file, 1):
                end = offset + len(line)
                if not line.isspace():
                    numbers.append(number)
                    starts.append(offset)
                    ends.append(end)
                offset = end
        has_blanks = len(numbers) > 0 and numbers[-1] != len(numbers)
        self.numbers: npt.NDArray[np.int64] | None = np.array(numbers) if has_blanks else None
        return np.array(starts), np.array(ends)

    def name(self, index: int) -> str:
        """``train.jsonl:17``, where 17 is the number of the line, from 1 on."""
        return f"{self.path}:{index + 1 if self.numbers is None else self.numbers[index]}"


class JsonList(_Spans):
    """The entries of a file that holds one JSON list, as bytes, read when they are asked for."""

    def _find(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        starts, ends = array("q"), array("q")
        with Path(self.file).open("rb") as file:
            try:
                for start, end in _entries(file):
                    starts.append(start)
                    ends.append(end)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{self.path}: is not JSON: {error}; correct it") from error
        return np.array(starts), np.array(ends)

    def name(self, index: int) -> str:
        """``train.json, record 17``, from 0 on."""
        return f"{self.path}, record {index}"


def _entries(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Offsets in bytes of the entries of a JSON list, read in pieces."""
    text = _Window(file)
    text.skip_blanks()
    text.expect("[")
    text.skip_blanks()
    is_first = True
    while text.peek() != "]":
        if not is_first:
            text.expect(",")
            text.skip_blanks()
        is_first = False
        start = text.offset
        text.skip_value()
        yield start, text.offset
        text.skip_blanks()
    text.expect("]")
    text.skip_blanks()
    if text.peek():
        raise ValueError(f"something follows its list at byte {text.offset}")


class _Window:
    """A stretch of a file as text, and how many bytes precede its place."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.decoder = json.JSONDecoder()
        self.unicode = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.place = 0
        self.offset = 0
        self.is_over = False
        self._more(CHUNK)
        if self.text.startswith("\ufeff"):
            self._advance(1)

    def peek(self) -> str:
        """The next character; empty at the end of the file."""
        while self.place == len(self.text) and not self.is_over:
            self._more(CHUNK)
        return self.text[self.place : self.place + 1]

    def expect(self, character: str) -> None:
        """Step over a character that must come."""
        if self.peek() != character:
            raise ValueError(f"no {character!r} at byte {self.offset}")
        self._advance(self.place + 1)

    def skip_blanks(self) -> None:
        """Step over blanks."""
        while self.peek() in (" ", "\n", "\r", "\t"):
            self._advance(self.place + 1)

    def skip_value(self) -> None:
        """Step over a JSON value, however long it is."""
        size = CHUNK
        while True:
            try:
                _, end = self.decoder.raw_decode(self.text, self.place)
            except ValueError:
                if self.is_over:
                    raise
            else:
                # A number may go on behind the end of what has been read.
                if end < len(self.text) or self.is_over:
                    self._advance(end)
                    return
            self._more(size)
            size *= 2

    def _advance(self, place: int) -> None:
        stretch = self.text[self.place : place]
        self.offset += len(stretch) if stretch.isascii() else len(stretch.encode())
        self.place = place

    def _more(self, size: int) -> None:
        piece = self.file.read(size)
        self.is_over = len(piece) < size
        self.text = self.text[self.place :] + self.unicode.decode(piece, self.is_over)
        self.place = 0


def unpacked(path: Path, folder: Path | None) -> Path:
    """The contents of a gzipped file, unpacked once.

    Raises:
        DataError: it is damaged or cut off, or there is no room.
    """

    def make(target: Path) -> None:
        try:
            with gzip.open(path, "rb") as packed, target.open("wb") as plain:
                shutil.copyfileobj(packed, plain, CHUNK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: cannot be unpacked: {error}; replace it") from error

    return cached_file(path, ".unpacked", folder, make, "its unpacked text")


def _state_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
