"""Which virtual shards are whose.

The stream is cut into ``V`` virtual shards. Rank ``r`` of ``R`` and worker ``w`` of ``W`` own those
with ``(s - offset) mod (R W) == r + R w``. The offset is 0 at the start of the stream; after a
resume it is such that owner 0 has the shard whose turn it is.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from treepack.dataset.state import Scope, ShardState, scope_of
from treepack.errors import DatasetError, StateError


class Ownership(NamedTuple):
    """The virtual shards of one worker: those with ``(s - offset) mod owners == owner``.

    Attributes:
        owners: ranks times workers.
        owner: rank plus ranks times worker.
        offset: which shard owner 0 has first.
        total: V.
    """

    owners: int
    owner: int
    offset: int
    total: int

    @property
    def shards(self) -> list[int]:
        """Their numbers, increasing."""
        return [s for s in range(self.total) if (s - self.offset) % self.owners == self.owner]

    @property
    def scope(self) -> Scope:
        """What a state says of them."""
        return Scope(self.owners, self.owner, self.offset)


def default_shard() -> tuple[int, int]:
    """Rank and world size of this process."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    # Before init_process_group, which will take them from here.
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def check_shard(shard: Any) -> tuple[int, int]:
    """Rank and world size that a pair or a device mesh says.

    Raises:
        DatasetError: neither, or a rank outside the world.
    """
    pair = _mesh_place(shard) if hasattr(shard, "get_coordinate") else shard
    try:
        rank, world = map(operator.index, pair)
    except (TypeError, ValueError):
        raise DatasetError(
            f"shard must be (rank, world_size) or a DeviceMesh, got {shard!r}"
        ) from None
    if not 0 <= rank < world:
        raise DatasetError(f"shard=(rank, world) must have 0 <= rank < world, got {shard}")
    return rank, world


def _mesh_place(mesh: Any) -> tuple[int, int]:
    """Rank and size of a device mesh, or of several of its dimensions counted as one."""
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        raise DatasetError("this process is not part of the device mesh given as shard=")
    rank = 0
    for place, size in zip(coordinate, mesh.shape, strict=True):
        rank = rank * size + place
    return rank, mesh.size()


def own(
    state: Mapping[str, Any] | None,
    shard: tuple[int, int],
    worker: int = 0,
    workers: int = 1,
    virtual_shards: int | None = None,
) -> Ownership:
    """The virtual shards of one worker, with the offset that lets the stream go on in order.

    Args:
        state: where the stream goes on, or ``None`` at its start.
        shard: rank and size of the data-parallel group.
        worker: of this rank.
        workers: of each rank.
        virtual_shards: V if the state does not say it; by default ranks times workers.

    Raises:
        DatasetError: ranks times workers does not divide V.
        StateError: the state does not cover the shards of this rank or worker.
    """
    rank, world = shard
    owners, owner = world * workers, rank + world * worker
    total = (state["virtual_shards"] if state else 0) or virtual_shards or owners
    offset = 0 if state is None else _offset(scope_of(state), owners, owner, shard)
    _check_division(total, world, workers)
    return Ownership(owners, owner, offset % total, total)


def _check_division(total: int, world: int, workers: int) -> None:
    owners = world * workers
    if total % owners:
        fits = [n for n in range(1, total + 1) if total % (world * n) == 0]
        raise DatasetError(
            f"{world} ranks x {workers} workers = {owners} does not divide "
            f"virtual_shards={total}; "
            + (f"use num_workers from {fits}" if fits else f"no num_workers fits {world} ranks")
            + " or another virtual_shards"
        )


def _offset(scope: Scope, owners: int, owner: int, shard: tuple[int, int]) -> int:
    rank, world = shard
    if scope.owners == 1 or scope[:2] in ((world, rank), (owners, owner)):
        return scope.offset
    check_scope(scope, shard)
    worker, before, now = scope.owner // world, scope.owners // world, owners // world
    raise StateError(
        f"the state is that of worker {worker} of {before} alone, and {now} now share the work; "
        "other workers need state_dict() of the dataset in the main process, after "
        "consumed(batch) for every batch"
    )


def check_scope(scope: Scope, shard: tuple[int, int]) -> None:
    """Reject a state that is another rank's.

    Raises:
        StateError: it is neither this rank's, nor that of one of its workers, nor that of all.
    """
    rank, world = shard
    if scope.owners != 1 and (scope.owners % world or scope.owner % world != rank):
        raise StateError(
            f"the state covers the shards of owner {scope.owner} of {scope.owners}, and this is "
            f"rank {rank} of {world}; give each rank its own state, or give all of them "
            "treepack.state.merge([state of rank 0, state of rank 1, ...])"
        )


def next_shard(owned: Iterable[int], known: Mapping[int, ShardState]) -> int | None:
    """The virtual shard that gives the next pack: the first of those that gave fewest.

    Those that one worker owns go round-robin, so what they have given differs by at most one until
    they end. ``None`` if all have ended; a shard that is not known has given nothing yet.
    """
    live = [s for s in owned if s not in known or not known[s].has_ended]
    return min(live, key=lambda s: (known[s].packs if s in known else 0, s), default=None)
