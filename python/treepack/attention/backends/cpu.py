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

from treepack.attention.plan import ANTI_CAUSAL, ANTI_CAUSAL_GATHERED, SELF, WINDOW, Call
from treepack.errors import AttentionError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

CAUSAL = (SELF, ANTI_CAUSAL, ANTI_CAUSAL_GATHERED)

flash_forward: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def check(q: Tensor) -> None:
    """Reject what the CPU kernel does not know."""
    if q.device.type != "cpu" or q.dtype not in DTYPES:
        known = ", ".join(str(dtype) for dtype in DTYPES)
        raise AttentionError(f"the cpu backend takes {known} on the CPU, got {q.dtype} {q.device}")


def forward(call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one call."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = q.new_zeros(q.shape)
    lse = q.new_full((q.shape[1], q.shape[0]), -torch.inf, dtype=dtype)
    for queries, keys in _blocks(call):
        inputs = (_heads_first(call, x) for x in (q[queries], k[keys], v[keys]))
        part, part_lse = flash_forward(
            *inputs, 0.0, **_visible(call, q, queries, keys), scale=scale
        )
        out[queries] = _tokens_first(call, part)
        lse[:, queries] = _turn(call, part_lse[0], 1)
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
    for queries, keys in _blocks(call):
        inputs = (grad_out[queries], q[queries], k[keys], v[keys], out[queries])
        parts = flash_backward(
            *(_heads_first(call, x) for x in inputs),
            _turn(call, lse[:, queries], 1)[None],
            0.0,
            **_visible(call, q, queries, keys),
            scale=scale,
        )
        for grad, at, part in zip((dq, dk, dv), (queries, keys, keys), parts, strict=True):
            grad[at] += _tokens_first(call, part)
    return dq, dk, dv


def _blocks(call: Call) -> Iterator[tuple[slice, slice]]:
    """Queries and keys of each kernel call; the keys end with the last one that is seen."""
    for queries, keys in _segments(call):
        if call.kind != WINDOW:
            yield queries, keys
            continue
        shift = keys.stop - queries.stop
        for start in range(queries.start, queries.stop, call.window):
            stop = min(start + call.window, queries.stop)
            first = max(keys.start, start + shift - call.window + 1)
            yield slice(start, stop), slice(first, stop + shift)


def _visible(call: Call, q: Tensor, queries: slice, keys: slice) -> dict[str, Any]:
    if call.kind != WINDOW:
        return {"is_causal": call.kind in CAUSAL}
    n_q, n_k = queries.stop - queries.start, keys.stop - keys.start
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
    return x.flip(axis) if call.kind in (ANTI_CAUSAL, ANTI_CAUSAL_GATHERED) else x


def _heads_first(call: Call, x: Tensor) -> Tensor:
    return _turn(call, x, 0).transpose(0, 1)[None]


def _tokens_first(call: Call, x: Tensor) -> Tensor:
    return _turn(call, x[0].transpose(0, 1), 0)
