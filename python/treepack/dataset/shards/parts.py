"""Parts of trees that are too large for a row, which share the root; and branches cut short."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np

from treepack.errors import DataError
from treepack.packing.splitting import Stretches
from treepack.tree import MessageTree, example_name


def cut_out(tree: MessageTree, stretches: Stretches) -> MessageTree:
    """A part of a tree: the root and some branches; arrays are shared.

    What the root is trained on stays with the first part, so that nothing is trained on twice.

    Args:
        tree: the whole example.
        stretches: of a `Part`.

    Raises:
        DataError: the tree has fewer branches than it was measured with.
    """
    if stretches[-1] > len(tree.children):
        raise DataError(
            f"{example_name(tree.key)} was split when it had {stretches[-1]} branches or more, and "
            f"has {len(tree.children)} now that it is loaded; the source must give the same "
            "example each time"
        )
    part = copy.copy(tree)
    part.children = tuple(
        child
        for start, end in zip(stretches[::2], stretches[1::2], strict=True)
        for child in tree.children[start:end]
    )
    if stretches[0] > 0:
        part.labels = part.end_target = None
    return part


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
    children = [_shorten_below(child, most) for child in tree.children]
    lost_by = [
        before.n_tokens - after.n_tokens if after is not before else 0
        for before, after in zip(tree.children, children, strict=True)
    ]
    if not any(lost_by):
        return Shortened(tree, 0, 0)
    after = copy.copy(tree)
    after.children = tuple(children)
    return Shortened(after, sum(lost > 0 for lost in lost_by), sum(lost_by))


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
