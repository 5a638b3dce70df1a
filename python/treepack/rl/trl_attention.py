"""TRL's asynchronous GRPO on any device: its tree attention without copied keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.weak import WeakTensorKeyDictionary

from treepack._core import TreeMask
from treepack._packages import needing
from treepack.attention import TreePlan
from treepack.batch.packed_row import PackedRow
from treepack.hf.attention import register, tree_attention_forward
from treepack.options import AttentionBackend

if TYPE_CHECKING:
    from torch import Tensor

NAME = "tree_fa3"
"""What TRL calls its tree attention."""

_ROWS = WeakTensorKeyDictionary()
"""The rows that are in use, by TRL's index of each, which lives as long as its row."""


def register_trl_tree_attention(backend: AttentionBackend | None = None) -> None:
    """Let TRL's ``AsyncGRPOTrainer`` compute its trees with `treepack.tree_attention`.

    TRL gathers keys and values of each path and needs a kernel of FlashAttention 3. Afterwards its
    rows take any device that treepack has a backend for, CPUs included, and nothing is gathered.
    Call it once the trainer has been made: TRL registers its own function there.

    Args:
        backend: that of `treepack.tree_attention`; by default the one of the device.

    Raises:
        AttentionError: there is no such backend.

    Source:
        TRL 1.16, ``experimental/async_grpo/packing.py``.

    Example:
        >>> register_trl_tree_attention()
        >>> from transformers import AttentionInterface
        >>> AttentionInterface()["tree_fa3"].__module__
        'treepack.rl.trl_attention'
    """
    with needing("rl", "treepack.rl.register_trl_tree_attention"):
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface
    register(backend)

    def attend(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return _attend(*args, backend=backend, **kwargs)

    attend.__module__ = __name__
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(**_: Any) -> None:
    """The trees are the mask."""


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *,
    tree_kv_index: Tensor,
    tree_cu_seqlens_q: Tensor,
    tree_cu_seqlens_k: Tensor,
    backend: AttentionBackend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    row = _ROWS.get(tree_kv_index)
    if row is None:
        row = _row(tree_kv_index, tree_cu_seqlens_q, tree_cu_seqlens_k)
        _ROWS[tree_kv_index] = row
    # The longest segment and path, which kernels of FlashAttention 3 want to know.
    options = {name: x for name, x in kwargs.items() if not name.startswith("tree_max_seqlen")}
    return tree_attention_forward(
        module, query, key, value, attention_mask, treepack=row, backend=backend, **options
    )


def _row(kv_index: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> PackedRow:
    """The trees whose paths TRL lists: each segment is a node, the last one of its own path."""
    index, ends_q, ends_k = (x.cpu().numpy() for x in (kv_index, cu_seqlens_q, cu_seqlens_k))
    lengths = np.diff(ends_q).astype(np.int64)
    before = ends_k[1:] - lengths - 1
    is_root = np.diff(ends_k) == lengths
    # A path goes from the last token of the parent to the first one of the segment.
    last = index[np.maximum(before, 0)]
    parents = np.where(is_root, -1, np.searchsorted(ends_q, last, side="right") - 1)
    mask = TreeMask.from_nodes(lengths, parents.astype(np.int64))
    return PackedRow(mask, TreePlan.from_mask(mask).to(kv_index.device))
