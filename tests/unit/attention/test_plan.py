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
from treepack._core import PLAN_ALIGN, PLAN_FIELDS, PLAN_HEADER
from treepack._reference.plan import count_pairs
from treepack.attention import TreePlan
from treepack.attention.plan import CROSS, SELF, WINDOW, HostCall, drop_gaps, read_calls, read_host


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


def test_every_plan_is_marked_as_dynamic_where_that_is_known(plan, monkeypatch):
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


class Builder:
    """A plan of random calls, of which every side may be a stretch of the row or any tokens."""

    def __init__(self, rng, total=20):
        self.rng, self.total = rng, total
        self.calls, self.entries = [], []

    def put(self, numbers):
        offset = len(self.entries)
        self.entries += [*map(int, numbers), *[0] * (-len(numbers) % PLAN_ALIGN)]
        return offset

    def side(self, lengths):
        """Start, tokens, offset of the boundaries and of the tokens if they are gathered."""
        n, cu = int(sum(lengths)), self.put([0, *np.cumsum(lengths)])
        if self.rng.random() < 0.5:
            return int(self.rng.integers(self.total - n + 1)), n, cu, 0
        return 0, n, cu, self.put(self.rng.permutation(self.total)[:n])

    def add(self):
        n_seg = int(self.rng.integers(1, 5))
        lengths = self.rng.integers(0, 4, (2, n_seg))
        if self.rng.random() < 0.3:
            lengths += 1
        lengths[:, self.rng.integers(n_seg)] = 2
        q, k = map(self.side, lengths)
        kind = int(self.rng.choice([SELF, CROSS]))
        most = max(2, int(lengths[0].max())), int(lengths[1].max())
        self.calls.append(HostCall(kind, *q[:2], *k[:2], n_seg, *most, q[2], k[2], q[3], k[3]))
        return (lengths == 0).any()

    def plan(self):
        header = dict.fromkeys(PLAN_HEADER, 0) | {"n_calls": len(self.calls), "total": self.total}
        host = [*header.values(), *np.ravel(self.calls)]
        return np.array(self.entries, np.int32), np.array(host, np.int32)


def test_dropping_gaps_keeps_the_pairs_and_leaves_calls_without_gaps_alone():
    dropped = 0
    for rng in cases(300, "drop gaps"):
        builder = Builder(rng)
        has_gaps = [builder.add() for _ in range(rng.integers(1, 4))]
        entries, host = builder.plan()
        before = entries.copy(), host.copy()
        found, table = drop_gaps(entries, host)
        assert found.dtype == table.dtype == np.int32
        np.testing.assert_array_equal(found[: len(entries)], entries)
        np.testing.assert_array_equal(table[: len(PLAN_HEADER)], host[: len(PLAN_HEADER)])
        np.testing.assert_array_equal(count_pairs(found, table), count_pairs(*before))
        np.testing.assert_array_equal(entries, before[0])
        np.testing.assert_array_equal(host, before[1])
        for had, call, old in zip(has_gaps, read_host(table.tolist()), builder.calls, strict=True):
            if not had:
                assert call == old
                continue
            lengths = [np.diff(found[at : at + call.n_seg + 1]) for at in call[8:10]]
            assert all(one.all() for one in lengths)
            assert (call.max_q, call.max_k) == (max(2, lengths[0].max()), lengths[1].max())
            assert (call.q_start, call.k_start) == (0, 0)
            assert not any(offset % PLAN_ALIGN for offset in call[8:])
            dropped += 1
    assert dropped > 0


def test_calls_are_read_as_the_table_says():
    assert HostCall._fields == PLAN_FIELDS
    for rng in cases(100, "read calls"):
        builder = Builder(rng)
        for _ in range(rng.integers(1, 4)):
            builder.add()
        entries, host = builder.plan()
        calls = read_calls(*map(torch.from_numpy, (entries, host)))
        for call, raw in zip(calls, builder.calls, strict=True):
            sides = ((call.q, raw[1:3], raw[10]), (call.k, raw[3:5], raw[11]))
            for side, (start, length), offset in sides:
                tokens = range(start, start + length) if not offset else entries[offset:][:length]
                seen = torch.arange(20)[side] if isinstance(side, slice) else side
                assert seen.tolist() == list(tokens)
            assert (call.kind, call.max_q, call.max_k) == (raw.kind, raw.max_q, raw.max_k)
            assert call.cu_q.tolist() == entries[raw.off_cu_q :][: raw.n_seg + 1].tolist()
            assert call.cu_k.tolist() == entries[raw.off_cu_k :][: raw.n_seg + 1].tolist()
