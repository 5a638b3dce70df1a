"""torch's CPU flash attention, segment by segment; exact in float64.

The kernel has no window: a segment under one is cut into blocks of queries, each with the mask of
the few keys that it can see.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from treepack.attention.plan import REV, REV_GATHERED, SELF, WINDOW, Call
from treepack.errors import AttentionError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

CAUSAL = (SELF, REV, REV_GATHERED)

flash_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def check(q: Tensor) -> None:
    """Refuse what the CPU kernel does not know."""
    if q.device.type != "cpu" or q.dtype not in DTYPES:
        known = ", ".join(str(dtype) for dtype in DTYPES)
        raise AttentionError(f"the cpu backend takes {known} on the CPU, got {q.dtype} {q.device}")


def forward(call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one call."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = q.new_zeros(q.shape)
    lse = q.new_full((q.shape[1], q.shape[0]), -torch.inf, dtype=dtype)
    for rows, keys in _blocks(call):
        inputs = (_heads_first(call, x) for x in (q[rows], k[keys], v[keys]))
        part, part_lse = flash_forward(*inputs, 0.0, **_visible(call, q, rows, keys), scale=scale)
        out[rows] = _rows_first(call, part)
        lse[:, rows] = _turn(call, part_lse[0], 1)
    return out, lse


def backward(
    call: Call,
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one call."""
    dq, dk, dv = (x.new_zeros(x.shape) for x in (q, k, v))
    for rows, keys in _blocks(call):
        inputs = (grad_out[rows], q[rows], k[keys], v[keys], out[rows])
        parts = flash_backward(
            *(_heads_first(call, x) for x in inputs),
            _turn(call, lse[:, rows], 1)[None],
            0.0,
            **_visible(call, q, rows, keys),
            scale=scale,
        )
        for grad, at, part in zip((dq, dk, dv), (rows, keys, keys), parts, strict=True):
            grad[at] += _rows_first(call, part)
    return dq, dk, dv


def _blocks(call: Call) -> Iterator[tuple[slice, slice]]:
    """Queries and keys of each kernel call; the keys end with the last one that is seen."""
    for rows, keys in _segments(call):
        if call.kind != WINDOW:
            yield rows, keys
            continue
        shift = keys.stop - rows.stop
        for start in range(rows.start, rows.stop, call.window):
            stop = min(start + call.window, rows.stop)
            first = max(keys.start, start + shift - call.window + 1)
            yield slice(start, stop), slice(first, stop + shift)


def _visible(call: Call, q: Tensor, rows: slice, keys: slice) -> dict[str, Any]:
    if call.kind != WINDOW:
        return {"is_causal": call.kind in CAUSAL}
    n_q, n_k = rows.stop - rows.start, keys.stop - keys.start
    seen = torch.ones(n_q, n_k, dtype=torch.bool).tril(n_k - n_q)
    seen = seen.triu(n_k - n_q - call.window + 1)
    return {
        "is_causal": False,
        "attn_mask": q.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf),
    }


def _segments(call: Call) -> Iterator[tuple[slice, slice]]:
    """Queries and keys of each segment; gaps are left out, since the kernel dies on them."""
    cuts = zip(pairwise(call.cu_q.tolist()), pairwise(call.cu_k.tolist()), strict=True)
    for (q0, q1), (k0, k1) in cuts:
        if q0 < q1 and k0 < k1:
            yield slice(q0, q1), slice(k0, k1)


def _turn(call: Call, x: Tensor, axis: int) -> Tensor:
    # The kernel has no anti-causal mode; backwards, anti-causal is causal.
    return x.flip(axis) if call.kind in (REV, REV_GATHERED) else x


def _heads_first(call: Call, x: Tensor) -> Tensor:
    return _turn(call, x, 0).transpose(0, 1)[None]


def _rows_first(call: Call, x: Tensor) -> Tensor:
    return _turn(call, x[0].transpose(0, 1), 0)
