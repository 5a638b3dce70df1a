"""Which virtual shards are whose.

The stream is cut into ``V`` virtual shards. Rank ``r`` of ``R`` and worker ``w`` of ``W`` own those
with ``(s - offset) mod (R W) == r + R w``. The offset is 0 at the start of the stream; after a
resume it is such that owner 0 has the shard whose turn it is.
"""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import parent_process
from typing import Any, NamedTuple

from torch.utils.data import get_worker_info

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
        return list(range((self.owner + self.offset) % self.owners, self.total, self.owners))

    @property
    def scope(self) -> Scope:
        """What a state says of them."""
        return Scope(self.owners, self.owner, self.offset)


class SentShard(NamedTuple):
    """What a process tells the loader workers that it starts, if they cannot see it themselves.

    Attributes:
        pid: of that process; no other may take it for its own.
        shard: rank and world size of that process.
    """

    pid: int
    shard: tuple[int, int]


def find_shard(given: tuple[int, int] | None, sent: SentShard | None = None) -> tuple[int, int]:
    """Rank and world size, as they are when somebody asks: the answer is kept nowhere.

    Args:
        given: by the user, which is always right.
        sent: by the process that started this one; right in a loader's worker, whose parent it is.

    Raises:
        DatasetError: the environment says half of what it takes.
    """
    if given is not None:
        return given
    parent = parent_process()
    is_ours = sent is not None and parent is not None and parent.pid == sent.pid
    if sent is not None and is_ours and get_worker_info() is not None:
        return sent.shard
    return default_shard()


def default_shard() -> tuple[int, int]:
    """Rank and world size of this process, by ``torch.distributed`` or the environment.

    Raises:
        DatasetError: ``WORLD_SIZE`` without ``RANK``, or the reverse: a launcher that says only
            half would make every rank train on the same rows.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    # Before init_process_group, which will take them from here.
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None and world in (None, "", "1"):
        return 0, 1
    if not _is_place(rank, world):
        raise DatasetError(
            f"the environment has RANK={rank!r} and WORLD_SIZE={world!r}, which is no rank of a "
            "world; call torch.distributed.init_process_group before the first batch, start with "
            "torchrun, or pass shard=(rank, world_size) (what SLURM and MPI set is not read)"
        )
    return int(rank or 0), int(world or 0)


def _is_place(rank: str | None, world: str | None) -> bool:
    numbers = [text for text in (rank, world) if text is not None and text.isdigit()]
    return len(numbers) == 2 and int(numbers[0]) < int(numbers[1])


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


class Introduction(NamedTuple):
    """What a rank tells the others before the first step.

    Attributes:
        shard: rank and world size, as its dataset sees them; ``None`` without a `PackedDataset`.
        is_given: whether the user said so.
        digest: of everything that the packs depend on; ranks may differ where the shard is given.
        error: why the rank cannot say, or empty.
    """

    shard: tuple[int, int] | None
    is_given: bool = False
    digest: str = ""
    error: str = ""


def check_introductions(ranks: Sequence[Introduction]) -> None:
    """Reject ranks that together would train on some rows twice, or on some never.

    Shards that were given may come several times, all equally often: ranks of one model, such as
    those of tensor parallelism, read the same rows.

    Raises:
        DatasetError: a rank cannot say its shard, or the shards are not one whole set, or datasets
            that shard themselves differ in their settings.
    """
    failed = {rank: told.error for rank, told in enumerate(ranks) if told.error}
    if failed:
        rank, error = next(iter(failed.items()))
        raise DatasetError(f"rank {rank} cannot say which shard is its own: {error}")
    shards = [told.shard for told in ranks if told.shard is not None]
    if len(shards) < len(ranks):
        # Batches of something else than a `PackedDataset`, of which nothing is known.
        return
    worlds = {world for _, world in shards}
    times = Counter(rank for rank, _ in shards)
    is_whole = len(worlds) == 1 and set(times) == set(range(*worlds))
    is_whole = is_whole and len(set(times.values())) == 1
    if not is_whole or (times[0] > 1 and not all(told.is_given for told in ranks)):
        raise DatasetError(
            f"{len(ranks)} ranks have the shards (rank, world) {shards}: some rows would be "
            "trained on twice and others never; leave shard= out, or pass every rank its own"
        )
    digests = {told.digest for told in ranks if not told.is_given}
    if len(digests) > 1:
        raise DatasetError(
            "the datasets of the ranks differ in source, seed, budgets or other settings, so their "
            "rows are not parts of one stream; build them alike, or pass shard= where they differ "
            "on purpose"
        )
