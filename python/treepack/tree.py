"""Message trees: one visual (or text) root, one branch for each of its annotations."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import TreeError

IGNORE = -100
"""The label of a token that is not trained on."""

ROOT_ONLY = ("key", "image_runs", "media", "root_positions", "costs")

IntArray = npt.NDArray[np.int64]


class MessageTree:
    """A node of tokens and the nodes that go on from it; the root stands for the whole tree.

    A token sees its own node and that node's ancestors, so the branches of one root share it and
    are invisible to each other. Plain text is a tree of one node.

    Args:
        tokens: int ``[n]``, token ids. A root has at least one; other nodes may be empty.
        labels: int ``[n]``, not shifted: ``labels[j]`` is what token ``j`` should have been, or
            -100 for no loss. The first label of a node is predicted by the last token of its
            nearest ancestor that has tokens; a root's first label has no predictor and is ignored.
            ``None`` means no loss in this node.
        weight: loss weight of the labels, one number or float ``[n]``.
        end_target: token id that the node's last token should predict (an end-of-sequence token
            that never enters the row), or ``None``. It takes the weight of the last token.
        children: the nodes that go on from this one.
        key: name of the example in errors, packs and statistics (root only).
        image_runs: int ``[R, 3]``, rows ``(start, end, image)``: which stretches of the root's
            tokens are image tokens, and of which image (root only).
        media: arrays that the model takes beside the tokens, such as ``pixel_values`` (root only).
        root_positions: int ``[A, n]``, position ids of the root's tokens on ``A`` axes; ``None``
            counts from 0 (root only).
        costs: costs of the tree beside ``tokens``, such as ``{"crops": 12}`` (root only).

    Raises:
        TreeError: arrays of the wrong type or length, or root-only arguments inside a tree.

    Example:
        >>> import treepack as tp
        >>> answer = tp.MessageTree([7, 8], labels=[-100, 8])
        >>> tree = tp.MessageTree([1, 2, 3], children=[answer, tp.MessageTree([9], labels=[9])])
        >>> tree.n_tokens, tree.lengths, tree.parents
        (6, [3, 2, 1], [-1, 0, 0])
    """

    __slots__ = (
        "children",
        "costs",
        "end_target",
        "image_runs",
        "key",
        "labels",
        "media",
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
        children: Sequence[MessageTree] = (),
        *,
        key: Any = None,
        image_runs: npt.ArrayLike | None = None,
        media: Mapping[str, npt.NDArray[Any]] | None = None,
        root_positions: npt.ArrayLike | None = None,
        costs: Mapping[str, int] | None = None,
    ) -> None:
        self.key = key
        self.tokens = _ints("tokens", tokens, (None,), key)
        n = len(self.tokens)
        self.labels = None if labels is None else _ints("labels", labels, (n,), key)
        self.weight = _weight(weight, n, key)
        self.end_target = None if end_target is None else _token("end_target", end_target, key)
        self.children = tuple(children)
        self.image_runs = (
            None if image_runs is None else _ints("image_runs", image_runs, (None, 3), key)
        )
        self.media = None if media is None else dict(media)
        self.root_positions = (
            None
            if root_positions is None
            else _ints("root_positions", root_positions, (None, n), key)
        )
        self.costs = None if costs is None else dict(costs)
        for child in self.children:
            _check_child(child, key)

    def with_key(self, key: Any) -> MessageTree:
        """The same tree under another name; arrays are shared."""
        tree = copy.copy(self)
        tree.key = key
        return tree

    def nodes(self) -> Iterator[tuple[MessageTree, int]]:
        """Yield every node with the index of its parent, parents before children (depth first)."""
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
        """What the tree takes of each budget: ``tokens`` and everything in ``costs``."""
        return {**(self.costs or {}), "tokens": self.n_tokens}

    def __repr__(self) -> str:
        nodes = len(self.lengths)
        return f"MessageTree(key={self.key!r}, nodes={nodes}, cost={self.cost})"


def example_name(key: Any) -> str:
    """How errors name the example: ``example 'coco/17'``, or ``a tree`` when it has no key."""
    return "a tree" if key is None else f"example {key!r}"


def _ints(name: str, value: npt.ArrayLike, shape: tuple[int | None, ...], key: Any) -> IntArray:
    array = np.asarray(value)
    if array.size == 0 and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TreeError(
            f"{example_name(key)}: {name} must be integers, got {array.dtype}; convert them first"
        )
    fits = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = tuple("any" if want is None else want for want in shape)
        raise TreeError(
            f"{example_name(key)}: {name} has shape {array.shape}, expected {wanted}"
            + ("; one entry for each token" if name in ("labels", "root_positions") else "")
        )
    return array.astype(np.int64)


def _weight(value: float | npt.ArrayLike, n: int, key: Any) -> float | npt.NDArray[np.float32]:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or array.shape not in ((), (n,)):
        raise TreeError(
            f"{example_name(key)}: weight must be one number or one for each of {n} tokens, "
            f"got {array.dtype} of shape {array.shape}"
        )
    if not np.isfinite(array).all() or (array < 0).any():
        raise TreeError(f"{example_name(key)}: weight must be finite and not negative, got {array}")
    return float(array) if array.ndim == 0 else array.astype(np.float32)


def _token(name: str, value: Any, key: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise TreeError(f"{example_name(key)}: {name} must be a token id, got {value!r}")
    return int(value)


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
