"""Packs that were made before the training, as a dataset is given them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import BudgetError, DatasetError
from treepack.packing.balance import UNITS, Balance, BalancedOrder
from treepack.packing.examples import WEIGHTS, weighed

Int64 = npt.NDArray[np.int64]
Order = Callable[[int], int]


class GivenPacks:
    """Which examples of a source each pack has.

    Args:
        packs: what `treepack.pack` gives: anything with ``offsets``, integers ``[packs + 1]``, and
            ``members``, integers ``[n]``, the indices of examples. They are shared, not copied.
        length: number of examples of the source.
        balance: how the packs of a step are dealt to ranks, or ``None`` for none.
        columns: costs of the source's examples by name, integers ``[length]``, which balancing
            weighs.

    Raises:
        DatasetError: something else, or a member that the source does not have.

    Attributes:
        budgets: those that the packs were made for, or ``None`` if they do not say.
        digest: sixteen hexadecimal digits that other packs do not have, nor the same ones balanced
            in another way.
    """

    def __init__(
        self,
        packs: Any,
        length: int,
        balance: Balance | None = None,
        columns: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        self.offsets = _integers(packs, "offsets")
        self.members = _integers(packs, "members")
        steps = np.diff(self.offsets)
        ends = self.offsets[[0, -1]].tolist() if len(self.offsets) else []
        if ends != [0, len(self.members)] or (steps <= 0).any():
            raise DatasetError(
                f"packs.offsets must rise from 0 to the {len(self.members)} members, at least one "
                f"in each pack; they go from {ends[:1]} to {ends[1:]}"
            )
        if len(self.members) and (self.members.min() < 0 or self.members.max() >= length):
            wrong = self.members[(self.members < 0) | (self.members >= length)][0]
            raise DatasetError(
                f"the packs name example {wrong}, and the source has {length}; pass the source "
                "whose costs were packed"
            )
        budgets = getattr(packs, "settings", {}).get("budgets")
        self.budgets: Mapping[str, int] | None = dict(budgets) if budgets else None
        self.balance = balance
        self._costs = None if balance is None else self._weigh(columns or {}, balance.weights)
        self.digest = self._digest()

    def ordered(self, order: Order, ranks: int, seed: int) -> Order:
        """The pack at each position of a training, balanced if packs are.

        Args:
            order: the pack at each position of the order that packs come in.
            ranks: among which the packs of a step are dealt.
            seed: of the order of steps.
        """
        if self.balance is None or self._costs is None:
            return order
        return BalancedOrder(self._costs, ranks, self.balance, seed, order)

    def _weigh(self, columns: Mapping[str, Any], weights: Mapping[str, float]) -> Int64:
        unknown = [name for name in self.budgets or () if name not in {**WEIGHTS, **weights}]
        if unknown:
            raise BudgetError(
                f"nothing says what a unit of {unknown} takes to compute; pass "
                f"Balance(weights={{{unknown[0]!r}: ...}}), or 0 if it takes nothing"
            )
        each = weighed({n: column.astype(np.int64) for n, column in columns.items()}, weights)
        units = np.rint(each * UNITS).astype(np.int64)
        costs: Int64 = np.add.reduceat(units[self.members], self.offsets[:-1])
        return costs

    def _digest(self) -> str:
        told = hashlib.sha256(repr(self.balance).encode() if self.balance else b"")
        for array in (self.offsets, self.members, self._costs):
            if array is not None:
                told.update(np.ascontiguousarray(array, "<i8").data)
        return told.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> list[int]:
        members: list[int] = self.members[self.offsets[index] : self.offsets[index + 1]].tolist()
        return members


def _integers(packs: Any, name: str) -> npt.NDArray[np.integer[Any]]:
    array = np.asarray(getattr(packs, name, None))
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DatasetError(
            f"packs is a {type(packs).__name__} whose {name!r} is no integers [n]; pass what "
            "treepack.pack gave"
        )
    return array
