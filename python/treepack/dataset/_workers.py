"""What a dataset has to know about the other processes that read it, and when a worker ends."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import weakref
from multiprocessing import parent_process
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

from torch.utils.data import get_worker_info

from treepack.dataset._torch_internals import is_spawning, starting_loader
from treepack.errors import DatasetError

HEAD = struct.Struct("<?qi")
"""Whether a worker has begun, how often a state was loaded, and the workers of the first iteration
since."""

MOST_WORKERS = 2**12


class Board:
    """What the workers of a dataset and the process that starts them tell each other.

    A loader with workers iterates over *copies* of the dataset and tells the original nothing. But
    a state that was loaded counts for the first iteration after it alone, so it must be known
    whether one has begun. The board is a page of memory: the head, and then one byte for each
    worker that has begun. A forked worker shares it with its parent and with the workers of later
    iterations. A spawned worker has a board of its own; whether it belongs to the first iteration
    is decided when the dataset is pickled for it.

    ====================  ==============================  ======================================
    method                called by                       when
    ====================  ==============================  ======================================
    ``begin``             a worker                        its ``iter(dataset)``
    ``is_outdated``       a worker                        before ``begin``
    ``send``              the parent                      the dataset is copied or pickled
    ``has_workers``       the parent                      ``state_dict``, ``consumed``
    ``note_load``         the parent                      ``load_state_dict``
    ``clear``             either                          ``reset``; the parent's own ``iter``
    ====================  ==============================  ======================================
    """

    def __init__(self) -> None:
        # How often a state was loaded in this process, or in its parent before the fork.
        self._loads = 0
        self._forget()

    def _forget(self) -> None:
        """Start a new page, on which no worker has begun."""
        # Whether the dataset was sent to a new process, which cannot write on this page.
        self._is_sent = False
        # The loader's iterator that sent it first.
        self._first: weakref.ref[Any] | None = None
        self._page = mmap.mmap(-1, HEAD.size + MOST_WORKERS)

    def begin(self, worker: int, workers: int) -> bool:
        """Note that a worker begins; returns whether its iteration is the first one."""
        has_begun, loads, first = HEAD.unpack_from(self._page)
        is_first = not self._page[HEAD.size + worker] and first in (0, workers)
        self._page[HEAD.size + worker] = 1
        HEAD.pack_into(self._page, 0, True, loads, first if has_begun and first else workers)
        return is_first

    def send(self) -> bool:
        """Note that a copy of the dataset is made; returns whether it gets the loaded state.

        The workers of a later iteration than the first do not get it.
        """
        if not is_spawning():
            return True
        self._is_sent = True
        iterator = starting_loader()
        if iterator is None:
            return True
        if self._first is None:
            self._first = weakref.ref(iterator)
        return self._first() is iterator

    @property
    def is_outdated(self) -> bool:
        """Whether a state was loaded after this worker was forked, which cannot reach it."""
        return bool(HEAD.unpack_from(self._page)[1] != self._loads)

    @property
    def has_workers(self) -> bool:
        """Whether a worker has begun, or a new process was sent the dataset."""
        return self._is_sent or bool(self._page[0])

    def clear(self) -> None:
        """Make the next iteration the first one, also if workers that live on make it."""
        if get_worker_info() is not None:
            # What a worker does for itself must not change the page of its siblings.
            self._page[0] = 1
            self._loads = 0
            self._forget()
            return
        self._is_sent, self._first = False, None
        self._page[:] = HEAD.pack(False, self._loads, 0) + bytes(MOST_WORKERS)

    def note_load(self) -> None:
        """Make the next iteration the first one, with workers that know of the loaded state."""
        if get_worker_info() is None:
            self._loads += 1
        self.clear()

    def __reduce__(self) -> tuple[type[Board], tuple[()]]:
        # Shared memory is for forks; a copy begins with a page of its own.
        return Board, ()


def check_caller(frame: FrameType | None) -> None:
    """Reject being sharded again by accelerate, which hands the rows out a second time.

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
                    "time or slice its rows; leave it out of prepare(), since the dataset shards "
                    "itself "
                    "(for a Trainer there is treepack.hf.PackedTrainer)"
                )
        frame = frame.f_back


_watching = 0
"""The process in which the watch runs; a fork inherits the number, but not the thread."""


def end_with_parent() -> None:
    """Make this worker end with the process that reads its batches; a second call does nothing.

    torch's workers notice a parent that is gone only between two batches, and one that waits for
    room in its queue waits for ever: after a SIGKILL of the trainer, workers would hold memory and
    GPUs' host buffers until somebody looks. A daemon thread waits for the end of the parent itself.
    The kernel's own signal (``PR_SET_PDEATHSIG``) would not do: it is sent when the *thread* ends
    that started the worker, and under forkserver that is another process.
    """
    global _watching
    parent = parent_process()
    if parent is None or _watching == os.getpid():
        return
    _watching = os.getpid()
    try:
        # On Linux a handle of the process itself; the sentinel is a pipe, which lives on in every
        # other fork of the trainer.
        gone: Any = os.pidfd_open(parent.pid or 0)
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):
        gone = parent.sentinel
    threading.Thread(target=_exit_after, args=(gone,), daemon=True, name="treepack-parent").start()


def _exit_after(gone: Any) -> None:
    wait([gone])
    os._exit(1)
