"""How a tree that is too large is split, slowly and readably: first-fit by trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from treepack.tree import MessageTree


def split(tree: MessageTree, budgets: Mapping[str, int]) -> list[list[int]] | None:
    """Numbers of the branches in each part; ``None`` if the tree cannot be split.

    Args:
        tree: the example.
        budgets: what a row holds, by name.
    """
    parts: list[list[int]] = []
    for unit in units(tree):
        if not fits(tree, unit, budgets):
            return None
        for part in parts:
            if fits(tree, [*part, *unit], budgets):
                part.extend(unit)
                break
        else:
            parts.append(unit)
    return parts or None


def units(tree: MessageTree) -> list[list[int]]:
    """Branches that stay together: those with roles, until the first role comes again."""
    found: list[list[int]] = []
    for number, child in enumerate(tree.children):
        leader = tree.children[found[-1][0]].role if found else None
        if leader is not None and child.role not in (None, leader):
            found[-1].append(number)
        else:
            found.append([number])
    return found


def fits(tree: MessageTree, branches: Sequence[int], budgets: Mapping[str, int]) -> bool:
    """Whether the root with these branches is within every budget."""
    children = [tree.children[number] for number in branches]
    part = MessageTree(tree.tokens, children=children, costs=tree.costs)
    return all(part.cost.get(name, 0) <= size for name, size in budgets.items())
