"""Packed rows of the fine-tuning mixture: costs of `mixture_sft`, packed, with branches drawn.

Branches as Molmo2 reports them: 64 % of the examples have one, 90 % at most 8, 99 % at most 31.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import treepack as tp
from treepack.packing import mixture_sft as streams

FRAME, STAMP = 83, 5
"""Image tokens of a video frame, and of the time stamp after it."""

DRAWN = 100
"""Rows of which some are taken."""

SHORTEST, TEXT_SHARE = 16, 0.6
"""Tokens of an annotation, at least; what of an example without its frames is annotations."""

END = 1
"""The token that ends an annotation."""


def draw_rows(
    n: int, total: int, vocabulary: int, mode: str = "image_tokens", seed: int = 0
) -> list[tp.PackedBatch]:
    """Rows of the mixture that stand for all: from few annotations to many, at even quantiles.

    In rows shorter than the budget every node is shorter in proportion, so a row of ``total``
    tokens, 2,048 or more, has the examples, branches and shares of one of 16,384.
    """
    rng = np.random.default_rng(seed)
    scale = total / streams.BUDGETS["tokens"]
    rows = [
        tp.collate(
            [_tree(rng, tokens, crops, scale, vocabulary) for tokens, crops in examples],
            total=total,
            bidirectional=mode,
        )
        for examples in islice(_packs(seed), DRAWN)
    ]
    rows.sort(key=annotations)
    return [rows[(2 * i + 1) * DRAWN // (2 * n)] for i in range(n)]


def annotations(batch: tp.PackedBatch) -> int:
    """Root-to-leaf paths of a row."""
    mask = batch["treepack"].mask
    return int((mask.subtree_end == mask.node_end).sum())


def _packs(seed: int) -> Iterator[list[tuple[int, int]]]:
    """Tokens and crops of the examples of each pack."""
    packer = tp.Packer(streams.BUDGETS)
    stream = streams.generate("sft", 2_000, seed)
    for cost in stream.costs():
        pack = packer.push((cost["tokens"], cost["crops"]), cost)
        if pack is not None:
            yield pack.keys


def _tree(
    rng: np.random.Generator, tokens: int, crops: int, scale: float, vocabulary: int
) -> tp.MessageTree:
    """A root of frames and its annotations; an example without crops is one annotation of text."""
    if crops == 0:
        return _node(rng, max(2, int(tokens * scale)), vocabulary)
    lengths = _branch_lengths(rng, tokens - FRAME * crops)
    root = max(1, int((tokens - lengths.sum()) * scale))
    return tp.MessageTree(
        rng.integers(END + 1, vocabulary, root),
        children=[_node(rng, max(2, int(n * scale)), vocabulary) for n in lengths],
        image_runs=_frames(root, max(1, round(FRAME * scale)), max(1, round(STAMP * scale))),
    )


def _branch_lengths(rng: np.random.Generator, room: int) -> np.ndarray:
    """Tokens of each annotation: a part of the tokens that are no frames, unevenly divided."""
    several = rng.random() >= 0.64
    text = max(SHORTEST, int(room * TEXT_SHARE))
    count = max(2, round(rng.lognormal(1.476, 1.025))) if several else 1
    count = min(count, text // SHORTEST)
    shares = rng.dirichlet(np.full(count, 2.0))
    return SHORTEST + (shares * (text - SHORTEST * count)).astype(int)


def _node(rng: np.random.Generator, n: int, vocabulary: int) -> tp.MessageTree:
    """A question, which is a third of the tokens, and its answer."""
    tokens = rng.integers(END + 1, vocabulary, n)
    labels = np.where(np.arange(n) < n // 3, -100, tokens)
    return tp.MessageTree(tokens, labels=labels, end_target=END)


def _frames(root: int, frame: int, stamp: int) -> np.ndarray:
    starts = np.arange(0, max(1, root - frame + 1), frame + stamp)
    ends = np.minimum(starts + frame, root)
    return np.stack([starts, ends, np.arange(len(starts))], 1)
