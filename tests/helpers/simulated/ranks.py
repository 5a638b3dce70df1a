"""``torch.distributed`` without processes: each rank is a thread, each collective a meeting of all.

It is stricter than gloo: ranks that meet in different collectives, of different groups or with a
tensor on another device than the group's own fail at once, where real ones would hang.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

SECONDS = 20


class SimulatedRanks:
    """What ``treepack.train`` calls of ``torch.distributed``.

    Args:
        world: number of ranks.
        group: what every call must be given as ``group``.
        first: global number of the group's first rank; the others follow.
        backend: of the group.
    """

    def __init__(self, world, group=None, first=0, backend="gloo"):
        self.world = world
        self.group = group
        self.first = first
        self.backend = backend
        self.meetings = 0
        self._here = threading.local()
        self._brought = [None] * world
        self._arrived = threading.Barrier(world, timeout=SECONDS)
        self._left = threading.Barrier(world, timeout=SECONDS)

    def run(self, function):
        """What ``function(rank)`` returns on each rank; the first error that is a rank's own."""
        with ThreadPoolExecutor(self.world) as pool:
            runs = [pool.submit(self._run, function, rank) for rank in range(self.world)]
        errors = [run.exception() for run in runs]
        for error in sorted(filter(None, errors), key=lambda x: type(x) is MeetingError):
            raise error
        return [run.result() for run in runs]

    def _run(self, function, rank):
        self._here.rank = rank
        try:
            return function(rank)
        except BaseException:
            self._arrived.abort()
            self._left.abort()
            raise
        finally:
            self._here.rank = None

    def _meet(self, kind, group, brought):
        assert group is self.group, f"{kind} of another group"
        self._brought[self._here.rank] = (kind, brought)
        try:
            self._arrived.wait()
            kinds, values = zip(*self._brought, strict=True)
            self._left.wait()
        except threading.BrokenBarrierError:
            raise MeetingError(
                f"rank {self._here.rank} waits in {kind} for ranks that do not come"
            ) from None
        assert len(set(kinds)) == 1, f"ranks meet in {set(kinds)}"
        self.meetings += self._here.rank == 0
        return values

    # ---- torch.distributed

    def is_available(self):
        return True

    def is_initialized(self):
        return getattr(self._here, "rank", None) is not None

    def get_world_size(self, group=None):
        assert group is self.group
        return self.world

    def get_backend(self, group=None):
        assert group is self.group
        return self.backend

    def get_global_rank(self, group, rank):
        assert group is not None
        assert group is self.group
        return self.first + rank

    def all_reduce(self, tensor, group=None):
        tensors = self._meet("all_reduce", group, tensor.clone())
        tensor.copy_(torch.stack(tensors).sum(0))

    def all_gather_object(self, found, value, group=None):
        values = self._meet("all_gather_object", group, value)
        assert len(found) == self.world
        found[:] = values

    def broadcast_object_list(self, offered, src, group=None):
        values = self._meet("broadcast_object_list", group, (src, list(offered)))
        assert len({source for source, _ in values}) == 1, "ranks disagree on who gives"
        offered[:] = values[src - self.first][1]


class MeetingError(AssertionError):
    """A rank waited for others that had failed or ended."""
