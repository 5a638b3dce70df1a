"""What a dataset has to know about the other processes that read it."""

from __future__ import annotations

import mmap
import struct
import sys
import weakref
from multiprocessing.context import get_spawning_popen
from types import FrameType
from typing import Any

from torch.utils.data import get_worker_info

from treepack.errors import DatasetError

HEAD = struct.Struct("<?qi")
"""Whether a worker has begun, how often a state was loaded, and the workers of the first pass."""

MOST_WORKERS = 2**12


class Board:
    """What the workers of a dataset and the process that starts them tell each other.

    It is a page of memory: the head, then one byte for each worker that has begun. A forked worker
    shares it with that process and with the workers of later passes; others have one of their own.
    """

    def __init__(self) -> None:
        self._is_sent = False
        self._first: weakref.ref[Any] | None = None
        self._loads = 0
        self._page = mmap.mmap(-1, HEAD.size + MOST_WORKERS)

    def begin(self, worker: int, workers: int) -> bool:
        """Called in a worker that begins; whether its pass is the first one."""
        has_begun, loads, first = HEAD.unpack_from(self._page)
        is_first = not self._page[HEAD.size + worker] and first in (0, workers)
        self._page[HEAD.size + worker] = 1
        HEAD.pack_into(self._page, 0, True, loads, first if has_begun and first else workers)
        return is_first

    def begin_new_process(self) -> bool:
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

    @property
    def has_workers(self) -> bool:
        """Whether a worker has begun, or a new process was sent the dataset."""
        return self._is_sent or bool(self._page[0])

    def clear(self) -> None:
        """The next pass is the first one; workers that live on may make it."""
        if get_worker_info() is not None:
            # What a worker does for itself is no business of its siblings.
            self._page[0] = 1
            self.__init__()  # type: ignore[misc]
            return
        self._is_sent, self._first = False, None
        self._page[:] = HEAD.pack(False, self._loads, 0) + bytes(MOST_WORKERS)

    def note_load(self) -> None:
        """A state was loaded: the next pass is the first one, with workers that know of it."""
        if get_worker_info() is None:
            self._loads += 1
        self.clear()

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
    """The iterator of the loader that is starting a worker just now.

    Nothing tells the dataset of it: it is the caller that has drawn a seed for its workers.
    """
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
