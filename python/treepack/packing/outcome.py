"""What a simulation measures, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class PoolOutcome:
    """One set of budgets and one pool size.

    Attributes:
        budgets: capacity of a row by name.
        pool_size: examples that wait.
        rows: packs that the examples make, those of the last flush among them; estimated if not
            each of them was packed once.
        over_bound: rows over the volume bound, the largest of sum / budget; 1.0 is not reachable.
        fill: how full each budget is on average, as a share.
        examples_a_row: on average.
        branches_a_row: on average, or ``None`` where the costs have no column ``branches``.
        wait_mean: packs between an example's arrival and its own pack.
        wait_p99: the wait that 99 % of the examples do not exceed.
        wait_max: the longest.
        resident: what lies in the pool before a pack leaves it, on average, by budget.
        resident_max: the most, by budget.
        packs_per_million: packs that a million examples make.
        imbalance: for numbers of ranks, how much longer the slowest rank of a step computes than
            the average one, as a share; ``None`` where there are fewer packs than ranks.
        balanced: the same where a `treepack.Balance` deals the packs; ``None`` where they fill no
            window of it.
    """

    budgets: dict[str, int]
    pool_size: int
    rows: int
    over_bound: float
    fill: dict[str, float]
    examples_a_row: float
    branches_a_row: float | None
    wait_mean: float
    wait_p99: int
    wait_max: int
    resident: dict[str, float]
    resident_max: dict[str, int]
    packs_per_million: float
    imbalance: dict[int, float | None]
    balanced: dict[int, float | None]

    def of_all(self, scale: float) -> PoolOutcome:
        """The same for as many times the examples."""
        return replace(self, rows=round(self.rows * scale))

    @property
    def binding(self) -> str:
        """The budget that is fullest."""
        return max(self.fill, key=lambda name: self.fill[name])


@dataclass(frozen=True)
class FrontierPoint:
    """The same examples with another value of the budget that binds.

    Attributes:
        budget: its name.
        value: its value.
        examples_a_row: on average.
        fill: how full each budget is.
    """

    budget: str
    value: int
    examples_a_row: float
    fill: dict[str, float]
