"""Tokens of each branch of every example, as flat arrays: from them alone a tree can be split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import CostError

Lengths = tuple[list[int], list[bool] | None, list[int] | None]
"""Tokens of each branch, whether each stays with the one before it, and what it shares with it."""


class Branches:
    """Tokens of the branches of every example.

    Args:
        offsets: integers ``[n + 1]``, where the branches of each example begin, and the end.
        tokens: integers ``[m]``, of each branch from the root to its leaf, one example after the
            other; an example that is one node has none.
        joined: bool ``[m]``, whether a branch stays with the one before it when a tree is split, as
            a rejected answer with the chosen one; by default none does.
        shared: integers ``[m]``, tokens that a branch has in common with the one before it; by
            default none.

    Raises:
        CostError: the offsets do not cut the branches into examples.

    Example:
        >>> branches = Branches([0, 2, 2, 3], [20, 9, 4])
        >>> len(branches), branches[0], branches[1]
        (3, ([20, 9], None, None), ([], None, None))
    """

    def __init__(
        self,
        offsets: npt.ArrayLike,
        tokens: npt.ArrayLike,
        joined: npt.ArrayLike | None = None,
        shared: npt.ArrayLike | None = None,
    ) -> None:
        self.offsets: npt.NDArray[np.int64] = np.asarray(offsets, np.int64)
        self.tokens: npt.NDArray[np.int32] = np.asarray(tokens, np.int32)
        # Few data sets have any.
        self.joined: Any = _if_any(joined, np.bool_)
        self.shared: Any = _if_any(shared, np.int32)
        offsets, n = self.offsets, len(self.tokens)
        sound = len(offsets) and offsets[0] == 0 and offsets[-1] == n
        told = [len(np.asarray(each)) for each in (joined, shared) if each is not None]
        if not sound or (np.diff(offsets) < 0).any() or any(each != n for each in told):
            raise CostError(
                f"offsets of branches must rise from 0 to the {n} branches, and joined and shared "
                f"be as long; got offsets {offsets[[0, -1]].tolist() if len(offsets) else []} and "
                f"{told or n}"
            )

    @classmethod
    def of(cls, examples: Iterable[Lengths]) -> Branches:
        """Those of some examples, in order.

        Args:
            examples: of each what ``branches[i]`` gives.

        Example:
            >>> Branches.of([([20, 9], None, None), ([], None, None)])[0]
            ([20, 9], None, None)
        """
        found = list(examples)
        offsets = np.cumsum([0, *(len(tokens) for tokens, *_ in found)])
        tokens = [n for each, *_ in found for n in each]
        joined = [j for each, own, _ in found for j in (own or [False] * len(each))]
        shared = [n for each, _, own in found for n in (own or [0] * len(each))]
        return cls(offsets, tokens, joined, shared)

    @classmethod
    def joining(cls, parts: Sequence[Branches]) -> Branches:
        """Those of several pieces, one behind the other.

        Args:
            parts: one at least.

        Example:
            >>> Branches.joining([Branches([0, 1], [20]), Branches([0, 2], [9, 4])])[1]
            ([9, 4], None, None)
        """
        counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(p.offsets) for p in parts)])
        tokens = np.concatenate([p.tokens for p in parts])
        joined = np.concatenate([p.is_joined for p in parts])
        return cls(np.cumsum(counts), tokens, joined, np.concatenate([p.common for p in parts]))

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays that it is made of, by name."""
        found: dict[str, npt.NDArray[Any]] = {"offsets": self.offsets, "tokens": self.tokens}
        more = {"joined": self.joined, "shared": self.shared}
        return found | {name: array for name, array in more.items() if array is not None}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Branches:
        """The same of its arrays, unchecked.

        Args:
            arrays: ``arrays`` of one, and perhaps others, which are left alone.

        Example:
            >>> Branches.of_arrays(Branches([0, 1], [20]).arrays)[0]
            ([20], None, None)
        """
        made = cls.__new__(cls)
        made.offsets, made.tokens = arrays["offsets"], arrays["tokens"]
        made.joined, made.shared = arrays.get("joined"), arrays.get("shared")
        return made

    @property
    def is_joined(self) -> npt.NDArray[np.bool_]:
        """``joined``, also where none is."""
        return np.zeros(len(self.tokens), bool) if self.joined is None else self.joined

    @property
    def common(self) -> npt.NDArray[np.int32]:
        """``shared``, also where nothing is."""
        return np.zeros(len(self.tokens), np.int32) if self.shared is None else self.shared

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Lengths:
        own = slice(*self.offsets[index : index + 2].tolist())
        joined = None if self.joined is None else self.joined[own].tolist()
        shared = None if self.shared is None else self.shared[own].tolist()
        return self.tokens[own].tolist(), joined, shared

    def take(self, indices: npt.NDArray[np.integer]) -> Branches:
        """Those of some examples, in the order given.

        Args:
            indices: int64 ``[k]``.

        Example:
            >>> Branches([0, 1, 3], [20, 9, 4]).take(np.array([1, 0]))[0]
            ([9, 4], None, None)
        """
        starts, counts = self.offsets[:-1][indices], np.diff(self.offsets)[indices]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        places = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
        joined = None if self.joined is None else self.joined[places]
        shared = None if self.shared is None else self.shared[places]
        return Branches(offsets, self.tokens[places], joined, shared)


def _if_any(values: npt.ArrayLike | None, dtype: Any) -> Any:
    """An array, or ``None`` if it is 0 throughout."""
    array = None if values is None else np.asarray(values, dtype)
    return None if array is None or not array.any() else array
