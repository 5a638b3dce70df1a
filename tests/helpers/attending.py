"""Random rows with their tensors, and attention over them by a plan and by the mask."""

from __future__ import annotations

import torch
import treepack as tp
from helpers.random_masks import random_forest
from treepack._reference.attention import dense_attention

HEADS = [(4, 4), (4, 2), (4, 1), (1, 1)]


def random_row(rng, size=8, dtype=torch.float64, **forest):
    mask = tp.TreeMask.from_nodes(*random_forest(rng, **forest))
    heads, key_heads = HEADS[rng.integers(len(HEADS))]
    tensors = [
        torch.from_numpy(rng.standard_normal((mask.total, h, size))).to(dtype)
        for h in (heads, key_heads, key_heads, heads)
    ]
    return mask, *tensors


def with_grads(attend, q, k, v, grad_out):
    """The output, dq, dk and dv."""
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out = attend(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad_out)]


def by_plan(mask, *tensors, **options):
    return with_grads(lambda q, k, v: tp.tree_attention(q, k, v, mask, **options), *tensors)


def by_mask(mask, *tensors, scale=None):
    visible = torch.from_numpy(mask.to_dense())
    return with_grads(lambda q, k, v: dense_attention(q, k, v, visible, scale), *tensors)


def worst(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
