"""Tree attention against what stock torch offers for the same row.

    python benches/attention.py                  # about two minutes on one CPU core
    python benches/attention.py --long           # rows of 16,384 tokens; what a GPU takes anyway
    python benches/attention.py --shapes grpo --rounds 9

Four rows: the reference tree, a root of half the row, all frames of a video, and 16 branches of
100 to 500 tokens; the same root with 16 equal branches that fill the row; a pack of the fine-tuning
mixture, the one nearest to its mean; and a prompt of half as many tokens with 64 responses of 100
to 1,000. Shorter rows are scaled down as a whole. All ways run round-robin in one process, and
their results are compared first. Memory is the peak above the inputs.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import treepack as tp
from common import machine, sft_rows
from common.attention_ways import Way, ways_for
from torch import Tensor
from treepack.attention import implementations
from treepack.errors import AttentionError

FULL, BRANCHES, RESPONSES = 16_384, 16, 64
CPU_HEADS, GPU_HEADS = (8, 2, 64), (32, 8, 128)
"""Query heads, key heads, head size."""

SLOW = 2.0
"""Seconds above which one round has to do."""


class Figures(NamedTuple):
    """What was measured of a way; seconds and bytes."""

    setup: float
    forward: list[float]
    both: list[float]
    memory: int | None


# ---- rows


def reference_tree(total: int, mode: str) -> tp.TreeMask:
    """Half the row is video; branches have 100 to 500 tokens where the row has 16,384."""
    lengths = np.random.default_rng(0).integers(100, 501, BRANCHES) * total // FULL
    return _tree(total, lengths, mode)


def full_tree(total: int, mode: str) -> tp.TreeMask:
    """The same root, and branches of equal length to the end of the row."""
    return _tree(total, np.full(BRANCHES, (total - total // 2) // BRANCHES), mode)


def _tree(total: int, branches: np.ndarray, mode: str) -> tp.TreeMask:
    """A root of half the row: frames of 83 image tokens and 5 text tokens."""
    root = total // 2
    starts = np.arange(0, root - 83, 88)
    runs = np.stack([starts, starts + 83, np.arange(len(starts))], 1)
    lengths = [root, *branches]
    return tp.TreeMask.from_nodes(lengths, [-1] + [0] * len(branches), runs, mode, total)


def responses(total: int, mode: str) -> tp.TreeMask:
    """A prompt of half of ``total`` and 64 responses, which may go beyond it."""
    lengths = np.random.default_rng(0).integers(100, 1_001, RESPONSES) * total // FULL
    return tp.TreeMask.from_nodes([total // 2, *lengths], [-1] + [0] * RESPONSES, None, mode)


def sft_pack(total: int, mode: str) -> tp.TreeMask:
    """What the packer makes of the mixture: several examples, most with one branch, some many."""
    (batch,) = sft_rows.draw_rows(1, total, vocabulary=100, mode=mode)
    mask: tp.TreeMask = batch["treepack"].mask
    return mask


SHAPES = {
    "reference": (reference_tree, ("none", "image_tokens", "within_image"), 1),
    "full": (full_tree, ("none",), 1),
    "sft": (sft_pack, ("none", "image_tokens"), 1),
    "grpo": (responses, ("none",), 2),
}
"""How a row is built, in which modes, and how much shorter it is where rows are scaled down."""


# ---- measuring


def compare(mask: tp.TreeMask, rounds: int, device: torch.device, flex: bool) -> None:
    """Check that all agree on the row, then print what each takes."""
    heads, key_heads, size = GPU_HEADS if device.type == "cuda" else CPU_HEADS
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tensors = [
        torch.randn(mask.total, h, size, device=device, dtype=dtype)
        for h in (heads, key_heads, key_heads)
    ]
    ways, figures = {}, {}
    expected: Tensor | None = None
    for name, make in ways_for(mask, device, flex).items():
        start = time.perf_counter()
        try:
            way = make()
            setup = time.perf_counter() - start
            _switch(way)
            out = way.attend(*tensors)
        except (AttentionError, torch.OutOfMemoryError) as error:
            print(f"  {name:32} {type(error).__name__}: {str(error).splitlines()[0][:120]}")
            continue
        expected = out if expected is None else expected
        _check_equal(name, out, way, expected)
        ways[name], figures[name] = way, Figures(setup, [], [], _memory(way, tensors))
    for turn in range(rounds):
        for name, way in ways.items():
            _, forward, both, _ = figures[name]
            if turn and max(forward + both) > SLOW:
                continue
            forward.append(_seconds(way, tensors, backward=False))
            if way.has_backward:
                both.append(_seconds(way, tensors, backward=True))
    _print_table(mask, figures)


def _check_equal(name: str, out: Tensor, way: Way, expected: Tensor) -> None:
    if way.tokens is None:
        return
    ours = way.tokens < len(expected)
    off = (out[ours] - expected[way.tokens[ours]]).abs().max().item()
    assert off < (0.05 if out.dtype == torch.bfloat16 else 1e-4), (name, off)


def _switch(way: Way) -> None:
    if implementations.active() not in (None, way.flash):
        torch.nn.attention.restore_flash_attention_impl()


def _run(way: Way, tensors: list[Tensor], backward: bool) -> None:
    q, k, v = (x.detach().requires_grad_(backward) for x in tensors)
    out = way.attend(q, k, v)
    if backward:
        out.backward(torch.ones_like(out))
    if q.is_cuda:
        torch.cuda.synchronize()


def _seconds(way: Way, tensors: list[Tensor], backward: bool) -> float:
    _switch(way)
    start = time.perf_counter()
    _run(way, tensors, backward)
    return time.perf_counter() - start


def _memory(way: Way, tensors: list[Tensor]) -> int | None:
    """Peak of a step above what there was before it."""
    _switch(way)
    if tensors[0].is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _run(way, tensors, way.has_backward)
        return torch.cuda.max_memory_allocated() - before
    try:
        # What was freed goes back to the system, and the peak starts again from there.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        _run(way, tensors, way.has_backward)
        return _status("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _print_table(mask: tp.TreeMask, figures: dict[str, Figures]) -> None:
    print(
        f"{'':34}{'setup':>9} {'fwd':>9} {'fwd+bwd':>9} {'x ours':>7} {'memory':>8} {'pairs/s':>8}"
    )
    print(f"{'':34}{'ms':>9} {'ms':>9} {'ms':>9} {'':>7} {'MiB':>8} {'G':>8}")
    ours = statistics.median(next(iter(figures.values())).both)
    for name, (setup, forward, both, memory) in figures.items():
        fwd = statistics.median(forward)
        step = statistics.median(both) if both else math.nan
        mib = "" if memory is None else f"{memory / 2**20:.0f}"
        print(
            f"  {name:32}{1e3 * setup:9.1f} {1e3 * fwd:9.1f} {1e3 * step:9.1f} "
            f"{step / ours:7.2f} {mib:>8} {mask.area / step / 1e9:8.4f}"
        )


def main() -> None:
    """Compare on the best device there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total", type=int, help="tokens of the row")
    parser.add_argument("--long", action="store_true", help=f"rows of {FULL:,} tokens")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--modes", nargs="+", default=["none", "image_tokens", "within_image"])
    parser.add_argument("--rounds", type=int, default=3, help="one for what takes seconds")
    parser.add_argument("--flex", action="store_true", help="FlexAttention on a CPU, forward alone")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    full = options.long or device.type == "cuda"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine.describe())
    for shape in options.shapes:
        build, modes, divisor = SHAPES[shape]
        total = options.total or (FULL if full else 4_096 // divisor)
        for mode in modes:
            if mode in options.modes:
                mask = build(total, mode)
                print(f"\n{shape}, {mode}: {mask!r}, {mask.area / mask.total**2:.1%} of the square")
                compare(mask, options.rounds, device, options.flex or device.type == "cuda")


if __name__ == "__main__":
    main()
