"""A mask in the formats of other attention kernels; numpy in, numpy out.

Each function says what its format cannot express; docs/reference/formats.md is the table of them.
`treepack._reference.formats` turns every one of them back into the matrix.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from treepack.errors import TreeError

if TYPE_CHECKING:
    from treepack._core import TreeMask

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

FULL, CAUSAL, INVCAUSAL = 0, 1, 2
"""Kinds of a MagiAttention slice."""


def trl_tree_kwargs(mask: TreeMask) -> dict[str, Int32 | Int64]:
    """The keyword arguments of TRL's tree attention, which ``tree-recurrence`` reads too.

    A segment is a node with tokens; it attends, causally and aligned at the end, to the path from
    its root to itself.

    Args:
        mask: a row without bidirectional images. Padding becomes a segment that sees nothing.

    Returns:
        ``tree_kv_index`` int64 ``[K]``: row positions of every segment's path, laid end to end;
        ``tree_cu_seqlens_q`` and ``tree_cu_seqlens_k`` int32 ``[S + 1]``: where segments begin in
        the row, and their paths in ``tree_kv_index``; ``tree_max_seqlens`` int64 ``[2]``: longest
        segment and longest path.

    Raises:
        TreeError: image tokens that see ahead.

    Source:
        TRL 1.16, ``TreeRow.pack``.

    Example:
        >>> import treepack as tp
        >>> kwargs = trl_tree_kwargs(tp.TreeMask.from_nodes([2, 1, 2], [-1, 0, 0]))
        >>> kwargs["tree_kv_index"].tolist()
        [0, 1, 0, 1, 2, 0, 1, 3, 4]
        >>> kwargs["tree_cu_seqlens_k"].tolist(), kwargs["tree_max_seqlens"].tolist()
        ([0, 2, 5, 9], [2, 4])
    """
    _reject_groups(mask, "TRL's tree kwargs")
    starts, ends, parents = mask.node_start, mask.node_end, mask.node_parent.tolist()
    paths: list[Int64] = []
    for start, end, parent in zip(starts.tolist(), ends.tolist(), parents, strict=True):
        own = np.arange(start, end)
        paths.append(own if parent < 0 else np.concatenate([paths[parent], own]))
    kept = [path for path, start, end in zip(paths, starts, ends, strict=True) if end > start]
    cu_q = [0, *ends[ends > starts].tolist()]
    if mask.total > mask.used:
        kept.append(np.empty(0, np.int64))
        cu_q.append(mask.total)
    lengths = [len(path) for path in kept]
    return {
        "tree_kv_index": np.concatenate(kept),
        "tree_cu_seqlens_q": np.array(cu_q, np.int32),
        "tree_cu_seqlens_k": np.cumsum([0, *lengths], dtype=np.int32),
        "tree_max_seqlens": np.array([np.diff(cu_q).max(), max(lengths)], np.int64),
    }


def flashmask_columns(mask: TreeMask) -> Int32:
    """FlashMask's ``startend_row_indices``: which queries each key is hidden from.

    Args:
        mask: a row whose image groups have no text between their tokens.

    Returns:
        int32 ``[total, 1]`` for a causal mask (``causal=True``): the key is hidden from queries
        ``[column 0, total)``. int32 ``[total, 2]`` where image tokens see ahead
        (``causal=False``): also from queries ``[0, column 1)``.

    Raises:
        TreeError: a group with holes: two numbers a key cannot hide it from the text in between.

    Source:
        FlashMask, arXiv 2410.01359.

    Example:
        >>> import treepack as tp
        >>> flashmask_columns(tp.TreeMask.from_nodes([2, 1, 1], [-1, 0, 0])).ravel().tolist()
        [4, 4, 3, 4]
    """
    if len(mask.group_ptr) == 1:
        return mask.key_end[:, None]
    if len(mask.run_start) != len(mask.group_ptr) - 1:
        raise TreeError(
            f"{len(mask.run_start)} runs of image tokens in {len(mask.group_ptr) - 1} groups: "
            "FlashMask cannot say that the text between them sees nothing ahead; use the plan, or "
            'bidirectional="within_image" where images are whole'
        )
    return np.stack([mask.key_end, mask.key_lo], 1)


def magi_slices(mask: TreeMask) -> dict[str, Int32]:
    """MagiAttention's slices: rectangles of queries and keys whose disjoint union is the mask.

    Args:
        mask: any row.

    Returns:
        ``q_ranges`` and ``k_ranges`` int32 ``[n, 2]``, and ``attn_type_map`` int32 ``[n]``: 0 full,
        1 causal (aligned at the end), 2 inverse causal (aligned at the start).

    Source:
        MagiAttention, ``flex_flash_attn_func``.

    Example:
        >>> import treepack as tp
        >>> slices = magi_slices(tp.TreeMask.from_nodes([2, 1], [-1, 0]))
        >>> slices["q_ranges"].tolist(), slices["k_ranges"].tolist()
        ([[0, 2], [2, 3], [2, 3]], [[0, 2], [0, 2], [2, 3]])
        >>> slices["attn_type_map"].tolist()
        [1, 0, 1]
    """
    slices: list[tuple[int, int, int, int, int]] = []
    nodes = zip(
        *(a.tolist() for a in (mask.node_start, mask.node_end, mask.subtree_end)), strict=True
    )
    for start, end, subtree_end in nodes:
        slices += [(start, end, start, end, CAUSAL), (end, subtree_end, start, end, FULL)]
    for runs in _groups(mask):
        for i, (start, end) in enumerate(runs):
            slices.append((start, end - 1, start + 1, end, INVCAUSAL))
            slices += [(start, end, k0, k1, FULL) for k0, k1 in runs[i + 1 :]]
    table = np.array([s for s in slices if s[0] < s[1] and s[2] < s[3]], np.int32)
    return {
        "q_ranges": table[:, :2].copy(),
        "k_ranges": table[:, 2:4].copy(),
        "attn_type_map": table[:, 4].copy(),
    }


def query_intervals(mask: TreeMask) -> tuple[Int64, Int32]:
    """The keys of each query as intervals.

    Args:
        mask: any row.

    Returns:
        ``ptr`` int64 ``[total + 1]`` and ``intervals`` int32 ``[n, 2]``: query ``q`` sees the keys
        ``[start, end)`` of entries ``ptr[q]:ptr[q + 1]``, which increase and do not touch.

    Example:
        >>> import treepack as tp
        >>> ptr, intervals = query_intervals(tp.TreeMask.from_nodes([2, 1, 1], [-1, 0, 0]))
        >>> intervals[ptr[3] : ptr[4]].tolist()
        [[0, 2], [3, 4]]
    """
    ahead: list[list[tuple[int, int]]] = [[] for _ in range(mask.total)]
    for runs in _groups(mask):
        for i, (start, end) in enumerate(runs):
            for q in range(start, end):
                ahead[q] = [(q + 1, end), *runs[i + 1 :]]
    intervals: list[list[tuple[int, int]]] = []
    above: list[list[tuple[int, int]]] = []
    nodes = zip(
        *(a.tolist() for a in (mask.node_start, mask.node_end, mask.node_parent)), strict=True
    )
    for start, end, parent in nodes:
        before = above[parent] if parent >= 0 else []
        above.append(_joined([*before, (start, end)]))
        intervals += [_joined([*before, (start, q + 1), *ahead[q]]) for q in range(start, end)]
    intervals += [[] for _ in range(mask.total - mask.used)]
    flat = [interval for own in intervals for interval in own]
    ptr = np.cumsum([0, *map(len, intervals)], dtype=np.int64)
    return ptr, np.array(flat, np.int32).reshape(-1, 2)


def _reject_groups(mask: TreeMask, what: str) -> None:
    if len(mask.group_ptr) > 1:
        raise TreeError(
            f'{what} cannot say that image tokens see ahead; this row has bidirectional="'
            f'{mask.bidirectional}" with {len(mask.group_ptr) - 1} groups'
        )


def _groups(mask: TreeMask) -> list[list[tuple[int, int]]]:
    """The runs of each image group."""
    runs = list(zip(mask.run_start.tolist(), mask.run_end.tolist(), strict=True))
    ptr = mask.group_ptr.tolist()
    return [runs[a:b] for a, b in pairwise(ptr)]


def _joined(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Increasing intervals without empty ones, touching ones made one."""
    joined: list[tuple[int, int]] = []
    for start, end in intervals:
        if start == end:
            continue
        if joined and joined[-1][1] == start:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined
