"""Packing a whole table in plain Python: the same packs as `treepack.pack`, ``effort="fast"``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from treepack._core import permute
from treepack._reference.packing import ReferencePacker


def pack_table(
    costs: Sequence[Mapping[str, int]],
    budgets: Mapping[str, int],
    *,
    order: str,
    window: int,
    seed: int,
    early: bool,
) -> list[list[int]]:
    """The packs of a table none of whose examples is larger than a budget."""
    if order == "kept":
        return _stream(costs, range(len(costs)), ReferencePacker(budgets, window, early=early))
    packs = []
    # A pool of 48, or of what four rows hold.
    sums = {name: max(1, sum(cost[name] for cost in costs)) for name in budgets}
    per_row = min(len(costs) * budgets[name] // sums[name] for name in budgets)
    packer = ReferencePacker(budgets, min(max(4 * per_row, 48), 1_024), early=early)
    for start in range(0, len(costs), window):
        length = min(window, len(costs) - start)
        drawn = [start + permute(place, length, seed, start) for place in range(length)]
        packs += _stream(costs, drawn, packer)
    places = range(len(packs))
    return [packs[permute(place, len(packs), seed, (1 << 64) - 1)] for place in places]


def _stream(
    costs: Sequence[Mapping[str, int]], drawn: Sequence[int], packer: ReferencePacker
) -> list[list[int]]:
    packs = [packer.push(example, costs[example]) for example in drawn]
    return [pack for pack in packs if pack is not None] + list(packer.flush())
