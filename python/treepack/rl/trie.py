"""Token sequences that begin alike, as one message tree: what they share is a node."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.tree import IGNORE, MessageTree

Int64 = npt.NDArray[np.int64]


class Stretch(NamedTuple):
    """A part of a sequence that some sequences share: one node of their tree.

    Attributes:
        start: place of its first token in each of them.
        end: place behind its last token.
        parent: number of the stretch before it, -1 for the first.
        sequence: one of those that have it.
        trained: place of its first target; ``end`` if it has none.
    """

    start: int
    end: int
    parent: int
    sequence: int
    trained: int


class Trie(NamedTuple):
    """Sequences that share what they begin with.

    Attributes:
        stretches: parents before children, depth first: the order of the nodes of `tree_of`.
        leaves: for each sequence the stretch that it ends with.
    """

    stretches: list[Stretch]
    leaves: list[int]


class Range(NamedTuple):
    """Sorted sequences that go on from one stretch."""

    first: int
    end: int
    start: int
    parent: int


def sort_order(sequences: Sequence[Int64]) -> list[int]:
    """The numbers of the sequences in the order of a dictionary; equal ones keep theirs."""
    # Bytes of big-endian integers of 0 or more compare as the integers do.
    keys = [sequence.astype(">i8").tobytes() for sequence in sequences]
    return sorted(range(len(sequences)), key=keys.__getitem__)


def shared(a: Int64, b: Int64) -> int:
    """How many tokens two sequences have in common at their beginning."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def _common(a: Int64, b: Int64, forks_early: bool) -> int:
    n = shared(a, b)
    return n - (forks_early and n < min(len(a), len(b)))


def build(
    sequences: Sequence[Int64], firsts: Sequence[int], root: int | None, forks_early: bool
) -> Trie:
    """Lay sequences over each other as far as they are equal.

    Args:
        sequences: int64 ``[n]`` each; with ``root``, all begin with the same so many tokens.
        firsts: for each the place of its first target.
        root: where the first stretch ends at the latest, or ``None``.
        forks_early: repeat the last shared token in each sequence that goes on from it, so that
            every token predicts one target.

    Raises:
        ValueError: they have nothing in common, so there is no first stretch.
    """
    order = sort_order(sequences)
    neighbours = itertools.pairwise(order)
    common = [0, *(_common(sequences[a], sequences[b], forks_early) for a, b in neighbours)]
    stretches: list[Stretch] = []
    leaves = [-1] * len(sequences)
    ranges = [Range(0, len(order), 0, -1)]
    while ranges:
        found = ranges.pop()
        members = order[found.first : found.end]
        end = min(common[found.first + 1 : found.end], default=len(sequences[members[0]]))
        if found.parent < 0:
            end = end if root is None else min(end, root)
            if end < 1:
                raise ValueError("nothing in common")
        number = len(stretches)
        trained = min(max(min(firsts[i] for i in members), found.start), end)
        stretches.append(Stretch(found.start, end, found.parent, members[0], trained))
        for member in members:
            leaves[member] = number
        ranges += reversed(_parts(found, end, number, common, order, sequences))
    return Trie(stretches, leaves)


def _parts(
    found: Range,
    end: int,
    parent: int,
    common: list[int],
    order: list[int],
    sequences: Sequence[Int64],
) -> list[Range]:
    """The sequences of a range that go on behind ``end``, by what they go on with."""
    edges = [n for n in range(found.first + 1, found.end) if common[n] <= end]
    pairs = zip([found.first, *edges], [*edges, found.end], strict=True)
    return [
        Range(first, last, end, parent)
        for first, last in pairs
        if len(sequences[order[last - 1]]) > end
    ]


def tree_of(trie: Trie, sequences: Sequence[Int64], **root: Any) -> MessageTree:
    """The message tree of a trie, each of whose stretches is a node.

    Args:
        trie: of the sequences.
        sequences: as they were given to `build`.
        root: further arguments of the root, such as ``media``.
    """
    below: list[list[MessageTree]] = [[] for _ in trie.stretches]
    node = None
    for number in reversed(range(len(trie.stretches))):
        start, end, parent, sequence, trained = trie.stretches[number]
        tokens = sequences[sequence][start:end]
        labels = np.concatenate([np.full(trained - start, IGNORE), tokens[trained - start :]])
        extra = _cut_root(root, end) if parent < 0 else {}
        node = MessageTree(tokens, labels, children=reversed(below[number]), **extra)
        if parent >= 0:
            below[parent].append(node)
    assert node is not None
    return node


def _cut_root(root: Mapping[str, Any], end: int) -> Mapping[str, Any]:
    """The arguments of a root that is shorter by its last token, where responses fork early."""
    positions = root.get("root_positions")
    return root if positions is None else {**root, "root_positions": positions[:, :end]}


def targets_of(trie: Trie, sequence: int, first: int, starts: Sequence[int]) -> Int64:
    """Which targets are those of a sequence, int64 ``[n - first]``.

    Args:
        trie: of the sequences.
        sequence: its number.
        first: place of its first target, at least 1.
        starts: number of the first target of each stretch.
    """
    pieces, place = [], trie.leaves[sequence]
    while place >= 0:
        stretch = trie.stretches[place]
        begin = max(first, stretch.start)
        if begin < stretch.end:
            offset = starts[place] + begin - stretch.trained
            pieces.append(offset + np.arange(stretch.end - begin))
        place = stretch.parent
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *reversed(pieces)])
