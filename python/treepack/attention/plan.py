"""The plan of a row as tensors: which attention calls together are its mask.

docs/reference/plan.md draws a row with its plan and says how a plan is laid out.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from treepack._core import (
    ANTI_CAUSAL,
    ANTI_CAUSAL_GATHERED,
    CROSS,
    PLAN_ALIGN,
    PLAN_FIELDS,
    PLAN_HEADER,
    SELF,
    WINDOW,
    longest_path,
    window_plan,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from treepack._core import TreeMask

__all__ = [
    "ANTI_CAUSAL",
    "ANTI_CAUSAL_GATHERED",
    "CROSS",
    "SELF",
    "WINDOW",
    "Call",
    "HostCall",
    "PlannedRow",
    "Tokens",
    "TreePlan",
    "drop_gaps",
    "read_calls",
]

Int32: TypeAlias = npt.NDArray[np.int32]
Tokens: TypeAlias = slice | torch.Tensor
"""Row positions of the queries or keys of a call."""


class TreePlan:
    """Attention calls whose disjoint union is the mask of a row.

    One int32 tensor goes to the device and one small one stays on the CPU, so that running the plan
    never waits for the device. The class is no container, so that nothing that moves the tensors of
    a batch (FSDP, DDP) takes the host table to the device.

    Args:
        entries: int32 ``[P]``: segment boundaries and token indices of all calls.
        host: int32 ``[4 + 12 * calls]`` on the CPU: the table of the calls.
        longest: tokens of the longest path from a root to a leaf; the row length if not known.

    Attributes:
        total: length of the row.
        window: tokens of its path that a query sees, itself included, or ``None`` for all.
        device: where ``entries`` is.

    Example:
        >>> import treepack as tp
        >>> mask = tp.TreeMask.from_nodes([6, 4, 3], [-1, 0, 0], total=16)
        >>> plan = TreePlan.from_mask(mask)
        >>> plan.total, plan.longest, plan.to("cpu")
        (16, 10, TreePlan(calls=2, total=16, device='cpu'))
    """

    __slots__ = (
        "__weakref__",
        "_cpu_entries",
        "_gapless",
        "entries",
        "host",
        "longest",
        "total",
        "window",
    )

    def __init__(
        self, entries: torch.Tensor, host: torch.Tensor, longest: int | None = None
    ) -> None:
        self.entries: torch.Tensor = entries
        self.host: torch.Tensor = host
        # What `without_gaps` reads, so that it need not wait for a device.
        self._cpu_entries = entries
        self._gapless: TreePlan | None = None
        header = dict(zip(PLAN_HEADER, host[: len(PLAN_HEADER)].tolist(), strict=True))
        self.total: int = header["total"]
        self.longest: int = self.total if longest is None else longest
        self.window: int | None = header["window"] or None
        _mark_dynamic(entries, host)

    @property
    def device(self) -> torch.device:
        """Where the plan can run."""
        return self.entries.device

    @staticmethod
    def from_mask(mask: TreeMask, window: int | None = None) -> TreePlan:
        """The plan of a mask, on the CPU; with a window, that of a layer with sliding attention."""
        parts = mask.plan() if window is None else window_plan(mask, window)
        entries, host = map(torch.from_numpy, parts)
        return TreePlan(entries, host, longest_path(mask))

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> TreePlan:
        """The same plan with its entries on ``device``: one copy, no synchronisation."""
        entries = self.entries.to(device, non_blocking=non_blocking)
        moved = TreePlan(entries, self.host, self.longest)
        moved._cpu_entries = self._cpu_entries
        return moved

    def pin_memory(self) -> TreePlan:
        """The same plan in page-locked memory."""
        return TreePlan(self.entries.pin_memory(), self.host, self.longest)

    def without_gaps(self) -> TreePlan:
        """The same calls without empty segments, on the same device; made at the first use.

        Where a call steps over tokens, the others are gathered. For kernels that cannot step over.
        ``torch.compile`` cannot trace the making: call it before a compiled model.
        """
        if self._gapless is None:
            parts = drop_gaps(self._cpu_entries.cpu().numpy(), self.host.numpy())
            entries, host = map(torch.from_numpy, parts)
            self._gapless = TreePlan(entries, host, self.longest).to(self.device)
        return self._gapless

    def __reduce__(self) -> tuple[Any, ...]:
        # As bytes: a tensor that crosses a process border costs a shared-memory file.
        parts = (self.entries.cpu(), self.host)
        return _unpickle, (*(part.numpy().tobytes() for part in parts), self.longest)

    def __repr__(self) -> str:
        calls, device = int(self.host[PLAN_HEADER.index("n_calls")]), str(self.device)
        return f"TreePlan({calls=}, total={self.total}, {device=})"


def _unpickle(entries: bytes, host: bytes, longest: int) -> TreePlan:
    tensors = [torch.from_numpy(np.frombuffer(x, np.int32).copy()) for x in (entries, host)]
    return TreePlan(tensors[0], tensors[1], longest)


def _mark_dynamic(*tensors: torch.Tensor) -> None:
    """Let one compiled graph take plans of every length."""
    # Copies lose the mark, so every plan sets it. A process that has not loaded the compiler does
    # not need it, and loading it takes seconds, in every worker.
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


class HostCall(NamedTuple):
    """One call of the host table, as numbers; the fields and their order are `PLAN_FIELDS`."""

    kind: int
    q_start: int
    q_len: int
    k_start: int
    k_len: int
    n_seg: int
    max_q: int
    max_k: int
    off_cu_q: int
    off_cu_k: int
    off_q_index: int
    off_k_index: int


def read_host(numbers: list[int]) -> Iterator[HostCall]:
    """The calls of a host table."""
    for start in range(len(PLAN_HEADER), len(numbers), len(PLAN_FIELDS)):
        yield HostCall._make(numbers[start : start + len(PLAN_FIELDS)])


def drop_gaps(entries: Int32, host: Int32) -> tuple[Int32, Int32]:
    """A plan of the same pairs in which every segment has queries and keys.

    Args:
        entries: int32 ``[P]``.
        host: int32 ``[4 + 12 * calls]``.

    Returns:
        The entries, longer by what calls with gaps need in their place, and their table.

    Example:
        >>> import numpy as np
        >>> entries = np.array([0, 1, 2, 3, 0, 1, 1, 2], np.int32)  # the second query sees no key
        >>> host = np.array([1, 3, 3, 0, 1, 0, 3, 0, 2, 3, 2, 1, 0, 4, 0, 0], np.int32)
        >>> entries, host = drop_gaps(entries, host)
        >>> entries[8:].reshape(4, 4).tolist()  # boundaries, boundaries, queries, keys
        [[0, 1, 2, 0], [0, 1, 2, 0], [0, 2, 0, 0], [0, 1, 0, 0]]
    """
    parts = [entries]

    def put(array: Int32) -> int:
        offset = sum(map(len, parts))
        parts.append(np.pad(array.astype(np.int32), (0, -len(array) % PLAN_ALIGN)))
        return offset

    calls: list[HostCall] = []
    for call in read_host(host.tolist()):
        q_lengths, k_lengths = (
            np.diff(entries[at : at + call.n_seg + 1]) for at in (call.off_cu_q, call.off_cu_k)
        )
        full = (q_lengths > 0) & (k_lengths > 0)
        if full.all():
            calls.append(call)
            continue
        q_index = _positions(entries, call.q_start, call.q_len, call.off_q_index)
        k_index = _positions(entries, call.k_start, call.k_len, call.off_k_index)
        q_index, k_index = q_index[np.repeat(full, q_lengths)], k_index[np.repeat(full, k_lengths)]
        q_lengths, k_lengths = q_lengths[full], k_lengths[full]
        calls.append(
            HostCall(
                kind=call.kind,
                q_start=0,
                q_len=len(q_index),
                k_start=0,
                k_len=len(k_index),
                n_seg=len(q_lengths),
                max_q=max(2, int(q_lengths.max())),
                max_k=int(k_lengths.max()),
                off_cu_q=put(np.cumsum([0, *q_lengths])),
                off_cu_k=put(np.cumsum([0, *k_lengths])),
                off_q_index=put(q_index),
                off_k_index=put(k_index),
            )
        )
    header = host[: len(PLAN_HEADER)]
    return np.concatenate(parts), np.concatenate([header, np.ravel(calls)]).astype(np.int32)


def _positions(entries: Int32, start: int, length: int, offset: int) -> Int32:
    """Row positions of one side of a call."""
    if offset:
        return entries[offset : offset + length]
    return np.arange(start, start + length, dtype=np.int32)


class Call(NamedTuple):
    """One attention call: ``x[call.q]`` are its queries, ``x[call.k]`` its keys and values.

    Segment ``s`` is queries ``cu_q[s]:cu_q[s + 1]`` and keys ``cu_k[s]:cu_k[s + 1]`` of those; a
    segment without queries or without keys is a gap that the call steps over. What a query of a
    segment sees is said by ``kind``: see docs/reference/plan.md.
    """

    kind: int
    q: Tokens
    k: Tokens
    cu_q: torch.Tensor
    cu_k: torch.Tensor
    max_q: int
    max_k: int
    window: int


def read_calls(entries: torch.Tensor, host: torch.Tensor) -> list[Call]:
    """The calls of a plan, as views into it; the first covers all tokens but the padding."""
    numbers = host.tolist()
    window = numbers[PLAN_HEADER.index("window")]
    return [_view(entries, window, call) for call in read_host(numbers)]


def _view(entries: torch.Tensor, window: int, call: HostCall) -> Call:
    q: Tokens = slice(call.q_start, call.q_start + call.q_len)
    k: Tokens = slice(call.k_start, call.k_start + call.k_len)
    # Entries start with boundaries, so that an index at 0 is none.
    if call.off_q_index:
        q = entries[call.off_q_index : call.off_q_index + call.q_len]
    if call.off_k_index:
        k = entries[call.off_k_index : call.off_k_index + call.k_len]
    cu_q = entries[call.off_cu_q : call.off_cu_q + call.n_seg + 1]
    cu_k = entries[call.off_cu_k : call.off_cu_k + call.n_seg + 1]
    return Call(call.kind, q, k, cu_q, cu_k, call.max_q, call.max_k, window)
