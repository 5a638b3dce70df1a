"""Trees that are too large for a row, in parts that share the root; and branches cut short.

A part is named by the branches that it has, as stretches of their numbers: ``(0, 3, 5, 6)`` are the
branches 0, 1, 2 and 5. So a part is the same whatever is known of the lengths when it is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from treepack.errors import DataError, OversizeError
from treepack.tree import MessageTree, example_name

Stretches = tuple[int, ...]


class Unit(NamedTuple):
    """Branches that stay together: one, or a chosen answer with the rejected ones behind it.

    Attributes:
        start: number of the first branch.
        end: number of the branch behind the last one.
        tokens: of all of them.
    """

    start: int
    end: int
    tokens: int


class Part(NamedTuple):
    """Some branches of an example, and what they cost with the root.

    Attributes:
        stretches: which branches, ``(start, end, start, end, ...)``.
        cost: by name of the budget.
    """

    stretches: Stretches
    cost: dict[str, int]


def units_of(lengths: Sequence[int], roles: Sequence[str | None]) -> list[Unit]:
    """Which branches stay together, in order.

    Branches with roles stay together until the first role of the unit comes again: the n-th chosen
    answer of a row is compared with its n-th rejected one.

    Args:
        lengths: tokens of each branch, with all below it.
        roles: what each branch is to a loss.
    """
    units: list[Unit] = []
    first: str | None = None
    for number, (length, role) in enumerate(zip(lengths, roles, strict=True)):
        if first is None or role is None or role == first:
            units.append(Unit(number, number + 1, length))
            first = role
        else:
            units[-1] = Unit(units[-1].start, number + 1, units[-1].tokens + length)
    return units


def first_fit(sizes: Iterable[int], room: int) -> list[list[int]]:
    """Numbers of the items in each bin: every item goes to the first one that has room for it.

    Args:
        sizes: of the items, none larger than ``room``.
        room: of each bin.
    """
    bins: list[list[int]] = []
    left: list[int] = []
    for number, size in enumerate(sizes):
        for place, rest in enumerate(left):
            if size <= rest:
                bins[place].append(number)
                left[place] -= size
                break
        else:
            bins.append([number])
            left.append(room - size)
    return bins


def parts_of(
    units: Sequence[Unit], cost: Mapping[str, int], budgets: Mapping[str, int]
) -> list[Part]:
    """The parts of an example that is over a budget, each within all of them.

    Args:
        units: its branches.
        cost: of the whole example, by name, tokens among them.
        budgets: what a row holds, by name.

    Returns:
        One part or more.

    Raises:
        OversizeError: its root, or the root with a single unit, is over a budget by itself.
    """
    root = cost["tokens"] - sum(unit.tokens for unit in units)
    _check_root({**cost, "tokens": root}, budgets)
    # It is over the budget of tokens then, as branches take nothing else.
    room = budgets["tokens"] - root
    longest = max(units, key=lambda unit: unit.tokens)
    if longest.tokens > room:
        told = f"branch {longest.start}"
        if longest.end > longest.start + 1:
            told = f"branches {longest.start} to {longest.end - 1}, which belong together,"
        raise OversizeError(
            f"its root and {told} have {root + longest.tokens} tokens, and the budget is "
            f"{budgets['tokens']}; max_branch_tokens cuts branches"
        )
    parts = first_fit([unit.tokens for unit in units], room)
    chosen = [[units[number] for number in part] for part in parts]
    return [
        Part(_stretches(part), {**cost, "tokens": root + sum(unit.tokens for unit in part)})
        for part in chosen
    ]


def _check_root(root: Mapping[str, int], budgets: Mapping[str, int]) -> None:
    for name, size in budgets.items():
        if root.get(name, 0) > size:
            raise OversizeError(
                f"its root alone takes {root[name]} {name}, and the budget is {size}"
            )


def _stretches(units: Iterable[Unit]) -> Stretches:
    ends: list[int] = []
    for unit in units:
        if ends and ends[-1] == unit.start:
            ends[-1] = unit.end
        else:
            ends += [unit.start, unit.end]
    return tuple(ends)


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
