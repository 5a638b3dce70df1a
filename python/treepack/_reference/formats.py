"""What the formats of `treepack.attention.formats` mean, each read back into a matrix."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Dense = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int32] | npt.NDArray[np.int64]


def expand_trl(kwargs: Mapping[str, Ints]) -> Dense:
    """Each segment of queries sees its own keys, causally, aligned at the end."""
    cu_q, cu_k = kwargs["tree_cu_seqlens_q"], kwargs["tree_cu_seqlens_k"]
    dense = np.zeros((cu_q[-1], cu_q[-1]), bool)
    for s in range(len(cu_q) - 1):
        keys = kwargs["tree_kv_index"][cu_k[s] : cu_k[s + 1]]
        for q in range(cu_q[s], cu_q[s + 1]):
            dense[q, keys[: max(0, len(keys) - (cu_q[s + 1] - 1 - q))]] = True
    return dense


def expand_flashmask(columns: Ints) -> Dense:
    """Column 0 hides a key from later queries, under a causal mask; column 1 from earlier ones."""
    total = len(columns)
    q = np.arange(total)[:, None]
    seen = q < columns[:, 0]
    if columns.shape[1] == 1:
        return seen & (np.arange(total) <= q)
    return seen & (q >= columns[:, 1])


def expand_magi(slices: Mapping[str, Ints], total: int) -> npt.NDArray[np.int64]:
    """How often each pair is computed: 0 or 1 if the slices do not overlap."""
    count = np.zeros((total, total), np.int64)
    for (q0, q1), (k0, k1), kind in zip(
        slices["q_ranges"], slices["k_ranges"], slices["attn_type_map"], strict=True
    ):
        whole = np.ones((q1 - q0, k1 - k0), np.int64)
        shapes = (whole, np.tril(whole, (k1 - k0) - (q1 - q0)), np.triu(whole))
        count[q0:q1, k0:k1] += shapes[kind]
    return count


def expand_intervals(ptr: Ints, intervals: Ints) -> Dense:
    """The keys of each query."""
    total = len(ptr) - 1
    dense = np.zeros((total, total), bool)
    for q in range(total):
        for start, end in intervals[ptr[q] : ptr[q + 1]]:
            dense[q, start:end] = True
    return dense
