"""Message trees: one visual (or text) root, one branch for each of its annotations."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack._tree_fields import IGNORE as IGNORE
from treepack._tree_fields import Channel as Channel
from treepack._tree_fields import (
    IntArray,
    read_channels,
    read_costs,
    read_ids,
    read_ints,
    read_media,
    read_role,
    read_runs,
    read_token,
    read_weight,
)
from treepack._tree_fields import example_name as example_name
from treepack.errors import TreeError

ROOT_ONLY = ("key", "image_runs", "media", "root_positions", "costs")


class MessageTree:
    """A node of tokens and the nodes that go on from it; the root stands for the whole tree.

    A token sees its own node and that node's ancestors, so the branches of one root share it and
    are invisible to each other. Plain text is a tree of one node.

    Args:
        tokens: int ``[n]``, token ids of 0 or more. A root has at least one; other nodes may be
            empty.
        labels: int ``[n]``, not shifted: ``labels[j]`` is what token ``j`` should have been, or
            -100 for no loss. The first label of a node is predicted by the last token of its
            nearest ancestor that has tokens; a root's first label has no predictor and is ignored.
            ``None`` means no loss in this node.
        weight: loss weight of the labels, one number or float ``[n]``, finite in float32.
        end_target: token id that the node's last token should predict (an end-of-sequence token
            that never enters the row), or ``None``. It takes the weight of the last token.
        children: the nodes that go on from this one.
        key: name of the example in errors, packs and statistics (root only).
        image_runs: int ``[R, 3]``, entries ``(start, end, image)``: which stretches of the root's
            tokens are image tokens, and of which image; in order, none empty (root only).
        media: arrays that the model takes beside the tokens, such as ``pixel_values``; their first
            axis is the one on which those of a row are joined (root only).
        root_positions: int ``[A, n]``, position ids of the root's tokens on ``A`` axes; ``None``
            counts from 0 (root only).
        costs: what the tree takes of each budget but ``tokens``, in the unit of that budget, such
            as ``{"crops": 12}`` (root only). Tokens are counted.
        role: what the node is to a loss, such as ``"chosen"`` or ``"rejected"`` of a preference;
            it comes out as ``batch["treepack"].roles``.
        channels: numbers of the node's targets that a loss of your own reads, by name, such as
            ``{"advantage": 0.7, "old_logp": [...]}``: one number, or float ``[n]``, one for each
            label; or ``[n + 1]``, where the last one is that of ``end_target``, which otherwise
            takes that of the last token. They have any sign, and come out, next to the targets, as
            ``batch["treepack"].channels``.
        response_id: what you call the response that ends with this node, such as its number in
            your own batch; it comes out as ``batch["treepack"].response_ids``.

    Raises:
        TreeError: an array of the wrong type or length; an id, label, weight, channel or image run
            out of range; a root-only argument in a child; media under a name that the row itself
            uses; or a role that is no text.
        CostError: a cost that is not an integer of 0 or more, or a cost named ``tokens``.

    Source:
        Molmo2, arXiv 2601.10611, which trains on one image and all its annotations at once.

    Example:
        >>> import treepack as tp
        >>> answer = tp.MessageTree([7, 8], labels=[-100, 8])
        >>> tree = tp.MessageTree([1, 2, 3], children=[answer, tp.MessageTree([9], labels=[9])])
        >>> tree.n_tokens, tree.lengths, tree.parents
        (6, [3, 2, 1], [-1, 0, 0])
    """

    __slots__ = (
        "channels",
        "children",
        "costs",
        "end_target",
        "image_runs",
        "key",
        "labels",
        "media",
        "response_id",
        "role",
        "root_positions",
        "tokens",
        "weight",
    )

    def __init__(
        self,
        tokens: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        weight: float | npt.ArrayLike = 1.0,
        end_target: int | None = None,
        children: Iterable[MessageTree] | None = (),
        *,
        key: Any = None,
        image_runs: npt.ArrayLike | None = None,
        media: Mapping[str, npt.NDArray[Any]] | None = None,
        root_positions: npt.ArrayLike | None = None,
        costs: Mapping[str, int] | None = None,
        role: str | None = None,
        channels: Mapping[str, float | npt.ArrayLike] | None = None,
        response_id: Any = None,
    ) -> None:
        self.key: Any = key
        self.tokens: IntArray = read_ids("tokens", tokens, ("n",), key)
        n = len(self.tokens)
        self.labels: IntArray | None = (
            None if labels is None else read_ids("labels", labels, (n,), key)
        )
        self.weight: float | npt.NDArray[np.float32] = read_weight(weight, n, key)
        self.end_target: int | None = (
            None if end_target is None else read_token("end_target", end_target, key)
        )
        self.children: tuple[MessageTree, ...] = _children(children, key)
        self.image_runs: IntArray | None = (
            None if image_runs is None else read_runs(image_runs, n, key)
        )
        self.media: dict[str, npt.NDArray[Any]] | None = (
            None if media is None else read_media(media, key)
        )
        self.root_positions: IntArray | None = (
            None
            if root_positions is None
            else read_ints("root_positions", root_positions, ("A", n), key)
        )
        self.costs: dict[str, int] | None = None if costs is None else read_costs(costs, key)
        self.role: str | None = None if role is None else read_role(role, key)
        ends = end_target is not None
        self.channels: dict[str, Channel] | None = (
            None if channels is None else read_channels(channels, n, ends, key)
        )
        self.response_id: Any = response_id

    def with_key(self, key: Any) -> MessageTree:
        """The same tree under another name; arrays are shared, and this tree is unchanged.

        Args:
            key: the new name.
        """
        tree = copy.copy(self)
        tree.key = key
        return tree

    def nodes(self) -> Iterator[tuple[MessageTree, int]]:
        """Yield every node with the index of its parent, parents before children (depth first).

        The ``i``-th node has the index ``i``, as in ``lengths``, ``parents`` and `TreeMask`.

        Yields:
            The node, and the index of its parent; -1 for the root.

        Example:
            >>> tree = MessageTree([1, 2], children=[MessageTree([3]), MessageTree([4, 5])])
            >>> [(node.tokens.tolist(), parent) for node, parent in tree.nodes()]
            [([1, 2], -1), ([3], 0), ([4, 5], 0)]
        """
        stack: list[tuple[MessageTree, int]] = [(self, -1)]
        index = 0
        while stack:
            node, parent = stack.pop()
            yield node, parent
            stack.extend((child, index) for child in reversed(node.children))
            index += 1

    @property
    def lengths(self) -> list[int]:
        """Tokens of each node, depth first."""
        return [len(node.tokens) for node, _ in self.nodes()]

    @property
    def parents(self) -> list[int]:
        """Index of each node's parent, depth first; -1 for the root."""
        return [parent for _, parent in self.nodes()]

    def branch_lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of each branch, and how many of them it shares with the branch before.

        A branch goes from below the root to a leaf. The tokens of some branches together are the
        sum of the first numbers less that of the second ones, if they stand one after the other.

        Returns:
            Two numbers for each leaf, in the order of `nodes`; none for a tree of one node.

        Example:
            >>> shared = MessageTree([3], children=[MessageTree([4, 5]), MessageTree([6])])
            >>> MessageTree([1, 2], children=[shared, MessageTree([7])]).branch_lengths()
            ([3, 2, 1], [0, 1, 0])
        """
        lengths, shared = [], []
        common = 0
        stack = [(child, 0) for child in reversed(self.children)]
        while stack:
            node, above = stack.pop()
            common = min(common, above)
            length = above + len(node.tokens)
            if not node.children:
                lengths.append(length)
                shared.append(common)
                common = length
            stack += [(child, length) for child in reversed(node.children)]
        return lengths, shared

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole tree."""
        total, stack = 0, [self]
        while stack:
            node = stack.pop()
            total += len(node.tokens)
            stack += node.children
        return total

    @property
    def cost(self) -> dict[str, int]:
        """What the tree takes of each budget, by name: ``tokens`` and everything in ``costs``."""
        return {**(self.costs or {}), "tokens": self.n_tokens}

    def __repr__(self) -> str:
        nodes = len(self.lengths)
        return f"MessageTree(key={self.key!r}, nodes={nodes}, cost={self.cost})"


def _children(value: Iterable[MessageTree] | None, key: Any) -> tuple[MessageTree, ...]:
    try:
        children = () if value is None else tuple(value)
    except TypeError as error:
        raise TreeError(
            f"{example_name(key)}: children is a {type(value).__name__}, not a list of "
            "MessageTree; a single one goes into a list: children=[child]"
        ) from error
    for child in children:
        _check_child(child, key)
    return children


def _check_child(child: Any, key: Any) -> None:
    if not isinstance(child, MessageTree):
        raise TreeError(
            f"{example_name(key)}: children must be MessageTree, got {type(child).__name__}"
        )
    given = [name for name in ROOT_ONLY if getattr(child, name) is not None]
    if given:
        raise TreeError(
            f"{example_name(key)}: {', '.join(given)} inside the tree; only its root carries them, "
            "so move them to the root (an image inside a branch cannot be packed)"
        )
