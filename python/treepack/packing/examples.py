"""The examples that a simulation packs: their costs, and what a row of them takes to compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

WEIGHTS = {"tokens": 0.044, "pairs": 7.3e-6, "crops": 4.0, "patches": 4.0 / 729}
"""Milliseconds of forward and backward, estimated for a model of 7 billion parameters; a crop has
729 patches."""


@dataclass(frozen=True)
class Examples:
    """Examples that fit all budgets.

    Attributes:
        costs: by name of the budget, int64 ``[n]``.
        branches: int64 ``[n]``, or ``None`` if they are not known.
        weighed: float64 ``[n]``, what each takes to compute.
        indices: int64 ``[n]``, their places in the table.
        total: entries of the table.
        unmeasured: entries without costs.
        oversize: indices of those over a budget, those furthest over it first.
        largest: the largest cost in the table, by budget.
        over: how many examples are over each budget.
        split: how many examples were split, whose parts stand in their place.
        branchy: how many of them have several branches, as far as that is known.
    """

    costs: dict[str, Int64]
    branches: Int64 | None
    weighed: Float64
    indices: Int64
    total: int
    unmeasured: int
    oversize: Int64
    largest: dict[str, int]
    over: dict[str, int]
    branchy: int = 0
    split: int = 0

    @classmethod
    def of(
        cls, columns: Mapping[str, Any], budgets: Mapping[str, int], weights: Mapping[str, float]
    ) -> Examples:
        """Those of a table that can be packed."""
        n = len(next(iter(columns.values())))
        known = np.ones(n, bool)
        for column in columns.values():
            known &= column >= 0
        load = np.zeros(n)
        for name, budget in budgets.items():
            np.maximum(load, columns[name] / budget, out=load)
        fits = np.flatnonzero(known & (load <= 1))
        over = np.flatnonzero(known & (load > 1))
        over = over[np.argsort(-load[over], kind="stable")]
        part = {name: np.asarray(column)[fits].astype(np.int64) for name, column in columns.items()}
        some = known.any()
        return cls(
            costs={name: part[name] for name in budgets},
            branches=part.get("branches"),
            weighed=weighed(part, weights),
            indices=fits,
            total=n,
            unmeasured=n - int(known.sum()),
            oversize=over,
            largest={name: int(columns[name][known].max()) if some else 0 for name in budgets},
            branchy=int((columns["branches"][over] > 1).sum()) if "branches" in columns else 0,
            over={name: int((columns[name][over] > budgets[name]).sum()) for name in budgets},
        )

    def take(self, places: npt.NDArray[Any]) -> Examples:
        """Some of them, in the order given."""
        return replace(
            self,
            costs={name: column[places] for name, column in self.costs.items()},
            branches=None if self.branches is None else self.branches[places],
            weighed=self.weighed[places],
            indices=self.indices[places],
        )


def weighed(columns: Mapping[str, Int64], weights: Mapping[str, float]) -> Float64:
    """What each example takes to compute: a weighted sum of its costs and its attention pairs."""
    used: dict[str, npt.NDArray[Any]] = dict(columns)
    if "pairs" not in used and "tokens" in used:
        used["pairs"] = estimated_pairs(columns)
    total = np.zeros(len(next(iter(columns.values()))))
    for name, weight in {**WEIGHTS, **weights}.items():
        if name in used:
            total += weight * used[name]
    return total


def estimated_pairs(columns: Mapping[str, Int64]) -> Float64:
    """Pairs of query and key that attention computes, where they were not measured.

    With ``v`` image tokens that see each other, ``a`` other tokens in branches of equal length:
    ``v v + v a + a a / (2 branches)``.
    """
    vision = columns.get("vision_tokens", np.zeros_like(columns["tokens"])).astype(float)
    said = columns["tokens"] - vision
    branches = np.maximum(columns.get("branches", np.ones_like(columns["tokens"])), 1)
    pairs: Float64 = vision * vision + vision * said + said * said / (2 * branches)
    return pairs


def step_costs(each: Float64, rows: Sequence[Sequence[int]]) -> Float64:
    """What every row takes to compute."""
    if not rows:
        return np.zeros(0)
    members = np.concatenate([np.asarray(row, np.int64) for row in rows])
    starts = np.cumsum([0, *(len(row) for row in rows[:-1])])
    return np.add.reduceat(each[members], starts)
