"""Message trees: one visual (or text) root, one branch for each of its annotations."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import CostError, TreeError

IGNORE = -100
"""The label of a token that is not trained on."""

ROOT_ONLY = ("key", "image_runs", "media", "root_positions", "costs")

ROW_NAMES = frozenset(
    (
        "attention_mask",
        "input_ids",
        "labels",
        "logits_to_keep",
        "loss_weights",
        "position_ids",
        "targets",
        "treepack",
        "use_cache",
    )
)
"""Names that media cannot have: the row gives these to the model, or withholds them."""

MOST_FLOAT32 = float(np.finfo(np.float32).max)
MOST_INT64 = (1 << 63) - 1

IntArray = npt.NDArray[np.int64]


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

    Raises:
        TreeError: an array of the wrong type or length; an id, label, weight or image run out of
            range; a root-only argument in a child; media under a name that the row itself uses; or
            a role that is no text.
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
        "children",
        "costs",
        "end_target",
        "image_runs",
        "key",
        "labels",
        "media",
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
    ) -> None:
        self.key = key
        self.tokens = _ids("tokens", tokens, ("n",), key)
        n = len(self.tokens)
        self.labels = None if labels is None else _ids("labels", labels, (n,), key)
        self.weight = _weight(weight, n, key)
        self.end_target = None if end_target is None else _token("end_target", end_target, key)
        self.children = _children(children, key)
        self.image_runs = None if image_runs is None else _runs(image_runs, n, key)
        self.media = None if media is None else _media(media, key)
        self.root_positions = (
            None
            if root_positions is None
            else _ints("root_positions", root_positions, ("A", n), key)
        )
        self.costs = None if costs is None else _costs(costs, key)
        self.role = None if role is None else _role(role, key)

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


def example_name(key: Any) -> str:
    """How errors name the example: ``example 'coco/17'``, or ``a tree`` when it has no key."""
    return "a tree" if key is None else f"example {key!r}"


def _ids(name: str, value: npt.ArrayLike, shape: tuple[int | str], key: Any) -> IntArray:
    ids = _ints(name, value, shape, key)
    if not len(ids):
        return ids
    ignored = IGNORE if name == "labels" else 0
    # If a number below 0 is not the ignored one, neither is the least or the greatest of them.
    for place in _extreme_negatives(ids):
        seen = ids.item(place)
        if seen < 0 and seen != ignored:
            raise TreeError(
                f"{example_name(key)}: {name}[{place}] is {seen}; a token id is 0 or more"
                + (f", and a label without loss is {IGNORE}" if ignored else "")
            )
    return ids


def _extreme_negatives(ids: IntArray) -> tuple[int, int]:
    """Places of the least and of the greatest number below 0, where there are any.

    The second search reads the numbers as unsigned: those below 0 then follow all others, in their
    own order. Both take 2 us; a comparison with a mask takes 11, and trees are made in the loop
    that feeds the model.
    """
    return int(ids.argmin()), int(ids.view(np.uint64).argmax())


def _ints(name: str, value: npt.ArrayLike, shape: tuple[int | str, ...], key: Any) -> IntArray:
    array = _array(name, value, key)
    if array.size == 0 and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TreeError(
            f"{example_name(key)}: {name} must be integers, got {array.dtype}; convert them first"
        )
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise TreeError(
            f"{example_name(key)}: {name} has shape {_shape(array.shape)}, expected {_shape(shape)}"
            + ("; one entry for each token" if name in ("labels", "root_positions") else "")
        )
    if array.dtype == np.uint64 and array.size and array.max() > MOST_INT64:
        raise TreeError(
            f"{example_name(key)}: {name} holds {array.max()}, more than int64 can hold; use int64"
        )
    return array.astype(np.int64)


def _array(name: str, value: npt.ArrayLike, key: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except Exception as error:
        # Ragged lists, tensors with gradients or on a GPU: each has an error of its own.
        raise TreeError(
            f"{example_name(key)}: {name} cannot be read as an array: {error}"
        ) from error


def _shape(sizes: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _weight(value: float | npt.ArrayLike, n: int, key: Any) -> float | npt.NDArray[np.float32]:
    if type(value) is float and 0 <= value <= MOST_FLOAT32:
        return value
    array = _array("weight", value, key)
    if array.dtype.kind not in "fiu" or array.shape not in ((), (n,)):
        raise TreeError(
            f"{example_name(key)}: weight must be one number or one for each of {n} tokens, "
            f"got {array.dtype} of shape {_shape(array.shape)}"
        )
    for place in (array.argmin(), array.argmax()) if array.size else ():
        # Both find a NaN where there is one.
        seen = array.item(place)
        if not 0 <= seen <= MOST_FLOAT32:
            where = f"weight[{place}]" if array.ndim else "weight"
            raise TreeError(
                f"{example_name(key)}: {where} is {seen}; it must be finite in float32 and not "
                "negative"
            )
    return float(array) if array.ndim == 0 else array.astype(np.float32)


def _token(name: str, value: Any, key: Any) -> int:
    if not _is_integer(value) or not 0 <= value <= MOST_INT64:
        raise TreeError(f"{example_name(key)}: {name} must be a token id, got {value!r}")
    return int(value)


def _role(value: Any, key: Any) -> str:
    if not isinstance(value, str):
        raise TreeError(
            f"{example_name(key)}: role must be a text, such as 'chosen', got {value!r:.200}"
        )
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


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


def _runs(value: npt.ArrayLike, n: int, key: Any) -> IntArray | None:
    array = _array("image_runs", value, key)
    if not array.size:
        return None
    runs = _ints("image_runs", array, ("n", 3), key)
    previous = 0
    for run, (start, end, _) in enumerate(runs.tolist()):
        if not previous <= start < end <= n:
            raise TreeError(
                f"{example_name(key)}: image run {run} is [{start}, {end}); it must hold tokens of "
                f"[{previous}, {n}), after the run before it and inside the node"
            )
        previous = end
    return runs


def _media(value: Mapping[str, npt.NDArray[Any]], key: Any) -> dict[str, npt.NDArray[Any]]:
    media = _dict("media", value, key)
    for name, array in media.items():
        if name in ROW_NAMES:
            raise TreeError(
                f"{example_name(key)}: media {name!r} would take the place of the row's own "
                f"{name}; give it another name"
            )
        if not getattr(array, "ndim", 0):
            raise TreeError(
                f"{example_name(key)}: media {name!r} must be an array of one axis or more, "
                f"got {type(array).__name__}"
            )
    return media


def _costs(value: Mapping[str, int], key: Any) -> dict[str, int]:
    costs = _dict("costs", value, key)
    for name, cost in costs.items():
        if name == "tokens":
            raise CostError(
                f"{example_name(key)}: costs has 'tokens', which are counted; leave them out"
            )
        if not _is_integer(cost) or cost < 0:
            raise CostError(
                f"{example_name(key)}: cost {name!r} is {cost!r}; it must be an integer of 0 or "
                "more, so count in whole units"
            )
        costs[name] = int(cost)
    return costs


def _dict(name: str, value: Any, key: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TreeError(
            f"{example_name(key)}: {name} must be a dict by name, got {type(value).__name__}"
        )
    return dict(value)
