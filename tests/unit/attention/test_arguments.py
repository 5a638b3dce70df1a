"""Every backend rejects the same arguments, by name, before any kernel runs."""

from __future__ import annotations

import itertools
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import fake_flash
from torch.autograd import forward_ad
from treepack.attention import TreePlan, backends, flex
from treepack.errors import AttentionError

# Eager FlexAttention says that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

BACKENDS = ("cpu", "reference", "flex", "cuda")
"""Those that a CPU can run; ``cuda`` with a fake of its kernels."""


@pytest.fixture
def mask():
    return tp.TreeMask.from_nodes([6, 4, 3], [-1, 0, 0], total=14)


@pytest.fixture
def row():
    children = [tp.MessageTree([1] * n) for n in (4, 3)]
    return tp.collate([tp.MessageTree([1] * 6, children=children)], total=14)["treepack"]


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    """Its name; running one of its kernels fails the test."""

    def run(*_args, **_options):
        pytest.fail("a kernel was called")

    fake_flash.install(monkeypatch)
    if request.param == "flex":
        monkeypatch.setattr(flex, "flex_attention", run)
    else:
        for name in ("forward", "backward"):
            monkeypatch.setattr(backends.load(request.param), name, run)
    return request.param


def tensors(total=14, heads=4, key_heads=2, size=8, dtype=torch.float32):
    return [torch.randn(total, h, size).to(dtype) for h in (heads, key_heads, key_heads)]


def each(change, at=(0, 1, 2)):
    return [change(x) if i in at else x for i, x in enumerate(tensors())]


def quietly(change):
    """Torch warns of kinds of tensors that it has for a while only."""

    def changed(x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return change(x)

    return changed


quantized = quietly(lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8))
nested = quietly(lambda x: torch.nested.nested_tensor([x]))
csr = quietly(lambda x: x[:, 0].to_sparse_csr())


TENSORS = {
    "numpy": (each(torch.Tensor.numpy), "q is a ndarray, not a torch tensor.*as_tensor"),
    "one of numpy": (each(torch.Tensor.numpy, (2,)), "v is a ndarray"),
    "list": (each(torch.Tensor.tolist), "q is a list"),
    "none": ([None] * 3, "q is a NoneType"),
    "sparse": (each(torch.Tensor.to_sparse, (1,)), r"k is a sparse_coo tensor.*k\.to_dense"),
    "csr": (each(csr, (0,)), "q is a sparse_csr tensor"),
    "nested": (each(nested, (2,)), "v is a nested tensor"),
    "meta": (each(lambda x: x.to("meta"), (1,)), r"k is on the meta device.*k\.to\("),
    "int": (each(torch.Tensor.int), r"q is torch.int32.*q\.to\(dtype\)"),
    "int8": (each(lambda x: x.to(torch.int8)), "q is torch.int8"),
    "bool": (each(torch.Tensor.bool, (1,)), "k is torch.bool"),
    "complex": (each(lambda x: x.to(torch.complex64)), "q is torch.complex64"),
    "quantized": (each(quantized), "q is torch.quint8"),
    "float8": (each(lambda x: x.to(torch.float8_e4m3fn)), "q is torch.float8_e4m3fn"),
    "no axis": (each(lambda x: x[0, 0, 0]), r"q has shape \(\), expected \[T, H, D\]"),
    "two axes": (each(lambda x: x[:, 0], (2,)), r"v has shape \(14, 8\), expected \[T, Hk, D\]"),
    "a batch": (each(lambda x: x[None]), r"q has shape \(1, 14, 4, 8\).*pass q\[0\]"),
    "no heads": (tensors(heads=0, key_heads=0), r"q has shape \(14, 0, 8\).*one head"),
    "no key heads": (tensors(key_heads=0), r"k has shape \(14, 0, 8\).*one head"),
    "no head size": (tensors(size=0), r"q has shape \(14, 4, 0\).*size 1"),
    "no tokens": (tensors(total=0), "q has 0 tokens, the mask 14"),
    "another row": (tensors(total=13), "q has 13 tokens, the mask 14"),
    "cache": ([tensors(total=15)[0], *tensors()[1:]], r"\(15, 4, 8\).*\(14, 2, 8\).*KV cache"),
    "values": ([*tensors()[:2], tensors(size=16)[2]], "k and v must have one shape"),
    "groups": (tensors(heads=5), "q has 5 query heads.*2 key heads"),
    "dtypes": (each(torch.Tensor.double, (1,)), "share dtype.*float32, torch.float64.*cast"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_make_no_sense(mask, row, backend, case):
    given, says = TENSORS[case]
    plans = [mask, row] if backend == "flex" else [mask, row, row.plan]
    for holder in plans:
        with pytest.raises(AttentionError, match=says):
            tp.tree_attention(*given, holder, backend=backend)


OPTIONS = {
    "scale": [0, -1, -0.5, math.nan, math.inf, -math.inf, "x", True, 1j, [1], torch.tensor(0.5)],
    "softcap": [0, -1, math.nan, math.inf, "x", True, [1], torch.tensor(0.5)],
    "window": [0, -1, True, 3.0, "x", math.nan, [1], torch.tensor(3)],
    "backend": ["", "cub", "CPU", 3, [], True],
}


@pytest.mark.parametrize(("option", "value"), [(o, v) for o, vs in OPTIONS.items() for v in vs])
def test_options_that_make_no_sense(mask, row, backend, option, value):
    for holder in (mask, row):
        with pytest.raises(AttentionError, match=option):
            tp.tree_attention(*tensors(), holder, **{"backend": backend, option: value})


@pytest.mark.parametrize("value", [None, 3, "x", [1], {}, tp.TreeMask, np.ones((14, 14)), {1: 2}])
def test_what_is_no_mask(backend, value):
    with pytest.raises(AttentionError, match=f"got {type(value).__name__}"):
        tp.tree_attention(*tensors(), value, backend=backend)


def test_a_mask_on_another_device(mask, row, backend):
    holder = row.to("meta")
    with pytest.raises(AttentionError, match=r"the mask is on meta, q on cpu.*\.to\("):
        tp.tree_attention(*tensors(), holder, backend=backend)


def test_autocast_hides_no_wrong_dtype(mask, backend):
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(AttentionError, match="int32"):
        tp.tree_attention(*each(torch.Tensor.int), mask, backend=backend)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own
def test_forward_mode_is_rejected_and_not_silently_zero(mask, backend):
    q, k, v = tensors()
    with forward_ad.dual_level(), pytest.raises(AttentionError, match=r"v has a tangent.*backward"):
        tp.tree_attention(q, k, forward_ad.make_dual(v, v), mask, backend=backend)
    with pytest.raises(AttentionError, match="q has a tangent"):
        torch.func.jvp(lambda x: tp.tree_attention(x, k, v, mask, backend=backend), (q,), (q,))


# --- what is right stays right


@pytest.mark.parametrize("backend", ["cpu", "reference", "flex"])
def test_numbers_of_any_type_are_numbers(mask, backend):
    given = tensors()
    plain = tp.tree_attention(*given, mask, 0.5, window=3, backend=backend)
    for scale, window in ((np.float64(0.5), np.int64(3)), (Fraction(1, 2), np.uint8(3))):
        same = tp.tree_attention(*given, mask, scale, window=window, backend=backend)
        assert torch.equal(plain, same)
    whole = tp.tree_attention(*given, mask, backend=backend)
    for window in (14, 2**31, 2**63, 10**30):
        same = tp.tree_attention(*given, mask, window=window, backend=backend)
        assert torch.equal(whole, same)


@pytest.mark.parametrize("backend", ["cpu", "reference", "cuda"])
def test_any_of_the_tensors_may_want_a_gradient(mask, backend, monkeypatch):
    fake_flash.install(monkeypatch)
    given = tensors(dtype=torch.float64)

    def gradients(wanted):
        inputs = [x.clone().requires_grad_(wants) for x, wants in zip(given, wanted, strict=True)]
        out = tp.tree_attention(*inputs, mask, backend=backend)
        assert out.requires_grad == any(wanted)
        if any(wanted):
            out.square().sum().backward()
        return [x.grad for x in inputs]

    all_three = gradients((True, True, True))
    for wanted in itertools.product((False, True), repeat=3):
        for wants, found, full in zip(wanted, gradients(wanted), all_three, strict=True):
            assert (found is not None) == wants
            assert not wants or torch.equal(found, full)


@pytest.mark.parametrize("wanted", [w for w in itertools.product((0, 1), repeat=3) if any(w)])
def test_flex_has_no_gradient_on_a_cpu_and_says_so(mask, wanted):
    inputs = [x.requires_grad_(bool(w)) for x, w in zip(tensors(), wanted, strict=True)]
    with pytest.raises(AttentionError, match="no backward on the CPU"):
        tp.tree_attention(*inputs, mask, backend="flex")
    with torch.no_grad():
        assert not tp.tree_attention(*inputs, mask, backend="flex").requires_grad


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_there_is_no_second_derivative(mask, backend):
    q, k, v = (x.requires_grad_() for x in tensors())
    out = tp.tree_attention(q, k, v, mask, backend=backend).sum()
    (grad,) = torch.autograd.grad(out, q, create_graph=True)
    with pytest.raises(AttentionError, match="create_graph=True"):
        grad.sum().backward()


# --- the same windows, wherever they are said


@pytest.mark.parametrize("window", OPTIONS["window"])
def test_windows_of_a_row_are_checked_alike(row, window):
    tree = tp.MessageTree([1, 2])
    for ask in (row.plan_for, row.blocks_for, lambda w: tp.collate([tree], sliding_windows=[w])):
        with pytest.raises(AttentionError, match="window is"):
            ask(window)


def test_a_window_longer_than_any_row_is_none(row):
    assert row.plan_for(2**40) is row.plan
    assert row.blocks_for(2**40) is row.blocks_for(None)
    assert tp.collate([tp.MessageTree([1])], sliding_windows=[2**70])["treepack"]._windows == {}


@pytest.mark.parametrize("total", [3.7, "x", True, math.nan, [9], 9.0])
def test_a_length_that_is_no_integer(total):
    with pytest.raises(tp.errors.BatchError, match=r"total is .* integer"):
        tp.collate([tp.MessageTree([1, 2])], total=total)


def test_a_plan_is_no_backend_of_flex(mask):
    with pytest.raises(AttentionError, match="flex needs the mask itself, got TreePlan"):
        tp.tree_attention(*tensors(), TreePlan.from_mask(mask), backend="flex")
