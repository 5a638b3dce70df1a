"""A plan as tensors: what it says of its row, and how it moves."""

from __future__ import annotations

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import treepack as tp
from helpers.cases import cases
from helpers.random_masks import random_forest
from treepack._reference.plan import count_pairs
from treepack.attention import TreePlan
from treepack.attention.plan import WINDOW, read_calls


@pytest.fixture
def plan():
    """The second branch of the first root has keys that its first one has not: a gap."""
    mask = tp.TreeMask.from_nodes([6, 4, 3, 2], [-1, 0, 0, -1], total=17)
    return TreePlan.from_mask(mask)


def test_a_plan_says_length_window_and_longest_path():
    for rng in cases(100, "plan says"):
        mask = tp.TreeMask.from_nodes(*random_forest(rng))
        plan, window = TreePlan.from_mask(mask), int(rng.integers(1, 9))
        depth = mask.positions()[0][: mask.used].max() + 1
        assert (plan.total, plan.longest, plan.window) == (mask.total, depth, None)
        narrow = TreePlan.from_mask(mask, window)
        assert (narrow.total, narrow.longest) == (mask.total, depth)
        # A window that holds every path is none.
        assert narrow.window == (window if window < depth else None)
        assert all(call.window == (narrow.window or 0) for call in read_calls(*parts(narrow)))


def parts(plan):
    return plan.entries, plan.host


def test_the_longest_path_is_the_row_where_nobody_says_it(plan):
    assert TreePlan(*parts(plan)).longest == plan.total == 17
    assert TreePlan(*parts(plan), 5).longest == 5


def test_calls_are_views_into_the_plan(plan):
    end = plan.entries.data_ptr() + plan.entries.nbytes
    for call in read_calls(*parts(plan)):
        for part in (call.q, call.k, call.cu_q, call.cu_k):
            if isinstance(part, torch.Tensor):
                assert plan.entries.data_ptr() <= part.data_ptr() < end
        assert (call.cu_q[0], call.cu_k[0]) == (0, 0)
        assert len(call.cu_q) == len(call.cu_k)


def test_queries_and_keys_of_a_windowed_segment_end_together():
    mask = tp.TreeMask.from_nodes([6, 4, 3], [-1, 0, 0])
    calls = read_calls(*parts(TreePlan.from_mask(mask, 3)))
    assert {call.kind for call in calls} == {WINDOW}
    for call in calls:
        assert (call.cu_q.diff() <= call.cu_k.diff()).all()


def test_the_plan_without_gaps_is_made_once_and_without_the_device(plan):
    dense = plan.without_gaps()
    assert dense is plan.without_gaps() is not plan
    moved = plan.to("meta")
    assert moved.without_gaps().entries.is_meta
    assert torch.equal(moved.without_gaps().host, dense.host)
    twice = moved.to("meta").without_gaps()
    assert torch.equal(twice.host, dense.host)
    pairs = count_pairs(dense.entries.numpy(), dense.host.numpy())
    np.testing.assert_array_equal(pairs, count_pairs(plan.entries.numpy(), plan.host.numpy()))
    assert (dense.total, dense.longest) == (plan.total, plan.longest)


def test_moving_keeps_what_a_plan_says_and_says_whether_to_wait(plan, monkeypatch):
    told = []
    real = torch.Tensor.to

    def to(tensor, *where, non_blocking=False):
        told.append(non_blocking)
        return real(tensor, *where)

    monkeypatch.setattr(torch.Tensor, "to", to)
    moved = [plan.to("cpu", non_blocking=True), plan.to("cpu")]
    assert told == [True, False]
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    for other in (*moved, plan.pin_memory(), pickle.loads(pickle.dumps(plan))):
        assert torch.equal(other.entries, plan.entries)
        assert torch.equal(other.host, plan.host)
        assert (other.total, other.longest, other.window) == (17, plan.longest, None)
    assert plan.pin_memory().entries is not plan.entries


def test_every_plan_is_marked_for_a_compiler_that_is_loaded(plan, monkeypatch):
    marked = []
    fake = SimpleNamespace(mark_dynamic=lambda tensor, axis: marked.append((id(tensor), axis)))
    monkeypatch.setitem(sys.modules, "torch._dynamo", fake)
    for make in (lambda: plan.to("meta"), lambda: TreePlan(*parts(plan))):
        other = make()
        assert marked == [(id(other.entries), 0), (id(other.host), 0)]
        marked.clear()
    # A compiler that is being loaded just now, and none.
    monkeypatch.setitem(sys.modules, "torch._dynamo", SimpleNamespace())
    assert plan.to("meta").total == 17
    monkeypatch.delitem(sys.modules, "torch._dynamo")
    assert plan.to("meta").total == 17
