"""What aten promises of its varlen FlashAttention, in plain torch on any device, quirks included.

A fake of the two operators, for machines without a GPU. Memory that the kernels would leave
uninitialised holds NaN here. Each call also goes to the real operators with tensors that have no
data, which checks its arguments against the torch at hand.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from treepack.attention import backends

BACKENDS = ("cuda", "fa3", "fa4")
"""Those that call the two operators."""

REAL_FORWARD = torch.ops.aten._flash_attention_forward
REAL_BACKWARD = torch.ops.aten._flash_attention_backward


def install(monkeypatch):
    """Let the GPU backends run on the CPU: everything of them but the operators they call."""
    cuda = backends.load("cuda")
    for name in BACKENDS:
        monkeypatch.setattr(backends.load(name), "check", lambda q: None)
    monkeypatch.setattr(cuda, "flash_forward", flash_forward)
    monkeypatch.setattr(cuda, "flash_backward", flash_backward)


def flash_forward(
    query,
    key,
    value,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    return_debug_mask,
    *,
    scale,
    window_size_left=None,
    window_size_right=None,
):
    _on_meta(
        REAL_FORWARD,
        (query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal),
        (return_debug_mask,),
        scale=scale,
        window_size_left=window_size_left,
        window_size_right=window_size_right,
    )
    _check(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p)
    out = torch.full_like(query, torch.nan)
    query, key, value = map(_wide, (query, key, value))
    lse = query.new_full((query.shape[1], query.shape[0]), torch.nan)
    for queries, keys in _segments(cum_seq_q, cum_seq_k, max_q):
        scores, values = _scores(query[queries], key[keys], scale), _repeat(value[keys], query)
        scores.masked_fill_(
            ~_visible(scores, is_causal, window_size_left, window_size_right), -torch.inf
        )
        part = scores.logsumexp(-1)
        # The kernels give +inf both to a query without keys and to one that holds a NaN.
        lse[:, queries] = part.masked_fill(part.isneginf() | part.isnan(), torch.inf)
        weights = (scores - part.masked_fill(part.isneginf(), 0.0)[..., None]).exp()
        out[queries] = torch.einsum("hqk,khd->qhd", weights, values).to(out.dtype)
    return out, lse, torch.zeros(2, dtype=torch.uint64), torch.empty(0), torch.empty(0)


def flash_backward(
    grad_out,
    query,
    key,
    value,
    out,
    logsumexp,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    rng_state,
    unused,
    *,
    scale,
    window_size_left=None,
    window_size_right=None,
):
    _on_meta(
        REAL_BACKWARD,
        (grad_out, query, key, value, out),
        (logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, rng_state, unused),
        scale=scale,
        window_size_left=window_size_left,
        window_size_right=window_size_right,
    )
    _check(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p)
    assert logsumexp.is_contiguous()
    assert logsumexp.shape == (query.shape[1], query.shape[0])
    assert rng_state.dtype == torch.uint64
    dq, dk, dv = (torch.full_like(x, torch.nan) for x in (query, key, value))
    grad_out, query, key, value, out = map(_wide, (grad_out, query, key, value, out))
    delta = (grad_out * out).sum(-1).T
    for queries, keys in _segments(cum_seq_q, cum_seq_k, max_q):
        scores = _scores(query[queries], key[keys], scale)
        scores.masked_fill_(
            ~_visible(scores, is_causal, window_size_left, window_size_right), -torch.inf
        )
        p = (scores - logsumexp[:, queries, None]).exp()
        dp = torch.einsum("qhd,khd->hqk", grad_out[queries], _repeat(value[keys], query))
        ds = scale * p * (dp - delta[:, queries, None])
        dq[queries] = torch.einsum("hqk,khd->qhd", ds, _repeat(key[keys], query)).to(dq.dtype)
        dk[keys] = _sum_groups(torch.einsum("hqk,qhd->khd", ds, query[queries]), key).to(dk.dtype)
        dv[keys] = _sum_groups(torch.einsum("hqk,qhd->khd", p, grad_out[queries]), key).to(dv.dtype)
    for _, keys in _segments(cum_seq_q, cum_seq_k, max_q):
        dk[keys][max_k:] = dv[keys][max_k:] = torch.nan
    return dq, dk, dv


def _on_meta(operator, tensors, rest, **keywords):
    """Call the real operator as if on a GPU: floating-point tensors in half precision, no data."""

    def meta(x):
        if not isinstance(x, torch.Tensor):
            return x
        half = x.is_floating_point() and x.dim() == 3
        return x.to("meta", torch.bfloat16 if half else x.dtype)

    operator(*map(meta, tensors), *map(meta, rest), **keywords)


def _check(query, key, value, cu_q, cu_k, max_q, max_k, dropout_p):
    assert dropout_p == 0.0
    assert key.shape == value.shape
    assert all(x.stride(-1) == 1 for x in (query, key, value))
    assert max_k >= 1
    # With one query and grouped heads the kernel folds heads into queries and forgets cu_q.
    assert max_q >= 2
    for cu, tokens in ((cu_q, query), (cu_k, key)):
        assert cu.dtype == torch.int32
        assert cu.is_contiguous()
        assert cu[0] >= 0
        assert cu[-1] <= tokens.shape[0]
        assert (cu.diff() >= 0).all()
    assert len(cu_q) == len(cu_k)


def _segments(cu_q, cu_k, max_q):
    bounds = [pairwise(cu) for cu in (cu_q.tolist(), cu_k.tolist())]
    for (q0, q1), (k0, k1) in zip(*bounds, strict=True):
        yield slice(q0, min(q1, q0 + max_q)), slice(k0, k1)


def _visible(scores, is_causal, left, right):
    """Causal and windows are counted from the bottom right corner; -1 is an open side."""
    n_q, n_k = scores.shape[1:]
    ahead = torch.arange(n_k) - torch.arange(n_q)[:, None] - (n_k - n_q)
    right = 0 if is_causal else -1 if right is None else right
    visible = torch.ones(n_q, n_k, dtype=torch.bool)
    if right >= 0:
        visible &= ahead <= right
    if left is not None and left >= 0:
        visible &= ahead >= -left
    return visible


def _scores(q, k, scale):
    return scale * torch.einsum("qhd,khd->hqk", q, _repeat(k, q))


def _wide(x):
    """In the precision that the kernels sum in; float64 stays, to show what is exact."""
    return x if x.dtype == torch.float64 else x.float()


def _repeat(x, q):
    return x.repeat_interleave(q.shape[1] // x.shape[1], 1)


def _sum_groups(x, k):
    return x.unflatten(1, (k.shape[1], x.shape[1] // k.shape[1])).sum(2)
