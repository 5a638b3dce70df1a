"""The core against its numpy reference, the dense mask and torch's block mask, on one row of 16k.

    python benches/mask.py            # about half a minute
    python benches/mask.py --quick    # a row of 2k: about a second

All work on the same row in the same process; what they build is compared first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import treepack as tp
from common import machine
from treepack._core import block_lists
from treepack._reference.mask import ReferenceMask
from treepack._reference.plan import build_plan

EXAMPLES, BRANCHES = 4, 15
VECTORS = ("key_lo", "key_end", "query_hi")

Targets = tuple[npt.NDArray[Any], ...]


class Row(NamedTuple):
    """The arguments of ``TreeMask.from_nodes``."""

    lengths: npt.NDArray[np.int64]
    parents: npt.NDArray[np.int64]
    image_runs: npt.NDArray[np.int64]
    bidirectional: str
    total: int


def build_row(total: int, mode: str) -> Row:
    """Videos of frames of 83 image and 5 text tokens; each branch is 0.73 % of the row."""
    frames, branch = 24 * total // 16_384, 120 * total // 16_384
    root = np.arange(EXAMPLES) * (1 + BRANCHES)
    parents = np.repeat(root, 1 + BRANCHES)
    parents[root] = -1
    lengths = np.full(len(parents), branch)
    lengths[root] = 88 * frames
    starts = (np.cumsum(lengths) - lengths)[root]
    begins = (starts[:, None] + 88 * np.arange(frames)).ravel()
    runs = np.stack([begins, begins + 83, np.arange(len(begins))], 1)
    return Row(lengths, parents, runs, mode, total)


def build_targets(row: Row) -> Targets:
    """Every branch is trained on, the first third of it is prompt."""
    nodes = np.flatnonzero(row.parents >= 0).astype(np.int32)
    branch = int(row.lengths[nodes[0]])
    labels = np.tile(np.where(np.arange(branch) < branch // 3, -100, 7), len(nodes))
    weights = np.ones(len(labels), np.float32)
    ends = np.full(len(nodes), 2)
    return nodes, labels, weights, ends, np.ones(len(nodes), np.float32)


def derive(mask: Any, targets: Targets) -> list[npt.NDArray[Any]]:
    """All that training needs of a row: three vectors, the plan, positions and targets."""
    plan = mask.plan() if isinstance(mask, tp.TreeMask) else build_plan(mask)
    vectors = [getattr(mask, name) for name in VECTORS]
    return [*vectors, *plan, mask.positions(), *mask.targets(*targets)]


def molmo2_mask(row: Row) -> npt.NDArray[np.bool_]:
    """The row's mask from subsegment ids, as Molmo2 compares them: ``[total, total]``."""
    of_root = np.where(row.parents < 0, np.arange(len(row.parents)), row.parents)
    example = np.repeat(of_root // (1 + BRANCHES), row.lengths)
    ids = np.where(row.parents < 0, 10_000, np.arange(len(row.parents)) % (1 + BRANCHES))
    sub = np.repeat(ids, row.lengths) + 100_000 * example
    image = np.full(len(sub), -1)
    for start, end, number in row.image_runs.tolist():
        image[start:end] = number if row.bidirectional == "within_image" else example[start]
    allowed = np.tri(len(sub), dtype=bool)
    if row.bidirectional != "none":
        allowed |= (image[:, None] == image) & (image >= 0)
    allowed &= sub[:, None] <= sub
    dense = np.zeros((row.total, row.total), bool)
    dense[: len(sub), : len(sub)] = allowed
    return dense


def seconds(call: Callable[[], Any], budget: float = 1.0) -> float:
    """Median time of up to 2,000 calls, within a budget of seconds but at least one call."""
    times: list[float] = []
    stop = time.perf_counter() + budget
    while not times or (len(times) < 2_000 and time.perf_counter() < stop):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compare(row: Row) -> None:
    """Check that all agree on the row, then print what each of them takes."""
    targets = build_targets(row)
    mask = tp.TreeMask.from_nodes(*row)
    ours, theirs = derive(mask, targets), derive(ReferenceMask(*row), targets)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert np.array_equal(mask.to_dense(), molmo2_mask(row))

    core = seconds(lambda: derive(tp.TreeMask.from_nodes(*row), targets))
    reference = seconds(lambda: derive(ReferenceMask(*row), targets))
    vectors = seconds(lambda: [getattr(tp.TreeMask.from_nodes(*row), name) for name in VECTORS])
    dense = seconds(lambda: molmo2_mask(row))
    print(f"\n{row.bidirectional}: {mask!r}")
    print(f"  core: nodes, vectors, plan, positions, targets {1e6 * core:12.1f} us")
    print(f"  reference, written to be read: the same        {1e6 * reference:12.1f} us", end="")
    print(f"  {reference / core:10,.0f} times the core")
    print(f"  core: nodes and vectors, the whole mask        {1e6 * vectors:12.1f} us", end="")
    print(f"  {12 * row.total:10,} bytes")
    print(f"  dense mask as Molmo2 builds it                 {1e6 * dense:12.1f} us", end="")
    print(f"  {dense / vectors:10,.0f} times the core, {row.total**2:,} bytes")


def compare_blocks(row: Row) -> None:
    """FlexAttention's block mask: from our lists, and as torch's ``create_block_mask`` finds it."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask
    from treepack.attention.flex import make_blocks

    mask, cpu = tp.TreeMask.from_nodes(*row), torch.device("cpu")
    ours = make_blocks(mask, cpu).mask
    start = time.perf_counter()
    theirs = create_block_mask(ours.mask_mod, None, None, row.total, row.total, device="cpu")
    traced = time.perf_counter() - start
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    lists = seconds(lambda: block_lists(mask))
    whole = seconds(lambda: make_blocks(mask, cpu))
    print(f"\nblocks of 128, {row.bidirectional}")
    print(f"  core: all eight lists                          {1e6 * lists:12.1f} us")
    print(f"  BlockMask from them                            {1e6 * whole:12.1f} us")
    print(f"  create_block_mask, eager, one call             {1e6 * traced:12.1f} us", end="")
    print(f"  {traced / whole:10,.0f} times ours")


def main() -> None:
    """Compare in every mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a row of 2,048 tokens")
    total = 2_048 if parser.parse_args().quick else 16_384
    print(machine.describe())
    for mode in ("none", "image_tokens", "within_image"):
        compare(build_row(total, mode))
    for mode in ("none", "image_tokens"):
        compare_blocks(build_row(total, mode))


if __name__ == "__main__":
    main()
