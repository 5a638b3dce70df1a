"""Attention from a plan equals attention with the mask written out, and branches stay apart."""

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import fake_flash
from helpers.attending import by_mask, by_plan, random_row, worst
from helpers.cases import cases
from treepack._reference.attention import dense_attention
from treepack.attention import TreePlan
from treepack.attention.plan import ANTI_CAUSAL, ANTI_CAUSAL_GATHERED, CROSS, SELF, read_calls


@pytest.fixture
def gpu(monkeypatch):
    fake_flash.install(monkeypatch)


def test_every_backend_is_exact(gpu):
    for rng in cases(1000, "attention is exact"):
        mask, *tensors = random_row(rng)
        scale = [None, 0.1, 1.7][rng.integers(3)]
        expected = by_mask(mask, *tensors, scale=scale)
        for backend in ("cpu", "cuda", "fa3", "fa4", "reference"):
            ours = by_plan(mask, *tensors, scale=scale, backend=backend)
            assert worst(ours, expected) < 1e-12, backend


def test_the_random_rows_tell_the_mask_from_simpler_ones():
    """Every kind of call occurs in them, and merely causal attention gives other numbers."""
    kinds, told, count = set(), 0, 0
    for rng in cases(200, "attention is exact"):
        mask, q, k, v, _ = random_row(rng)
        plan = TreePlan.from_mask(mask)
        kinds |= {call.kind for call in read_calls(plan.entries, plan.host)}
        example = np.repeat(mask.node_example, mask.node_end - mask.node_start)
        same = example[:, None] == example
        causal = torch.from_numpy(np.tril(same))
        ours = tp.tree_attention(q, k, v, mask)[: mask.used]
        simple = dense_attention(*(x[: mask.used] for x in (q, k, v)), causal)
        is_simple = np.array_equal(mask.to_dense()[: mask.used, : mask.used], causal)
        assert (worst([ours], [simple]) > 1e-3) != is_simple
        told, count = told + (not is_simple), count + 1
    assert kinds == {SELF, CROSS, ANTI_CAUSAL, ANTI_CAUSAL_GATHERED}
    assert told > count / 2


def test_deep_trees_and_long_nodes_are_exact(gpu):
    for rng in cases(40, "deep and long"):
        mask, *tensors = random_row(rng, longest=40, most_nodes=14)
        expected = by_mask(mask, *tensors)
        assert worst(by_plan(mask, *tensors), expected) < 1e-12
        assert worst(by_plan(mask, *tensors, backend="cuda"), expected) < 1e-12


@pytest.mark.parametrize("backend", ["cpu", "cuda", "fa3", "fa4", "reference"])
def test_padding_may_hold_anything(gpu, backend):
    for rng in cases(100, f"padding {backend}"):
        mask, *tensors = random_row(rng)
        poisoned = [x.clone() for x in tensors]
        for x in poisoned:
            x[mask.used :] = torch.nan
        clean = by_plan(mask, *tensors, backend=backend)
        for ours, expected in zip(by_plan(mask, *poisoned, backend=backend), clean, strict=True):
            assert torch.equal(ours, expected)
            assert not ours[mask.used :].any()


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_what_a_row_does_not_see_does_not_touch_it(gpu, backend):
    for rng in cases(150, f"blind {backend}"):
        mask, *tensors = random_row(rng)
        visible = mask.to_dense()
        node = rng.integers(mask.node_start.size)
        changed = slice(mask.node_start[node], mask.node_end[node])
        others = [x.clone() for x in tensors]
        for x in others:
            x[changed] += 1.0
        before, after = (by_plan(mask, *x, backend=backend) for x in (tensors, others))
        blind = ~visible[:, changed].any(1)
        assert torch.equal(before[0][blind], after[0][blind])
        assert torch.equal(before[1][blind], after[1][blind])
        unseen = ~visible[changed].any(0) & blind
        both = unseen & ~(visible[~blind].any(0))
        for grad in (2, 3):
            assert torch.equal(before[grad][both], after[grad][both])


@pytest.mark.parametrize("backend", ["cuda", "reference"])
def test_nan_in_a_token_reaches_exactly_those_that_see_it(gpu, backend):
    for rng in cases(100, f"nan {backend}"):
        mask, q, k, v, _ = random_row(rng)
        token = rng.integers(mask.used)
        k[token] = torch.nan
        out = tp.tree_attention(q, k, v, mask, backend=backend)
        seen = torch.from_numpy(mask.to_dense()[:, token])
        assert torch.equal(out.isnan().any(-1).any(-1), seen)


def test_the_order_of_branches_does_not_matter():
    for rng in cases(100, "order of branches"):
        root, branches = int(rng.integers(1, 6)), rng.integers(1, 6, rng.integers(2, 5))
        order = rng.permutation(len(branches))
        starts = root + np.concatenate([[0], np.cumsum(branches)[:-1]])
        moved = [np.arange(s, s + n) for s, n in zip(starts, branches, strict=True)]
        index = np.concatenate([np.arange(root), *(moved[i] for i in order)])
        parents = [-1] + [0] * len(branches)
        mask = tp.TreeMask.from_nodes([root, *branches], parents)
        mask_moved = tp.TreeMask.from_nodes([root, *branches[order]], parents)
        tensors = [torch.from_numpy(rng.standard_normal((mask.total, 2, 8))) for _ in range(4)]
        expected = [x[index] for x in by_plan(mask, *tensors)]
        assert worst(by_plan(mask_moved, *(x[index] for x in tensors)), expected) < 1e-13


def test_strided_inputs_give_the_same(gpu):
    for rng in cases(50, "strides"):
        mask, *tensors = random_row(rng)
        strided = [x.permute(2, 1, 0).contiguous().permute(2, 1, 0) for x in tensors]
        for backend in ("cpu", "cuda", "reference"):
            ours = by_plan(mask, *strided, backend=backend)
            assert worst(ours, by_plan(mask, *tensors, backend=backend)) < 1e-13
            assert all(x.is_contiguous() for x in ours)
