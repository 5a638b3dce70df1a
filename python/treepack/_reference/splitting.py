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
    # Those below one node with a role are one.
    bearers = [next((node for node in path if node.role), None) for path in paths(tree)]
    found: list[list[int]] = []
    for number, bearer in enumerate(bearers):
        before = bearers[number - 1] if number else None
        leader = bearers[found[-1][0]] if found else None
        stays = bearer is not None and leader is not None
        if stays and (bearer is before or bearer.role != leader.role):  # type: ignore[union-attr]
            found[-1].append(number)
        else:
            found.append([number])
    return found


def paths(tree: MessageTree) -> list[list[MessageTree]]:
    """For each branch its nodes, from below the root to a leaf."""
    found: list[list[MessageTree]] = []

    def go(node: MessageTree, above: list[MessageTree]) -> None:
        if not node.children:
            found.append([*above, node])
        for child in node.children:
            go(child, [*above, node])

    for child in tree.children:
        go(child, [])
    return found


def fits(tree: MessageTree, branches: Sequence[int], budgets: Mapping[str, int]) -> bool:
    """Whether the root with these branches is within every budget."""
    every = paths(tree)
    # A node that several of them have is there once.
    nodes = {id(node): len(node.tokens) for number in branches for node in every[number]}
    cost = {**tree.cost, "tokens": len(tree.tokens) + sum(nodes.values())}
    return all(cost.get(name, 0) <= size for name, size in budgets.items())
