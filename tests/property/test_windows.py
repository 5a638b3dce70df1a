"""Sliding windows: what a query sees of its path, in the plan and in attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import fake_flash
from helpers.cases import cases
from helpers.random_masks import random_forest
from treepack._core import longest_path, window_plan
from treepack._reference.attention import dense_attention
from treepack._reference.plan import build_window_plan, count_pairs
from treepack.attention import TreePlan
from treepack.errors import TreeError


def windowed(mask, window):
    """The definition: nothing that is ``window`` or more tokens before a query on its path."""
    place = mask.positions()[0]
    ahead = place[None, :] - place[:, None]
    later = np.arange(mask.total)[None, :] > np.arange(mask.total)[:, None]
    return mask.to_dense() & (later | (ahead > -window))


def random_case(rng, **forest):
    mask = tp.TreeMask.from_nodes(*random_forest(rng, **forest))
    return mask, int(rng.integers(1, longest_path(mask) + 3))


def test_the_plan_is_that_of_the_reference_and_covers_each_pair_once():
    for rng in cases(1000, "window plan"):
        mask, window = random_case(rng)
        plan, host = window_plan(mask, window)
        for ours, theirs in zip((plan, host), build_window_plan(mask, window), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(count_pairs(plan, host), windowed(mask, window))


def test_a_window_that_holds_every_path_changes_nothing():
    for rng in cases(200, "wide window"):
        mask, _ = random_case(rng)
        longest = longest_path(mask)
        assert longest == mask.positions().max() + 1
        for ours, theirs in zip(window_plan(mask, longest), mask.plan(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_of_nothing_is_rejected(window):
    with pytest.raises(TreeError, match=str(window)):
        window_plan(tp.TreeMask.from_nodes([3], [-1]), window)


def attend(function, *tensors):
    *inputs, grad_out = tensors
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad_out)]


@pytest.mark.parametrize("backend", ["cpu", "cuda", "fa3", "fa4", "reference"])
def test_attention_is_exact(monkeypatch, backend):
    fake_flash.install(monkeypatch)
    for rng in cases(300, f"window attention {backend}"):
        mask, window = random_case(rng, longest=int(rng.integers(2, 30)))
        heads, groups = [(4, 4), (4, 2), (2, 1)][rng.integers(3)]
        tensors = [
            torch.from_numpy(rng.standard_normal((mask.total, h, 8)))
            for h in (heads, groups, groups, heads)
        ]
        seen = torch.from_numpy(windowed(mask, window))
        expected = attend(lambda q, k, v, seen=seen: dense_attention(q, k, v, seen), *tensors)
        ours = attend(
            lambda q, k, v, m=mask, w=window: tp.tree_attention(
                q, k, v, m, window=w, backend=backend
            ),
            *tensors,
        )
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_row_makes_the_plan_of_a_window_once():
    row = tp.collate([tp.MessageTree([1] * 9, children=[tp.MessageTree([2] * 3)])])["treepack"]
    plan = row.plan_for(4)
    assert isinstance(plan, TreePlan)
    assert plan is row.plan_for(4)
    assert (plan.window, row.plan.window, plan.longest) == (4, None, 12)
