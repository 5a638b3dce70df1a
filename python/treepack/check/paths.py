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
        node: which node of the row ends it.
    """

    name: str
    tokens: Int64
    first: int
    end_target: int | None
    weights: npt.NDArray[np.float32]
    inputs: dict[str, torch.Tensor]
    node: int


def fully_trained(tree: MessageTree, weight: float) -> MessageTree:
    """The same example with every token of every branch as a target, so that each is compared."""
    tree = copy.copy(tree)
    tree.children = tuple(
        fully_trained(child, weight + place / 2) for place, child in enumerate(tree.children)
    )
    if not tree.children:
        tree.labels, tree.weight = tree.tokens.copy(), weight
    return tree


def paths_of(
    family: Family, examples: Sequence[Conversations], trees: Sequence[MessageTree]
) -> Iterator[Path]:
    """Every path of the examples, in the order of the row.

    Raises:
        AssertionError: the tokens of a path are not those that the processor gives the whole
            conversation; the message names the first that differs.
    """
    node = 0
    for example, tree in zip(examples, trees, strict=True):
        for place, leaf in enumerate(tree.children or [tree]):
            is_branch = leaf is not tree
            tokens = np.concatenate([tree.tokens, leaf.tokens]) if is_branch else tree.tokens
            name = f"{example_name(example.key)}, branch {place}"
            ends = [] if leaf.end_target is None else [leaf.end_target]
            first = len(tree.tokens) if is_branch else 1
            weights = np.full(len(tokens) - first + len(ends), leaf.weight, np.float32)
            inputs = _inputs(family, example, tree, place, tokens, name, ends)
            yield Path(
                name, tokens, first, leaf.end_target, weights, inputs, node + place + is_branch
            )
        node += 1 + len(tree.children)


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
