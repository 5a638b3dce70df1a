"""One virtual shard: a fixed sub-stream of the data with a pool and a packer of its own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from treepack._core import Packer
from treepack.dataset.examples import Arrival, Examples, WrongCostError
from treepack.dataset.readers import BrokenSourceError, Feed, Mark, Place
from treepack.dataset.state import ShardState
from treepack.errors import DatasetError, StateError, TreepackError
from treepack.tree import MessageTree

Cost = dict[str, int]

log = logging.getLogger("treepack")


@dataclass(frozen=True)
class Policy:
    """How a shard packs, and what it does about examples that do not work.

    Attributes:
        budgets: capacities of a row.
        packer: settings of the `Packer`.
        skips: whether examples that fail are counted instead of raised.
        requeues: whether an example that costs other than measured is packed anew.
    """

    budgets: Mapping[str, int]
    packer: Mapping[str, Any]
    skips: bool = False
    requeues: bool = False

    def make_packer(self) -> Packer:
        """A packer with these settings; raises what it raises."""
        return Packer(self.budgets, **self.packer)


class VirtualShard:
    """Feeds a packer until it gives a pack, then loads what the pack names.

    Args:
        index: number of the shard.
        feed: its examples, in order.
        examples: measures and loads them.
        policy: how to pack.
    """

    def __init__(self, index: int, feed: Feed, examples: Examples, policy: Policy) -> None:
        self.index = index
        self.feed = feed
        self.examples = examples
        self.policy = policy
        self.packer = policy.make_packer()
        self.drops = policy.packer.get("oversize") == "drop"
        self.held: dict[int, tuple[Arrival, Cost]] = {}
        self.selected: deque[int] = deque()
        self.loaded: list[tuple[Arrival, Cost, MessageTree]] = []
        self.again: deque[tuple[Arrival, Cost]] = deque()
        self.waits: list[int] = []
        self.feed_has_ended = False
        self.has_ended = False
        self.skipped = 0
        self.packs = 0
        self.arriving = Streak(feed.patience)
        self.leaving = Streak(feed.patience)

    def next_pack(self) -> list[MessageTree] | None:
        """The trees of the next pack, or ``None`` when the shard is used up.

        An example that fails is gone when its error has been raised (or counted, with ``"skip"``);
        everything else of its pack comes with the next call.
        """
        while True:
            if not self.selected and not self.loaded and not self._select():
                self.has_ended = True
                return None
            self._load_selected()
            trees = [tree for _, _, tree in self.loaded]
            self.loaded = []
            if trees:
                self.packs += 1
                return trees

    def stats(self) -> dict[str, float]:
        """Numbers about the pool and about what did not make it into a pack."""
        counters = self.packer.counters
        return {
            "pool": float(len(self.packer)),
            "wait_max": float(max(self.waits, default=0)),
            "dropped": float(counters["dropped"]),
            "alone": float(counters["alone"]),
            "skipped": float(self.skipped),
        }

    def state(self) -> ShardState:
        """Where the shard stands: enough to go on as if nothing had happened."""
        packer = self.packer.state()
        left = [(arrival, cost) for arrival, cost, _ in self.loaded]
        left += [self.held[position] for position in self.selected]
        pending = [self._row(arrival, cost) for arrival, cost in left]
        again = [self._row(arrival, cost) for arrival, cost in self.again]
        positions = [*packer["keys"], *(entry[0] for entry in pending + again)]
        return ShardState(
            shard=self.index,
            packs=self.packs,
            position=self.feed.position,
            has_ended=int(self.has_ended),
            skipped=self.skipped,
            counters=list(packer["counters"].values()),
            keys=packer["keys"],
            arrivals=packer["arrivals"],
            costs=packer["costs"],
            pending=pending,
            again=again,
            waits=self.waits,
            mark=self.feed.mark(min(positions, default=self.feed.position)),
        )

    def restore(self, state: ShardState) -> None:
        """Go on from a `state`; the feed is at its place already."""
        fresh = self.packer.state()
        names = list(fresh["counters"])
        counters = dict(zip(names, state.counters, strict=True))
        pool = {"keys": state.keys, "arrivals": state.arrivals, "costs": state.costs}
        self.packer.restore({**fresh, **pool, "counters": counters})
        rows = [[key, *cost] for key, cost in zip(state.keys, state.costs, strict=True)]
        for row in rows + state.pending:
            self.held[row[0]] = self._recall(row)
        self.again.extend(map(self._recall, state.again))
        self.selected.extend(row[0] for row in state.pending)
        self.waits = list(state.waits)
        self.packs, self.skipped = state.packs, state.skipped

    def _row(self, arrival: Arrival, cost: Cost) -> list[int]:
        return [arrival.position, *(cost[name] for name in self.policy.budgets)]

    def _recall(self, row: list[int]) -> tuple[Arrival, Cost]:
        arrival = self.feed.recall(row[0])
        if arrival.item is not None:
            arrival = self.examples.measure(arrival)[0]
        return arrival, dict(zip(self.policy.budgets, row[1:], strict=True))

    def _select(self) -> bool:
        while self.again or not self.feed_has_ended:
            try:
                pack = self._push()
            except TreepackError as error:
                if not self.policy.skips or isinstance(error, FATAL):
                    raise
                self.skip(error, self.arriving)
                pack = None
            if pack is not None:
                return self._take(pack)
        return self._take(self.packer.pop())

    def skip(self, error: TreepackError, streak: Streak, examples: int = 1) -> None:
        """Count examples that failed; say so, the more rarely the more there are."""
        before, self.skipped = self.skipped, self.skipped + examples
        if before.bit_length() < self.skipped.bit_length():
            log.warning("%s (%d skipped in virtual shard %d)", error, self.skipped, self.index)
        streak.add(error, examples)

    def _take(self, pack: Any) -> bool:
        if pack is None:
            return False
        self.selected.extend(pack.keys)
        self.waits = list(pack.waits)
        return True

    def _push(self) -> Any:
        if self.again:
            arrival, cost = self.again.popleft()
        else:
            try:
                arrival = next(self.feed)
            except StopIteration:
                self.feed_has_ended = True
                return None
            arrival, cost = self.examples.measure(arrival)
        dropped = self.packer.counters["dropped"] if self.drops else 0
        pack = self._checked_push(arrival, cost)
        if self.drops and self.packer.counters["dropped"] > dropped:
            self.arriving.add(f"example {arrival.name!r} is over a budget, and dropped")
        else:
            self.held[arrival.position] = arrival, cost
            self.arriving.end()
        return pack

    def _checked_push(self, arrival: Arrival, cost: Cost) -> Any:
        try:
            return self.packer.push(arrival.position, cost)
        except TreepackError as error:
            # The packer knows the example by its position; the user by its key.
            text = str(error).replace(f"example {arrival.position}", f"example {arrival.name!r}", 1)
            raise type(error)(text) from None

    def _load_selected(self) -> None:
        while self.selected:
            arrival, cost = self.held.pop(self.selected.popleft())
            try:
                self.loaded.append((arrival, cost, self.examples.load(arrival, cost)))
            except WrongCostError as error:
                if self.policy.requeues:
                    self.again.append((replace(arrival, item=error.tree), error.cost))
                else:
                    self._failed(error)
            except TreepackError as error:
                self._failed(error)

    def _failed(self, error: TreepackError) -> None:
        if not self.policy.skips:
            raise error
        self.skip(error, self.leaving)


class Streak:
    """Failures one after the other: an endless stream must not look for ever for what is not there.

    Args:
        limit: how many are too many.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.length = 0

    def add(self, reason: object, examples: int = 1) -> None:
        """Count failures; raises when it is time to give up."""
        self.length += examples
        if self.length > self.limit:
            raise BarrenSourceError(
                f"{self.length} examples one after the other were skipped or dropped, and the "
                f"stream has no end; the last: {reason}"
            )

    def end(self) -> None:
        """Something worked."""
        self.length = 0


class BarrenSourceError(DatasetError):
    """An endless stream of examples of which none can be used."""


FATAL = (BarrenSourceError, BrokenSourceError, StateError)
"""Errors that are of no one example."""


def place_of(state: ShardState | None, shard: int) -> Place:
    """Where the feed of a shard goes on."""
    if state is None:
        return Place(shard)
    held = [*state.keys, *(row[0] for row in (*state.pending, *state.again))]
    return Place(state.position, frozenset(held), Mark.from_json(state.mark))
