"""What a training step needs beside attention calls: merge, flex, the compiler, pinned batches."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treepack.attention.merge import merge_, merge_on
from treepack.attention.ops import tree_attention
from treepack.attention.plan import Tokens, TreePlan
from treepack.batch import PackedRow
from treepack.check.doctor.exactness import Problem, judge, poisoned, pose, with_grads
from treepack.check.doctor.findings import OK, SKIPPED, WRONG, Finding, from_errors
from treepack.check.doctor.rows import Row, forest
from treepack.check.doctor.session import Session

MERGES = 20

FLEX_WINDOW = 70

OUT_TOLERANCE, LSE_TOLERANCE = 2**-6, 1e-5
"""Of a merged output in bfloat16, and of its log-sum-exp."""


def check_parts(session: Session) -> None:
    """Add the merge, flex and page-locked batches."""
    session.run("merge", "fused", functools.partial(check_merge, session.device))
    for window in (None, FLEX_WINDOW):
        name = "compiled" if session.has_gpu else "forward"
        name = f"{name}, window" if window else name
        session.run("flex", name, functools.partial(check_flex, session.device, window, name))
    session.run("loader", "pin_memory", functools.partial(check_pinning, session.device))


# ---- merge


def check_merge(device: torch.device) -> Finding:
    """The merge of this device beside that of torch."""
    if merge_on(device.type) is merge_:
        reason = "not used here: it takes a GPU, Triton and a C compiler"
        return Finding("merge", "fused", SKIPPED, reason)
    rng = np.random.default_rng(0)
    worst = [merge_differences(rng, device) for _ in range(MERGES)]
    out, lse = (max(x) for x in zip(*worst, strict=True))
    # A NaN is not below either.
    good = all(a <= OUT_TOLERANCE and b <= LSE_TOLERANCE for a, b in worst)
    note = f"output {out:.1e}, log-sum-exp {lse:.1e} off"
    return Finding("merge", "fused", OK if good else WRONG, note, {"out": out, "lse": lse})


def merge_differences(rng: np.random.Generator, device: torch.device) -> tuple[float, float]:
    """How far the merge of a device is from that of torch: output, log-sum-exp.

    Both ways of naming tokens are tried, on tokens of which some have seen no key.
    """
    total, heads, size = (int(rng.integers(1, n)) for n in (900, 9, 257))
    n = int(rng.integers(0, total + 1))
    (out, lse), (part, part_lse) = (
        _partial(rng, (count, heads, size), device) for count in (total, n)
    )
    start = int(rng.integers(0, total - n + 1))
    index = torch.from_numpy(rng.permutation(total)[:n].astype(np.int32)).to(device)
    several: list[Tokens] = [slice(start, start + n), index]
    pairs = []
    for tokens in several:
        ours, theirs = (out.clone(), lse.clone()), (out.clone(), lse.clone())
        merge_on(device.type)(*ours, tokens, part, part_lse)
        merge_(*theirs, tokens, part, part_lse)
        pairs.append(tuple(map(_off, ours, theirs)))
    return max(x for x, _ in pairs), max(y for _, y in pairs)


def _partial(
    rng: np.random.Generator, shape: tuple[int, int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    n, heads, _ = shape
    out = torch.from_numpy(rng.standard_normal(shape)).to(device, torch.bfloat16)
    lse = torch.from_numpy(rng.standard_normal((heads, n)) * 4).to(device, torch.float32)
    empty = torch.from_numpy(rng.random(n) < 0.2).to(device)
    lse[:, empty] = torch.inf
    out[empty] = 0
    return out, lse


def _off(x: Tensor, y: Tensor) -> float:
    """The largest difference, relative where numbers exceed 1; equal infinities have none."""
    x, y = x.double(), y.double()
    apart = torch.where(x == y, 0.0, (x - y).abs() / y.abs().clamp(min=1.0))
    return float(apart.max()) if apart.numel() else 0.0


# ---- flex


def check_flex(device: torch.device, window: int | None, name: str) -> Finding:
    """FlexAttention: compiled and with gradients on a GPU, eager and forward on a CPU."""
    if device.type == "cuda" and merge_on("cuda") is merge_:
        return Finding("flex", name, SKIPPED, "it takes Triton and a C compiler to compile")
    problem, packed = flex_problem(device, window)
    attend = functools.partial(tree_attention, mask=packed, window=window, backend="flex")
    if device.type == "cuda":
        torch._dynamo.reset()
        compiled = torch.compile(attend, fullgraph=True)
        errors = judge(problem, with_grads(compiled, *poisoned(problem)))
        torch._dynamo.reset()
    else:
        with torch.no_grad():
            errors = judge(problem, [attend(*poisoned(problem)[:3])])
    return from_errors("flex", name, {"bfloat16": errors})


def flex_problem(device: torch.device, window: int | None) -> tuple[Problem, PackedRow]:
    """A row of branches and frames, and the batch's way of holding it."""
    frames = [(4, 30, 0), (33, 59, 1), (61, 87, 2)]
    nodes = [90, 70, 9, 40, 3, 60, 30, 5], [-1, 0, 1, 1, 0, -1, 5, 5]
    mask = forest(1, *nodes, frames, "within_image", padding=13)
    rng = np.random.default_rng(0)
    problem = pose(Row(mask, window, frozenset()), rng, device, torch.bfloat16)
    packed = PackedRow(mask, TreePlan.from_mask(mask)).to(device)
    packed.blocks_for(window)
    return problem, packed


# ---- batches


def check_pinning(device: torch.device) -> Finding:
    """A batch in page-locked memory, moved without waiting, beside the batch itself."""
    if device.type != "cuda":
        return Finding("loader", "pin_memory", SKIPPED, "no GPU was found")
    from torch.utils.data._utils.pin_memory import pin_memory

    batch = small_batch()
    locked = pin_memory(batch)
    there = locked.to(device, non_blocking=True)
    torch.cuda.synchronize(device)
    pinned = all(x.is_pinned() for x in tensors_of(locked))
    pairs = zip(tensors_of(there), tensors_of(batch), strict=True)
    same = all(x.is_cuda and torch.equal(x.cpu(), y) for x, y in pairs)
    note = (
        "" if pinned and same else "not all tensors are page-locked" if same else "tensors differ"
    )
    return Finding("loader", "pin_memory", OK if pinned and same else WRONG, note)


def small_batch() -> Any:
    """A packed batch with a plan for a sliding window."""
    from treepack.batch import collate
    from treepack.tree import MessageTree

    tree = MessageTree([1, 2, 3, 4], children=[MessageTree([5, 6]), MessageTree([7])])
    return collate([tree, tree], sliding_windows=(3,))


def tensors_of(batch: Any) -> list[Tensor]:
    """Every tensor of a batch, those of its plans included."""
    row = batch["treepack"]
    plans = row.plan.entries, *(plan.entries for plan in row._windows.values())
    return [*(x for x in batch.values() if isinstance(x, Tensor)), *plans]
