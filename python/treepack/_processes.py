"""What a dataset has to know about the other processes that read it."""

from __future__ import annotations

import mmap
from multiprocessing.context import get_spawning_popen
from types import FrameType

from treepack.errors import DatasetError


class WorkerFlag:
    """Whether worker processes have begun to read a dataset, told to the one that started them."""

    def __init__(self) -> None:
        self._is_sent = False
        self._page = mmap.mmap(-1, 1)

    def raise_flag(self) -> None:
        """Called in a worker; a forked one shares the page with its parent."""
        self._page[0] = 1

    @property
    def is_raised(self) -> bool:
        """Whether a worker has begun, or a new process was sent the dataset."""
        return self._is_sent or bool(self._page[0])

    def __getstate__(self) -> bool:
        if get_spawning_popen() is not None:
            self._is_sent = True
        return True

    def __setstate__(self, _: bool) -> None:
        self.__init__()  # type: ignore[misc]


def check_caller(frame: FrameType | None) -> None:
    """Refuse to be sharded again by accelerate, which hands the rows out a second time.

    Raises:
        DatasetError: the caller is a loader that ``accelerate.prepare`` made for several processes.
    """
    while frame is not None:
        if frame.f_globals.get("__name__") == "accelerate.data_loader":
            loader = frame.f_locals.get("self")
            kind = type(loader).__name__
            processes = getattr(getattr(loader, "state", None), "num_processes", 1)
            if kind == "IterableDatasetShard" or (kind == "DataLoaderDispatcher" and processes > 1):
                raise DatasetError(
                    "the loader went through accelerate.prepare, which would shard it a second "
                    "time or slice its rows; leave it out of prepare(), the dataset shards itself"
                )
        frame = frame.f_back
