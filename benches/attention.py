"""Tree attention against what stock torch offers for the same row, forward and backward.

    python benches/attention.py                  # about ten seconds on one CPU core
    python benches/attention.py --total 16384    # the size of a training row; use a GPU for it

A root of half the row and 16 branches, causal or with bidirectional images. The rivals are
``scaled_dot_product_attention`` with the mask written out, and with every path as a sequence of its
own. All take turns in one process; their results are compared first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import torch
import treepack as tp
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from treepack.attention import TreePlan

BRANCHES, HEADS, KEY_HEADS, HEAD_SIZE = 16, 8, 2, 64


def build_mask(total: int, mode: str) -> tp.TreeMask:
    """Frames of 83 image tokens and 5 text tokens, then branches of equal length."""
    root = total // 2
    starts = np.arange(0, root - 83, 88)
    runs = np.stack([starts, starts + 83, np.arange(len(starts))], 1)
    lengths = [root] + [(total - root) // BRANCHES] * BRANCHES
    return tp.TreeMask.from_nodes(lengths, [-1] + [0] * BRANCHES, runs, mode, total)


def by_dense_mask(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """One call with a boolean mask over the whole row."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return sdpa(q, k, v, attn_mask=visible, enable_gqa=True)[0].transpose(0, 1)


def by_paths(q: Tensor, k: Tensor, v: Tensor, paths: list[Tensor]) -> Tensor:
    """Every path alone, its root computed again: one causal call on a batch of equal lengths."""
    index = torch.stack(paths)
    q, k, v = (x[index].transpose(1, 2) for x in (q, k, v))
    return sdpa(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(0, 1)


def branch_paths(mask: tp.TreeMask, device: torch.device) -> list[Tensor]:
    """Row positions of the root and each branch."""
    root = torch.arange(int(mask.node_end[0]))
    own = zip(mask.node_start[1:].tolist(), mask.node_end[1:].tolist(), strict=True)
    return [torch.cat([root, torch.arange(a, b)]).to(device) for a, b in own]


def step(attend: Callable[..., Tensor], tensors: list[Tensor], *mask: Any) -> tuple[Tensor, float]:
    """The output, and the seconds that it and the gradients took."""
    q, k, v = (x.detach().requires_grad_() for x in tensors)
    _wait(q)
    start = time.perf_counter()
    out = attend(q, k, v, *mask)
    out.backward(torch.ones_like(out))
    _wait(q)
    return out.detach(), time.perf_counter() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def compare(total: int, mode: str, rounds: int, device: torch.device) -> None:
    """Check that all agree on the row, then print what each takes."""
    mask = build_mask(total, mode)
    visible = torch.from_numpy(mask.to_dense()).to(device)
    rivals: dict[str, tuple[Callable[..., Tensor], Any]] = {
        "tree attention": (tp.tree_attention, TreePlan.from_mask(mask).to(device)),
        "dense mask": (by_dense_mask, visible),
    }
    if mode == "none":
        rivals["paths alone"] = (by_paths, branch_paths(mask, device))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    heads = (HEADS, KEY_HEADS, KEY_HEADS)
    tensors = [torch.randn(total, h, HEAD_SIZE, device=device, dtype=dtype) for h in heads]
    ours = step(tp.tree_attention, tensors, rivals["tree attention"][1])[0]
    theirs = step(by_dense_mask, tensors, visible)[0]
    assert (ours - theirs)[: mask.used].abs().max() < (0.05 if dtype == torch.bfloat16 else 1e-4)

    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, (attend, argument) in rivals.items():
            times[name].append(step(attend, tensors, argument)[1])
    print(f"\n{mode}: {mask!r}, {mask.area / total**2:.1%} of the square")
    best = statistics.median(times["tree attention"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"  {name:16} {1e3 * median:10.1f} ms  {median / best:6.2f} times tree attention")


def main() -> None:
    """Compare on the best device there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total", type=int, default=2_048, help="tokens of the row")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine.describe())
    for mode in ("none", "image_tokens", "within_image"):
        compare(options.total, mode, options.rounds, device)


if __name__ == "__main__":
    main()
