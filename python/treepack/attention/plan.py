"""The plan of a row as tensors: which attention calls together are its mask."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch

from treepack._core import longest_path, window_plan

if TYPE_CHECKING:
    from treepack._core import TreeMask

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

    __slots__ = ("__weakref__", "host", "longest", "plan", "total", "window")

    def __init__(self, plan: torch.Tensor, host: torch.Tensor, longest: int | None = None) -> None:
        self.plan = plan
        self.host = host
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
        return TreePlan(self.plan.to(device, non_blocking=non_blocking), self.host, self.longest)

    def pin_memory(self) -> TreePlan:
        """The same plan in page-locked memory."""
        return TreePlan(self.plan.pin_memory(), self.host, self.longest)

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
    if kind == REV_GATHERED:
        q = plan[off_q_index : off_q_index + q_rows]
    if kind in (REV_GATHERED, WINDOW):
        k = plan[off_k_index : off_k_index + k_rows]
    cu_q = plan[off_cu_q : off_cu_q + n_seg + 1]
    cu_k = plan[off_cu_k : off_cu_k + n_seg + 1]
    return Call(kind, q, k, cu_q, cu_k, max_q, max_k, window)
