"""Tokens of each branch of every example, as flat arrays: from them alone a tree can be split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import CostError

Lengths = tuple[list[int], list[bool] | None]
"""Tokens of each branch, and whether each stays with the one before it."""


class Branches:
    """Tokens of the branches of every example.

    Args:
        offsets: integers ``[n + 1]``, where the branches of each example begin, and the end.
        tokens: integers ``[m]``, of each branch with all below it, one example after the other; an
            example that is one node has none.
        joined: bool ``[m]``, whether a branch stays with the one before it when a tree is split, as
            a rejected answer with the chosen one; by default none does.

    Raises:
        CostError: the offsets do not cut the branches into examples.

    Example:
        >>> branches = Branches([0, 2, 2, 3], [20, 9, 4])
        >>> len(branches), branches[0], branches[1]
        (3, ([20, 9], None), ([], None))
    """

    def __init__(
        self, offsets: npt.ArrayLike, tokens: npt.ArrayLike, joined: npt.ArrayLike | None = None
    ) -> None:
        self.offsets = np.asarray(offsets, np.int64)
        self.tokens = np.asarray(tokens, np.int32)
        found = None if joined is None else np.asarray(joined, bool)
        # Few data sets have any.
        self.joined = found if found is not None and found.any() else None
        offsets, n = self.offsets, len(self.tokens)
        sound = len(offsets) and offsets[0] == 0 and offsets[-1] == n
        if not sound or (np.diff(offsets) < 0).any() or (found is not None and len(found) != n):
            raise CostError(
                f"offsets of branches must rise from 0 to the {n} branches, and joined be as long; "
                f"got offsets {offsets[[0, -1]].tolist() if len(offsets) else []} and "
                f"{n if found is None else len(found)} joined"
            )

    @classmethod
    def of(cls, examples: Iterable[Lengths]) -> Branches:
        """Those of some examples, in order.

        Args:
            examples: of each what ``branches[i]`` gives.

        Example:
            >>> Branches.of([([20, 9], None), ([], None)])[0]
            ([20, 9], None)
        """
        found = list(examples)
        offsets = np.cumsum([0, *(len(tokens) for tokens, _ in found)])
        tokens = [n for each, _ in found for n in each]
        joined = [j for each, own in found for j in (own or [False] * len(each))]
        return cls(offsets, tokens, joined)

    @classmethod
    def joining(cls, parts: Sequence[Branches]) -> Branches:
        """Those of several pieces, one behind the other.

        Args:
            parts: one at least.

        Example:
            >>> Branches.joining([Branches([0, 1], [20]), Branches([0, 2], [9, 4])])[1]
            ([9, 4], None)
        """
        counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(p.offsets) for p in parts)])
        joined = [p.is_joined for p in parts]
        tokens = [p.tokens for p in parts]
        return cls(np.cumsum(counts), np.concatenate(tokens), np.concatenate(joined))

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that it is made of, by name."""
        found: dict[str, npt.NDArray[Any]] = {"offsets": self.offsets, "tokens": self.tokens}
        return found if self.joined is None else {**found, "joined": self.joined}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Branches:
        """The same of its arrays, unchecked.

        Args:
            arrays: ``arrays`` of one, and perhaps others, which are left alone.

        Example:
            >>> Branches.of_arrays(Branches([0, 1], [20]).arrays)[0]
            ([20], None)
        """
        made = cls.__new__(cls)
        made.offsets, made.tokens = arrays["offsets"], arrays["tokens"]
        made.joined = arrays.get("joined")
        return made

    @property
    def is_joined(self) -> npt.NDArray[np.bool_]:
        """``joined``, also where none is."""
        return np.zeros(len(self.tokens), bool) if self.joined is None else self.joined

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Lengths:
        own = slice(*self.offsets[index : index + 2].tolist())
        joined = None if self.joined is None else self.joined[own].tolist()
        return self.tokens[own].tolist(), joined

    def take(self, indices: npt.NDArray[np.integer]) -> Branches:
        """Those of some examples, in the order given.

        Args:
            indices: int64 ``[k]``.

        Example:
            >>> Branches([0, 1, 3], [20, 9, 4]).take(np.array([1, 0]))[0]
            ([9, 4], None)
        """
        starts, counts = self.offsets[:-1][indices], np.diff(self.offsets)[indices]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        places = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
        joined = None if self.joined is None else self.joined[places]
        return Branches(offsets, self.tokens[places], joined)
