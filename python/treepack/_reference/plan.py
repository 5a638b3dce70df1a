"""The plan of a row, built the obvious way: the twin of ``TreeMask.plan``.

A plan is a list of attention calls whose disjoint union is the mask. `build_plan` writes it,
`count_pairs` reads it back into the pairs that it computes.

The host table is ``[n_calls, total, used, 0]`` and then, for each call, the twelve numbers

    kind, q_start, q_rows, k_start, k_rows, n_seg, max_q, max_k,
    off_cu_q, off_cu_k, off_q_index, off_k_index

where the offsets point into the plan, each array of which is padded with zeros to a multiple of
four entries. Queries and keys of a call are cut into ``n_seg`` segments; ``cu_q`` and ``cu_k`` hold
where each starts, counted from ``q_start`` and ``k_start``.

====  ============  ========================================  ==================================
kind  name          segment ``i`` lets its query row see      arrays, in this order
====  ============  ========================================  ==================================
0     SELF          its keys up to itself (causal)            one, ``cu_q`` and ``cu_k`` alike
1     CROSS         all of its keys                           ``cu_q``, ``cu_k``
2     REV           its keys from itself on (anti-causal)     ``cu_q``, ``cu_k``
3     REV_GATHERED  the same, of the rows in ``q_index``      ``cu_q`` and ``cu_k`` alike,
                    and ``k_index``                           ``q_index``, ``k_index``
4     WINDOW        of its keys in ``k_index`` the last       ``cu_q``, ``cu_k``, ``k_index``
                    ``host[3]`` up to itself
====  ============  ========================================  ==================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

SELF, CROSS, REV, REV_GATHERED, WINDOW = range(5)
HEADER, FIELDS, ALIGN = 4, 12, 4

Int32 = npt.NDArray[np.int32]


class NodeTable(Protocol):
    """What a plan is built from: the node table and the image groups of a ``TreeMask``."""

    total: int
    node_start: Int32
    node_end: Int32
    subtree_end: Int32
    node_parent: Int32
    run_start: Int32
    run_end: Int32
    group_ptr: Int32


class Piece(NamedTuple):
    """Queries ``[q0, q1)`` that meet keys ``[k0, k1)``, in row positions."""

    q0: int
    q1: int
    k0: int
    k1: int


class Call(NamedTuple):
    """One entry of the host table, with the arrays that it points to."""

    kind: int
    q_start: int
    q_rows: int
    k_start: int
    k_rows: int
    max_q: int
    max_k: int
    cu_q: Sequence[int]
    cu_k: Sequence[int]
    q_index: Sequence[int] = ()
    k_index: Sequence[int] = ()


def build_plan(mask: NodeTable) -> tuple[Int32, Int32]:
    """Write the mask of a row as attention calls, no pair in two of them.

    Args:
        mask: a ``TreeMask``, or anything with its node table and groups.

    Returns:
        The plan int32 ``[P]`` and the host table int32 ``[4 + 12 * n_calls]``: SELF, then CROSS by
        nesting depth, then REV, then REV_GATHERED; calls without pairs are left out.

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> none = np.empty(0, np.int32)
        >>> mask = SimpleNamespace(  # a root of 6 tokens with branches of 4 and 3
        ...     total=14, node_start=[0, 6, 10], node_end=[6, 10, 13], subtree_end=[13, 10, 13],
        ...     node_parent=[-1, 0, 0], run_start=none, run_end=none, group_ptr=[0])
        >>> plan, host = build_plan(mask)
        >>> host[:4].tolist(), host[4:].reshape(-1, 12)[:, :8].tolist()
        ([2, 14, 13, 0], [[0, 0, 13, 0, 13, 2, 10, 10], [1, 10, 3, 0, 6, 1, 3, 6]])
        >>> plan.tolist()
        [0, 10, 13, 0, 0, 3, 0, 0, 0, 6, 0, 0]
    """
    chains, crosses = _tree_pieces(mask)
    calls = [_call(SELF, chains)] if chains else []
    calls += [_call(CROSS, level) for level in _levels(crosses)]
    return _write(calls + _group_calls(mask), mask)


def build_window_plan(mask: NodeTable, window: int) -> tuple[Int32, Int32]:
    """Write the mask of a row under a sliding window over path positions.

    Args:
        mask: as for `build_plan`.
        window: tokens that a query sees, itself included; image tokens see ahead without limit.

    Returns:
        As `build_plan`: a WINDOW call in the place of SELF and CROSS, unless every path fits.
    """
    paths = [_path(mask, i) for i in range(len(mask.node_start))]
    if window >= max(map(len, paths)):
        return build_plan(mask)
    pieces: list[Piece] = []
    keys: list[int] = []
    for chain in _chains(mask):
        own = [token for i in chain for token in range(mask.node_start[i], mask.node_end[i])]
        path = paths[chain[-1]]
        tail = path[: len(path) - len(own)]
        first = len(keys)
        keys += tail[max(0, len(tail) - (window - 1)) :] + own
        pieces.append(Piece(own[0], own[-1] + 1, first, len(keys)))
    call = _call(WINDOW, pieces)._replace(k_index=keys)
    return _write([call, *_group_calls(mask)], mask, window)


def _path(mask: NodeTable, i: int) -> list[int]:
    path: list[int] = []
    while i >= 0:
        path = [*range(mask.node_start[i], mask.node_end[i]), *path]
        i = int(mask.node_parent[i])
    return path


def _group_calls(mask: NodeTable) -> list[Call]:
    whole, holed = _groups(mask)
    calls = []
    if whole:
        calls.append(_call(REV, [Piece(g[0], g[-1], g[1], g[-1] + 1) for g in whole]))
    if holed:
        calls.append(_gathered(holed))
    return calls


def _chains(mask: NodeTable) -> list[list[int]]:
    """The nodes of each first-child chain."""
    # Nodes without tokens neither see nor are seen: their children move up to the next ancestor.
    kept = [i for i in range(len(mask.node_start)) if mask.node_end[i] > mask.node_start[i]]
    chains: list[list[int]] = []
    for previous, i in zip([-1, *kept], kept, strict=False):
        if previous >= 0 and _nonempty_parent(mask, i) == previous:
            chains[-1].append(i)
        else:
            chains.append([i])
    return chains


def _tree_pieces(mask: NodeTable) -> tuple[list[Piece], list[Piece]]:
    """Causal pieces of the first-child chains, and what the rest of each subtree sees of a node."""
    causal: list[Piece] = []
    crosses: list[Piece] = []
    for chain in _chains(mask):
        start, end = int(mask.node_start[chain[0]]), int(mask.node_end[chain[-1]])
        causal.append(Piece(start, end, start, end))
        for i in chain:
            q1, k0, k1 = (int(a[i]) for a in (mask.subtree_end, mask.node_start, mask.node_end))
            if crosses and crosses[-1][:2] == (end, q1):
                crosses[-1] = crosses[-1]._replace(k1=k1)
            elif q1 > end:
                crosses.append(Piece(end, q1, k0, k1))
    return causal, crosses


def _nonempty_parent(mask: NodeTable, i: int) -> int:
    parent = int(mask.node_parent[i])
    while parent >= 0 and mask.node_start[parent] == mask.node_end[parent]:
        parent = int(mask.node_parent[parent])
    return parent


def _levels(crosses: list[Piece]) -> list[list[Piece]]:
    """The pieces by how many others hold their queries; within a level all are disjoint."""

    def depth(piece: Piece) -> int:
        return sum(o.q0 <= piece.q0 and piece.q1 <= o.q1 for o in crosses if o != piece)

    depths = [depth(piece) for piece in crosses]
    return [
        [piece for piece, at in zip(crosses, depths, strict=True) if at == level]
        for level in sorted(set(depths))
    ]


def _groups(mask: NodeTable) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens of each image group of two or more, without holes and with, by first token."""
    groups = []
    for first, last in zip(mask.group_ptr[:-1], mask.group_ptr[1:], strict=True):
        runs = [range(mask.run_start[r], mask.run_end[r]) for r in range(first, last)]
        groups.append([token for run in runs for token in run])
    groups = sorted(group for group in groups if len(group) > 1)
    whole = [group for group in groups if group[-1] - group[0] == len(group) - 1]
    holed = [group for group in groups if group[-1] - group[0] != len(group) - 1]
    return whole, holed


def _call(kind: int, pieces: list[Piece]) -> Call:
    """A call on the rows from the first piece to the last; what lies between become gaps."""
    first, last = pieces[0], pieces[-1]
    cuts = [(first.q0, first.k0)]
    for q0, q1, k0, k1 in pieces:
        # A gap of queries meets no keys, a gap of keys no queries; then the piece itself.
        for cut in ((q0, cuts[-1][1]), (q0, k0), (q1, k1)):
            if cut != cuts[-1]:
                cuts.append(cut)
    cu_q = [q - first.q0 for q, _ in cuts]
    cu_k = [k - first.k0 for _, k in cuts]
    rows = (first.q0, last.q1 - first.q0, first.k0, last.k1 - first.k0)
    return Call(kind, *rows, _longest(cu_q, 2), _longest(cu_k, 1), cu_q, cu_k)


def _gathered(groups: list[list[int]]) -> Call:
    cu = np.cumsum([0, *(len(group) - 1 for group in groups)]).tolist()
    q_index = [token for group in groups for token in group[:-1]]
    k_index = [token for group in groups for token in group[1:]]
    rows = (0, cu[-1], 0, cu[-1])
    return Call(REV_GATHERED, *rows, _longest(cu, 2), _longest(cu, 1), cu, cu, q_index, k_index)


def _longest(cu: Sequence[int], at_least: int) -> int:
    return max(at_least, int(np.diff(cu).max()))


def _write(calls: list[Call], mask: NodeTable, window: int = 0) -> tuple[Int32, Int32]:
    plan: list[int] = []
    host = [len(calls), mask.total, int(max(mask.node_end, default=0)), window]

    def put(array: Sequence[int]) -> int:
        offset = len(plan)
        plan.extend(array)
        plan.extend([0] * (-len(array) % ALIGN))
        return offset

    for call in calls:
        off_cu_q = put(call.cu_q)
        off_cu_k = put(call.cu_k) if call.kind in (CROSS, REV, WINDOW) else off_cu_q
        off_index = [put(index) if index else 0 for index in (call.q_index, call.k_index)]
        host += [*call[:5], len(call.cu_q) - 1, *call[5:7], off_cu_q, off_cu_k, *off_index]
    return np.array(plan, np.int32), np.array(host, np.int32)


def read_plan(plan: Int32, host: Int32) -> Iterator[Call]:
    """Yield the calls of a plan."""
    table = host[HEADER:].reshape(-1, FIELDS).tolist()
    for kind, q_start, q_rows, k_start, k_rows, n_seg, max_q, max_k, *offsets in table:
        cu_q, cu_k = (plan[o : o + n_seg + 1].tolist() for o in offsets[:2])
        index: list[list[int]] = [[], []]
        if offsets[2]:
            index[0] = plan[offsets[2] : offsets[2] + q_rows].tolist()
        if offsets[3]:
            index[1] = plan[offsets[3] : offsets[3] + k_rows].tolist()
        yield Call(kind, q_start, q_rows, k_start, k_rows, max_q, max_k, cu_q, cu_k, *index)


def count_pairs(plan: Int32, host: Int32) -> npt.NDArray[np.int64]:
    """Count how often a plan computes each pair: the mask itself, if the plan is right.

    Args:
        plan: int32 ``[P]``.
        host: int32 ``[4 + 12 * n_calls]``.

    Returns:
        int64 ``[total, total]``, queries down, keys across.

    Example:
        >>> import numpy as np
        >>> host = np.array([1, 3, 2, 0, 0, 0, 2, 0, 2, 1, 2, 2, 0, 0, 0, 0], np.int32)
        >>> count_pairs(np.array([0, 2, 0, 0], np.int32), host).tolist()
        [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    """
    total, window = int(host[1]), int(host[3])
    count = np.zeros((total, total), np.int64)
    for call in read_plan(plan, host):
        q_rows = call.q_index or range(call.q_start, call.q_start + call.q_rows)
        k_rows = call.k_index or range(call.k_start, call.k_start + call.k_rows)
        for s in range(len(call.cu_q) - 1):
            q = list(q_rows[call.cu_q[s] : call.cu_q[s + 1]])
            k = list(k_rows[call.cu_k[s] : call.cu_k[s + 1]])
            seen = np.ones((len(q), len(k)), np.int64)
            if call.kind == SELF:
                seen = np.tril(seen)
            elif call.kind in (REV, REV_GATHERED):
                seen = np.triu(seen)
            elif call.kind == WINDOW:
                ahead = len(k) - len(q)
                seen = np.tril(np.triu(seen, ahead - window + 1), ahead)
            count[np.ix_(q, k)] += seen
    return count
