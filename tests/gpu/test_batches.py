"""What a training step needs of a GPU beside its model: FlexAttention, page-locked batches."""

from __future__ import annotations

import functools

import pytest
import torch
import treepack as tp
from helpers.cases import cases
from helpers.devices import DEVICE, on_a_gpu
from helpers.random_masks import random_forest
from helpers.tree_sources import dataset
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory
from treepack._reference.attention import dense_attention
from treepack.attention import TreePlan
from treepack.batch import PackedRow
from treepack.check.doctor.findings import OK
from treepack.check.doctor.parts import check_flex, check_pinning, tensors_of


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 70])
def test_the_flex_of_the_doctor(window):
    found = check_flex(DEVICE, window, "flex")
    assert found.result == OK, found


@on_a_gpu
def test_the_pinning_of_the_doctor():
    found = check_pinning(DEVICE)
    assert found.result == OK, found


@on_a_gpu
@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_compiled_flex_attention_is_exact_forward_and_backward(window, softcap):
    torch._dynamo.reset()
    attend = torch.compile(
        functools.partial(tp.tree_attention, window=window, softcap=softcap, backend="flex"),
        fullgraph=True,
    )
    for rng in cases(4, "flex on a GPU"):
        drawn = random_forest(rng, longest=60)
        mask = tp.TreeMask.from_nodes(*drawn._replace(total=1200))
        row = PackedRow(mask, TreePlan.from_mask(mask)).to(DEVICE)
        row.blocks_for(window)
        q, k, v = (
            torch.randn(1200, h, 64, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
            for h in (4, 2, 2)
        )
        out = attend(q, k, v, row)
        grads = torch.autograd.grad(out.float().square().sum(), (q, k, v))
        doubles = [x.detach().double().requires_grad_() for x in (q, k, v)]
        visible = torch.from_numpy(mask.to_dense()).to(DEVICE)
        if window is not None:
            place = torch.from_numpy(mask.positions()[0]).to(DEVICE)
            visible &= place[:, None] - place[None, :] < window
        exact = dense_or_capped(*doubles, visible, softcap)
        exact_grads = torch.autograd.grad(exact.square().sum(), doubles)
        for ours, theirs in zip((out, *grads), (exact, *exact_grads), strict=True):
            scale = theirs.abs().max()
            assert (ours - theirs).abs().max() < 0.03 * scale
            assert not ours[mask.used :].any()
    torch._dynamo.reset()


def dense_or_capped(q, k, v, visible, softcap):
    if softcap is None:
        return dense_attention(q, k, v, visible)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = softcap * torch.tanh(torch.einsum("qhd,khd->hqk", q, k) * 64**-0.5 / softcap)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num(0.0)
    return torch.einsum("hqk,khd->qhd", weights, v)


@pytest.mark.parametrize("window", [(), (3,)])
def test_the_pin_thread_pins_every_tensor_of_a_batch(window, monkeypatch):
    pinned = set()

    def pin(tensor, *_):
        clone = tensor.clone()
        pinned.add(clone.data_ptr())
        return clone

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = tp.collate([tp.MessageTree([1, 2, 3, 4])], sliding_windows=window)
    locked = pin_memory(batch)
    assert type(locked) is tp.PackedBatch
    assert locked.keys() == batch.keys()
    assert {x.data_ptr() for x in tensors_of(locked)} <= pinned
    for ours, theirs in zip(tensors_of(locked), tensors_of(batch), strict=True):
        assert torch.equal(ours, theirs)


@on_a_gpu
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_a_loader_are_page_locked_and_the_same(workers):
    stream = dataset(n=60, virtual_shards=2, sliding_windows=(4,))
    plain = list(DataLoader(stream, batch_size=None, num_workers=workers))
    locked = list(DataLoader(stream, batch_size=None, num_workers=workers, pin_memory=True))
    for one, other in zip(plain, locked, strict=True):
        assert all(x.is_pinned() for x in tensors_of(other))
        there = other.to(DEVICE, non_blocking=True)
        assert there["treepack"].keys == one["treepack"].keys
        for ours, theirs in zip(tensors_of(there), tensors_of(one), strict=True):
            assert ours.is_cuda
            assert torch.equal(ours.cpu(), theirs)
