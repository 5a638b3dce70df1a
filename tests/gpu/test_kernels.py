"""The kernels of a GPU, each kind of call apart: exact, repeatable, never waiting.

Where there is no GPU the same tests run on a fake of the kernels, except for those that ask
about the device itself. ``pytest tests/gpu`` is the first thing to run on new hardware.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import fake_flash
from helpers.attending import by_mask, by_plan, random_row, with_grads
from helpers.cases import cases
from helpers.devices import DEVICE, HAS_GPU, on_a_gpu
from treepack._reference.attention import dense_attention
from treepack.attention import TreePlan, backends
from treepack.attention.merge import merge_, merge_on
from treepack.attention.ops import run_backward, run_forward
from treepack.attention.plan import (
    ANTI_CAUSAL,
    ANTI_CAUSAL_GATHERED,
    CROSS,
    SELF,
    WINDOW,
    read_calls,
)
from treepack.errors import AttentionError

LENGTH = 8 if HAS_GPU else 1
"""Rows are so many times longer on hardware, where they span many tiles of the kernels."""


def forest(lengths, parents, runs=None, mode="none", padding=0):
    lengths = [LENGTH * n for n in lengths]
    runs = None if runs is None else [(LENGTH * a, LENGTH * b, image) for a, b, image in runs]
    return tp.TreeMask.from_nodes(lengths, parents, runs, mode, sum(lengths) + padding)


FRAMES = [(4, 30, 0), (33, 59, 1), (61, 87, 2)]
TREE = [90, 17, 40, 3], [-1, 0, 0, 0]
ROWS = {
    "one sequence": (forest([70], [-1]), None, {SELF}),
    "several sequences": (forest([33, 1, 64, 20], [-1] * 4, padding=5), None, {SELF}),
    "a chain": (forest([20, 30, 9], [-1, 0, 1]), None, {SELF}),
    "branches": (forest(*TREE), None, {SELF, CROSS}),
    "deep": (forest([40, 9, 12, 7, 30, 8], [-1, 0, 1, 1, 0, 4]), None, {SELF, CROSS}),
    "steps over rows": (
        forest([30, 8, 9, 50, 20, 6, 5], [-1, 0, 0, -1, -1, 4, 4], padding=9),
        None,
        {SELF, CROSS},
    ),
    "short segments": (forest([1, 1, 1, 2, 1, 1], [-1, 0, 0, 0, -1, 4]), None, {SELF, CROSS}),
    "frames": (forest(*TREE, FRAMES, "within_image"), None, {SELF, CROSS, ANTI_CAUSAL}),
    "frames as one group": (
        forest(*TREE, FRAMES, "image_tokens"),
        None,
        {SELF, CROSS, ANTI_CAUSAL_GATHERED},
    ),
    "window": (forest(*TREE, padding=3), 12 * LENGTH, {WINDOW}),
    "window and frames": (
        forest(*TREE, FRAMES, "within_image"),
        25 * LENGTH,
        {WINDOW, ANTI_CAUSAL},
    ),
}


@pytest.fixture(params=fake_flash.BACKENDS)
def backend(request, monkeypatch):
    if not HAS_GPU:
        fake_flash.install(monkeypatch)
        yield request.param
        return
    x = torch.zeros(1, 1, 64, dtype=torch.bfloat16, device=DEVICE)
    try:
        backends.load(request.param).check(x)
    except AttentionError as error:
        pytest.skip(str(error))
    yield request.param
    torch.nn.attention.restore_flash_attention_impl()


def tensors_for(rng, mask, dtype, heads=(8, 2), size=64):
    shapes = [(mask.total, h, size) for h in (heads[0], heads[1], heads[1], heads[0])]
    return [torch.from_numpy(rng.standard_normal(shape)).to(DEVICE, dtype) for shape in shapes]


def visible_pairs(mask, window):
    visible = mask.to_dense()
    if window is not None:
        place = mask.positions()[0]
        later = np.arange(mask.total)[None, :] > np.arange(mask.total)[:, None]
        visible &= later | (place[:, None] - place[None, :] < window)
    return torch.from_numpy(visible)


def written_out(visible, *tensors):
    visible = visible.to(tensors[0].device)
    return with_grads(lambda q, k, v: dense_attention(q, k, v, visible, None), *tensors)


def errors(results, exact):
    pairs = zip(results, exact, strict=True)
    return torch.stack([(x.cpu().double() - y).square().mean() for x, y in pairs])


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_each_kind_of_call_is_as_exact_as_a_plain_implementation(backend, row, dtype):
    mask, window, kinds = ROWS[row]
    plan = TreePlan.from_mask(mask, window)
    assert {call.kind for call in read_calls(plan.entries, plan.host)} == kinds
    visible = visible_pairs(mask, window)
    for rng in cases(3 if HAS_GPU else 1, f"{row} {dtype}"):
        heads = [(8, 2), (4, 4), (4, 1)][rng.integers(3)]
        tensors = tensors_for(rng, mask, dtype, heads, [64, 128][rng.integers(2)])
        exact = written_out(visible, *(x.cpu().double() for x in tensors))
        ours = by_plan(mask, *tensors, window=window, backend=backend)
        plain = written_out(visible, *tensors)
        assert all(x.isfinite().all() for x in ours)
        # Twice the error is four times its square; below that of rounding there is no sense in it.
        noise = (torch.finfo(dtype).eps / 8) ** 2
        assert (errors(ours, exact) <= 4 * errors(plain, exact) + noise).all()


@pytest.mark.parametrize("size", [8, 40, 96, 192, 256])
def test_head_sizes(backend, size):
    mask, _, _ = ROWS["frames"]
    for rng in cases(1, f"head size {size}"):
        tensors = tensors_for(rng, mask, torch.bfloat16, size=size)
        exact = by_mask(mask, *(x.cpu().double() for x in tensors))
        if size > 128 and backend != "cuda" and HAS_GPU:
            pytest.skip("these kernels differ in what they take")
        for ours, theirs in zip(by_plan(mask, *tensors, backend=backend), exact, strict=True):
            assert (ours.cpu() - theirs).abs().mean() < 0.01


def test_random_rows(backend):
    ours, plain = [], []
    for rng in cases(40, "random rows on a GPU"):
        mask, *tensors = random_row(rng, 16, torch.bfloat16, longest=20)
        exact = by_mask(mask, *(x.double() for x in tensors))
        plain.append(errors(by_mask(mask, *tensors), exact))
        on_device = [x.to(DEVICE) for x in tensors]
        ours.append(errors(by_plan(mask, *on_device, backend=backend), exact))
    assert (sum(ours) <= 4 * sum(plain)).all()


def test_the_backward_of_many_segments_is_the_same_in_several_launches(backend, monkeypatch):
    cuda = backends.load("cuda")
    mask = forest([40] + [7] * 30, [-1] + [0] * 30, padding=2)
    for rng in cases(2, "several launches"):
        tensors = tensors_for(rng, mask, torch.bfloat16)
        whole = by_plan(mask, *tensors, backend=backend)
        monkeypatch.setattr(cuda, "SCRATCH", 5 * cuda.SCRATCH_TOKENS * 8 * 64 * 4)
        parts = by_plan(mask, *tensors, backend=backend)
        monkeypatch.undo()
        if not HAS_GPU:
            fake_flash.install(monkeypatch)
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(one, other, rtol=2**-6, atol=2**-6)


def test_padding_may_hold_anything(backend):
    for name in ("steps over rows", "several sequences", "window"):
        mask, window, _ = ROWS[name]
        rng = np.random.default_rng(0)
        tensors = tensors_for(rng, mask, torch.bfloat16)
        poisoned = [x.clone() for x in tensors]
        for x in poisoned:
            x[mask.used :] = torch.nan
        options = {"window": window, "backend": backend}
        clean = by_plan(mask, *tensors, **options)
        for ours, expected in zip(by_plan(mask, *poisoned, **options), clean, strict=True):
            assert ours.isfinite().all()
            torch.testing.assert_close(ours, expected, rtol=2**-6, atol=2**-6)
            assert not ours[mask.used :].any()


def test_a_step_can_be_repeated_to_the_bit(backend):
    mask, _, _ = ROWS["frames as one group"]
    tensors = tensors_for(np.random.default_rng(1), mask, torch.bfloat16)
    torch.use_deterministic_algorithms(True)
    try:
        first, again = (by_plan(mask, *tensors, backend=backend) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


@on_a_gpu
@pytest.mark.parametrize("row", ROWS)
def test_nothing_waits_for_the_device(backend, row):
    mask, window, _ = ROWS[row]
    tensors = tensors_for(np.random.default_rng(2), mask, torch.bfloat16)
    plan = TreePlan.from_mask(mask, window)
    plan = (plan.without_gaps() if backend in backends.WITHOUT_GAPS else plan).to(DEVICE)
    q, k, v, grad_out = tensors
    parts = plan.entries, plan.host, 0.1, backend
    for mode in ("default", "error"):  # The first round may compile and load.
        torch.cuda.set_sync_debug_mode(mode)
        try:
            out, lse = run_forward(q, k, v, *parts)
            run_backward(grad_out, q, k, v, out, lse, *parts)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two GPUs")
def test_the_current_device_need_not_be_that_of_the_tensors(backend):
    mask, _, _ = ROWS["frames"]
    tensors = tensors_for(np.random.default_rng(3), mask, torch.bfloat16)
    here = by_plan(mask, *tensors, backend=backend)
    there = by_plan(mask, *(x.to("cuda:1") for x in tensors), backend=backend)
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("offset", [1, 4])
def test_rows_that_lie_anywhere_in_memory(backend, offset):
    mask, _, _ = ROWS["branches"]
    tensors = tensors_for(np.random.default_rng(4), mask, torch.bfloat16)
    shifted = []
    for x in tensors:
        wide = x.new_zeros(x.numel() + offset)
        wide[offset:] = x.flatten()
        shifted.append(wide[offset:].view(x.shape))
    expected = by_plan(mask, *tensors, backend=backend)
    for one, other in zip(by_plan(mask, *shifted, backend=backend), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-6, atol=2**-6)


@on_a_gpu
def test_the_fused_merge_is_that_of_torch():
    assert merge_on("cuda") is not merge_
    for rng in cases(60, "merge on a GPU"):
        total, heads, size = (int(rng.integers(1, n)) for n in (900, 9, 257))
        n = int(rng.integers(0, total + 1))
        out, part = (
            torch.from_numpy(rng.standard_normal((rows, heads, size))).to(DEVICE, torch.bfloat16)
            for rows in (total, n)
        )
        lse, part_lse = (
            torch.from_numpy(rng.standard_normal((heads, rows)) * 4).to(DEVICE, torch.float32)
            for rows in (total, n)
        )
        for x, its_lse in ((out, lse), (part, part_lse)):
            empty = torch.from_numpy(rng.random(len(x)) < 0.2).to(DEVICE)
            its_lse[:, empty] = torch.inf
            x[empty] = 0
        start = int(rng.integers(0, total - n + 1))
        index = torch.from_numpy(rng.permutation(total)[:n].astype(np.int32)).to(DEVICE)
        for rows in (slice(start, start + n), index):
            ours, theirs = (out.clone(), lse.clone()), (out.clone(), lse.clone())
            merge_on("cuda")(*ours, rows, part, part_lse)
            merge_(*theirs, rows, part, part_lse)
            torch.testing.assert_close(ours[0], theirs[0], rtol=2**-6, atol=2**-7)
            torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-5)
