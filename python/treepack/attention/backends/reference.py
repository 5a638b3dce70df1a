"""The definition: every call as a dense masked softmax, on any device, in float32 or better."""

from __future__ import annotations

import torch
from torch import Tensor

from treepack.attention.plan import CROSS, SELF, WINDOW, Call


def check(q: Tensor) -> None:
    """Everything is supported here, but memory is quadratic in the row."""


def forward(call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one call."""
    scores, values = _scores(call, q, k, scale), _repeat(_wide(v), q)
    lse = scores.logsumexp(-1)
    out = torch.einsum("hqk,khd->qhd", _softmax(scores, lse), values)
    return out.to(q.dtype), lse


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
    grad, keys, values = _wide(grad_out), _repeat(_wide(k), q), _repeat(_wide(v), q)
    p = _softmax(_scores(call, q, k, scale), lse)
    dp = torch.einsum("qhd,khd->hqk", grad, values)
    delta = (grad * _wide(out)).sum(-1).T[:, :, None]
    ds = scale * p * (dp - delta)
    dq = torch.einsum("hqk,khd->qhd", ds, keys)
    dk = _sum_groups(torch.einsum("hqk,qhd->khd", ds, _wide(q)), k)
    dv = _sum_groups(torch.einsum("hqk,qhd->khd", p, grad), v)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _scores(call: Call, q: Tensor, k: Tensor, scale: float) -> Tensor:
    scores = scale * torch.einsum("qhd,khd->hqk", _wide(q), _repeat(_wide(k), q))
    return scores.masked_fill(~_visible(call, q.shape[0], k.shape[0]), -torch.inf)


def _softmax(scores: Tensor, lse: Tensor) -> Tensor:
    # A query without keys has an infinite lse of either sign: it must give zeros, not inf - inf.
    return (scores - lse.masked_fill(lse.isinf(), 0.0)[..., None]).exp()


def _visible(call: Call, n_q: int, n_k: int) -> Tensor:
    (q_segment, q_place), (k_segment, k_place) = _places(call.cu_q, n_q), _places(call.cu_k, n_k)
    together = q_segment[:, None] == k_segment
    if call.kind == CROSS:
        return together
    ahead = k_place - q_place[:, None]
    if call.kind == WINDOW:
        # Queries and keys of a segment end together.
        ahead = ahead - (call.cu_k.diff() - call.cu_q.diff())[q_segment][:, None]
        return together & (ahead <= 0) & (ahead > -call.window)
    return together & (ahead <= 0 if call.kind == SELF else ahead >= 0)


def _places(cu: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The segment of each token and its place in it."""
    token = torch.arange(n, device=cu.device)
    segment = torch.searchsorted(cu, token, right=True) - 1
    return segment, token - cu[segment]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _repeat(x: Tensor, q: Tensor) -> Tensor:
    return x.repeat_interleave(q.shape[1] // x.shape[1], 1)


def _sum_groups(x: Tensor, k: Tensor) -> Tensor:
    return x.view(k.shape[0], k.shape[1], -1, k.shape[2]).sum(2)
