"""Are pairs the area of the mask, whatever sees ahead?"""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from helpers.cases import cases
from helpers.tree_sources import tree_of
from treepack.batch.layout import MODES
from treepack.families.roots import Outline
from treepack.measuring.shapes import shape_of_outline, shape_of_tree


def random_outline(rng):
    """A root with a few image runs in groups, and branches, some of them empty."""
    root = int(rng.integers(1, 30))
    edges = np.sort(rng.choice(root + 1, 2 * (min(root, 8) // 2), replace=False)).reshape(-1, 2)
    groups = np.sort(rng.integers(0, 3, len(edges)))
    runs = np.column_stack([edges, groups]).astype(np.int64)
    lengths = tuple(rng.integers(1, 9, rng.integers(0, 4)).tolist())
    return Outline({}, root, lengths or (4,), 0, runs)


@pytest.mark.parametrize("mode", MODES)
def test_pairs_are_the_area_of_the_mask(mode):
    for rng in cases(30, f"pairs, {mode}"):
        outline = random_outline(rng)
        runs = outline.runs if len(outline.runs) else None
        tree = tp.MessageTree(
            [1] * outline.root,
            children=[tp.MessageTree([2] * n) for n in outline.branches],
            image_runs=runs,
        )
        assert shape_of_outline(outline, mode).pairs == shape_of_tree(tree, mode).pairs


def test_images_that_are_not_known_are_no_shape():
    outline = Outline({}, 9, (4,), 0, None)
    assert shape_of_outline(outline, "within_image") is None
    assert shape_of_outline(outline, "none").pairs == 13 * 14 // 2


def test_the_shape_of_a_tree_is_what_a_row_of_it_says():
    for index in range(20):
        row = tp.collate([tree_of(index)])["treepack"]
        found = shape_of_tree(tree_of(index), "none")
        assert found == (row.stats["branches"], row.stats["targets"], row.mask.area)
