"""One virtual shard: a fixed sub-stream of the data with a pool and a packer of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from treepack.dataset._settings import Policy
from treepack.dataset.shards.base import FATAL, Plan, Shard, Streak, log
from treepack.dataset.shards.examples import Arrival, CostMismatchError, Examples
from treepack.dataset.shards.readers import Reader
from treepack.dataset.state import Key, ShardState, position_of, read_key, saved_key
from treepack.errors import OversizeError, TreepackError
from treepack.packing.splitting import split_hint
from treepack.tree import MessageTree

Cost = dict[str, int]


class VirtualShard(Shard):
    """Pushes examples into a packer until it gives a pack, then loads what the pack names.

    An example is read, measured, pushed (now it is *held*), *selected* by a pack, *loaded* and
    handed out. An error loses only the example that failed; all others keep their place on this
    way, and the next call goes on with them. A tree that is split after it was measured goes on as
    several arrivals, its parts, which wait to be pushed one after the other.

    Args:
        index: number of the shard.
        reader: its examples, in order.
        examples: measures and loads them.
        policy: how to pack.

    Attributes: those of `Shard`.
    """

    packs: int
    skipped: int
    has_ended: bool

    def __init__(self, index: int, reader: Reader, examples: Examples, policy: Policy) -> None:
        super().__init__(index, reader.patience, policy)
        self._reader = reader
        self._arriving = Streak(reader.patience)
        self._reader_has_ended = False
        self._examples = examples
        self._packer = policy.make_packer()
        self._drops = policy.drops
        # By key: the examples in the packer, and those selected that are not loaded yet.
        self._held: dict[Key, tuple[Arrival, Cost]] = {}
        self._selected: deque[Key] = deque()
        self._loaded: list[tuple[Arrival, Cost, MessageTree]] = []
        # Examples whose cost was not as measured, and parts; they are pushed before any new one.
        self._requeued: deque[tuple[Arrival, Cost]] = deque()
        # Trees that were split, the parts that they made, branches that were cut.
        self._split = self._parts = self._truncated = 0

    def next_pack(self) -> list[MessageTree] | None:
        """The trees of the next pack, or ``None`` when the shard is used up.

        An example that fails is gone when its error has been raised (or counted, with ``"skip"``);
        everything else of its pack comes with the next call.

        Raises:
            TreepackError: an example cannot be read, measured, pushed or loaded.
        """
        while True:
            if not self._selected and not self._loaded and not self._select():
                self.has_ended = True
                return None
            self._load_selected()
            trees = [tree for _, _, tree in self._loaded]
            self._loaded = []
            if trees:
                self.packs += 1
                return trees

    def plan(self) -> Plan | None:
        """The next pack, which somebody else loads; ``None`` when the shard is used up.

        Raises:
            TreepackError: an example cannot be read, measured or pushed.
        """
        if not self._select():
            self.has_ended = True
            return None
        self.packs += 1
        entries = [self._held.pop(key) for key in self._selected]
        self._selected.clear()
        return Plan(entries, self.waits)

    def stats(self) -> dict[str, float]:
        """Numbers about the pool and about what did not make it into a pack."""
        counters = self._packer.counters
        return {
            "shard": float(self.index),
            "pool": float(len(self._packer)),
            "wait_max": float(max(self.waits, default=0)),
            "dropped": float(counters["dropped"]),
            "alone": float(counters["alone"]),
            "skipped": float(self.skipped),
            "split": float(self._split),
            "parts": float(self._parts),
            "truncated": float(self._truncated),
        }

    def state(self) -> ShardState:
        """Where the shard stands: enough to go on as if nothing had happened."""
        packer = self._packer.state()
        left = [(arrival, cost) for arrival, cost, _ in self._loaded]
        left += [self._held[key] for key in self._selected]
        pending = [self._entry(arrival, cost) for arrival, cost in left]
        requeued = [self._entry(arrival, cost) for arrival, cost in self._requeued]
        keys = positions = packer["keys"]
        if self._policy.splits:
            # A state is taken with each row, and most streams have positions alone.
            keys = [saved_key(key) for key in keys]
            positions = [position_of(key) for key in keys]
        if pending or requeued:
            positions = [*positions, *(position_of(entry[0]) for entry in pending + requeued)]
        more = [self._split, self._parts, self._truncated] if self._policy.reshapes else []
        return ShardState(
            shard=self.index,
            packs=self.packs,
            position=self._reader.position,
            has_ended=int(self.has_ended),
            skipped=self.skipped,
            counters=[*packer["counters"].values(), *more],
            keys=keys,
            arrivals=packer["arrivals"],
            costs=packer["costs"],
            pending=pending,
            requeued=requeued,
            waits=self.waits,
            bookmark=self._reader.bookmark(min(positions, default=self._reader.position)),
        )

    def restore(self, state: ShardState) -> None:
        """Go on from a `state`; the reader is at its place already.

        Raises:
            StateError: the packer does not take the state, or the source ends before it.
        """
        fresh = self._packer.state()
        names = list(fresh["counters"])
        counters = dict(zip(names, state.counters, strict=False))
        keys = [read_key(key) for key in state.keys]
        pool = {"keys": keys, "arrivals": state.arrivals, "costs": state.costs}
        self._packer.restore({**fresh, **pool, "counters": counters})
        entries = [[key, *cost] for key, cost in zip(keys, state.costs, strict=True)]
        # Parts of one tree are cut out of it again; an iterable gives it once.
        whole: dict[int, Arrival] = {}
        for entry in entries + state.pending:
            self._held[read_key(entry[0])] = self._recall(entry, whole)
        self._requeued.extend(self._recall(entry, whole) for entry in state.requeued)
        self._selected.extend(read_key(entry[0]) for entry in state.pending)
        if self._policy.reshapes:
            self._split, self._parts, self._truncated = state.counters[len(names) :]
        self.waits = list(state.waits)
        self.packs, self.skipped = state.packs, state.skipped

    def _entry(self, arrival: Arrival, cost: Cost) -> list[Any]:
        """An example in a state: its key and its costs."""
        return [saved_key(arrival.key), *(cost[name] for name in self._policy.budgets)]

    def _recall(self, entry: list[Any], whole: dict[int, Arrival]) -> tuple[Arrival, Cost]:
        key, position = read_key(entry[0]), position_of(entry[0])
        if position not in whole:
            arrival = self._reader.recall(position)
            if arrival.item is not None:
                arrival = self._examples.measure(arrival)[0]
            whole[position] = arrival
        arrival = whole[position]
        if isinstance(key, tuple):
            arrival = arrival.cut_to(key[1:])
        return arrival, dict(zip(self._policy.budgets, entry[1:], strict=True))

    def _select(self) -> bool:
        """Push examples until the packer gives a pack; whether there was one."""
        while self._requeued or not self._reader_has_ended:
            try:
                pack = self._push()
            except TreepackError as error:
                if not self._policy.skips or isinstance(error, FATAL):
                    raise
                self.skip(error, self._arriving)
                pack = None
            if pack is not None:
                return self._take(pack)
        return self._take(self._packer.pop())

    def _take(self, pack: Any) -> bool:
        if pack is None:
            return False
        self._selected.extend(pack.keys)
        self.waits: list[int] = list(pack.waits)
        return True

    def _push(self) -> Any:
        """Push the next example; the pack that it lets go, or ``None``."""
        if self._requeued:
            arrival, cost = self._requeued.popleft()
        else:
            try:
                arrival = next(self._reader)
            except StopIteration:
                self._reader_has_ended = True
                return None
            arrival, cost = self._examples.measure(arrival)
            if arrival.shortened[0]:
                self._note_truncated(arrival)
        if self._policy.splits and self._splits(arrival, cost):
            return None
        drops = self._drops
        dropped = self._packer.counters["dropped"] if drops else 0
        key = arrival.key
        pack = self._checked_push(key, arrival, cost)
        if drops and self._packer.counters["dropped"] > dropped:
            self._arriving.add(f"example {arrival.name!r} is over a budget, and dropped")
        else:
            self._held[key] = arrival, cost
            self._arriving.end()
        return pack

    def _splits(self, arrival: Arrival, cost: Cost) -> bool:
        """Make parts of a tree over a budget, which are pushed next; whether there are any."""
        if arrival.part is not None or not self._policy.is_over(cost):
            return False
        try:
            parts = self._examples.split(arrival, cost, self._policy.budgets)
        except OversizeError:
            if self._policy.packer["oversize"] == "raise":
                raise
            return False
        except CostMismatchError as error:
            if not self._policy.requeues:
                raise
            parts = [(replace(arrival, item=error.item), error.cost)]
        else:
            self._split += 1
            self._parts += len(parts)
        self._requeued.extendleft(reversed(parts))
        return True

    def _note_truncated(self, arrival: Arrival) -> None:
        branches, tokens = arrival.shortened
        before, self._truncated = self._truncated, self._truncated + branches
        if before.bit_length() < self._truncated.bit_length():
            log.warning(
                "example %r: %d of its branches lost %d tokens to max_branch_tokens (%d branches "
                "cut in virtual shard %d)",
                arrival.name,
                branches,
                tokens,
                self._truncated,
                self.index,
            )

    def _checked_push(self, key: Key, arrival: Arrival, cost: Cost) -> Any:
        try:
            return self._packer.push(key, cost)
        except TreepackError as error:
            # The packer knows the example by its position; the user by its key.
            text = str(error).replace(f"example {key}", f"example {arrival.name!r}", 1)
            if isinstance(error, OversizeError) and not self._policy.splits:
                text += split_hint(self._examples.count_branches(arrival))
            raise type(error)(text) from None

    def _load_selected(self) -> None:
        while self._selected:
            arrival, cost = self._held.pop(self._selected.popleft())
            try:
                self._loaded.append((arrival, cost, self._examples.load(arrival, cost)))
            except CostMismatchError as error:
                if self._policy.requeues:
                    self._requeued.append((replace(arrival, item=error.item), error.cost))
                else:
                    self._failed(error)
            except TreepackError as error:
                self._failed(error)
