"""The plan of a row, built the obvious way: the reference of ``TreeMask.plan``.

A plan is a list of attention calls whose disjoint union is the mask. `build_plan` writes it,
`count_pairs` reads it back into the pairs that it computes. docs/reference/plan.md says how a plan
is laid out and draws one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from treepack._core import (
    ANTI_CAUSAL,
    ANTI_CAUSAL_GATHERED,
    CROSS,
    PLAN_ALIGN,
    PLAN_FIELDS,
    PLAN_HEADER,
    SELF,
    WINDOW,
)

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
    """One call of the host table, with the arrays that it points to."""

    kind: int
    q_start: int
    q_len: int
    k_start: int
    k_len: int
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
        The entries int32 ``[P]`` and the host table int32 ``[4 + 12 * n_calls]``: SELF, then CROSS
        by nesting depth, ANTI_CAUSAL, ANTI_CAUSAL_GATHERED; calls without pairs are left out.

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> none = np.empty(0, np.int32)
        >>> mask = SimpleNamespace(  # a root of 6 tokens with branches of 4 and 3
        ...     total=14, node_start=[0, 6, 10], node_end=[6, 10, 13], subtree_end=[13, 10, 13],
        ...     node_parent=[-1, 0, 0], run_start=none, run_end=none, group_ptr=[0])
        >>> entries, host = build_plan(mask)
        >>> host[:4].tolist(), host[4:].reshape(-1, 12)[:, :8].tolist()
        ([2, 14, 13, 0], [[0, 0, 13, 0, 13, 2, 10, 10], [1, 10, 3, 0, 6, 1, 3, 6]])
        >>> entries.tolist()
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
        calls.append(_call(ANTI_CAUSAL, [Piece(g[0], g[-1], g[1], g[-1] + 1) for g in whole]))
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
    """A call on the tokens from the first piece to the last; what lies between becomes gaps."""
    first, last = pieces[0], pieces[-1]
    cuts = [(first.q0, first.k0)]
    for q0, q1, k0, k1 in pieces:
        # A gap of queries meets no keys, a gap of keys no queries; then the piece itself.
        for cut in ((q0, cuts[-1][1]), (q0, k0), (q1, k1)):
            if cut != cuts[-1]:
                cuts.append(cut)
    cu_q = [q - first.q0 for q, _ in cuts]
    cu_k = [k - first.k0 for _, k in cuts]
    extent = (first.q0, last.q1 - first.q0, first.k0, last.k1 - first.k0)
    return Call(kind, *extent, _longest(cu_q, 2), _longest(cu_k, 1), cu_q, cu_k)


def _gathered(groups: list[list[int]]) -> Call:
    cu = np.cumsum([0, *(len(group) - 1 for group in groups)]).tolist()
    q_index = [token for group in groups for token in group[:-1]]
    k_index = [token for group in groups for token in group[1:]]
    extent, longest = (0, cu[-1], 0, cu[-1]), (_longest(cu, 2), _longest(cu, 1))
    return Call(ANTI_CAUSAL_GATHERED, *extent, *longest, cu, cu, q_index, k_index)


def _longest(cu: Sequence[int], at_least: int) -> int:
    return max(at_least, int(np.diff(cu).max()))


def _write(calls: list[Call], mask: NodeTable, window: int = 0) -> tuple[Int32, Int32]:
    entries: list[int] = []
    used = int(max(mask.node_end, default=0))
    header = {"n_calls": len(calls), "total": mask.total, "used": used, "window": window}
    host = [header[name] for name in PLAN_HEADER]

    def put(array: Sequence[int]) -> int:
        offset = len(entries)
        entries.extend(array)
        entries.extend([0] * (-len(array) % PLAN_ALIGN))
        return offset

    for call in calls:
        fields = call._asdict()
        fields["n_seg"] = len(call.cu_q) - 1
        fields["off_cu_q"] = put(call.cu_q)
        # Where both sides are cut alike, they share one array.
        shares = call.kind in (SELF, ANTI_CAUSAL_GATHERED)
        fields["off_cu_k"] = fields["off_cu_q"] if shares else put(call.cu_k)
        fields["off_q_index"] = put(call.q_index) if call.q_index else 0
        fields["off_k_index"] = put(call.k_index) if call.k_index else 0
        host += [fields[name] for name in PLAN_FIELDS]
    return np.array(entries, np.int32), np.array(host, np.int32)


def read_plan(entries: Int32, host: Int32) -> Iterator[Call]:
    """Yield the calls of a plan."""
    for numbers in host[len(PLAN_HEADER) :].reshape(-1, len(PLAN_FIELDS)).tolist():
        fields: dict[str, Any] = dict(zip(PLAN_FIELDS, numbers, strict=True))
        n_seg = fields.pop("n_seg")
        for side in "qk":
            offset = fields.pop(f"off_cu_{side}")
            fields[f"cu_{side}"] = entries[offset : offset + n_seg + 1].tolist()
            if offset := fields.pop(f"off_{side}_index"):
                length = fields[f"{side}_len"]
                fields[f"{side}_index"] = entries[offset : offset + length].tolist()
        yield Call(**fields)


def count_pairs(entries: Int32, host: Int32) -> npt.NDArray[np.int64]:
    """Count how often a plan computes each pair: the mask itself, if the plan is right.

    Args:
        entries: int32 ``[P]``.
        host: int32 ``[4 + 12 * n_calls]``.

    Returns:
        int64 ``[total, total]``, queries down, keys across.

    Example:
        >>> import numpy as np
        >>> host = np.array([1, 3, 2, 0, 0, 0, 2, 0, 2, 1, 2, 2, 0, 0, 0, 0], np.int32)
        >>> count_pairs(np.array([0, 2, 0, 0], np.int32), host).tolist()
        [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    """
    header = dict(zip(PLAN_HEADER, host[: len(PLAN_HEADER)].tolist(), strict=True))
    total, window = header["total"], header["window"]
    count = np.zeros((total, total), np.int64)
    for call in read_plan(entries, host):
        q_tokens = call.q_index or range(call.q_start, call.q_start + call.q_len)
        k_tokens = call.k_index or range(call.k_start, call.k_start + call.k_len)
        for s in range(len(call.cu_q) - 1):
            q = list(q_tokens[call.cu_q[s] : call.cu_q[s + 1]])
            k = list(k_tokens[call.cu_k[s] : call.cu_k[s + 1]])
            seen = np.ones((len(q), len(k)), np.int64)
            if call.kind == SELF:
                seen = np.tril(seen)
            elif call.kind in (ANTI_CAUSAL, ANTI_CAUSAL_GATHERED):
                seen = np.triu(seen)
            elif call.kind == WINDOW:
                ahead = len(k) - len(q)
                seen = np.tril(np.triu(seen, ahead - window + 1), ahead)
            count[np.ix_(q, k)] += seen
    return count
