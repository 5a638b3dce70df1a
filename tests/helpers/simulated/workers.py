"""Workers of a loader without processes: their iterators, asked round-robin as a loader does."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

from treepack.dataset.iterator import PackIterator
from treepack.dataset.state import Iteration


@contextmanager
def in_worker(worker, workers):
    """As code in a worker of a loader sees it."""
    info = SimpleNamespace(id=worker, num_workers=workers) if workers else None
    with mock.patch("treepack.dataset.iterator.get_worker_info", return_value=info):
        yield


def batches(dataset, workers, state=None, number=7):
    """The batches of a loader with so many workers, none for this process, in its order."""
    live = []
    for worker in range(max(workers, 1)):
        stamp = Iteration(number, int(state is not None)) if workers else None
        with in_worker(worker, workers):
            live.append((worker, PackIterator(dataset.settings, state, stamp)))
    while live:
        for worker, iterator in list(live):
            with in_worker(worker, workers):
                batch = next(iterator, None)
            if batch is None:
                live.remove((worker, iterator))
            else:
                yield batch
