"""Which packs the ranks of one optimiser step get, so that they finish together."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from treepack._core import permute
from treepack.errors import BudgetError
from treepack.options import BalanceSync

Int64 = npt.NDArray[np.int64]

__all__ = ["Balance", "deal", "imbalance"]

UNITS = 1e6
"""Sums of integers are alike on every machine: one unit of the weights is so many of those."""

SWAPS = 64
"""At most so many swaps after each deal; after a few none helps."""


@dataclass(frozen=True)
class Balance:
    """Gives the ranks of each optimiser step packs that take about as long as each other's.

    Packs in their order, epoch after epoch, are cut into windows of ``window`` steps. The packs of
    a window are sorted by cost and cut into steps, whose order is drawn by the seed, and those of a
    step are dealt to the ranks. So which packs are in a step depends on the number of ranks times
    ``accumulate``, on the window and on the seed, and on nothing else.

    Args:
        accumulate: packs of each rank in a step, as of `treepack.train.steps`.
        window: steps that are made of neighbours in the order; by default 4, and 1 where the packs
            of a rank add up (``sync="step"`` with several). More steps balance better where they do
            not, and differ more from one another: some are heavy and some are light.
        weights: what a unit of each column of the cost table takes, in any unit of time; those
            given replace the defaults of `treepack.simulate`.
        sync: ``"step"``: ranks wait for each other once a step, as under DDP with ``no_sync``;
            ``"micro"``: with each pack, as under FSDP.

    Raises:
        BudgetError: a number below one, or another word.

    Source:
        Longest processing time first, then swaps with the rank that has most.

    Example:
        >>> import treepack as tp
        >>> balance = tp.Balance(accumulate=2)
        >>> source = [tp.MessageTree([1] * n) for n in (9, 1, 5, 2, 8, 4, 7, 6)]
        >>> costs = tp.costs.measure(source, workers=0)
        >>> ranks = [
        ...     tp.PackedDataset(
        ...         source, costs=costs, budgets={"tokens": 9}, balance=balance, shard=(rank, 2)
        ...     )
        ...     for rank in range(2)
        ... ]
        >>> [[int(row["treepack"].stats["tokens"]) for row in rank] for rank in ranks]
        [[9, 6, 9], [9, 9]]
    """

    accumulate: int = 1
    window: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    sync: BalanceSync = "step"

    def __post_init__(self) -> None:
        if self.window is None:
            adds_up = self.sync == "step" and self.accumulate != 1
            object.__setattr__(self, "window", 1 if adds_up else 4)
        for name in ("accumulate", "window"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BudgetError(f"{name} of Balance must be a positive integer, got {value!r}")
        if self.sync not in get_args(BalanceSync):
            raise BudgetError(f"sync of Balance must be 'step' or 'micro', got {self.sync!r}")


def arrange(costs: Int64, ranks: int, balance: Balance, seed: int, start: int) -> list[int]:
    """Places of the packs of one window, in the order in which ranks get them.

    Rank ``r`` of ``R`` gets those at ``r``, ``r + R``, ``r + 2 R``, ... of the order. Packs behind
    the last whole step keep their places at the end; a stream has such in its last window alone.

    Args:
        costs: int64 ``[n]``, what each pack takes.
        ranks: ``R``.
        balance: how they are dealt.
        seed: of the order of the steps.
        start: how many packs came before the window.

    Example:
        >>> import numpy as np
        >>> arrange(np.array([9, 1, 5, 2, 8, 4, 7]), 2, Balance(window=3), seed=0, start=0)
        [2, 5, 4, 0, 3, 1, 6]
    """
    whole = len(costs) // (ranks * balance.accumulate) * ranks * balance.accumulate
    dealt = deal(costs[:whole], ranks, balance, lambda i, steps: permute(i, steps, seed, start))
    return dealt + list(range(whole, len(costs)))


def imbalance(
    costs: npt.NDArray[np.floating[Any]], ranks: int, balance: Balance | None = None
) -> float | None:
    """How much longer the slowest rank of a step takes than the mean one, averaged over steps.

    Args:
        costs: float ``[n]``, what each pack takes, in their order.
        ranks: that take one pack each in a step; with a balance, as many as it says.
        balance: how the packs are dealt; ``None`` for their order.

    Returns:
        The mean of max / mean - 1; ``None`` where the packs fill no step, or no window.

    Example:
        >>> import numpy as np
        >>> costs = np.array([1.0, 3.0, 1.0, 3.0])
        >>> imbalance(costs, 2), imbalance(costs, 2, Balance(window=2))
        (0.5, 0.0)
    """
    each, window = (1, 1) if balance is None else (balance.accumulate, balance.window or 1)
    size = ranks * each * window
    used = len(costs) // size * size
    if not used:
        return None
    if balance is not None:
        units = np.rint(costs * UNITS).astype(np.int64)
        windows = (slice(start, start + size) for start in range(0, used, size))
        costs = np.concatenate(
            [costs[w][arrange(units[w], ranks, balance, 0, w.start)] for w in windows]
        )
    dealt = costs[:used].reshape(-1, each, ranks)
    loads = dealt.sum(1) if balance is None or balance.sync == "step" else dealt.reshape(-1, ranks)
    means = loads.mean(1)
    return float((loads.max(1) / np.where(means > 0, means, 1) - 1).mean())


def deal(costs: Int64, ranks: int, balance: Balance, draw: Any) -> list[int]:
    """Cut the packs of one window into steps, and deal each step to the ranks.

    Args:
        costs: int64 ``[steps * ranks * accumulate]``, what each pack takes.
        ranks: among which the packs of a step are dealt.
        balance: packs of each rank in a step, and when ranks wait for each other.
        draw: ``draw(i, n)`` is place ``i`` in a permutation of ``n``: the order of the steps.

    Returns:
        Places of the packs, step by step, in each its micro-batches, in each its ranks.

    Example:
        >>> import numpy as np
        >>> costs = np.array([9, 1, 5, 2, 8, 4, 7, 6])
        >>> places = deal(costs, 2, Balance(accumulate=2), lambda i, n: i)
        >>> costs[places].reshape(2, 2, 2).sum(1)  # of each step and rank
        array([[15, 15],
               [ 6,  6]])
    """
    size = ranks * balance.accumulate
    # Equal costs stay in order, so that every rank and machine sorts alike.
    heaviest = np.argsort(-costs, kind="stable").reshape(-1, size)
    steps = [heaviest[draw(i, len(heaviest))] for i in range(len(heaviest))]
    found: list[int] = []
    for number, step in enumerate(steps):
        rows = step.reshape(balance.accumulate, ranks)
        if balance.sync == "step" and balance.accumulate > 1:
            rows = _share(step.tolist(), costs, ranks, balance.accumulate)
        # No rank gets the heaviest pack each time.
        found += np.roll(rows, number, axis=1).reshape(-1).tolist()
    return found


def _share(step: list[int], costs: Int64, ranks: int, each: int) -> Int64:
    """Packs of one step for each rank, ``[each, ranks]``: longest first, then swaps."""
    hands: list[list[int]] = [[] for _ in range(ranks)]
    heap = [(0, rank) for rank in range(ranks)]
    for pack in step:
        load, rank = heapq.heappop(heap)
        hands[rank].append(pack)
        if len(hands[rank]) < each:
            heapq.heappush(heap, (load + int(costs[pack]), rank))
    table = np.array(hands)
    for _ in range(SWAPS):
        if not _swap(table, costs):
            break
    return table.T


def _swap(table: Int64, costs: Int64) -> bool:
    """Make the heaviest rank lighter by the best swap of two packs; whether there was one."""
    each = costs[table]
    loads = each.sum(1)
    worst = int(loads.argmax())
    # By how much each swap of one of its packs would shift load to another rank.
    shift = each[worst][:, None, None] - each[None]
    after = np.maximum(loads[worst] - shift, loads[None, :, None] + shift)
    after[:, worst] = loads[worst]
    mine, rank, theirs = np.unravel_index(after.argmin(), after.shape)
    if after[mine, rank, theirs] >= loads[worst]:
        return False
    swapped = table[worst, mine], table[rank, theirs]
    table[rank, theirs], table[worst, mine] = swapped
    return True
