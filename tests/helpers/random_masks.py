"""Random rows of message trees: what the tests of masks, plans and attention draw from."""

from __future__ import annotations

from itertools import pairwise, permutations, product
from typing import NamedTuple

import numpy as np

MODES = ("none", "image_tokens", "within_image")


class Forest(NamedTuple):
    """The arguments of ``TreeMask.from_nodes``, in its order."""

    lengths: np.ndarray
    parents: np.ndarray
    image_runs: np.ndarray
    bidirectional: str
    total: int


def random_forest(rng, longest=6, most_nodes=8, mode=None):
    """Draw one to three trees with empty branches, one-token roots, fragmented frames, padding."""
    lengths, parents = [], []
    for _ in range(rng.integers(1, 4)):
        root = len(lengths)
        deep = rng.random() < 0.3
        for i in range(rng.integers(1, most_nodes + 1)):
            parents.append(-1 if i == 0 else _parent(rng, root, parents, deep))
            empty = i > 0 and rng.random() < 0.2
            lengths.append(0 if empty else int(rng.integers(1, longest + 1)))
    used = sum(lengths)
    mode = mode or MODES[rng.integers(3)]
    return Forest(
        np.array(lengths, np.int32),
        np.array(parents, np.int32),
        _image_runs(rng, lengths),
        mode,
        used + int(rng.integers(0, 5)),
    )


def _parent(rng, root, parents, deep):
    """A node on the path to the last one, so that the order stays depth first."""
    path = [len(parents) - 1]
    while path[-1] != root:
        path.append(parents[path[-1]])
    return path[0] if deep and rng.random() < 0.7 else path[rng.integers(len(path))]


def _image_runs(rng, lengths):
    runs, images, start = [], 0, 0
    for n in lengths:
        if n > 1 and rng.random() < 0.6:
            frames = rng.integers(1, 4)
            kinds = rng.integers(-1, frames, n)
            if rng.random() < 0.6:
                kinds = np.sort(kinds)
            kinds = _disentangle(kinds)
            runs += [(start + a, start + b, images + kinds[a]) for a, b in _stretches(kinds)]
            images += int(frames)
        start += n
    return np.array(runs, np.int32).reshape(-1, 3)


def _disentangle(kinds):
    """Undo the interleaving of images, which no mask allows: A B A B becomes A A A A."""
    kinds = kinds.copy()
    images = range(kinds.max() + 1)
    # A merger of two can entangle a third, so as many sweeps as there are images.
    for _, (a, b) in product(images, permutations(images, 2)):
        in_a, in_b = np.flatnonzero(kinds == a), np.flatnonzero(kinds == b)
        starts_inside = in_a.size and in_b.size and in_a[0] < in_b[0] < in_a[-1]
        # B may lie in one hole of A, but not around a token of it.
        if starts_inside and ((in_a > in_b[0]) & (in_a < in_b[-1])).any():
            kinds[kinds == b] = a
    return kinds


def _stretches(kinds):
    cuts = [0, *(np.flatnonzero(np.diff(kinds)) + 1), len(kinds)]
    return [(a, b) for a, b in pairwise(cuts) if kinds[a] >= 0]
