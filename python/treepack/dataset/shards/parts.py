"""Parts of trees that are too large for a row, which share the root; and branches cut short."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np

from treepack.errors import DataError
from treepack.packing.splitting import Stretches, stays_with
from treepack.tree import MessageTree, example_name


def joined_of(tree: MessageTree) -> list[bool]:
    """For each branch, whether it stays with the one before it when the tree is split.

    Branches below one node with a role stay together, and so do those of a chosen answer and of the
    rejected ones behind it.

    Args:
        tree: the whole example; a branch goes from the root to a leaf.
    """
    # The topmost node with a role above each node, itself included; -1 for none.
    named: list[int] = []
    leaves: list[int] = []
    nodes = list(tree.nodes())
    for number, (node, parent) in enumerate(nodes):
        above = named[parent] if parent > 0 else -1
        named.append(above if above >= 0 else number if parent >= 0 and node.role else -1)
        if parent >= 0 and not node.children:
            leaves.append(named[number])
    firsts = [n for n, own in enumerate(leaves) if own < 0 or n == 0 or own != leaves[n - 1]]
    roles = [nodes[leaves[n]][0].role if leaves[n] >= 0 else None for n in firsts]
    joined = [True] * len(leaves)
    for place, stays in zip(firsts, stays_with(roles), strict=True):
        joined[place] = stays
    return joined


def cut_out(tree: MessageTree, stretches: Stretches) -> MessageTree:
    """A part of a tree: the root and some branches; arrays are shared.

    What the root, or another node that several parts have, is trained on stays with the first part,
    so that nothing is trained on twice.

    Args:
        tree: the whole example.
        stretches: of a `Part`; a branch goes from the root to a leaf.

    Raises:
        DataError: the tree has fewer branches than it was measured with.
    """
    parents = tree.parents
    leaves = sorted(set(range(1, len(parents))) - set(parents))
    if stretches[-1] > len(leaves):
        raise DataError(
            f"{example_name(tree.key)} was split when it had {stretches[-1]} branches or more, and "
            f"has {len(leaves)} now that it is loaded; the source must give the same example each "
            "time"
        )
    pairs = zip(stretches[::2], stretches[1::2], strict=True)
    chosen = {leaves[n] for start, end in pairs for n in range(start, end)}
    return _pruned(tree, parents, chosen)


def _pruned(tree: MessageTree, parents: list[int], chosen: set[int]) -> MessageTree:
    """The tree with some of its leaves, given by the numbers of their nodes."""
    nodes = [node for node, _ in tree.nodes()]
    below: list[list[MessageTree]] = [[] for _ in nodes]
    # Whether the first leaf below a node is among those chosen; children come after their parent.
    is_first = [number in chosen for number in range(len(nodes))]
    for number in reversed(range(len(nodes))):
        node, children = nodes[number], below[number]
        is_leaf = not node.children
        if is_leaf and number in chosen:
            below[parents[number]].append(node)
        elif children:
            is_first[number] = is_first[number + 1]
            part = copy.copy(node)
            part.children = tuple(reversed(children))
            if not is_first[number]:
                part.labels = part.end_target = None
            if number == 0:
                return part
            below[parents[number]].append(part)
    return tree


class Shortened(NamedTuple):
    """A tree whose branches were cut.

    Attributes:
        tree: what is left.
        branches: how many of its branches lost tokens.
        tokens: how many they lost.
    """

    tree: MessageTree
    branches: int
    tokens: int


def shorten(tree: MessageTree, most: int) -> Shortened:
    """Cut what lies more than so many tokens behind the root, on each way down.

    Image tokens are in the root, which is left as it is; plain text, a tree of one node without
    media, is cut itself. A node that is cut loses its end target and all nodes below it.

    Args:
        tree: it is not modified.
        most: tokens of a branch, from the root to a leaf.
    """
    if not tree.children:
        is_text = tree.image_runs is None and not tree.media
        after = _cut(tree, most) if is_text else tree
        lost = len(tree.tokens) - len(after.tokens)
        return Shortened(after, int(lost > 0), lost)
    cut = sum(length > most for length in tree.branch_lengths()[0])
    if not cut:
        return Shortened(tree, 0, 0)
    after = copy.copy(tree)
    after.children = tuple(_shorten_below(child, most) for child in tree.children)
    return Shortened(after, cut, tree.n_tokens - after.n_tokens)


def _shorten_below(top: MessageTree, most: int) -> MessageTree:
    """The same on a branch; nodes may be nested as deep as the data likes."""
    if not top.children:
        return _cut(top, most)
    order = [(top, most, 0)]
    for number, (node, room, _) in enumerate(order):
        left = room - len(node.tokens)
        order += [(child, left, number) for child in node.children if left >= 0]
    # Children as they are after the cut, last ones first, by the place of their parent.
    below: list[list[MessageTree]] = [[] for _ in order]
    after = top
    for number in reversed(range(len(order))):
        node, room, parent = order[number]
        after, children = _cut(node, room), tuple(reversed(below[number]))
        changed = (one is not other for one, other in zip(children, node.children, strict=False))
        if after is node and any(changed):
            after = copy.copy(node)
            after.children = children
        below[parent].append(after)
    return after


def _cut(node: MessageTree, most: int) -> MessageTree:
    if len(node.tokens) <= most:
        return node
    after = copy.copy(node)
    after.tokens = node.tokens[:most]
    after.labels = None if node.labels is None else node.labels[:most]
    if isinstance(node.weight, np.ndarray):
        after.weight = node.weight[:most]
    if node.channels is not None:
        after.channels = {
            name: values if isinstance(values, float) else values[:most]
            for name, values in node.channels.items()
        }
    if node.root_positions is not None:
        after.root_positions = node.root_positions[:, :most]
    after.end_target, after.children = None, ()
    return after
