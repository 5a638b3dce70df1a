"""The kernels of a GPU, each kind of call apart: exact, repeatable, never waiting.

Where there is no GPU the same tests run on a fake of the kernels, except for those that ask
about the device itself. Rows and checks are those of ``treepack doctor``, the first thing to run on
new hardware.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import fake_flash
from helpers.attending import by_mask, by_plan, random_row
from helpers.cases import cases
from helpers.devices import DEVICE, HAS_GPU, on_a_gpu
from treepack.attention import TreePlan, backends
from treepack.attention.merge import merge_, merge_on
from treepack.attention.ops import run_backward, run_forward
from treepack.attention.plan import read_calls
from treepack.check.doctor import kernels
from treepack.check.doctor.exactness import pose, solve
from treepack.check.doctor.findings import OK
from treepack.check.doctor.parts import LSE_TOLERANCE, OUT_TOLERANCE, merge_differences
from treepack.check.doctor.rows import CASES, rows
from treepack.errors import AttentionError

LENGTH = kernels.LENGTH_ON_GPU if HAS_GPU else 1
"""Rows are so many times longer on hardware, where they span many tiles of the kernels."""

TIMES = 2.0
"""The error of the plain implementation that is accepted; the doctor accepts more."""


ROWS = rows(LENGTH)


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


def errors(results, exact):
    pairs = zip(results, exact, strict=True)
    return torch.stack([(x.cpu().double() - y).square().mean() for x, y in pairs])


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_each_kind_of_call_is_as_exact_as_a_plain_implementation(backend, row, dtype):
    mask, window, kinds = ROWS[row]
    plan = TreePlan.from_mask(mask, window)
    assert {call.kind for call in read_calls(plan.entries, plan.host)} == kinds
    for rng in cases(3 if HAS_GPU else 1, f"{row} {dtype}"):
        heads, size = [(8, 2), (4, 4), (4, 1)][rng.integers(3)], [64, 128][rng.integers(2)]
        problem = pose(ROWS[row], rng, DEVICE, dtype, heads, size)
        found = solve(problem, backend=backend, times=TIMES)
        assert found.is_exact, found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_cases_of_the_doctor(backend, case):
    if case.size > 128 and backend != "cuda" and HAS_GPU:
        pytest.skip("these kernels differ in what they take")
    assert kernels.check_case(backend, case, DEVICE).result == OK


@pytest.mark.parametrize("size", [8, 40, 96, 192, 256])
def test_head_sizes(backend, size):
    mask, _, _ = ROWS["ANTI_CAUSAL"]
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


def test_many_segments_give_the_same_in_several_launches(backend):
    mask, _, _ = ROWS["CROSS, many"]
    for rng in cases(2, "several launches"):
        tensors = tensors_for(rng, mask, torch.bfloat16)
        whole = by_plan(mask, *tensors, backend=backend)
        with kernels.several_launches():
            parts = by_plan(mask, *tensors, backend=backend)
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(one, other, rtol=2**-6, atol=2**-6)


def test_padding_may_hold_anything(backend):
    for name in ("CROSS, gaps", "SELF, padding", "WINDOW"):
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
    mask, _, _ = ROWS["ANTI_CAUSAL_GATHERED"]
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
    mask, _, _ = ROWS["ANTI_CAUSAL"]
    tensors = tensors_for(np.random.default_rng(3), mask, torch.bfloat16)
    here = by_plan(mask, *tensors, backend=backend)
    there = by_plan(mask, *(x.to("cuda:1") for x in tensors), backend=backend)
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("offset", [1, 4])
def test_rows_that_lie_anywhere_in_memory(backend, offset):
    mask, _, _ = ROWS["CROSS"]
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
        out, lse = merge_differences(rng, DEVICE)
        assert out <= OUT_TOLERANCE
        assert lse <= LSE_TOLERANCE
