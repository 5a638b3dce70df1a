"""What every backend asks of the arguments of attention, checked before any kernel is called."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from treepack.errors import AttentionError
from treepack.options import AttentionBackend

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

MOST_TOKENS = 2**31 - 1
"""Tokens of the longest row."""

MOST_SHOWN = 200
"""Characters of a value in a message."""

SHAPES = {"q": "[T, H, D]", "k": "[T, Hk, D]", "v": "[T, Hk, D]"}


def check_tensors(**tensors: Any) -> None:
    """Reject what is no plain tensor of floating-point numbers on some device.

    Raises:
        AttentionError: it names the argument, what was seen and what to change.
    """
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise AttentionError(
                f"{name} is a {type(x).__name__}, not a torch tensor {SHAPES[name]}; convert it, "
                f"such as by torch.as_tensor({name})"
            )
        if x.is_nested or x.layout != torch.strided:
            layout = "nested" if x.is_nested else str(x.layout).removeprefix("torch.")
            raise AttentionError(
                f"{name} is a {layout} tensor; attention takes dense ones {SHAPES[name]}, so "
                "convert it" + ("" if x.is_nested else f": {name}.to_dense()")
            )
        if x.dtype not in DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise AttentionError(
                f"{name} is {x.dtype}; attention takes {known}, so cast it: {name}.to(dtype)"
            )
        if x.device.type == "meta":
            raise AttentionError(
                f"{name} is on the meta device, which holds no numbers; move q, k and v to the "
                f"device of the batch: {name}.to('cpu')"
            )
    # Without this check the tangents would be zeros, and nobody would notice.
    if forward_ad._current_level >= 0:
        _reject_tangents(tensors)


def _reject_tangents(tensors: dict[str, Tensor]) -> None:
    for name, x in tensors.items():
        if forward_ad.unpack_dual(x).tangent is not None:
            raise AttentionError(
                f"{name} has a tangent: attention has no forward-mode derivative (jvp); use "
                "reverse mode, which is backward()"
            )


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Reject tensors that do not fit each other.

    Raises:
        AttentionError: ranks, sizes, dtypes or devices that differ, or an axis of size 0.
    """
    for name, x in {"q": q, "k": k, "v": v}.items():
        if x.dim() != 3 or 0 in x.shape[1:]:
            why = "it needs at least one head of size 1 or more" if x.dim() == 3 else "3 axes"
            raise AttentionError(
                f"{name} has shape {tuple(x.shape)}, expected {SHAPES[name]}: {why}; of a batch "
                f"of one row, pass {name}[0]"
            )
    shapes = f"q is {tuple(q.shape)}, k is {tuple(k.shape)}, v is {tuple(v.shape)}"
    if k.shape != v.shape:
        raise AttentionError(f"{shapes}: k and v must have one shape [T, Hk, D]; pad the heads")
    if q.shape[0] != k.shape[0] or q.shape[2] != k.shape[2]:
        raise AttentionError(
            f"{shapes}: they must agree in length and head size; a KV cache (more keys than "
            "queries) has no place here"
        )
    if q.shape[1] % k.shape[1]:
        raise AttentionError(
            f"q has {q.shape[1]} query heads, which do not divide among {k.shape[1]} key heads of "
            "k and v; grouped-query attention needs a multiple"
        )
    if not (q.dtype == k.dtype == v.dtype and q.device == k.device == v.device):
        raise AttentionError(
            f"q, k, v must share dtype and device, got {q.dtype}, {k.dtype}, {v.dtype} on "
            f"{q.device}, {k.device}, {v.device}; cast or move them"
        )


def checked_scale(scale: Any, head_size: int) -> float:
    """The factor of the scores; by default ``head_size ** -0.5``.

    Raises:
        AttentionError: it is not a finite number above 0.
    """
    if scale is None:
        return float(head_size**-0.5)
    return _positive("scale", scale, "leave it out for D ** -0.5")


def checked_softcap(softcap: Any, backend: AttentionBackend | None) -> float | None:
    """The cap of the scores.

    Raises:
        AttentionError: it is not a finite number above 0, or the backend has none.
    """
    if softcap is None:
        return None
    cap = _positive("softcap", softcap, "leave it out for scores without a cap")
    if backend != "flex":
        raise AttentionError(
            f"scores capped at {softcap}: varlen kernels cannot merge such parts; use "
            "backend='flex'"
        )
    return cap


def checked_window(window: Any) -> int | None:
    """Tokens that a query sees; a window of a longest row or more is none.

    Raises:
        AttentionError: it is not an integer of 1 or more.
    """
    if window is None:
        return None
    if isinstance(window, (bool, Tensor)) or not hasattr(window, "__index__"):
        raise AttentionError(
            f"window is {shown(window)}; it counts tokens, so it must be an integer of 1 or more"
        )
    count = operator.index(window)
    if count < 1:
        raise AttentionError(
            f"window is {count}; it counts the token itself, so it must be 1 or more, or None for "
            "the whole path"
        )
    return count if count < MOST_TOKENS else None


def _positive(name: str, value: Any, instead: str) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise AttentionError(
            f"{name} is {shown(value)}; it must be a finite number above 0, or {instead}"
        )
    return float(value)


def shown(value: Any) -> str:
    """A value as errors show it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value)[:MOST_SHOWN]
