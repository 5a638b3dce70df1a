"""What a dataset has to know about the other processes that read it."""

from __future__ import annotations

import mmap
import struct
import sys
from multiprocessing.context import get_spawning_popen
from types import FrameType

from treepack.errors import DatasetError

ENTRY = struct.Struct("<?qq")


class WorkerFlag:
    """Which pass of worker processes first read a dataset, told to the process that started them.

    The workers of one pass share the seed that their loader drew for it, and the page on which they
    note it with that process and with the workers of later passes; those that were not forked have
    a page of their own.
    """

    def __init__(self) -> None:
        self._is_sent = False
        self._page = mmap.mmap(-1, ENTRY.size)
        self._loads = 0

    def claim(self, seed: int) -> bool:
        """Called in a worker that begins.

        Returns:
            Whether no other pass was first.
        """
        is_claimed, first, loads = ENTRY.unpack(self._page[:])
        if not is_claimed:
            self._page[:] = ENTRY.pack(True, seed, loads)
        return not is_claimed or first == seed

    @property
    def is_outdated(self) -> bool:
        """In a worker: whether a state was loaded after it was forked, which cannot reach it."""
        return bool(ENTRY.unpack(self._page[:])[2] != self._loads)

    def forget(self) -> None:
        """Begin anew: workers that are alive may go on, but not begin another pass."""
        self._is_sent = False
        self._loads += 1
        self._page[:] = ENTRY.pack(False, 0, self._loads)

    def claim_for_new_process(self) -> bool:
        """Called while the dataset is pickled: such a process has a page of its own."""
        seed = _seed_of_loader() if is_spawning() else None
        return seed is None or self.claim(seed)

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


def _seed_of_loader() -> int | None:
    """Of the loader that is starting a worker just now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        seed = getattr(frame.f_locals.get("self"), "_base_seed", None)
        if isinstance(seed, int):
            return seed
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
