"""FlexAttention with our block lists equals attention with the mask written out."""

from __future__ import annotations

import functools

import pytest
import torch
import treepack as tp
from helpers.cases import cases
from helpers.random_masks import random_forest
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention.flex_attention import create_block_mask
from treepack._core import longest_path
from treepack._reference.attention import dense_attention
from treepack.attention import TreePlan
from treepack.attention.flex import BLOCK, make_blocks
from treepack.batch import PackedRow
from treepack.errors import AttentionError

# Eager FlexAttention says that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def random_row(rng, dtype=torch.float64, **forest):
    mask = tp.TreeMask.from_nodes(*random_forest(rng, **forest))
    shapes = [(mask.total, heads, 16) for heads in (4, 2, 2)]
    return mask, *(torch.from_numpy(rng.standard_normal(shape)).to(dtype) for shape in shapes)


def random_window(rng, mask):
    return int(rng.integers(1, longest_path(mask) + 2)) if rng.random() < 0.5 else None


def seen(mask, window):
    """The mask written out, cut at a window."""
    visible = mask.to_dense()
    if window is not None:
        place = mask.positions()[0]
        visible &= place[:, None] - place < window
    return torch.from_numpy(visible)


def capped_attention(q, k, v, visible, softcap):
    """Slow and plain: scores are capped after scaling, before the mask."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[2] ** -0.5
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~visible, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1).nan_to_num(0.0), v)


def test_it_is_exact():
    for rng in cases(1000, "flex"):
        mask, q, k, v = random_row(rng)
        window = random_window(rng, mask)
        out = tp.tree_attention(q, k, v, mask, window=window, backend="flex")
        expected = dense_attention(q, k, v, seen(mask, window))
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_it_is_exact_over_many_blocks():
    for rng in cases(8, "flex over blocks"):
        mask, q, k, v = random_row(rng, longest=150)
        for window in (None, int(rng.integers(1, 400))):
            out = tp.tree_attention(q, k, v, mask, window=window, backend="flex")
            expected = dense_attention(q, k, v, seen(mask, window))
            torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_scores_can_be_capped():
    for rng in cases(100, "flex softcap"):
        mask, q, k, v = random_row(rng)
        softcap, window = float(rng.uniform(0.2, 3)), random_window(rng, mask)
        out = tp.tree_attention(q, k, v, mask, window=window, softcap=softcap, backend="flex")
        expected = capped_attention(q, k, v, seen(mask, window), softcap)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_padding_may_hold_anything():
    for rng in cases(100, "flex padding"):
        mask, *tensors = random_row(rng)
        clean = tp.tree_attention(*tensors, mask, backend="flex")
        for x in tensors:
            x[mask.used :] = torch.nan
        out = tp.tree_attention(*tensors, mask, backend="flex")
        assert torch.equal(out, clean)
        assert not out[mask.used :].any()


def test_in_bfloat16_the_error_is_that_of_a_plain_implementation():
    ours = plain = 0.0
    for rng in cases(60, "flex bfloat16"):
        mask, *tensors = random_row(rng, torch.bfloat16, longest=20)
        exact = dense_attention(*(x.double() for x in tensors), seen(mask, None))
        out = tp.tree_attention(*tensors, mask, backend="flex")
        assert out.dtype == torch.bfloat16
        ours += (out - exact).square().sum()
        plain += (dense_attention(*tensors, seen(mask, None)) - exact).square().sum()
    assert ours <= 4 * plain


def test_the_blocks_are_those_that_torch_finds():
    for rng in cases(12, "flex blocks"):
        mask = tp.TreeMask.from_nodes(*random_forest(rng, longest=150))
        ours = make_blocks(mask, torch.device("cpu")).mask
        theirs = create_block_mask(ours.mask_mod, None, None, mask.total, mask.total, device="cpu")
        assert torch.equal(ours.to_dense(), theirs.to_dense())
        for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def pairs_of(lists, n):
    counts, indices = (x[0, 0].tolist() for x in lists)
    return {(i, j) for i, listed in enumerate(indices) for j in listed[: counts[i]]}


def test_the_blocks_under_a_window_are_alike_from_both_sides_and_full_ones_are_full():
    shorter = 0
    for rng in cases(60, "flex window blocks"):
        mask = tp.TreeMask.from_nodes(*random_forest(rng, longest=200))
        window = int(rng.integers(1, 300))
        blocks = make_blocks(mask, torch.device("cpu"), window).mask
        n = -(-mask.total // BLOCK)
        sides = {
            name: pairs_of(
                (getattr(blocks, f"{name}_num_blocks"), getattr(blocks, f"{name}_indices")), n
            )
            for name in ("kv", "full_kv", "q", "full_q")
        }
        assert sides["kv"] == {(i, j) for j, i in sides["q"]}
        assert sides["full_kv"] == {(i, j) for j, i in sides["full_q"]}
        assert not sides["kv"] & sides["full_kv"]
        visible = seen(mask, window)
        for i in range(n):
            for j in range(n):
                tile = visible[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]
                if (i, j) in sides["full_kv"]:
                    assert tile.all()
                elif (i, j) not in sides["kv"]:
                    assert not tile.any()
        whole = make_blocks(mask, torch.device("cpu")).mask
        shorter += blocks.kv_num_blocks.sum() + blocks.full_kv_num_blocks.sum() < (
            whole.kv_num_blocks.sum() + whole.full_kv_num_blocks.sum()
        )
    assert shorter > 10


def test_one_graph_takes_all_masks_of_one_length():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    @functools.partial(torch.compile, fullgraph=True, backend=counter)
    def attend(q, k, v, row):
        local = tp.tree_attention(q, k, v, row, window=5, backend="flex")
        return local + tp.tree_attention(q, k, v, row, backend="flex")

    for rng in cases(5, "flex compiled"):
        drawn = random_forest(rng)
        mask = tp.TreeMask.from_nodes(*drawn._replace(total=150))
        row = PackedRow(mask, TreePlan.from_mask(mask))
        q, k, v = (torch.from_numpy(rng.standard_normal((150, h, 16))) for h in (4, 2, 2))
        for window in (None, 5):
            row.blocks_for(window)
        expected = sum(dense_attention(q, k, v, seen(mask, window)) for window in (None, 5))
        torch.testing.assert_close(attend(q, k, v, row), expected, rtol=0, atol=1e-12)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_a_row_makes_its_blocks_once():
    row = tp.collate([tp.MessageTree([1] * 9)])["treepack"]
    assert row.blocks_for() is row.blocks_for()
    assert row.blocks_for(4) is row.blocks_for(4)
    assert row.blocks_for(4) is not row.blocks_for()
    moved = row.to("meta").blocks_for()
    assert moved.padding.is_meta
    assert moved.mask.kv_indices.is_meta


def test_what_it_cannot_do_is_rejected():
    mask = tp.TreeMask.from_nodes([6, 2], [-1, 0])
    x = torch.zeros(8, 2, 16)
    with pytest.raises(AttentionError, match="TreePlan"):
        tp.tree_attention(x, x, x, TreePlan.from_mask(mask), backend="flex")
    with pytest.raises(AttentionError, match="9 tokens, the mask 8"):
        tp.tree_attention(*[torch.zeros(9, 2, 16)] * 3, mask, backend="flex")
    with pytest.raises(AttentionError, match=r"no backward on the CPU.*no_grad"):
        tp.tree_attention(x.clone().requires_grad_(), x, x, mask, backend="flex")
    row = PackedRow(mask, TreePlan.from_mask(mask)).to("meta")
    with pytest.raises(AttentionError, match=r"on meta, q on cpu.*\.to\("):
        tp.tree_attention(x, x, x, row, backend="flex")
    with pytest.raises(AttentionError, match=r"30\.0.*flex"):
        tp.tree_attention(x, x, x, mask, softcap=30.0)
