"""Small packed rows that together have each kind of attention call, and what is run on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from treepack._core import TreeMask
from treepack.attention.plan import ANTI_CAUSAL, ANTI_CAUSAL_GATHERED, CROSS, SELF, WINDOW
from treepack.options import MaskBidirectional


class Row(NamedTuple):
    """A row of which every kind of call is known.

    Attributes:
        mask: of the row.
        window: tokens of its path that a query sees, or ``None`` for all.
        kinds: of the calls in its plan.
    """

    mask: TreeMask
    window: int | None
    kinds: frozenset[int]


class Case(NamedTuple):
    """What a backend computes on one row.

    Attributes:
        name: as the table has it.
        row: a key of `rows`.
        heads: of queries, and of keys.
        size: of a head.
        launches: whether the kernels are made to take a few segments at a time.
    """

    name: str
    row: str
    heads: tuple[int, int] = (4, 2)
    size: int = 64
    launches: bool = False


def forest(
    length: int,
    lengths: Sequence[int],
    parents: Sequence[int],
    runs: Sequence[tuple[int, int, int]] | None = None,
    mode: MaskBidirectional = "none",
    *,
    padding: int = 0,
) -> TreeMask:
    """The mask of nodes that are so many times longer."""
    long = [length * n for n in lengths]
    runs = runs and [(length * a, length * b, image) for a, b, image in runs]
    return TreeMask.from_nodes(long, list(parents), runs, mode, sum(long) + padding)


def rows(length: int = 1) -> dict[str, Row]:
    """Rows by the call that they are about.

    Args:
        length: how many times longer they are; on a GPU 8, to span several tiles of the kernels.
    """
    tree = [90, 17, 40, 3], [-1, 0, 0, 0]
    frames = [(4, 30, 0), (33, 59, 1), (61, 87, 2)]
    gaps = [30, 8, 9, 50, 20, 6, 5], [-1, 0, 0, -1, -1, 4, 4]
    deep = [40, 9, 12, 7, 30, 8], [-1, 0, 1, 1, 0, 4]
    short = [1, 1, 1, 2, 1, 1], [-1, 0, 0, 0, -1, 4]
    within, across = (*tree, frames, "within_image"), (*tree, frames, "image_tokens")

    def row(
        kinds: set[int], nodes: tuple[Any, ...], window: int | None = None, padding: int = 0
    ) -> Row:
        mask = forest(length, *nodes, padding=padding)
        return Row(mask, window and window * length, frozenset(kinds))

    return {
        "SELF": row({SELF}, ([70], [-1])),
        "SELF, padding": row({SELF}, ([33, 1, 64, 20], [-1] * 4), padding=5),
        "SELF, chain": row({SELF}, ([20, 30, 9], [-1, 0, 1])),
        "CROSS": row({SELF, CROSS}, tree),
        "CROSS, deep": row({SELF, CROSS}, deep),
        "CROSS, gaps": row({SELF, CROSS}, gaps, padding=9),
        "CROSS, short": row({SELF, CROSS}, short),
        "CROSS, many": row({SELF, CROSS}, ([40] + [7] * 30, [-1] + [0] * 30), padding=2),
        "ANTI_CAUSAL": row({SELF, CROSS, ANTI_CAUSAL}, within),
        "ANTI_CAUSAL_GATHERED": row({SELF, CROSS, ANTI_CAUSAL_GATHERED}, across),
        "WINDOW": row({WINDOW}, tree, window=12, padding=3),
        "WINDOW, ANTI_CAUSAL": row({WINDOW, ANTI_CAUSAL}, within, window=25),
    }


RENAMED = {
    "SELF, padding": "rows without keys",
    "CROSS, gaps": "gaps, no keys",
    "CROSS, short": "one-token segments",
}
"""What the table calls some rows."""

CASES = (
    *(Case(RENAMED.get(name, name), name) for name in rows()),
    Case("several launches", "CROSS, many", launches=True),
    *(Case(f"head size {size}", "ANTI_CAUSAL", size=size) for size in (96, 128, 256)),
    Case("heads 4:4", "CROSS", (4, 4)),
    Case("heads 8:1", "CROSS", (8, 1)),
)
"""What each backend is asked for; head size 64 and grouped heads unless the name says another."""

HALF = (torch.bfloat16, torch.float16)
"""The dtypes that FlashAttention takes."""
