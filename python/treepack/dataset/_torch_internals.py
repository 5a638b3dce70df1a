"""The private parts of torch that the stream uses, and why nothing public would do.

For each there is a test that fails when torch changes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from types import FrameType
from typing import Any


@contextmanager
def hidden_worker_info() -> Iterator[None]:
    """Let ``get_worker_info()`` say ``None``, as outside of a worker.

    Sources that split themselves by worker (``datasets``, WebDataset) ask it. Here every worker
    reads what its virtual shards need, so if the source took only a share as well, examples would
    be lost. torch has no public way to set the worker's info.
    """
    worker = sys.modules.get("torch.utils.data._utils.worker")
    if worker is None:
        yield
        return
    info, worker._worker_info = worker._worker_info, None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        worker._worker_info = info  # type: ignore[attr-defined]


def is_spawning() -> bool:
    """Whether what is being pickled goes into a new process (spawn or forkserver)."""
    return get_spawning_popen() is not None


def starting_loader() -> Any:
    """The loader's iterator that is starting a worker at this moment, or ``None``.

    The dataset is pickled once for each worker, and must tell the workers of one iteration from
    those of the next. Nothing tells it who pickles it; the iterator is the caller that has drawn a
    seed for its workers, ``_base_seed``.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if hasattr(owner, "_base_seed"):
            return owner
        frame = frame.f_back
    return None
