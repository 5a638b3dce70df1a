"""Branches, targets and attention pairs of one example, from its lengths or its tree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from treepack.batch.layout import PREFIX, SLIDING, RowLayout
from treepack.families.roots import Outline
from treepack.options import Bidirectional
from treepack.tree import MessageTree

SHAPES = ("branches", "targets", "pairs")
"""Columns of a table beside the costs."""


class Shape(NamedTuple):
    """What an example is beside its costs.

    Attributes:
        branches: paths from its root to a leaf.
        targets: tokens that are trained on.
        pairs: of query and key that attention computes, the area of its mask.
    """

    branches: int
    targets: int
    pairs: int


def shape_of_outline(outline: Outline, bidirectional: Bidirectional) -> Shape | None:
    """The shape of an example that is not loaded; ``None`` if its images are not known.

    Args:
        outline: its lengths.
        bidirectional: which image tokens see later ones.
    """
    ahead = _pairs_ahead(outline, bidirectional)
    if ahead is None:
        return None
    pairs = _triangle(outline.root) + ahead
    shared = outline.shared or (0,) * len(outline.branches)
    for n, common in zip(outline.branches, shared, strict=True):
        pairs += _triangle(n) - _triangle(common) + (n - common) * outline.root
    return Shape(len(outline.branches), outline.targets, pairs)


def shape_of_tree(tree: MessageTree, bidirectional: Bidirectional) -> Shape:
    """The shape of an example that is loaded.

    Args:
        tree: the example.
        bidirectional: which image tokens see later ones.
    """
    row = RowLayout([tree])
    mask, _ = row.masks(bidirectional)
    targets = row.targets(mask)
    leaves = len(row.nodes) - len({parent for parent in row.parents if parent >= 0})
    return Shape(leaves, len(targets.token), mask.area)


def _pairs_ahead(outline: Outline, bidirectional: Bidirectional) -> int | None:
    """Pairs of a token of the root with a later one."""
    if bidirectional in ("none", SLIDING):
        return 0
    if bidirectional == PREFIX:
        return _triangle(outline.root) - outline.root
    if outline.runs is None:
        return None
    lengths = outline.runs[:, 1] - outline.runs[:, 0]
    if not len(lengths):
        return 0
    groups = np.bincount(outline.runs[:, 2], lengths).astype(np.int64)
    if bidirectional == "image_tokens":
        groups = groups.sum(keepdims=True)
    return int((groups * (groups - 1) // 2).sum())


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
