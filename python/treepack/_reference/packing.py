"""The packer in plain Python: the same packs as the core, slowly and readably.

Read it from `ReferencePacker.push` down. All arithmetic is on integers with floor division, so
that every machine makes the same choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEPS_AFTER_FULL = 700
STEPS_AFTER_FULL_BEYOND = 1_400
LEAST_STEPS = 64
FRONT = 48
BEHIND = 12

Sizes = tuple[int, ...]


@dataclass
class Item:
    """An example in the pool."""

    key: Any
    size: Sizes
    arrival: int
    value: int = 0
    premium: int = 0


@dataclass
class Prices:
    """What one unit of each budget is worth, and what it costs to leave a budget empty.

    The number formats are those of the core: see docs/reference/packing.md.
    """

    unit: list[int]
    waste: list[int]
    scarce: int


class ReferencePacker:
    """The reference implementation of `treepack.Packer`, for costs that are valid."""

    def __init__(
        self,
        budgets: Mapping[str, int],
        pool_size: int = 48,
        *,
        early: bool = False,
        solver: str = "anchors",
        anchors: int = 8,
        steps: int = 4_000,
        gamma: int = 16,
        age: int = 16,
    ) -> None:
        self.budgets = dict(budgets)
        self.limits: Sizes = tuple(budgets.values())
        self.pool_size = pool_size
        self.early = early
        self.solver = solver
        self.anchors = anchors
        self.steps = steps
        self.gamma = gamma
        self.age = age
        self.pool: list[Item] = []
        self.packs = 0

    def push(self, key: Any, cost: Mapping[str, int]) -> list[Any] | None:
        """Add an example; the keys of a pack when one goes."""
        self.pool.append(Item(key, tuple(cost[name] for name in self.budgets), self.packs))
        if len(self.pool) >= self.pool_size:
            return self._emit(self._select())
        if self.early and len(self.pool) * 4 >= self.pool_size * 3:
            chosen = self._select()
            left = self._left(chosen)
            if any(r <= limit // 4096 for r, limit in zip(left, self.limits, strict=True)):
                return self._emit(chosen)
        return None

    def flush(self) -> Iterator[list[Any]]:
        """Empty the pool."""
        while self.pool:
            yield self._emit(self._select(oldest_only=True))

    def _emit(self, chosen: set[int]) -> list[Any]:
        keys = [item.key for i, item in enumerate(self.pool) if i in chosen]
        self.pool = [item for i, item in enumerate(self.pool) if i not in chosen]
        self.packs += 1
        return keys

    def _left(self, chosen: set[int]) -> list[int]:
        taken = [self.pool[i].size for i in chosen]
        return [limit - sum(s[d] for s in taken) for d, limit in enumerate(self.limits)]

    def _select(self, oldest_only: bool = False) -> set[int]:
        if self.solver == "first_fit":
            return self._filled_up(set())
        prices = self._evaluate()
        order = self._order()
        starts = self._starts(oldest_only)
        steps_left = self.steps
        best: tuple[int, set[int]] | None = None
        for number, start in enumerate(starts):
            share = steps_left if number + 1 == len(starts) else steps_left // 2
            chosen, used = self._complete(start, order, prices, max(share, LEAST_STEPS))
            steps_left = max(0, steps_left - used)
            if not self._leaves_time(chosen):
                continue
            left = self._left(chosen)
            loss = self._loss(prices, left)
            if best is None or loss < best[0]:
                best = loss, chosen
            if loss == 0 or left[prices.scarce] <= self.limits[prices.scarce] // 4096:
                break
        assert best is not None  # the oldest item is always allowed
        return best[1]

    def _evaluate(self) -> Prices:
        """Price the budgets by the demand of the pool, and the items by the budgets."""
        limits = self.limits
        demand = [
            (sum(item.size[d] for item in self.pool) << 16) // b for d, b in enumerate(limits)
        ]
        most = max(1, *demand)
        unit, waste = [], []
        for r, limit in zip(demand, limits, strict=True):
            x = (r << 16) // most
            for _ in range(4):
                x = (x * x) >> 16
            unit.append((max(x, 1) << 20) // limit)
            y = (unit[-1] * limit) >> 20
            waste.append((y * y) >> 16)
        for item in self.pool:
            share = self._share(item)
            waited = max(0, self._front_now() - item.arrival)
            old = min(waited * self.age * 48 // min(self.pool_size, FRONT), 4096) // 64
            item.premium = 256 + (share * self.gamma >> 10) + old
            plain = sum(w * s for w, s in zip(unit, item.size, strict=True))
            item.value = (plain >> 8) * item.premium
        full = [w * limit for w, limit in zip(unit, limits, strict=True)]
        return Prices(unit, waste, full.index(max(full)))

    def _share(self, item: Item) -> int:
        """Largest share of any budget, in 1/1024."""
        return max(s * 1024 // limit for s, limit in zip(item.size, self.limits, strict=True))

    def _order(self) -> list[int]:
        """Items by their sizes in the two smallest budgets, largest first, then by age."""
        smallest = sorted(range(len(self.limits)), key=lambda d: self.limits[d])[:2]
        return sorted(
            range(len(self.pool)), key=lambda i: ([-self.pool[i].size[d] for d in smallest], i)
        )

    def _front_now(self) -> int:
        """Packs emitted when the youngest of the front arrived; if that is all there is, now."""
        return self.packs if len(self.pool) <= FRONT else self.pool[FRONT - 1].arrival

    def _starts(self, oldest_only: bool) -> list[int]:
        """The oldest item, then the hardest of the front; only the oldest if it must go now."""
        if oldest_only or not self._has_slack():
            return [0]
        front = range(1, min(len(self.pool), FRONT))
        others = sorted(front, key=lambda i: (-self._share(self.pool[i]), i))
        return [0, *others[: self.anchors - 1]]

    def _complete(
        self, start: int, order: Sequence[int], prices: Prices, steps: int
    ) -> tuple[set[int], int]:
        """The most valuable items beside ``start`` that a bounded search finds, then what fits."""
        rest = [limit - s for limit, s in zip(self.limits, self.pool[start].size, strict=True)]
        candidates = [i for i in order if i != start and fits(self.pool[i].size, rest)]
        behind = [i for i in candidates if i >= FRONT]
        spaced = set(evenly_spaced(behind, BEHIND))
        candidates = [i for i in candidates if i < FRONT or i in spaced]
        after_full = STEPS_AFTER_FULL if len(self.pool) <= FRONT else STEPS_AFTER_FULL_BEYOND
        items = [self.pool[i] for i in candidates]
        chosen, used = search(items, self.limits, prices, rest, steps, after_full)
        return self._filled_up({start, *(candidates[c] for c in chosen)}), used

    def _filled_up(self, chosen: set[int]) -> set[int]:
        """Add, oldest first, whatever still fits."""
        chosen = set(chosen)
        for i, item in enumerate(self.pool):
            if i not in chosen and fits(item.size, self._left(chosen)):
                chosen.add(i)
        return chosen

    def _has_slack(self) -> bool:
        """Whether the oldest may wait for another pack: in the pool, and in the front by itself."""
        oldest = self.pool[0].arrival
        return (
            self.packs + 1 - oldest <= self.pool_size - 1
            and self._front_now() + 1 - oldest <= min(self.pool_size, FRONT) - 1
        )

    def _leaves_time(self, chosen: set[int]) -> bool:
        """Whether everyone left can still go in time, given that the oldest can always go next.

        What is left of the front must also keep the times of a pool of that size.
        """
        left = [item for i, item in enumerate(self.pool) if i not in chosen]
        front = [item for i, item in enumerate(self.pool[:FRONT]) if i not in chosen]
        return 0 in chosen or (
            in_time(left, self.packs, self.pool_size)
            and in_time(front, self._front_now(), min(self.pool_size, FRONT))
        )

    def _loss(self, prices: Prices, left: Sequence[int]) -> int:
        parts = zip(prices.waste, left, self.limits, strict=True)
        return sum(waste * (r * 1024 // limit) for waste, r, limit in parts) >> 8


def fits(size: Sequence[int], rest: Sequence[int]) -> bool:
    """Whether nothing of ``size`` exceeds ``rest``."""
    return all(s <= r for s, r in zip(size, rest, strict=True))


def in_time(left: Sequence[Item], now: int, pool_size: int) -> bool:
    """Whether all go in time if each of the next packs takes the oldest alone."""
    return all(now + 1 - item.arrival + i <= pool_size - 1 for i, item in enumerate(left))


def evenly_spaced(items: Sequence[int], count: int) -> list[int]:
    """``count`` of the items, or all if they are fewer."""
    n = len(items)
    return [item for j, item in enumerate(items) if (j + 1) * count // n != j * count // n]


def search(
    items: Sequence[Item],
    limits: Sizes,
    prices: Prices,
    rest: Sequence[int],
    steps: int,
    after_full: int = STEPS_AFTER_FULL,
) -> tuple[list[int], int]:
    """Depth-first search for the most valuable items that fit into ``rest``.

    Returns:
        Indices into ``items``, and the steps used.
    """
    behind = [items[i:] for i in range(len(items) + 1)]
    sums = [[sum(item.size[d] for item in b) for d in range(len(limits))] for b in behind]
    minima = [[min(item.size[d] for item in b) for d in range(len(limits))] for b in behind[:-1]]
    premiums = [max((item.premium for item in b), default=0) for b in behind]
    rest = list(rest)
    path: list[int] = []
    best_path: list[int] = []
    i = value = best = used = 0
    limit, was_full = steps, False
    while used < limit:
        used += 1
        if not (i < len(items) and fits(minima[i], rest)) or not (
            value + (_fractional_bound(prices, rest, sums[i]) >> 8) * premiums[i] > best
        ):
            if not path:
                break
            last = path.pop()
            value -= items[last].value
            rest = [r + s for r, s in zip(rest, items[last].size, strict=True)]
            i = last + 1
            while i < len(items) and items[i].size == items[last].size:
                i += 1
            continue
        item, i = items[i], i + 1
        if not fits(item.size, rest):
            continue
        path.append(i - 1)
        value += item.value
        rest = [r - s for r, s in zip(rest, item.size, strict=True)]
        if value > best:
            best, best_path = value, list(path)
        if not was_full and rest[prices.scarce] <= limits[prices.scarce] // 4096:
            was_full, limit = True, min(limit, used + after_full)
        if all(r <= b // 4096 for r, b in zip(rest, limits, strict=True)):
            break
    return best_path, used


def _fractional_bound(prices: Prices, rest: Sequence[int], behind: Sequence[int]) -> int:
    """What the remaining items would be worth if they could be cut to fill ``rest``."""
    parts = zip(prices.unit, rest, behind, strict=True)
    return sum(w * min(r, s) for w, r, s in parts)
