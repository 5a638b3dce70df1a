"""Every backend: exact, as precise as its numbers allow, bounded in memory, no synchronisation."""

import functools

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import fake_flash
from helpers.attending import by_mask, by_plan, random_row, worst
from helpers.cases import cases
from helpers.random_masks import random_forest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from treepack._reference.plan import count_pairs
from treepack.attention import TreePlan, backends
from treepack.attention.ops import run_backward, run_forward
from treepack.attention.plan import read_calls


@pytest.fixture
def gpu(monkeypatch):
    fake_flash.install(monkeypatch)


def squares(ours, exact):
    """The sum of squares of the errors of the output, dq, dk and dv."""
    errors = (a.double() - b for a, b in zip(ours, exact, strict=True))
    return np.array([error.square().sum().item() for error in errors])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["cpu", "cuda", "fa3", "fa4", "reference"])
def test_errors_are_at_most_twice_those_of_a_plain_implementation(gpu, dtype, backend):
    ours, plain = [], []
    for rng in cases(40, f"{dtype} {backend}"):
        mask, *tensors = random_row(rng, longest=20, dtype=dtype)
        exact = by_mask(mask, *(x.double() for x in tensors))
        results = by_plan(mask, *tensors, backend=backend)
        assert all(x.dtype == dtype for x in results)
        ours.append(squares(results, exact))
        plain.append(squares(by_mask(mask, *tensors), exact))
    # Twice the error is four times its square; over all rows, since the worst number is chance.
    assert (np.sum(ours, 0) <= 4 * np.sum(plain, 0)).all()


def test_plans_without_gaps_compute_the_same_pairs():
    had_gaps = 0
    for rng in cases(1000, "no gaps"):
        mask = tp.TreeMask.from_nodes(*random_forest(rng))
        plan = TreePlan.from_mask(mask)
        gapless = plan.without_gaps()
        for call in read_calls(gapless.entries, gapless.host):
            assert call.cu_q.diff().all()
            assert call.cu_k.diff().all()
            assert call.max_q == max(2, call.cu_q.diff().max())
            assert call.max_k == call.cu_k.diff().max()
        had_gaps += not torch.equal(gapless.host, plan.host)
        pairs = count_pairs(gapless.entries.numpy(), gapless.host.numpy())
        np.testing.assert_array_equal(pairs, mask.to_dense())
    assert had_gaps > 100


@pytest.mark.parametrize("backend", ["cuda", "fa3", "fa4"])
def test_calls_with_many_segments_are_cut(gpu, monkeypatch, backend):
    """The forward by what a launch takes, the backward by its memory too."""
    most = [0, 0]

    def counted(which, run, cu, *args, **keywords):
        most[which] = max(most[which], len(args[cu]) - 1)
        return run(*args, **keywords)

    cuda = backends.load("cuda")
    forward = functools.partial(counted, 0, fake_flash.flash_forward, 3)
    backward = functools.partial(counted, 1, fake_flash.flash_backward, 6)
    monkeypatch.setattr(cuda, "flash_forward", forward)
    monkeypatch.setattr(cuda, "flash_backward", backward)
    monkeypatch.setattr(cuda, "LAUNCH", 4)
    # Room for three segments of four heads of eight.
    monkeypatch.setattr(cuda, "SCRATCH", 3 * 4 * cuda.SCRATCH_TOKENS * 4 * 8)
    for rng in cases(80, f"segments {backend}"):
        mask, q, k, v, grad_out = random_row(rng, most_nodes=14)
        q, grad_out = (x[:, :1].repeat(1, 4, 1) for x in (q, grad_out))
        tensors = q, k[:, :1], v[:, :1], grad_out
        assert worst(by_plan(mask, *tensors, backend=backend), by_mask(mask, *tensors)) < 1e-12
    assert most == [4, 3]


@pytest.mark.parametrize("backend", fake_flash.BACKENDS)
def test_nothing_waits_for_the_device_and_nothing_crosses_to_it(gpu, monkeypatch, backend):
    # Tensors without data stand for those on a device: to look at one is an error.
    cuda = backends.load("cuda")
    monkeypatch.setattr(cuda, "flash_forward", fake_flash.REAL_FORWARD)
    monkeypatch.setattr(cuda, "flash_backward", fake_flash.REAL_BACKWARD)
    monkeypatch.setattr(cuda, "SCRATCH", 1)
    for rng in cases(40, f"waits {backend}"):
        mask, *tensors = random_row(rng, dtype=torch.bfloat16)
        q, k, v, grad_out = (x.to("meta") for x in tensors)
        plan = TreePlan.from_mask(mask, int(rng.integers(1, 5)) if rng.random() < 0.5 else None)
        plan = (plan.without_gaps() if backend in backends.WITHOUT_GAPS else plan).to("meta")
        parts = plan.entries, plan.host, 0.3, backend
        with OneDevice():
            out, lse = run_forward(q, k, v, *parts)
            grads = run_backward(grad_out, q, k, v, out, lse, *parts)
        assert all(x.is_meta for x in (out, lse, *grads))


class OneDevice(TorchDispatchMode):
    """Every operator takes and gives tensors of one device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        assert len({x.device for x in leaves if isinstance(x, torch.Tensor)}) < 2, function
        return result
