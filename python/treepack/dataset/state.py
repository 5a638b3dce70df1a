"""Where a stream stands: the state of each virtual shard, as integers, strings and lists.

A state is a JSON-safe dict:

- ``version``: `VERSION`.
- ``fingerprint``: what the packs depend on beside the examples; a state fits no other stream.
- ``virtual_shards``: V, or 0 where nobody has decided yet.
- ``scope``: the shards that it covers, a `Scope` as a list.
- ``shards``: one `ShardState` for each shard that has begun, as lists.
- ``window``: only of a stream that is balanced, the cuts of its `Window` and whether it is the last
  one. The shards then stand where the window starts, and the state is alike on all ranks.
- ``iteration``: only in a state that travels with the batch of a worker, an `Iteration` as a list.
- ``digest``: of all the rest. A state that was cut, or in which a single number was changed, would
  be that of some other place in the stream, and nobody would notice.
"""

from __future__ import annotations

import copy
import hashlib
import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from treepack.errors import StateError

VERSION = 3

MOST_SHOWN = 200
"""Characters of a damaged state that a message shows."""

Key = int | tuple[int, ...]
"""What a packer calls an example: its position; or that of a tree that was split, and the branches
of the part as ``(position, start, end, start, end, ...)``. In a state it is a list then."""


def saved_key(key: Key) -> int | list[int]:
    """A key as JSON has it."""
    return key if isinstance(key, int) else list(key)


def read_key(saved: int | Sequence[int]) -> Key:
    """What `saved_key` made a list of."""
    return saved if isinstance(saved, int) else tuple(saved)


def position_of(key: int | Sequence[int]) -> int:
    """Where an example stands in the seeded order."""
    return key if isinstance(key, int) else key[0]


class ShardState(NamedTuple):
    """One virtual shard after its last pack.

    Attributes:
        shard: its number.
        packs: how many it has given.
        position: of its next example in the seeded order.
        has_ended: 1 if nothing is left, else 0.
        skipped: examples that failed and were counted.
        counters: of its packer: pushed, packs, dropped, alone; and where trees may be split or cut
            also how many were split, how many parts they made, and how many branches were cut.
        keys: of the examples in the pool, oldest first: positions, or lists as `Key` says.
        arrivals: their arrival numbers, in packs.
        costs: their costs, one for each budget.
        pending: key and costs of what an error left of a pack.
        requeued: key and costs of examples that wait to be pushed again, and of parts.
        waits: of the pack that an error interrupted.
        bookmark: where the source stood, if it is an iterable, as JSON; else empty.
    """

    shard: int
    packs: int
    position: int
    has_ended: int
    skipped: int
    counters: list[int]
    keys: list[Any]
    arrivals: list[int]
    costs: list[list[int]]
    pending: list[list[Any]]
    requeued: list[list[Any]]
    waits: list[int]
    bookmark: str

    @property
    def dropped(self) -> int:
        """Examples over a budget that were dropped and counted."""
        return self.counters[2]

    @property
    def held(self) -> frozenset[int]:
        """Positions of examples that were read and have not left in a pack."""
        waiting = (entry[0] for entry in (*self.pending, *self.requeued))
        return frozenset(map(position_of, (*self.keys, *waiting)))

    @property
    def more_parts(self) -> int:
        """How many more there are to pack than were read, since trees were split."""
        return self.counters[5] - self.counters[4] if len(self.counters) > 4 else 0


class Cut(NamedTuple):
    """How the packs of a window are cut into steps and dealt, and how far that has come.

    Attributes:
        ranks: to which they are dealt.
        accumulate: packs of each rank in a step.
        window: steps of a window.
        rows: that each rank has taken.
    """

    ranks: int
    accumulate: int
    window: int
    rows: int


class Window(NamedTuple):
    """Where a balanced stream stands.

    One cut, as a rule. When a stream goes on with steps of another size, those that are left of the
    window come first, and are cut anew; so there is one cut more until they are used up.

    Attributes:
        shards: all virtual shards where the window starts.
        cuts: of the window, the one that counts last.
        is_last: whether the data end within it.
    """

    shards: list[ShardState]
    cuts: list[Cut]
    is_last: bool

    @property
    def taken(self) -> int:
        """Packs of the stream that all ranks have taken, in steps that are whole."""
        packs = sum(shard.packs for shard in self.shards)
        return packs + sum(cut.rows * cut.ranks for cut in self.cuts)


class Scope(NamedTuple):
    """The virtual shards that a state covers: those with ``(s - offset) mod owners == owner``.

    With one owner these are all of them, of which ``offset`` comes next.
    """

    owners: int
    owner: int
    offset: int


class Iteration(NamedTuple):
    """Which iteration of a worker a batch comes from.

    Attributes:
        number: tells it from other iterations of the worker.
        was_resumed: 1 if the iteration went on from a loaded state, else 0.
    """

    number: int
    was_resumed: int


def make_state(
    fingerprint: Mapping[str, Any],
    scope: Scope,
    virtual_shards: int,
    shards: Iterable[ShardState] = (),
) -> dict[str, Any]:
    """A state as users save it."""
    return seal(unsealed(fingerprint, scope, virtual_shards, shards))


def unsealed(
    fingerprint: Mapping[str, Any],
    scope: Scope,
    virtual_shards: int,
    shards: Iterable[ShardState],
    iteration: Iteration | None = None,
    window: Window | None = None,
) -> dict[str, Any]:
    """A state without its digest, which costs more than all else in it; see `seal`.

    With an iteration it is that which travels with a batch; with a window, of a balanced stream.
    """
    state = {
        "version": VERSION,
        "fingerprint": dict(fingerprint),
        "virtual_shards": virtual_shards,
        "scope": list(scope),
        "shards": [list(shard) for shard in shards],
    }
    if window is not None:
        state["window"] = [int(window.is_last), *map(list, window.cuts)]
    if iteration is not None:
        state["iteration"] = list(iteration)
    return state


def seal(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same state with its digest."""
    return {**state, "digest": _digest(state)}


def _digest(state: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that no other state has."""
    rest = {name: value for name, value in state.items() if name != "digest"}
    return hashlib.sha256(_canonical(rest).encode()).hexdigest()[:16]


# An encoder that is made anew each time costs half as much again.
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False).encode


def scope_of(state: Mapping[str, Any]) -> Scope:
    """The shards that a state covers."""
    return Scope(*state["scope"])


def shards_of(state: Mapping[str, Any] | None) -> dict[int, ShardState]:
    """The shards of a state by their numbers; none of no state."""
    return {entry[0]: ShardState(*entry) for entry in state["shards"]} if state else {}


def window_of(state: Mapping[str, Any]) -> Window | None:
    """Where a balanced stream stands; ``None`` at its start, and of one that is not balanced."""
    if "window" not in state:
        return None
    is_last, *cuts = state["window"]
    return Window(list(shards_of(state).values()), [Cut(*cut) for cut in cuts], bool(is_last))


def is_balanced(state: Mapping[str, Any]) -> bool:
    """Whether a state is that of a balanced stream, which all ranks have alike."""
    return "balance" in state["fingerprint"]


def iteration_of(state: Mapping[str, Any]) -> Iteration | None:
    """The iteration that a batch comes from, or ``None`` if no worker made it."""
    stamp = state.get("iteration")
    return None if stamp is None else Iteration(*stamp)


def check_state(state: Any, fingerprint: Mapping[str, Any], virtual_shards: int | None) -> None:
    """Reject a state that does not belong to this stream.

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
    """Reject a state of another stream."""
    if theirs == ours:
        return
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    raise StateError(
        "the state belongs to another stream: "
        + "; ".join(f"{n} was {theirs.get(n)!r} and is {ours.get(n)!r}" for n in names)
    )


def check_layout(state: Any) -> None:
    """Reject what is no state of this version, or one that contradicts itself."""
    if not isinstance(state, Mapping) or "version" not in state:
        raise StateError(f"this is no state of a PackedDataset: {reprlib.repr(state)}")
    if type(state["version"]) is not int or state["version"] != VERSION:
        shown = reprlib.repr(state["version"])
        raise StateError(f"the state has version {shown}, this treepack reads {VERSION}")
    try:
        scope = scope_of(state)
        total, shards = state["virtual_shards"], [ShardState(*s) for s in state["shards"]]
        sound = isinstance(state["fingerprint"], Mapping) and 0 <= scope.owner < scope.owners
        sound = sound and all(0 <= s.shard < total and _is_whole(s) for s in shards)
        sound = sound and len({s.shard for s in shards}) == len(shards)
        sound = sound and _is_sound(window_of(state))
        sound = sound and state["digest"] == _digest(state)
    except Exception as error:
        # Whatever it is that somebody loads: a number may stand where a list should, or a list hold
        # itself.
        shown = f"{type(error).__name__}: {error}"[:MOST_SHOWN]
        raise StateError(f"the state is damaged: {shown}; load another one") from error
    if not sound:
        raise StateError(
            "the state contradicts itself: it was cut or changed since it was saved; load another"
        )


def _is_sound(window: Window | None) -> bool:
    return window is None or (
        bool(window.cuts) and all(min(cut) >= 0 < min(cut[:3]) for cut in window.cuts)
    )


def _is_whole(shard: ShardState) -> bool:
    return len(shard.keys) == len(shard.arrivals) == len(shard.costs) and len(shard.counters) in (
        4,
        7,
    )


def last_shard(state: Mapping[str, Any]) -> int:
    """The virtual shard that gave the last pack, in a state that travelled with a batch."""
    return max(shards_of(state).values(), key=lambda s: (s.packs, s.shard)).shard


def merge(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the states of all ranks into one that any number of ranks and workers can load.

    Args:
        states: ``dataset.state_dict()`` of each rank, all after the same step, in any order.

    Returns:
        A state that covers every virtual shard; the order of ``states`` makes no difference.

    Raises:
        StateError: there are no states, a rank is missing, a state is damaged, or the states are
            not of one stream.

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
    if is_balanced(states[0]):
        return _merged_windows(states)
    shards: dict[int, ShardState] = {}
    for number, shard in (item for state in states for item in shards_of(state).items()):
        if number not in shards or shard.packs > shards[number].packs:
            shards[number] = shard
    # Ranks in step agree on what comes next; one that has not moved has the state of all.
    offset = max((scope.owners, scope.offset) for scope in map(scope_of, states))[1]
    total = max(state["virtual_shards"] for state in states)
    ordered = (shards[number] for number in sorted(shards))
    return make_state(states[0]["fingerprint"], Scope(1, 0, offset), total, ordered)


def _merged_windows(states: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The state that is furthest on; ranks differ where the last packs do not go round."""
    windows = list(map(window_of, states))
    taken = [window.taken if window else 0 for window in windows]
    furthest = taken.index(max(taken))
    window = windows[furthest]
    behind = [rank for rank, packs in enumerate(taken) if packs < max(taken)]
    if behind and not (window and window.is_last):
        raise StateError(
            f"the states {behind} are not after the same step as the others: {min(taken)} packs of "
            f"the stream were taken, and {max(taken)}"
        )
    return whole_state(states[furthest])


def whole_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a balanced stream as users save it, of one that travelled with a batch."""
    kept = {name: state[name] for name in state if name not in ("iteration", "digest")}
    return seal({**copy.deepcopy(kept), "scope": list(Scope(1, 0, 0))})


def _check_alike(states: list[Mapping[str, Any]]) -> None:
    if not states:
        raise StateError("there are no states to merge")
    first = states[0]
    for state in states:
        check_state(state, first["fingerprint"], first["virtual_shards"])
    scopes = list(map(scope_of, states))
    if is_balanced(first):
        return
    owners = max(scope.owners for scope in scopes)
    if any(scope.owners == 1 for scope in scopes):
        return
    covered = {(s.owner + s.offset) % owners for s in scopes if s.owners == owners}
    if len(covered) < owners:
        raise StateError(
            f"the states cover {len(covered)} of {owners} ranks; merge those of all, each after "
            "the same step"
        )
