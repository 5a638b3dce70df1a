"""The mask for FlexAttention: our own block lists and three vectors; no matrix, nothing traced."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from treepack._core import TreeMask, block_lists
from treepack.errors import AttentionError

BLOCK = 128

NAMES = ("kv", "full_kv", "q", "full_q")


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: float | None) -> Tensor:
    """Attention over a packed row in one call of torch's FlexAttention.

    Eager, it computes the whole matrix; it is meant for a compiled function or model. With rows of
    one length a new mask needs no new graph.

    Args:
        q: ``[T, H, D]``.
        k: ``[T, Hk, D]``.
        v: ``[T, Hk, D]``.
        mask: a ``TreeMask``, or ``batch["treepack"]``.
        scale: of the scores; ``D ** -0.5`` by default.

    Returns:
        ``[T, H, D]``; 0 on padding.

    Raises:
        AttentionError: a plan, which does not hold the mask, or a row of another length.

    Source:
        FlexAttention, arXiv 2412.05496.

    Example:
        >>> import torch, treepack as tp
        >>> mask = tp.TreeMask.from_nodes([2, 1, 1], [-1, 0, 0])
        >>> zeros, v = torch.zeros(4, 1, 16), torch.tensor([1.0, 2.0, 6.0, 9.0]).view(4, 1, 1)
        >>> attend(zeros, zeros, v.expand(4, 1, 16), mask, None)[:, 0, 0]
        tensor([1.0000, 1.5000, 3.0000, 4.0000])
    """
    tree = mask if isinstance(mask, TreeMask) else getattr(mask, "mask", None)
    if not isinstance(tree, TreeMask):
        raise AttentionError(
            f"flex needs the mask itself, got {type(mask).__name__}; pass a TreeMask or "
            "batch['treepack']"
        )
    if q.shape[0] != tree.total:
        raise AttentionError(f"q has {q.shape[0]} rows, the mask {tree.total}; pass its own row")
    heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
    block_mask = make_block_mask(tree, q.device)
    out = flex_attention(*heads_first, block_mask=block_mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


@functools.lru_cache(maxsize=16)
def make_block_mask(mask: TreeMask, device: torch.device) -> BlockMask:
    """Torch's ``BlockMask`` of a mask, with all eight block lists, on a device."""
    lo, end, hi = (
        torch.from_numpy(x).to(device) for x in (mask.key_lo, mask.key_end, mask.query_hi)
    )

    def visible(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (lo[k] <= q) & (q < end[k]) & (k <= hi[q])

    lists: dict[str, Tensor] = {}
    for name, (counts, indices) in zip(NAMES, block_lists(mask, BLOCK, BLOCK), strict=True):
        lists[f"{name}_num_blocks"] = torch.from_numpy(counts).to(device)[None, None]
        lists[f"{name}_indices"] = torch.from_numpy(indices).to(device)[None, None]
    return BlockMask(
        seq_lengths=(mask.total, mask.total),
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=visible,
        **lists,
    )
