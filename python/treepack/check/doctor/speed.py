"""Speed of a tree beside what stock torch offers: the mask written out, and no tree at all."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from treepack._core import TreeMask
from treepack.attention.ops import tree_attention
from treepack.attention.plan import TreePlan
from treepack.check.doctor.findings import SKIPPED, TOLD, Finding
from treepack.check.doctor.session import Session

LONG = 16_384
BRANCHES = 16
CPU_HEADS, GPU_HEADS = (4, 1, 64), (32, 8, 128)
"""Query heads, key heads, head size."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def check_speed(session: Session) -> None:
    """Add seconds of a step, forward and backward, at 4,096 and 16,384 tokens."""
    for total in (4_096, LONG):
        if total == LONG and not session.has_gpu:
            session.tell("speed", f"{total:,} tokens", SKIPPED, "takes too long on a CPU")
            continue
        mask = long_row(total)
        heads = GPU_HEADS if session.has_gpu else CPU_HEADS
        ours: list[float] = []
        for name, make in WAYS.items():
            find = functools.partial(_time, name, make, mask, heads, session.device, ours)
            session.run("speed", name, find)


def long_row(total: int) -> TreeMask:
    """A root of half the row, and 16 branches of 100 to 500 tokens where the row has 16,384."""
    branches = np.random.default_rng(0).integers(100, 501, BRANCHES) * total // LONG
    lengths = [total // 2, *branches.tolist()]
    return TreeMask.from_nodes(lengths, [-1] + [0] * BRANCHES, None, "none", total)


def by_tree(mask: TreeMask, device: torch.device) -> Attend:
    """Ours."""
    return functools.partial(tree_attention, mask=TreePlan.from_mask(mask).to(device))


def by_dense_mask(mask: TreeMask, device: torch.device) -> Attend:
    """One call with the mask written out, and keys repeated, as transformers does."""
    visible = torch.from_numpy(mask.to_dense()).to(device)
    visible.fill_diagonal_(fill_value=True)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return sdpa(q, k, v, attn_mask=visible)[0].transpose(0, 1)

    return attend


def by_equal_pairs(mask: TreeMask, _: torch.device) -> Attend:
    """One causal sequence with as many pairs of tokens: no tree can be faster."""
    length = math.isqrt(2 * mask.area)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        repeats = -(-length // len(q))
        q, k, v = (x.repeat(repeats, 1, 1)[:length].transpose(0, 1)[None] for x in (q, k, v))
        return sdpa(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)

    return attend


WAYS = {
    "tree attention": by_tree,
    "dense mask, sdpa": by_dense_mask,
    "plain, equal pairs": by_equal_pairs,
}
"""Ours first: the others are told in parts of it."""


def _time(
    name: str,
    make: Callable[[TreeMask, torch.device], Attend],
    mask: TreeMask,
    heads: tuple[int, int, int],
    device: torch.device,
    ours: list[float],
) -> Finding:
    attend, tensors = make(mask, device), _tensors(mask.total, heads, device)
    rounds = 7 if device.type == "cuda" else 2
    # The first one may compile and allocate.
    seconds = statistics.median([_seconds(attend, tensors) for _ in range(rounds)][1:])
    ours.append(seconds)
    ratio = "" if len(ours) == 1 else f", {seconds / ours[0]:.2f} x tree attention"
    note = f"{mask.total:,} tokens: {1e3 * seconds:.1f} ms{ratio}"
    figures = {"tokens": mask.total, "pairs": mask.area, "seconds": seconds, "heads": list(heads)}
    return Finding("speed", name, TOLD, note, figures)


def _tensors(total: int, heads: tuple[int, int, int], device: torch.device) -> list[Tensor]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    counts = heads[0], heads[1], heads[1]
    return [
        torch.randn(total, n, heads[2], device=device, dtype=dtype, requires_grad=True)
        for n in counts
    ]


def _seconds(attend: Attend, tensors: list[Tensor]) -> float:
    is_gpu = tensors[0].is_cuda
    if is_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    out = attend(*tensors)
    torch.autograd.grad(out, tensors, torch.ones_like(out))
    if is_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start
