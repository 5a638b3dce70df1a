"""The paths of examples, each as the stock processor and the stock model would have it alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from treepack.families import Family
from treepack.sources.conversations import Conversations
from treepack.tree import MessageTree, example_name

Int64 = npt.NDArray[np.int64]


class Path(NamedTuple):
    """A conversation of an example, from the first token to the last.

    Attributes:
        name: how errors call it.
        tokens: int64 ``[n]``, root and branch.
        first: where its own tokens begin; the token before predicts the first of them.
        end_target: what follows the last token, or ``None``.
        weights: float32 of each of its own tokens and of the end target.
        inputs: what the stock model is given, by name.
        nodes: which nodes of the row it goes through, the root first.
        targets: int64, which targets of the row are its own.
    """

    name: str
    tokens: Int64
    first: int
    end_target: int | None
    weights: npt.NDArray[np.float32]
    inputs: dict[str, torch.Tensor]
    nodes: list[int]
    targets: Int64


def fully_trained(tree: MessageTree, weight: float) -> MessageTree:
    """The same example with every token of every branch as a target, so that each is compared.

    Each branch has a weight of its own, and what several share has the sum of theirs.
    """
    parents = tree.parents
    nodes = [copy.copy(node) for node, _ in tree.nodes()]
    weights = [0.0] * len(nodes)
    for place, leaf in enumerate(_leaves(parents)):
        while leaf >= 0:
            weights[leaf] += weight + place / 2
            leaf = parents[leaf]
    children: list[list[MessageTree]] = [[] for _ in nodes]
    for number in reversed(range(len(nodes))):
        node, parent = nodes[number], parents[number]
        node.children = tuple(reversed(children[number]))
        if parent >= 0 or not node.children:
            node.labels, node.weight = node.tokens.copy(), weights[number]
        if parent >= 0:
            children[parent].append(node)
    return nodes[0]


def paths_of(
    family: Family, examples: Sequence[Conversations], trees: Sequence[MessageTree]
) -> Iterator[Path]:
    """Every path of the examples, in the order of the row.

    Args:
        family: of the model.
        examples: the conversations.
        trees: those of the examples, as `fully_trained` gives them.

    Raises:
        AssertionError: the tokens of a path are not those that the processor gives the whole
            conversation; the message names the first that differs.
    """
    node, target = 0, 0
    for example, tree in zip(examples, trees, strict=True):
        order = family.outline(example).order
        starts = _target_starts(tree, target)
        for place, own in enumerate(_node_paths(tree.parents)):
            number = order[place] if order else place
            yield _path(family, example, tree, number, [own, starts, node])
        node, target = node + len(starts) - 1, starts[-1]


def _path(
    family: Family, example: Conversations, tree: MessageTree, number: int, place: list[Any]
) -> Path:
    own, starts, node = place
    nodes = [node for node, _ in tree.nodes()]
    name = f"{example_name(example.key)}, branch {number}"
    leaf, tokens = nodes[own[-1]], np.concatenate([nodes[n].tokens for n in own])
    ends = [] if leaf.end_target is None else [leaf.end_target]
    first = len(tree.tokens) if len(own) > 1 else 1
    # What it shares has the weight of several; alone it has that of its leaf.
    weights = np.full(len(tokens) - first + len(ends), leaf.weight, np.float32)
    targets = np.concatenate([np.arange(starts[n], starts[n + 1]) for n in own])
    inputs = _inputs(family, example, tree, number, tokens, name, ends)
    row_nodes = [node + n for n in own]
    return Path(name, tokens, first, leaf.end_target, weights, inputs, row_nodes, targets)


def _leaves(parents: Sequence[int]) -> list[int]:
    return sorted(set(range(len(parents))) - set(parents))


def _node_paths(parents: Sequence[int]) -> Iterator[list[int]]:
    """For each leaf the nodes from the root to it."""
    for leaf in _leaves(parents):
        path = [leaf]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        yield path[::-1]


def _target_starts(tree: MessageTree, first: int) -> list[int]:
    """Number of the first target of each node, and of that behind the last one."""
    starts = [first]
    for node, parent in tree.nodes():
        labels = 0 if node.labels is None else len(node.labels) - (parent < 0)
        starts.append(starts[-1] + labels + (node.end_target is not None))
    return starts


def _inputs(
    family: Family,
    example: Conversations,
    tree: MessageTree,
    place: int,
    tokens: Int64,
    name: str,
    ends: list[int],
) -> dict[str, torch.Tensor]:
    made = family.render(example, example.branches[place])
    if made is None:
        return _own_inputs(family, tree, tokens)
    whole = made.pop("input_ids")[0]
    _check_tokens(whole, [*tokens.tolist(), *ends], name)
    n = len(tokens)
    made = {k: v[..., :n] if k.endswith("token_type_ids") else v for k, v in made.items()}
    made["input_ids"] = tokens[None]
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in made.items()}


def _check_tokens(whole: Int64, ours: list[int], name: str) -> None:
    theirs = whole.tolist()
    for place, token in enumerate(ours):
        if place >= len(theirs) or theirs[place] != token:
            near = slice(max(place - 3, 0), place + 4)
            raise AssertionError(
                f"{name}: token {place} is {token}, and {theirs[place : place + 1]} where the "
                f"processor renders the whole conversation; around it {ours[near]} and "
                f"{theirs[near]}"
            )


def _own_inputs(family: Family, tree: MessageTree, tokens: Int64) -> dict[str, torch.Tensor]:
    """Inputs of one path from the family's own arrays, where nothing renders a conversation."""
    alone = copy.copy(tree)
    alone.tokens, alone.children = tokens, ()
    arrays: dict[str, Any] = dict(family.collate([alone], len(tokens)))
    arrays["input_ids"] = tokens[None]
    types = getattr(family.processor, "create_mm_token_type_ids", None)
    if types is not None:
        arrays["mm_token_type_ids"] = np.array(types([tokens.tolist()]), np.int64)
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
