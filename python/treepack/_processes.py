"""What a dataset has to know about the other processes that read it."""

from __future__ import annotations

import mmap
import struct
import sys
import weakref
from multiprocessing.context import get_spawning_popen
from types import FrameType
from typing import Any

from treepack.errors import DatasetError

HEAD = struct.Struct("<?q")
MOST_WORKERS = 2**12


class WorkerFlag:
    """Which workers have begun to read a dataset, told to the process that started them.

    They note it on a page that a forked worker shares with that process and with the workers of
    later passes. Those that were not forked have a page of their own.
    """

    def __init__(self) -> None:
        self._is_sent = False
        self._first: weakref.ref[Any] | None = None
        self._loads = 0
        self._page = mmap.mmap(-1, HEAD.size + MOST_WORKERS)

    def claim(self, worker: int) -> bool:
        """Called in a worker that begins.

        Returns:
            Whether no worker of this number has begun before, in an earlier pass.
        """
        is_first = not self._page[HEAD.size + worker]
        self._page[0] = self._page[HEAD.size + worker] = 1
        return is_first

    def claim_for_new_process(self) -> bool:
        """Called while the dataset is pickled; whether that is for the first pass, if for any."""
        iterator = _starting_loader() if is_spawning() else None
        if iterator is None:
            return True
        if self._first is None:
            self._first = weakref.ref(iterator)
        return self._first() is iterator

    @property
    def is_outdated(self) -> bool:
        """In a worker: whether a state was loaded after it was forked, which cannot reach it."""
        return bool(HEAD.unpack_from(self._page)[1] != self._loads)

    def forget(self) -> None:
        """Begin anew: workers that are alive may go on, but not begin another pass."""
        self._is_sent, self._first = False, None
        self._loads += 1
        self._page[:] = HEAD.pack(False, self._loads) + bytes(MOST_WORKERS)

    @property
    def is_raised(self) -> bool:
        """Whether a worker has begun, or a new process was sent the dataset."""
        return self._is_sent or bool(self._page[0])

    def __getstate__(self) -> bool:
        if is_spawning():
            self._is_sent = True
        return True

    def __setstate__(self, _: bool) -> None:
        self.__init__()  # type: ignore[misc]


def is_spawning() -> bool:
    """Whether what is pickled just now goes into a new process."""
    return get_spawning_popen() is not None


def _starting_loader() -> Any:
    """The iterator of the loader that is starting a worker just now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if hasattr(owner, "_base_seed"):
            return owner
        frame = frame.f_back
    return None


def check_caller(frame: FrameType | None) -> None:
    """Refuse to be sharded again by accelerate, which hands the rows out a second time.

    Raises:
        DatasetError: the caller is a loader that ``accelerate.prepare`` made.
    """
    while frame is not None:
        if frame.f_globals.get("__name__") == "accelerate.data_loader":
            # The dispatcher cuts every tensor to its share of the rows, even with one process.
            kind = type(frame.f_locals.get("self")).__name__
            if kind in ("IterableDatasetShard", "DataLoaderDispatcher"):
                raise DatasetError(
                    "the loader went through accelerate.prepare, which would shard it a second "
                    "time or slice its rows; leave it out of prepare(), the dataset shards itself "
                    "(for a Trainer there is treepack.hf.PackedTrainer)"
                )
        frame = frame.f_back
