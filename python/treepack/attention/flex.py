"""The mask for FlexAttention: our own block lists and three vectors; no matrix, nothing traced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from treepack._core import TreeMask, block_lists, longest_path
from treepack.errors import AttentionError

BLOCK = 128

Lists = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
"""How many blocks each list has, and which: int32 ``[n]`` and ``[n, n]``."""


class Blocks(NamedTuple):
    """A mask as FlexAttention takes it.

    Attributes:
        mask: the block lists, with the function that decides inside the partial ones.
        padding: bool ``[total, 1, 1]``, True on padding.
    """

    mask: BlockMask
    padding: Tensor


class BlockedRow(Protocol):
    """What holds the blocks of a row: ``batch["treepack"]``."""

    def blocks_for(self, window: int | None) -> Blocks:
        """Of layers with this sliding window, or none."""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any,
    scale: float | None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention over a packed row in one call of torch's FlexAttention.

    Eager, it computes the whole matrix; it is meant for a compiled function or model. With rows of
    one length a new mask needs no new graph.

    Args:
        q: ``[T, H, D]``.
        k: ``[T, Hk, D]``.
        v: ``[T, Hk, D]``.
        mask: a ``TreeMask``, or ``batch["treepack"]``.
        scale: of the scores; ``D ** -0.5`` by default.
        window: tokens of its path that a query sees, itself included; image tokens see ahead.
        softcap: scores ``s`` become ``softcap * tanh(s / softcap)``.

    Returns:
        ``[T, H, D]``; 0 on padding.

    Raises:
        AttentionError: a plan, which does not hold the mask, a row of another length, or gradients
            on the CPU.

    Source:
        FlexAttention, arXiv 2412.05496.

    Example:
        >>> import torch, treepack as tp
        >>> mask = tp.TreeMask.from_nodes([2, 1, 1], [-1, 0, 0])
        >>> zeros, v = torch.zeros(4, 1, 16), torch.tensor([1.0, 2.0, 6.0, 9.0]).view(4, 1, 1)
        >>> attend(zeros, zeros, v.expand(4, 1, 16), mask, None)[:, 0, 0]
        tensor([1.0000, 1.5000, 3.0000, 4.0000])
    """
    blocks = _find_blocks(mask, q.device, window)
    _check(q, k, v, blocks)
    # A masked score is a weight of 0, and 0 times the NaN of padding would be NaN.
    q, k, v = (x.masked_fill(blocks.padding, 0.0) for x in (q, k, v))
    out = flex_attention(
        *(x.transpose(0, 1)[None] for x in (q, k, v)),
        score_mod=None if softcap is None else _cap(q, softcap),
        block_mask=blocks.mask,
        scale=scale,
        enable_gqa=True,
    )
    return cast("Tensor", out)[0].transpose(0, 1).masked_fill(blocks.padding, 0.0)


def _cap(q: Tensor, softcap: float) -> Callable[..., Tensor]:
    # A tensor, filled where it lies: a number that changes is more than FlexAttention can trace.
    dtype = torch.promote_types(q.dtype, torch.float32)
    cap = torch.full((), softcap, dtype=dtype, device=q.device)

    def capped(
        score: Tensor, _batch: Tensor, _head: Tensor, _query: Tensor, _key: Tensor
    ) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


def _find_blocks(mask: Any, device: torch.device, window: int | None) -> Blocks:
    if hasattr(mask, "blocks_for"):
        return cast("BlockedRow", mask).blocks_for(window)
    if isinstance(mask, TreeMask):
        return _blocks_of(mask, device, window)
    raise AttentionError(
        f"flex needs the mask itself, got {type(mask).__name__}; pass a TreeMask or "
        "batch['treepack']"
    )


def _check(q: Tensor, k: Tensor, v: Tensor, blocks: Blocks) -> None:
    total, device = len(blocks.padding), blocks.padding.device
    if q.shape[0] != total:
        raise AttentionError(f"q has {q.shape[0]} tokens, the mask {total}; pass its own row")
    if q.device != device:
        raise AttentionError(
            f"the mask is on {device}, q on {q.device}; "
            f"move the batch first: batch.to({str(q.device)!r})"
        )
    wants_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if wants_grad and q.device.type == "cpu":
        raise AttentionError(
            "FlexAttention has no backward on the CPU; leave backend out, or run under "
            "torch.no_grad()"
        )


def make_blocks(mask: TreeMask, device: torch.device, window: int | None = None) -> Blocks:
    """What FlexAttention needs of a mask, with all eight block lists, on a device.

    ``torch.compile`` cannot trace this: let a `PackedRow` make it before a compiled model.
    """
    cut = None if window is None or window >= longest_path(mask) else window
    # Kept apart by their sides, so that torch need not turn the lists of one into the other's.
    kv, full_kv, q, full_q = block_lists(mask, BLOCK, BLOCK)
    if cut is not None:
        near, inside = _window_blocks(mask, cut)
        kv, full_kv = _cut(kv, full_kv, near, inside)
        q, full_q = _cut(q, full_q, near.T, inside.T)
    lists: dict[str, Tensor] = {}
    for name, (counts, indices) in {"kv": kv, "full_kv": full_kv, "q": q, "full_q": full_q}.items():
        lists[f"{name}_num_blocks"] = torch.from_numpy(counts).to(device)[None, None]
        lists[f"{name}_indices"] = torch.from_numpy(indices).to(device)[None, None]
    block_mask = BlockMask(
        seq_lengths=(mask.total, mask.total),
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=_mask_function(mask, device, cut),
        **lists,
    )
    # By numpy, which says that memory is short by a MemoryError.
    padding = torch.from_numpy(np.arange(mask.total) >= mask.used)
    return Blocks(block_mask, padding[:, None, None].to(device))


_blocks_of = functools.lru_cache(maxsize=16)(make_blocks)


def _mask_function(mask: TreeMask, device: torch.device, window: int | None) -> Any:
    lo, end, hi = (
        torch.from_numpy(x).to(device) for x in (mask.key_lo, mask.key_end, mask.query_hi)
    )

    def visible(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (lo[k] <= q) & (q < end[k]) & (k <= hi[q])

    if window is None:
        return visible
    place = torch.from_numpy(mask.positions()[0].astype(np.int32)).to(device)

    def near(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return visible(batch, head, q, k) & (place[q] - place[k] < window)

    return near


def _window_blocks(
    mask: TreeMask, window: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Blocks ``[n_q, n_k]`` that may have pairs in the window, and those with no others."""
    starts = np.arange(0, mask.total, BLOCK)
    place = mask.positions()[0]
    first, last = np.minimum.reduceat(place, starts), np.maximum.reduceat(place, starts)
    return first[:, None] - last < window, last[:, None] - first < window


def _cut(
    partial: Lists, full: Lists, near: npt.NDArray[np.bool_], inside: npt.NDArray[np.bool_]
) -> tuple[Lists, Lists]:
    """The lists under a window: full blocks may become partial ones, and all may go."""
    is_full = _matrix(full)
    is_partial = (_matrix(partial) | (is_full & ~inside)) & near
    return _lists(is_partial), _lists(is_full & inside)


def _matrix(lists: Lists) -> npt.NDArray[np.bool_]:
    counts, indices = lists
    listed = np.arange(indices.shape[1]) < counts[:, None]
    matrix = np.zeros(indices.shape, bool)
    matrix[np.nonzero(listed)[0], indices[listed]] = True
    return matrix


def _lists(matrix: npt.NDArray[np.bool_]) -> Lists:
    # What lies behind the count is never read, but must be an index.
    indices = np.argsort(~matrix, axis=1, kind="stable").astype(np.int32)
    return matrix.sum(1, dtype=np.int32), indices
