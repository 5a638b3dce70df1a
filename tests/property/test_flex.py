"""FlexAttention with our block lists equals attention with the mask written out."""

from __future__ import annotations

import pytest
import torch
import treepack as tp
from forests import random_forest
from support import cases
from torch.nn.attention.flex_attention import create_block_mask
from treepack._reference.attention import dense_attention
from treepack.attention import TreePlan
from treepack.attention.flex import make_block_mask
from treepack.errors import AttentionError

# Eager FlexAttention says that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def random_row(rng, **forest):
    mask = tp.TreeMask.from_nodes(*random_forest(rng, **forest))
    shapes = [(mask.total, heads, 16) for heads in (4, 2, 2)]
    return mask, *(torch.from_numpy(rng.standard_normal(shape)) for shape in shapes)


def test_it_is_exact():
    for rng in cases(150, "flex"):
        mask, q, k, v = random_row(rng)
        out = tp.tree_attention(q, k, v, mask, backend="flex")
        expected = dense_attention(q, k, v, torch.from_numpy(mask.to_dense()))
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_the_blocks_are_those_that_torch_finds():
    for rng in cases(12, "flex blocks"):
        mask = tp.TreeMask.from_nodes(*random_forest(rng, longest=150))
        ours = make_block_mask(mask, torch.device("cpu"))
        theirs = create_block_mask(ours.mask_mod, None, None, mask.total, mask.total, device="cpu")
        assert torch.equal(ours.to_dense(), theirs.to_dense())
        for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_what_it_cannot_do_is_refused():
    mask = tp.TreeMask.from_nodes([6, 2], [-1, 0])
    x = torch.zeros(8, 2, 16)
    with pytest.raises(AttentionError, match=r"window.*4"):
        tp.tree_attention(x, x, x, mask, window=4, backend="flex")
    with pytest.raises(AttentionError, match="TreePlan"):
        tp.tree_attention(x, x, x, TreePlan.from_mask(mask), backend="flex")
    with pytest.raises(AttentionError, match="9 rows, the mask 8"):
        tp.tree_attention(*[torch.zeros(9, 2, 16)] * 3, mask, backend="flex")
