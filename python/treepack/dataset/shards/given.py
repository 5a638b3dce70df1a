"""Packs that were made before the training, as a dataset is given them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import DatasetError
from treepack.packing.splitting import Stretches
from treepack.sources.costs.shared import SharedArrays


class GivenPacks:
    """Which examples of a source each pack has.

    Args:
        packs: what `treepack.pack` gives: anything with ``offsets``, integers ``[packs + 1]``, and
            ``members``, integers ``[n]``, the indices of examples; and, where some are parts of
            trees, ``part_offsets`` and ``part_ends``, as `Packs` has them. They are shared, not
            copied.
        length: number of examples of the source.

    Raises:
        DatasetError: something else, or a member that the source does not have.

    Attributes:
        budgets: those that the packs were made for, or ``None`` if they do not say.
        has_parts: whether some members are parts of trees.
        digest: sixteen hexadecimal digits that other packs do not have.
    """

    def __init__(self, packs: Any, length: int) -> None:
        self.offsets: npt.NDArray[np.integer[Any]] = _integers(packs, "offsets")
        self.members: npt.NDArray[np.integer[Any]] = _integers(packs, "members")
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
        self.has_parts: bool = getattr(packs, "part_offsets", None) is not None
        self._parts: tuple[npt.NDArray[np.integer[Any]], ...] = (
            (_integers(packs, "part_offsets"), _integers(packs, "part_ends"))
            if self.has_parts
            else ()
        )
        self.digest: str = self._digest()
        # What workers are sent, made when the first one is.
        self._shared: SharedArrays | None = None

    def __getstate__(self) -> dict[str, Any]:
        if self._shared is None:
            parts = dict(zip(("part_offsets", "part_ends"), self._parts, strict=False))
            self._shared = SharedArrays({"offsets": self.offsets, "members": self.members, **parts})
        return {**self.__dict__, "offsets": None, "members": None, "_parts": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.offsets, self.members, *parts = state["_shared"].arrays.values()
        self._parts = tuple(parts)

    def _digest(self) -> str:
        told = hashlib.sha256()
        for array in (self.offsets, self.members, *self._parts):
            told.update(np.ascontiguousarray(array, "<i8").data)
        return told.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> list[int]:
        members: list[int] = self.members[self.offsets[index] : self.offsets[index + 1]].tolist()
        return members

    def part(self, index: int, place: int) -> Stretches | None:
        """Which branches of an example a pack has; ``None`` for all.

        Args:
            index: of the pack.
            place: of the example in it.
        """
        if not self._parts:
            return None
        offsets, ends = self._parts
        member = int(self.offsets[index]) + place
        return tuple(ends[offsets[member] : offsets[member + 1]].tolist()) or None

    @property
    def more_parts(self) -> int:
        """How many more members there are than examples, since trees were split."""
        return len(self.members) - len(np.unique(self.members)) if self._parts else 0


def _integers(packs: Any, name: str) -> npt.NDArray[np.integer[Any]]:
    array = np.asarray(getattr(packs, name, None))
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DatasetError(
            f"packs is a {type(packs).__name__} whose {name!r} is no integers [n]; pass what "
            "treepack.pack gave"
        )
    return array
