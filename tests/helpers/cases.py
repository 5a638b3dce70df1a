"""Seeded random cases for the property tests.

``TREEPACK_CASES=100`` runs a hundred times as many; a failing test prints the case it was in.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

import numpy as np

FACTOR = float(os.environ.get("TREEPACK_CASES", "1"))
current: list[str] = []


def cases(count: int, label: str = "") -> Iterator[np.random.Generator]:
    """Yield ``count * TREEPACK_CASES`` generators, each seeded by the label and its number."""
    base = zlib.crc32(label.encode())
    for number in range(max(1, round(count * FACTOR))):
        current[:] = [f"case {number} of {label!r}: np.random.default_rng([{base}, {number}])"]
        yield np.random.default_rng([base, number])
    current.clear()
