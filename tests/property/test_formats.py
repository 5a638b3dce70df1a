"""The mask in other kernels' formats is the same mask."""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from helpers import cases
from helpers.random_masks import random_forest
from treepack._reference import formats as meaning
from treepack.attention import formats
from treepack.errors import TreeError


def masks(count, label, **options):
    for rng in cases.cases(count, label):
        yield tp.TreeMask.from_nodes(*random_forest(rng, **options))


def has_holes(mask):
    return len(mask.run_start) > len(mask.group_ptr) - 1


def test_trl_tree_kwargs():
    for mask in masks(1000, "trl", mode="none"):
        kwargs = formats.trl_tree_kwargs(mask)
        np.testing.assert_array_equal(meaning.expand_trl(kwargs), mask.to_dense())
        assert kwargs["tree_kv_index"].dtype == np.int64
        assert kwargs["tree_cu_seqlens_q"].dtype == kwargs["tree_cu_seqlens_k"].dtype == np.int32
        longest = [np.diff(kwargs[f"tree_cu_seqlens_{x}"]).max() for x in "qk"]
        assert kwargs["tree_max_seqlens"].tolist() == longest


def test_flashmask_columns():
    said = 0
    for mask in masks(1000, "flashmask"):
        if has_holes(mask):
            with pytest.raises(TreeError, match="FlashMask cannot say"):
                formats.flashmask_columns(mask)
            continue
        columns = formats.flashmask_columns(mask)
        np.testing.assert_array_equal(meaning.expand_flashmask(columns), mask.to_dense())
        assert columns.dtype == np.int32
        said += columns.shape[1] == 2
    assert said > 50


def test_magi_slices_cover_each_pair_once():
    for mask in masks(1000, "magi"):
        count = meaning.expand_magi(formats.magi_slices(mask), mask.total)
        np.testing.assert_array_equal(count, mask.to_dense())


def test_query_intervals_increase_and_do_not_touch():
    for mask in masks(1000, "intervals"):
        ptr, intervals = formats.query_intervals(mask)
        np.testing.assert_array_equal(meaning.expand_intervals(ptr, intervals), mask.to_dense())
        assert (intervals[:, 0] < intervals[:, 1]).all()
        for q in range(mask.total):
            bounds = intervals[ptr[q] : ptr[q + 1]].ravel()
            assert (np.diff(bounds) > 0).all()


def test_trl_cannot_say_that_images_see_ahead():
    mask = tp.TreeMask.from_nodes([4], [-1], [[0, 3, 0]], "image_tokens")
    with pytest.raises(TreeError, match='bidirectional="image_tokens" with 1 groups'):
        formats.trl_tree_kwargs(mask)
