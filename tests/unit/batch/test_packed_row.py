"""What a row carries, and how it and its batch travel."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import treepack as tp
from treepack.attention import TreePlan
from treepack.attention.flex import make_blocks
from treepack.batch import PackedRow
from treepack.batch.layout import SLIDING
from treepack.errors import AttentionError, TreeError


def make_row(n=9, **options):
    mask = tp.TreeMask.from_nodes([n, 3, 3], [-1, 0, 0])
    return PackedRow(mask, TreePlan.from_mask(mask), **options)


def test_a_row_needs_a_mask_and_its_plan_alone():
    row = make_row()
    assert (row.keys, row.stats, row.state) == ([], {}, None)
    assert len(row.target_node) == len(row.target_example) == 0
    assert row.target_counts.tolist() == [0, 0, 0]
    assert row.plan_for(3).window == 3


def test_what_a_row_carries_travels_with_it():
    counts = np.array([0, 2, 1])
    row = make_row(keys=("a",), stats={"n": 1.0}, state=[7], target_counts=counts)
    row.plan_for(4)
    for other in (pickle.loads(pickle.dumps(row)), row.to("cpu"), row.to("meta")):
        assert (other.keys, other.stats, other.state) == (["a"], {"n": 1.0}, [7])
        assert other.target_node.tolist() == [1, 1, 2]
        assert other.mask == row.mask
        assert list(other._windows) == [4]
    assert row.to() is row.to(None) is row


def test_layers_with_a_window_have_a_mask_of_their_own_wherever_the_row_goes():
    image = [(1, 5, 0)]
    tree = tp.MessageTree([1] * 9, image_runs=image, children=[tp.MessageTree([2] * 3)])
    row = tp.collate([tree], bidirectional=SLIDING, sliding_windows=[3])["treepack"]
    causal, ahead = (
        tp.TreeMask.from_nodes([9, 3], [-1, 0], image, mode) for mode in ("none", "within_image")
    )
    for other in (row, pickle.loads(pickle.dumps(row)), row.to("cpu"), row.to("cpu").to("cpu")):
        assert (other.mask, other.sliding_mask, other.bidirectional) == (causal, ahead, SLIDING)
        assert list(other._windows) == [3]
        assert same(other.plan, TreePlan.from_mask(causal))
        # Longer than the row, too: then there is no window, and still another mask.
        for window in (3, 4, 99):
            assert same(other.plan_for(window), TreePlan.from_mask(ahead, window))
        for window, mask in ((None, causal), (4, ahead), (99, ahead)):
            assert torch.equal(dense(other.blocks_for(window)), dense(blocks_of(mask, window)))


def blocks_of(mask, window):
    return make_blocks(mask, torch.device("cpu"), window)


def dense(blocks):
    places = torch.arange(len(blocks.padding))
    return blocks.mask.mask_mod(None, None, places[:, None], places)


def same(plan, other):
    return torch.equal(plan.entries, other.entries) and torch.equal(plan.host, other.host)


def test_a_row_says_how_its_images_see():
    told = [
        tp.collate([tree], bidirectional="within_image")["treepack"].bidirectional
        for tree in (
            tp.MessageTree([1, 2], image_runs=[(0, 1, 0)]),
            tp.MessageTree([1, 2], media={"pixels": np.ones(1)}),
            tp.MessageTree([1, 2]),
        )
    ]
    assert told == ["within_image", "within_image", None]
    with pytest.raises(TreeError, match=r"bidirectional is 'sliding'; use one of .*_sliding'"):
        tp.collate([tp.MessageTree([1])], bidirectional="sliding")


def test_a_plan_or_blocks_for_a_window_are_made_once():
    row = make_row()
    assert row.plan_for(4) is row.plan_for(4) is not row.plan_for(5)
    assert row.plan_for(4).window == 4
    for window in (None, 4):
        assert row.blocks_for(window) is row.blocks_for(window)
    assert row.blocks_for() is row.blocks_for(None) is not row.blocks_for(4)


def test_a_plan_that_is_there_is_given_while_all_is_traced(monkeypatch):
    row = make_row()
    there = row.plan_for(4), row.blocks_for(4)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert (row.plan_for(4), row.blocks_for(4)) == there
    with pytest.raises(AttentionError, match="no plan for a window of 5 tokens"):
        row.plan_for(5)
    with pytest.raises(AttentionError, match="no blocks for a window of 5 tokens"):
        row.blocks_for(5)
    with pytest.raises(AttentionError, match="no blocks for the whole row"):
        row.blocks_for()


def test_pinning_reaches_every_tensor_and_the_plans(monkeypatch):
    pinned = []

    def pin(tensor):
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = tp.collate([tp.MessageTree([1, 2, 3], labels=[1, 2, 3], key="a")], sliding_windows=[2])
    batch["note"] = "text"
    other = batch.pin_memory()
    assert type(other) is tp.PackedBatch
    assert list(other) == list(batch)
    assert (other["note"], other["use_cache"]) == ("text", False)
    row = batch["treepack"]
    tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
    parts = {id(x) for x in (*tensors, row.plan.entries, row.plan_for(2).entries)}
    assert parts == set(map(id, pinned))
    moved = other["treepack"]
    assert (moved.keys, moved.stats) == (row.keys, row.stats)
    assert (moved.plan.longest, moved.plan_for(2).window) == (3, 2)
    assert moved.plan.host is row.plan.host
    # The tensors themselves were replaced.
    assert not {id(value) for value in other.values()} & set(map(id, tensors))


def test_tensors_of_every_dtype_lie_where_it_wants_them_after_a_process_border():
    batch = tp.collate([tp.MessageTree([1, 2, 3])])
    dtypes = (torch.uint8, torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.float32)
    for n in (1, 3, 0, 7):
        for dtype in dtypes:
            batch[f"{dtype} {n}"] = torch.arange(n).to(dtype)
            batch[f"{dtype} {n} empty"] = torch.empty(n, 0, 2, dtype=dtype)
    other = pickle.loads(pickle.dumps(batch))
    assert list(other) == list(batch)
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            assert (other[name].dtype, other[name].shape) == (value.dtype, value.shape)
            assert torch.equal(other[name], value)
            assert other[name].data_ptr() % value.element_size() == 0


def test_what_is_no_plain_small_cpu_tensor_crosses_as_it_is():
    batch = tp.collate([tp.MessageTree([1, 2, 3])])
    batch["meta"] = torch.empty(3, device="meta")
    batch["sparse"] = torch.eye(3).to_sparse()
    batch["learned"] = torch.nn.Parameter(torch.ones(2))
    batch["wanted"] = torch.ones(2, requires_grad=True)
    batch["strided"] = torch.arange(6, dtype=torch.bfloat16).view(2, 3).T
    other = pickle.loads(pickle.dumps(batch))
    assert other["meta"].is_meta
    assert other["sparse"].is_sparse
    assert isinstance(other["learned"], torch.nn.Parameter)
    assert other["wanted"].requires_grad
    assert torch.equal(other["strided"], batch["strided"])


def test_a_batch_that_need_not_wait_says_so_to_every_tensor(monkeypatch):
    batch = tp.collate([tp.MessageTree([1, 2, 3], labels=[1, 2, 3])], sliding_windows=[2])
    tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
    plans = [batch["treepack"].plan.entries, batch["treepack"].plan_for(2).entries]
    told = []

    def to(tensor, *where, non_blocking=False):
        told.append((id(tensor), non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    for non_blocking in (True, False):
        batch.to("cpu", non_blocking=non_blocking)
        assert set(told) == {(id(tensor), non_blocking) for tensor in [*tensors, *plans]}
        told.clear()
    batch.to("cpu")
    assert not any(waits for _, waits in told)


def test_a_batch_on_the_cpu_is_shown_without_its_device():
    shown = repr(tp.collate([tp.MessageTree([1, 2, 3])]))
    assert "input_ids: int64 [1, 3]," in shown
