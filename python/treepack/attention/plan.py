"""The plan of a row as tensors: which attention calls together are its mask."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from treepack._core import longest_path, window_plan

if TYPE_CHECKING:
    from treepack._core import TreeMask

Int32: TypeAlias = npt.NDArray[np.int32]
Rows: TypeAlias = slice | torch.Tensor

SELF, CROSS, REV, REV_GATHERED, WINDOW = range(5)
"""Kinds of call: causal; every key; every key from one's own on; the same, of gathered rows; of
gathered keys the last so many up to one's own."""

HEADER, FIELDS = 4, 12


class TreePlan:
    """Attention calls whose disjoint union is the mask of a row.

    One int32 tensor goes to the device and one small one stays on the CPU, so that running the plan
    never waits for the device. The class is no container, so that nothing that moves the tensors of
    a batch (FSDP, DDP) takes the host table to the device.

    Args:
        plan: int32 ``[P]``: segment boundaries and row indices of all calls.
        host: int32 ``[4 + 12 * calls]`` on the CPU: the table of the calls.
        longest: tokens of the longest path from a root to a leaf; the row length if not known.

    Attributes:
        total: length of the row.
        window: tokens that a query sees of its path, or ``None`` for all.

    Example:
        >>> import treepack as tp
        >>> mask = tp.TreeMask.from_nodes([6, 4, 3], [-1, 0, 0], total=16)
        >>> plan = TreePlan.from_mask(mask)
        >>> plan.total, plan.longest, plan.to("cpu")
        (16, 10, TreePlan(calls=2, total=16, device='cpu'))
    """

    __slots__ = ("__weakref__", "_dense", "_source", "host", "longest", "plan", "total", "window")

    def __init__(self, plan: torch.Tensor, host: torch.Tensor, longest: int | None = None) -> None:
        self.plan = plan
        self.host = host
        self._source = plan
        self._dense: TreePlan | None = None
        self.total = int(host[1])
        self.longest = self.total if longest is None else longest
        self.window = int(host[3]) or None
        _mark_dynamic(plan, host)

    @staticmethod
    def from_mask(mask: TreeMask, window: int | None = None) -> TreePlan:
        """The plan of a mask, on the CPU; with a window, that of a layer with sliding attention."""
        parts = mask.plan() if window is None else window_plan(mask, window)
        plan, host = map(torch.from_numpy, parts)
        return TreePlan(plan, host, longest_path(mask))

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> TreePlan:
        """The same plan with its device part on ``device``: one copy, no synchronisation."""
        plan = self.plan.to(device, non_blocking=non_blocking)
        moved = TreePlan(plan, self.host, self.longest)
        moved._source = self._source
        return moved

    def pin_memory(self) -> TreePlan:
        """The same plan in page-locked memory."""
        return TreePlan(self.plan.pin_memory(), self.host, self.longest)

    def without_gaps(self) -> TreePlan:
        """The same calls without empty segments, on the same device; made at the first use.

        Where a call steps over rows, the others are gathered. For kernels that cannot step over.
        ``torch.compile`` cannot trace the making: call it before a compiled model.
        """
        if self._dense is None:
            parts = drop_gaps(self._source.cpu().numpy(), self.host.numpy())
            plan, host = map(torch.from_numpy, parts)
            self._dense = TreePlan(plan, host, self.longest).to(self.plan.device)
        return self._dense

    def __reduce__(self) -> tuple[Any, ...]:
        # As bytes: a tensor that crosses a process border costs a shared-memory file.
        parts = (self.plan.cpu(), self.host)
        return _unpickle, (*(part.numpy().tobytes() for part in parts), self.longest)

    def __repr__(self) -> str:
        calls, device = int(self.host[0]), str(self.plan.device)
        return f"TreePlan({calls=}, total={self.total}, {device=})"


def _unpickle(plan: bytes, host: bytes, longest: int) -> TreePlan:
    plan_array, host_array = (np.frombuffer(part, np.int32).copy() for part in (plan, host))
    return TreePlan(torch.from_numpy(plan_array), torch.from_numpy(host_array), longest)


def _mark_dynamic(*tensors: torch.Tensor) -> None:
    """Let one compiled graph serve plans of every length."""
    # Copies lose the mark, so every plan sets it. Who has not loaded the compiler does not need it,
    # and loading it takes seconds, in every worker.
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and hasattr(dynamo, "mark_dynamic"):
        for tensor in tensors:
            dynamo.mark_dynamic(tensor, 0)


class PlannedRow(Protocol):
    """What holds the plans of a row: ``batch["treepack"]``."""

    @property
    def plan(self) -> TreePlan:
        """Without a window."""

    def plan_for(self, window: int) -> TreePlan:
        """Of layers with a sliding window."""


def drop_gaps(plan: Int32, host: Int32) -> tuple[Int32, Int32]:
    """A plan of the same pairs in which every segment has queries and keys.

    Args:
        plan: int32 ``[P]``.
        host: int32 ``[4 + 12 * calls]``.

    Returns:
        The plan, longer by what calls with gaps need in their place, and its table.

    Example:
        >>> import numpy as np
        >>> plan = np.array([0, 1, 2, 3, 0, 1, 1, 2], np.int32)  # the second query sees no key
        >>> host = np.array([1, 3, 3, 0, 1, 0, 3, 0, 2, 3, 2, 1, 0, 4, 0, 0], np.int32)
        >>> plan, host = drop_gaps(plan, host)
        >>> plan[8:].reshape(4, 4).tolist()  # boundaries, boundaries, rows of queries, rows of keys
        [[0, 1, 2, 0], [0, 1, 2, 0], [0, 2, 0, 0], [0, 1, 0, 0]]
    """
    parts, host = [plan], host.copy()

    def put(array: Int32) -> int:
        offset = sum(map(len, parts))
        parts.append(np.pad(array.astype(np.int32), (0, -len(array) % 4)))
        return offset

    for row in host[HEADER:].reshape(-1, FIELDS):
        _, q_start, q_rows, k_start, k_rows, n_seg, _, _, *offsets = row.tolist()
        q_lengths, k_lengths = (np.diff(plan[at : at + n_seg + 1]) for at in offsets[:2])
        full = (q_lengths > 0) & (k_lengths > 0)
        if full.all():
            continue
        q_index = _rows_of(plan, q_start, q_rows, offsets[2])[np.repeat(full, q_lengths)]
        k_index = _rows_of(plan, k_start, k_rows, offsets[3])[np.repeat(full, k_lengths)]
        q_lengths, k_lengths = q_lengths[full], k_lengths[full]
        row[1:6] = 0, len(q_index), 0, len(k_index), full.sum()
        row[6:8] = max(2, q_lengths.max()), k_lengths.max()
        row[8:10] = [put(np.cumsum([0, *lengths])) for lengths in (q_lengths, k_lengths)]
        row[10:12] = put(q_index), put(k_index)
    return np.concatenate(parts), host


def _rows_of(plan: Int32, start: int, rows: int, offset: int) -> Int32:
    return (
        plan[offset : offset + rows] if offset else np.arange(start, start + rows, dtype=np.int32)
    )


class Call(NamedTuple):
    """One attention call: ``x[call.q]`` are its queries, ``x[call.k]`` its keys and values.

    Segment ``s`` is queries ``cu_q[s]:cu_q[s + 1]`` and keys ``cu_k[s]:cu_k[s + 1]`` of those; a
    segment without queries or without keys is a gap that the call steps over.

    In a call of kind WINDOW queries and keys of a segment end together, and a query sees the
    ``window`` keys that end at its own.
    """

    kind: int
    q: Rows
    k: Rows
    cu_q: torch.Tensor
    cu_k: torch.Tensor
    max_q: int
    max_k: int
    window: int


def read_calls(plan: torch.Tensor, host: torch.Tensor) -> list[Call]:
    """The calls of a plan, as views into it; the first covers all rows but the padding."""
    table = host.tolist()
    starts = range(HEADER, HEADER + FIELDS * table[0], FIELDS)
    return [_read_call(plan, table[3], *table[start : start + FIELDS]) for start in starts]


def _read_call(
    plan: torch.Tensor,
    window: int,
    kind: int,
    q_start: int,
    q_rows: int,
    k_start: int,
    k_rows: int,
    n_seg: int,
    max_q: int,
    max_k: int,
    off_cu_q: int,
    off_cu_k: int,
    off_q_index: int,
    off_k_index: int,
) -> Call:
    q: Rows = slice(q_start, q_start + q_rows)
    k: Rows = slice(k_start, k_start + k_rows)
    # A plan starts with boundaries, so that an index at 0 is none.
    if off_q_index:
        q = plan[off_q_index : off_q_index + q_rows]
    if off_k_index:
        k = plan[off_k_index : off_k_index + k_rows]
    cu_q = plan[off_cu_q : off_cu_q + n_seg + 1]
    cu_k = plan[off_cu_k : off_cu_k + n_seg + 1]
    return Call(kind, q, k, cu_q, cu_k, max_q, max_k, window)
