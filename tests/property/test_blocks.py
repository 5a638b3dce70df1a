"""The blocks of a mask: what FlexAttention skips, computes whole and computes in part."""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from helpers import cases
from helpers.random_masks import random_forest
from treepack._core import block_lists
from treepack._reference import blocks as reference
from treepack.errors import TreeError


def test_blocks_are_full_or_empty_exactly_where_the_matrix_says_so():
    for rng in cases.cases(1000, "blocks"):
        mask = tp.TreeMask.from_nodes(*random_forest(rng, longest=12))
        sizes = int(rng.integers(1, 20)), int(rng.integers(1, 20))
        got = block_lists(mask, *sizes)
        for ours, theirs in zip(got, reference.block_lists(mask.to_dense(), *sizes), strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert one.dtype == np.int32
                np.testing.assert_array_equal(one, other)


def test_a_block_may_be_larger_than_the_row():
    mask = tp.TreeMask.from_nodes([5, 2], [-1, 0], total=9)
    (counts, indices), (full, _), _, _ = block_lists(mask)
    assert (counts.tolist(), indices.tolist(), full.tolist()) == ([1], [[0]], [0])


@pytest.mark.parametrize("sizes", [(0, 128), (128, 0), (-1, 128)])
def test_blocks_of_nothing_are_rejected(sizes):
    with pytest.raises(TreeError, match=r"block.*(0|-1)"):
        block_lists(tp.TreeMask.from_nodes([5], [-1]), *sizes)
