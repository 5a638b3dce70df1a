"""Packed rows of the fine-tuning mixture: tokens, crops and annotations are those of `mixture_sft`.

A row of it has 13.6 annotations and 3.8 examples (20,000 examples). Molmo2 reports 4 annotations an
example and 3.8 examples a row, and a finer model of its data sets has 14.3 to 14.7 annotations a
row: rows with more would favour packing. Where each annotation encodes its own images, an image is
encoded 3.9 times here and 3.15 times in the finer model, which favours packing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import treepack as tp
from treepack.packing import mixture_sft as streams

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

FRAME = 83
"""Image tokens of a video frame, its start and end among them."""

DRAWN = 500
"""Rows of which some are taken."""

FIRST = 2
"""How much more the number of annotations counts than others where rows are compared."""

STARTS = 50
"""From how many choices of rows the search for the nearest begins."""

SHORTEST = 10
"""Tokens of an annotation, at least, in a row of full length."""

END = 1
"""The token that ends an annotation."""

PIXELS = 3 * 14**2
"""Numbers of a patch of the vision tower."""

FEATURES = ("annotations", "examples", "tokens", "pairs", "crops", "crops_alone", "tokens_alone")
"""What is compared of rows; ``alone``: where each annotation has a row of its own."""


class Example(NamedTuple):
    """A draw of the mixture, in tokens of a row of full length."""

    tokens: int
    crops: int
    branches: int
    vision_tokens: int


class Images(NamedTuple):
    """What stands for images in rows of a vision-language model."""

    start: int
    end: int
    patch: int
    patches: int
    """Three token ids, and patches of a crop."""


def draw_rows(
    n: int,
    total: int,
    vocabulary: int,
    mode: str = "image_tokens",
    seed: int = 0,
    images: Images | None = None,
) -> list[tp.PackedBatch]:
    """Rows of the mixture that stand for all: together they have the mean of all that were drawn.

    In rows shorter than the budget every node is shorter in proportion, so a row of ``total``
    tokens, 2,048 or more, has the examples, branches and shares of one of 16,384. With ``images``
    the rows have pixels, of as many crops at any length.
    """
    drawn = draw_all(total, vocabulary, mode, seed)
    chosen = nearest_to_mean(np.array([features(*each) for each in drawn]), n)
    return [
        lay_out(drawn[i][0], (seed, i), total, vocabulary, mode, images) if images else drawn[i][1]
        for i in chosen
    ]


def draw_all(
    total: int, vocabulary: int, mode: str, seed: int = 0
) -> list[tuple[list[Example], tp.PackedBatch]]:
    """Every row that was drawn, with its examples."""
    return [
        (examples, lay_out(examples, (seed, i), total, vocabulary, mode))
        for i, examples in enumerate(islice(_packs(seed), DRAWN))
    ]


def features(examples: list[Example], batch: tp.PackedBatch) -> list[float]:
    """Numbers of a row in the order of `FEATURES`."""
    mask = batch["treepack"].mask
    leaves = leaves_of(mask)
    each = np.bincount(mask.node_example[leaves], minlength=mask.n_examples)
    crops = np.array([example.crops for example in examples])
    lengths = (mask.node_end - mask.node_start)[: len(mask.node_parent)]
    alone = sum(int(lengths[path(mask, leaf)].sum()) for leaf in leaves)
    pairs = mask.area
    return [len(leaves), mask.n_examples, mask.used, pairs, crops.sum(), each @ crops, alone]


def nearest_to_mean(table: Float64, n: int) -> list[int]:
    """``n`` of the rows of a table ``[rows, numbers]`` whose mean is nearly the mean of all.

    Rows are sorted by their first number and divided into ``n`` equal parts, each of which gives
    one: any, at first; then they change their rows in turn, as long as the mean of those chosen
    comes nearer to that of all. Of ``STARTS`` such choices the best is taken. Distances are
    relative to the mean, that of the first number counts ``FIRST`` times.
    """
    scaled = table / np.maximum(table.mean(0), 1e-9)
    scaled[:, 0] *= FIRST
    parts = np.array_split(np.argsort(table[:, 0], kind="stable"), n)
    rng = np.random.default_rng(0)
    starts = [[int(rng.choice(part)) for part in parts] for _ in range(STARTS)]
    found = [_improve(scaled, parts, start) for start in starts]
    return min(found, key=lambda rows: _distance(scaled, rows))


def _improve(table: Float64, parts: list[Int64], chosen: list[int]) -> list[int]:
    while True:
        before = list(chosen)
        for place, part in enumerate(parts):
            others = table[chosen[:place] + chosen[place + 1 :]].sum(0)
            nearest = _nearest(table, part, len(parts) * table.mean(0) - others)
            changed = [*chosen[:place], nearest, *chosen[place + 1 :]]
            if _distance(table, changed) < _distance(table, chosen):
                chosen = changed
        if chosen == before:
            return chosen


def _distance(table: Float64, rows: list[int]) -> float:
    return float(((table[rows].mean(0) - table.mean(0)) ** 2).sum())


def _nearest(table: Float64, rows: Int64, wanted: Float64) -> int:
    return int(rows[((table[rows] - wanted) ** 2).sum(1).argmin()])


def annotations(batch: tp.PackedBatch) -> int:
    """Root-to-leaf paths of a row."""
    return len(leaves_of(batch["treepack"].mask))


def leaves_of(mask: tp.TreeMask) -> list[int]:
    """Nodes without children."""
    found: list[int] = (mask.subtree_end == mask.node_end).nonzero()[0].tolist()
    return found


def path(mask: tp.TreeMask, leaf: int) -> list[int]:
    """Nodes from the root to a leaf."""
    nodes, node = [], leaf
    while node >= 0:
        nodes.append(node)
        node = int(mask.node_parent[node])
    return nodes[::-1]


# ---- what a row is made of


def _packs(seed: int) -> Iterator[list[Example]]:
    """The examples of each pack."""
    packer = tp.Packer(streams.BUDGETS)
    stream = streams.generate("sft", 5 * DRAWN, seed)
    columns = (column.tolist() for column in stream)
    for example in map(Example._make, zip(*columns, strict=True)):
        pack = packer.push(example, {"tokens": example.tokens, "crops": example.crops})
        if pack is not None:
            yield pack.keys


def lay_out(
    examples: list[Example],
    seed: tuple[int, ...],
    total: int,
    vocabulary: int,
    mode: str,
    images: Images | None = None,
) -> tp.PackedBatch:
    """The row of a pack."""
    rng = np.random.default_rng(seed)
    scale = total / streams.BUDGETS["tokens"]
    trees = [_tree(rng, example, scale, vocabulary) for example in examples]
    crops = 0
    for tree, example in zip(trees, examples, strict=True):
        if images and example.crops:
            _add_images(rng, tree, example.crops, crops, images)
            crops += example.crops
    batch = tp.collate(trees, total=total, bidirectional=mode)
    if images:
        batch["mm_token_type_ids"] = (batch["input_ids"] >= vocabulary).long()
    return batch


def _tree(
    rng: np.random.Generator, example: Example, scale: float, vocabulary: int
) -> tp.MessageTree:
    """A root of frames and its annotations; an example without crops is one annotation of text."""
    if example.crops == 0:
        return _node(rng, max(2, int(example.tokens * scale)), vocabulary)
    # The time stamp of a frame has one token, as on average; images have none.
    stamp = int(example.vision_tokens == FRAME * example.crops)
    said = max(SHORTEST, example.tokens - example.vision_tokens - stamp * example.crops)
    count = min(example.branches, said // SHORTEST)
    shares = rng.dirichlet(np.full(count, 2.0)) * (said - SHORTEST * count)
    lengths = SHORTEST + shares.astype(int)
    root = max(3, int((example.tokens - said) * scale))
    return tp.MessageTree(
        rng.integers(END + 1, vocabulary, root),
        children=[_node(rng, max(2, int(n * scale)), vocabulary) for n in lengths],
        image_runs=_runs(root, example.crops, stamp),
    )


def _node(rng: np.random.Generator, n: int, vocabulary: int) -> tp.MessageTree:
    """A question, which is a third of the tokens, and its answer."""
    tokens = rng.integers(END + 1, vocabulary, n)
    labels = np.where(np.arange(n) < n // 3, -100, tokens)
    return tp.MessageTree(tokens, labels=labels, end_target=END)


def _runs(root: int, crops: int, stamp: int) -> Int64:
    """Image tokens of each crop; all but the last may have a time stamp after them."""
    edges = np.linspace(0, root, crops + 1).astype(np.int64)
    return np.stack([edges[:-1], edges[1:] - stamp, np.arange(crops)], 1)


def _add_images(
    rng: np.random.Generator, tree: tp.MessageTree, crops: int, before: int, images: Images
) -> None:
    """Pixels, and the tokens that take them; ``before``: crops of the row before these."""
    for start, end, _ in tree.image_runs.tolist():
        tree.tokens[start:end] = images.patch
        tree.tokens[[start, end - 1]] = images.start, images.end
    n = int((tree.tokens == images.patch).sum())
    # Nine patches for a token, as of a frame; each patch of the crops is looked at.
    pooling = np.linspace(0, crops * images.patches - 1, 9 * n).astype(np.int64).reshape(n, 9)
    tree.media = {
        "pixel_values": rng.standard_normal((crops, images.patches, PIXELS), np.float32),
        "image_token_pooling": pooling + before * images.patches,
        "image_grids": np.array([[n, 1, 0, 0]]),
    }
