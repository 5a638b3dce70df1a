"""Attention with the mask written out: the reference of ``tree_attention``."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float | None = None
) -> Tensor:
    """Compute ``softmax(scale * q k^T) v`` over the visible keys of each query.

    Args:
        q: ``[T, H, D]``.
        k: ``[T, Hk, D]``, ``Hk`` dividing ``H``.
        v: ``[T, Hk, D]``.
        visible: bool ``[T, T]``, queries down, keys across.
        scale: ``D ** -0.5`` by default.

    Returns:
        ``[T, H, D]``, differentiable by autograd; 0 where a query sees no key.

    Example:
        >>> import torch
        >>> x = torch.tensor([1.0, 3.0]).view(2, 1, 1)
        >>> dense_attention(0 * x, x, x, torch.tensor([[True, True], [False, False]])).flatten()
        tensor([2., 0.])
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = scale * torch.einsum("qhd,khd->hqk", q, k)
    # Queries without keys get a softmax over everything, and then a weight of zero.
    alone = ~visible.any(1, keepdim=True)
    weights = scores.masked_fill(~(visible | alone), -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights.masked_fill(alone, 0.0), v)
