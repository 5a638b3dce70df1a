"""Where a stream stands: the state of each virtual shard, as integers, strings and lists.

A state is ``{"version", "fingerprint", "virtual_shards", "scope", "shards"}``. It says what it
covers: ``scope`` is ``[owners, owner, offset]``, the virtual shards ``s`` with
``(s - offset) mod owners == owner``; with one owner, all of them, of which ``offset`` comes next.
Each shard is one `ShardState`. The state that travels with the batch of a worker also has
``stream``: a number of the worker's pass, and whether the pass was given a state to go on from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from treepack.errors import StateError

VERSION = 1


class ShardState(NamedTuple):
    """One virtual shard after its last pack.

    Attributes:
        shard: its number.
        packs: how many it has given.
        position: of its next example in the seeded order.
        has_ended: 1 if nothing is left, else 0.
        skipped: examples that failed and were counted.
        counters: of its packer: pushed, packs, dropped, alone.
        keys: positions of the examples in the pool, oldest first.
        arrivals: their arrival numbers, in packs.
        costs: their costs, one for each budget.
        pending: position and costs of what an error left of a pack.
        again: position and costs of examples that will be packed anew.
        waits: of the pack that an error interrupted.
        mark: where the source stood, if it is an iterable.
    """

    shard: int
    packs: int
    position: int
    has_ended: int
    skipped: int
    counters: list[int]
    keys: list[int]
    arrivals: list[int]
    costs: list[list[int]]
    pending: list[list[int]]
    again: list[list[int]]
    waits: list[int]
    mark: str


class Ownership(NamedTuple):
    """The virtual shards of one worker: those with ``(s - offset) mod owners == owner``."""

    owners: int
    owner: int
    offset: int
    total: int

    @property
    def shards(self) -> list[int]:
        """Their numbers."""
        return [s for s in range(self.total) if (s - self.offset) % self.owners == self.owner]


def make_state(
    fingerprint: Mapping[str, Any], ownership: Ownership, shards: Iterable[Any]
) -> dict[str, Any]:
    """A state as users save it."""
    return {
        "version": VERSION,
        "fingerprint": dict(fingerprint),
        "virtual_shards": ownership.total,
        "scope": list(ownership[:3]),
        "shards": [list(shard) for shard in shards],
    }


def check_state(state: Any, fingerprint: Mapping[str, Any], virtual_shards: int | None) -> None:
    """Refuse a state that does not belong to this stream.

    Raises:
        StateError: another version, another stream, or nothing that `make_state` wrote.
    """
    check_layout(state)
    check_fingerprint(state["fingerprint"], fingerprint)
    saved = state["virtual_shards"]
    if saved and virtual_shards and saved != virtual_shards:
        raise StateError(
            f"the state has {saved} virtual shards and the dataset {virtual_shards}; pass "
            f"virtual_shards={saved}, or None to take what the state has"
        )


def check_fingerprint(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse a state of another stream."""
    if theirs == ours:
        return
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    raise StateError(
        "the state belongs to another stream: "
        + "; ".join(f"{n} was {theirs.get(n)!r} and is {ours.get(n)!r}" for n in names)
    )


def check_layout(state: Any) -> None:
    """Refuse what is no state of this version, or one that contradicts itself."""
    if not isinstance(state, Mapping) or "version" not in state:
        raise StateError(f"this is no state of a PackedDataset: {str(state)[:80]!r}")
    if state["version"] != VERSION:
        raise StateError(
            f"the state has version {state['version']!r}, this treepack reads {VERSION}"
        )
    try:
        owners, owner, _ = state["scope"]
        total, shards = state["virtual_shards"], [ShardState(*s) for s in state["shards"]]
        sound = isinstance(state["fingerprint"], Mapping) and 0 <= owner < owners
        sound = sound and all(0 <= s.shard < total and _is_whole(s) for s in shards)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"the state is damaged: {type(error).__name__}: {error}") from error
    if not sound or len({s.shard for s in shards}) < len(shards):
        raise StateError("the state contradicts itself; it was cut or changed since it was saved")


def _is_whole(shard: ShardState) -> bool:
    return len(shard.keys) == len(shard.arrivals) == len(shard.costs) and len(shard.counters) == 4


def own(
    state: Mapping[str, Any] | None,
    *,
    rank: int,
    world: int,
    worker: int = 0,
    workers: int = 1,
    virtual_shards: int | None = None,
) -> Ownership:
    """The virtual shards of one worker, turned so that the shard whose turn it is comes first.

    Args:
        state: where the stream goes on, or ``None`` at its start.
        rank: of the data-parallel group.
        world: size of that group.
        worker: of this rank.
        workers: of each rank.
        virtual_shards: V if the state does not say it; by default ``world * workers``.

    Raises:
        StateError: the state does not cover the shards of this rank or worker.
    """
    owners, owner = world * workers, rank + world * worker
    total = (state["virtual_shards"] if state else 0) or virtual_shards or owners
    return Ownership(owners, owner, _offset(state, owners, owner, rank, world) % total, total)


def _offset(state: Mapping[str, Any] | None, owners: int, owner: int, rank: int, world: int) -> int:
    if state is None:
        return 0
    count, who, offset = state["scope"]
    if count == 1 or (count, who) in ((world, rank), (owners, owner)):
        return int(offset)
    check_scope(state, rank, world)
    worker, before, now = who // world, count // world, owners // world
    raise StateError(
        f"the state is that of worker {worker} of {before} alone, and {now} now share the work; "
        "other workers need state_dict() of the dataset in the main process, after "
        "consumed(batch) for every batch"
    )


def check_scope(state: Mapping[str, Any], rank: int, world: int) -> None:
    """Refuse a state that is another rank's.

    Raises:
        StateError: it is neither this rank's, nor that of one of its workers, nor that of all.
    """
    count, who, _ = state["scope"]
    if count != 1 and (count % world or who % world != rank):
        raise StateError(
            f"the state covers the shards of owner {who} of {count}, and this is rank {rank} of "
            f"{world}; give each rank its own state, or give all of them "
            "treepack.state.merge([state of rank 0, state of rank 1, ...])"
        )


def next_shard(owned: Iterable[int], shards: Mapping[int, Any]) -> int | None:
    """The virtual shard that gives the next pack: the first of those that gave fewest.

    Those that one worker owns take turns, so what they have given differs by at most one until they
    end. ``None`` if all have ended.
    """
    known = {s: ShardState(*shards[s]) for s in owned if s in shards}
    live = [s for s in owned if s not in known or not known[s].has_ended]
    return min(live, key=lambda s: (known[s].packs if s in known else 0, s), default=None)


def last_shard(state: Mapping[str, Any]) -> int:
    """The virtual shard that gave the last pack, in a state that travelled with a batch."""
    _, shard = max((s[1], s[0]) for s in state["shards"])
    return int(shard)


class Consumed:
    """Collects what happened to the batches that were consumed, whichever worker made them.

    Args:
        start: the state in which the stream began.
        rank: of the data-parallel group.
        world: size of that group.
    """

    def __init__(self, start: Mapping[str, Any], rank: int, world: int) -> None:
        self.start = start
        self.rank = rank
        self.world = world
        self.streams: dict[tuple[int, int], Any] = {}
        self.latest: Mapping[str, Any] | None = None
        self.shards = {s[0]: s for s in start["shards"]}

    def add(self, state: Mapping[str, Any]) -> None:
        """Count a batch as consumed, given the state that travelled with it.

        One that was counted before changes nothing.
        """
        check_fingerprint(state["fingerprint"], self.start["fingerprint"])
        check_scope(state, self.rank, self.world)
        if self._is_new_pass(state):
            self.shards.clear()
            self.streams.clear()
        self.streams[tuple(state["scope"][:2])] = state.get("stream")
        if all(s[0] in self.shards and s[1] <= self.shards[s[0]][1] for s in state["shards"]):
            return
        self.shards.update((s[0], s) for s in state["shards"])
        self.latest = state

    def _is_new_pass(self, state: Mapping[str, Any]) -> bool:
        """Whether a worker has begun again, from the start of the data, or others have."""
        owners, owner = state["scope"][:2]
        known = self.streams.get((owners, owner), state.get("stream"))
        others = any(count != owners for count, _ in self.streams)
        return others or known != state.get("stream")

    def state(self) -> dict[str, Any]:
        """The state of the rank after these batches."""
        if self.latest is None:
            return copy.deepcopy(dict(self.start))
        total = self.latest["virtual_shards"]
        ownership = Ownership(self.world, self.rank, self._offset(self.latest, total), total)
        shards = [self.shards[shard] for shard in sorted(self.shards)]
        return make_state(self.latest["fingerprint"], ownership, shards)

    def _offset(self, latest: Mapping[str, Any], total: int) -> int:
        """What makes the worker whose turn it is the first one, and its next shard the first.

        A loader asks its workers in turns and leaves out those that have ended.
        """
        owners, owner, offset = latest["scope"]
        for step in range(1, owners // self.world + 1):
            worker = Ownership(owners, (owner + step * self.world) % owners, offset, total)
            shard = next_shard(worker.shards, self.shards)
            if shard is not None:
                return (shard - self.rank) % total
        return int(offset)


def merge(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the states of all ranks into one that any number of ranks and workers can load.

    Args:
        states: ``dataset.state_dict()`` of each rank, all after the same step, in any order.

    Returns:
        A state that covers every virtual shard.

    Raises:
        StateError: a rank is missing, or the states are not of one stream.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5, 7, 6)]
        >>> def make(rank, world):
        ...     return tp.PackedDataset(
        ...         source, budgets={"tokens": 8}, virtual_shards=2, shard=(rank, world)
        ...     )
        >>> ranks = [make(0, 2), make(1, 2)]
        >>> _ = [next(iter(dataset)) for dataset in ranks]
        >>> one = make(0, 1)
        >>> one.load_state_dict(merge([dataset.state_dict() for dataset in ranks]))
        >>> sorted(key for batch in one for key in batch["treepack"].keys)
        [0, 1, 4]
    """
    states = list(states)
    for state in states:
        check_layout(state)
    _check_alike(states)
    total = max(state["virtual_shards"] for state in states)
    shards: dict[int, Any] = {}
    for entry in (entry for state in states for entry in state["shards"]):
        if entry[0] not in shards or entry[1] > shards[entry[0]][1]:
            shards[entry[0]] = entry
    # Ranks in step agree on what comes next; one that has not moved has the state of all.
    offset = max((state["scope"][0], state["scope"][2]) for state in states)[1]
    ownership = Ownership(1, 0, offset, total)
    return make_state(states[0]["fingerprint"], ownership, (shards[s] for s in sorted(shards)))


def _check_alike(states: list[Mapping[str, Any]]) -> None:
    if not states:
        raise StateError("there are no states to merge")
    first = states[0]
    for state in states:
        check_state(state, first["fingerprint"], first["virtual_shards"])
    scopes = [state["scope"] for state in states]
    owners = max(count for count, _, _ in scopes)
    if any(count == 1 for count, _, _ in scopes):
        return
    covered = {(owner + offset) % owners for count, owner, offset in scopes if count == owners}
    if len(covered) < owners:
        raise StateError(
            f"the states cover {len(covered)} of {owners} ranks; merge those of all, each after "
            "the same step"
        )
