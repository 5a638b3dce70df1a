"""Which packs the ranks of a step get, while packs are made: windows of steps, cut and dealt.

Every process makes all plans of all virtual shards, in the order in which they come round-robin, so
all see the same windows; each loads only what it is dealt::

    shard 0, shard 1, ...     plans: keys and costs, nothing is loaded
             |
    | p0 p1 p2 p3 ... |       a window: as many as fill its steps
             |  arrange: sorted, cut into steps, dealt
    | step | step | ..|       rank r of R has those at r, r + R, r + 2 R, ...

A state is that of the shards where the window starts, and how many rows each rank has taken of it;
see `Window` for what happens when ranks change within one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.dataset.shards.base import Plan, Shard
from treepack.dataset.shards.examples import Arrival
from treepack.dataset.state import Cut, Window
from treepack.packing.balance import UNITS, Balance, arrange
from treepack.packing.examples import weighed

Int64 = npt.NDArray[np.int64]

COUNTED = ("pool", "dropped", "alone", "skipped", "split", "parts", "truncated")
"""Numbers of all shards together, as they are when a window is full."""


class Dealer:
    """The plans of all shards, window by window, each in the order in which ranks get them.

    Args:
        shards: all virtual shards, where ``start`` says.
        source: which measures the examples.
        balance: how packs are dealt.
        ranks: to which they are dealt.
        seed: of the order of steps.
        start: the window that a state was saved in, or ``None``.

    Attributes:
        ranks: as given.
        is_last: whether the shards have ended within this window.
        counted: numbers of all shards together, where the window ends.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        source: Any,
        balance: Balance,
        ranks: int,
        seed: int,
        start: Window | None,
    ) -> None:
        self._shards = shards
        self._live = list(shards)
        self._source = source
        self._balance = balance
        self.ranks = ranks
        self._now = Cut(ranks, balance.accumulate, balance.window or 1, 0)
        self._seed = seed
        self.is_last: bool = False
        self.counted: dict[str, float] = {}
        self._begin([] if start is None else _going_on(start.cuts, self._now))

    def _begin(self, cuts: list[Cut]) -> None:
        self._base = [shard.state() for shard in self._shards]
        self._cuts = cuts or [self._now]
        # What a cut that is replayed has not taken yet, and how many came before it.
        self._plans: list[Plan] = []
        self._first = sum(shard.packs for shard in self._shards)
        self._replayed = 0

    @property
    def taken(self) -> int:
        """Rows that each rank has taken of this window before."""
        return self._cuts[-1].rows

    def window(self) -> list[Plan]:
        """The plans of this window in the order dealt; none at the end of the data.

        Raises:
            TreepackError: an example cannot be measured or pushed. The next call goes on without.
        """
        while True:
            cut = self._cuts[self._replayed]
            self._fill(cut)
            order = self._arranged(cut)
            if self._replayed == len(self._cuts) - 1:
                self.counted = self._count()
                return order
            done = min(cut.rows * cut.ranks, len(order))
            self._plans = order[done:]
            self._first += done
            self._replayed += 1

    def next_window(self) -> None:
        """All of this window is taken."""
        self._begin([])

    def after(self, rows: int) -> Window:
        """What a state says when each rank has taken so many rows of this window."""
        cuts = [*self._cuts[:-1], self._cuts[-1]._replace(rows=rows)]
        return Window(self._base, cuts, self.is_last)

    def _fill(self, cut: Cut) -> None:
        step = cut.ranks * cut.accumulate
        # What is left of a window of other steps is let out before anything new comes.
        left = -(-len(self._plans) // step) if self._replayed else 0
        wanted = step * (left or cut.window)
        while len(self._plans) < wanted:
            plan = self._pull()
            if plan is None:
                self.is_last = True
                return
            self._plans.append(plan)

    def _pull(self) -> Plan | None:
        while self._live:
            shard = min(self._live, key=lambda live: (live.packs, live.index))
            plan = shard.plan()
            if plan is not None:
                return plan
            self._live.remove(shard)
        return None

    def _arranged(self, cut: Cut) -> list[Plan]:
        if not self._plans:
            return []
        columns = cut.accumulate, cut.window
        balance = Balance(*columns, self._balance.weights, self._balance.sync)
        costs = weigh(self._plans, self._source, balance.weights)
        order = arrange(costs, cut.ranks, balance, self._seed, self._first)
        return [self._plans[place] for place in order]

    def _count(self) -> dict[str, float]:
        each = [shard.stats() for shard in self._shards]
        return {name: sum(s[name] for s in each) for name in COUNTED if name in each[0]}


def _going_on(saved: Sequence[Cut], now: Cut) -> list[Cut]:
    """The cuts of a window that is resumed, perhaps on other ranks."""
    last = saved[-1]
    if last[:3] == now[:3]:
        return list(saved)
    steps, within = divmod(last.rows, last.accumulate)
    is_same = last.ranks * last.accumulate == now.ranks * now.accumulate
    if is_same and last.window == now.window and not within:
        # The same steps, dealt to others.
        return [*saved[:-1], now._replace(rows=steps * now.accumulate)]
    return [*saved, now]


def weigh(plans: Sequence[Plan], source: Any, weights: Mapping[str, float]) -> Int64:
    """What each pack takes to compute, int64 ``[n]``, in `UNITS`.

    Args:
        plans: at least one.
        source: which measures the examples.
        weights: as of `Balance`.
    """
    entries = [entry for plan in plans for entry in plan.entries]
    columns = _columns(source, [arrival.index or 0 for arrival, _ in entries])
    each = weighed(columns, weights)
    if "tokens" in columns:
        # A part of a tree takes about its share of the whole.
        for place, (arrival, cost) in enumerate(entries):
            if arrival.part is not None:
                whole = int(columns["tokens"][place])
                each[place] *= _part_tokens(arrival, cost, whole, source) / whole
    starts = np.cumsum([0, *(len(plan.entries) for plan in plans[:-1])])
    units = np.rint(each * UNITS).astype(np.int64)
    found: Int64 = np.add.reduceat(units, starts)
    return found


def _part_tokens(arrival: Arrival, cost: Mapping[str, int], whole: int, source: Any) -> int:
    if "tokens" in cost:
        return cost["tokens"]
    # Of packs that were made before, which name examples alone.
    found = source.branches(arrival.index) if hasattr(source, "branches") else None
    if found is None:
        return whole
    ends = arrival.part or ()
    lengths: list[int] = found[0]
    own = [n for a, b in zip(ends[::2], ends[1::2], strict=True) for n in lengths[a:b]]
    return whole - sum(lengths) + sum(own)


def _columns(source: Any, indices: list[int]) -> dict[str, Int64]:
    columns = getattr(getattr(source, "costs", None), "columns", None)
    if isinstance(columns, Mapping):
        return {name: column[indices].astype(np.int64) for name, column in columns.items()}
    found = [source.measure(index) for index in indices]
    names = [name for name in found[0] if all(name in cost for cost in found)]
    return {name: np.array([int(cost[name]) for cost in found], np.int64) for name in names}
