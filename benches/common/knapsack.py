"""The rival: Molmo2's way of packing, an honest numpy implementation.

A full pool of 48 examples, and a two-dimensional knapsack by dynamic programming with tokens
rounded up to multiples of 32: the subset of largest ``tokens + 30 * crops`` that fits goes as one
row (arXiv 2601.10611). There is no rule about age, so an example may wait without limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

QUANTUM = 32
CROP_VALUE = 30


class KnapsackPacker:
    """A packer with the interface of `treepack.Packer`, for budgets ``tokens`` and ``crops``."""

    def __init__(self, budgets: Mapping[str, int], pool_size: int = 48) -> None:
        self.tokens = budgets["tokens"] // QUANTUM
        self.crops = budgets["crops"]
        self.pool_size = pool_size
        self.pool: list[tuple[Any, int, int, int]] = []

    def push(self, key: Any, cost: Mapping[str, int]) -> list[Any] | None:
        """Add an example; the keys of a row when the pool is full."""
        tokens, crops = cost["tokens"], cost["crops"]
        value = tokens + CROP_VALUE * crops
        self.pool.append((key, -(-tokens // QUANTUM), crops, value))
        return self._emit() if len(self.pool) >= self.pool_size else None

    def flush(self) -> list[list[Any]]:
        """Rows until the pool is empty; the original leaves the pool behind."""
        rows = []
        while self.pool:
            rows.append(self._emit())
        return rows

    def _emit(self) -> list[Any]:
        chosen = set(solve([item[1:] for item in self.pool], self.tokens, self.crops))
        row = [item[0] for i, item in enumerate(self.pool) if i in chosen]
        self.pool = [item for i, item in enumerate(self.pool) if i not in chosen]
        return row


def solve(items: Sequence[tuple[int, int, int]], tokens: int, crops: int) -> list[int]:
    """Indices of the most valuable ``(tokens, crops, value)`` that fit."""
    best = np.zeros((crops + 1, tokens + 1), np.int32)
    takes = np.zeros((len(items), crops + 1, tokens + 1), bool)
    for i, (t, c, value) in enumerate(items):
        taken = best[: crops + 1 - c, : tokens + 1 - t] + value
        kept = best[c:, t:]
        np.greater(taken, kept, out=takes[i, c:, t:])
        best[c:, t:] = np.maximum(taken, kept)
    chosen, t_left, c_left = [], tokens, crops
    for i in range(len(items) - 1, -1, -1):
        if takes[i, c_left, t_left]:
            chosen.append(i)
            t_left -= items[i][0]
            c_left -= items[i][1]
    return chosen
