"""The trees of one row, laid out depth first: what the core and the model read from them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from treepack._core import TreeMask
from treepack.errors import BatchError, TreeError
from treepack.options import Bidirectional, MaskBidirectional
from treepack.tree import IGNORE, MessageTree, example_name

SLIDING: Final = "within_image_sliding"
"""Mode of rows in which image tokens see ahead in layers with a sliding window, in no others."""

PREFIX: Final = "prefix"
WITHIN: Final = "within_image"
"""Mode of rows in which each token of a root sees all of that root."""

MODES: tuple[Bidirectional, ...] = get_args(Bidirectional)

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


class Targets(NamedTuple):
    """What a row is trained on.

    Attributes:
        position: int64 ``[L]``, row positions whose hidden state predicts a target.
        token: int64 ``[L]``, the targets.
        weight: float32 ``[L]``, their loss weights.
        counts: int64 ``[nodes]``, targets of each node of the mask.
    """

    position: Int64
    token: Int64
    weight: Float32
    counts: Int64


class RowLayout:
    """Several trees laid out in one row: flat arrays of their nodes and tokens, depth first.

    Args:
        trees: the examples, in order.
        total: length of the row with padding, in tokens; ``None`` pads nothing.

    Raises:
        BatchError: ``trees`` is not a list of trees, is empty, or has more tokens than ``total``;
            ``total`` is no integer.
    """

    def __init__(self, trees: Iterable[MessageTree], total: int | None = None) -> None:
        self.trees: list[MessageTree] = _checked(trees)
        self.nodes: list[MessageTree] = []
        self.parents: list[int] = []
        self.starts: list[int] = []
        used = 0
        for tree in self.trees:
            first = len(self.nodes)
            self.starts.append(used)
            for node, parent in tree.nodes():
                self.nodes.append(node)
                self.parents.append(parent if parent < 0 else parent + first)
                used += len(node.tokens)
        self.used = used
        self.total: int = used if total is None else _checked_total(total)
        if self.total < used:
            raise BatchError(
                f"{len(self.trees)} trees have {used} tokens, the row has room for {self.total}; "
                "raise total or put fewer trees into the row"
            )

    @property
    def keys(self) -> list[Any]:
        """Keys of the examples."""
        return [tree.key for tree in self.trees]

    @property
    def roles(self) -> tuple[str | None, ...] | None:
        """Role of each node; ``None`` if none has one."""
        roles = tuple([node.role for node in self.nodes])
        return roles if any(role is not None for role in roles) else None

    @property
    def response_ids(self) -> tuple[Any, ...] | None:
        """What each node's response is called; ``None`` if none is called anything."""
        ids = tuple([node.response_id for node in self.nodes])
        return ids if any(each is not None for each in ids) else None

    @property
    def has_images(self) -> bool:
        """Whether some tree has media, or tokens of images."""
        return any(tree.media or tree.image_runs is not None for tree in self.trees)

    def masks(self, bidirectional: Bidirectional) -> tuple[TreeMask, TreeMask | None]:
        """The mask of the row, and that of layers with a sliding window.

        The second is ``None`` where it is the same and any model may have layers that see so.
        """
        if bidirectional not in MODES:
            raise TreeError(f"bidirectional is {bidirectional!r:.200}; use one of {MODES}")
        if bidirectional == SLIDING:
            return self._mask("none"), self._mask(WITHIN)
        if bidirectional == PREFIX:
            # Not None, so that a model that knows of no prefix sees that the row has one.
            mask = self._mask(WITHIN, self._root_runs())
            return mask, mask
        return self._mask(bidirectional), None

    def _mask(self, bidirectional: MaskBidirectional, runs: Int64 | None = None) -> TreeMask:
        lengths = np.fromiter(map(_length, self.nodes), np.int64, len(self.nodes))
        runs = self._image_runs() if runs is None else runs
        return TreeMask.from_nodes(lengths, np.array(self.parents), runs, bidirectional, self.total)

    def _root_runs(self) -> Int64:
        for tree in self.trees:
            if tree.labels is not None and (tree.labels != IGNORE).any():
                raise TreeError(
                    f"{example_name(tree.key)}: its root has targets, and with "
                    f"bidirectional={PREFIX!r} they would see themselves; put the answer into a "
                    "branch"
                )
        starts = zip(self.trees, self.starts, strict=True)
        runs = [(start, start + len(tree.tokens), n) for n, (tree, start) in enumerate(starts)]
        return np.array([run for run in runs if run[1] > run[0]], np.int64).reshape(-1, 3)

    def _image_runs(self) -> Int64 | None:
        parts = []
        images = 0
        for tree, start in zip(self.trees, self.starts, strict=True):
            runs = tree.image_runs
            if runs is None or not len(runs):
                continue
            # Images are numbered within their tree; in the row each needs a number of its own.
            parts.append(runs + np.array([start, start, images - int(runs[:, 2].min())]))
            images += int(np.ptp(runs[:, 2])) + 1
        return np.concatenate(parts) if parts else None

    def input_ids(self, total: int, filler: Int64 | None = None) -> Int64:
        """Token ids int64 ``[total]``; on padding ``filler``, then 0."""
        ids = np.zeros(total, np.int64)
        np.concatenate([node.tokens for node in self.nodes], out=ids[: self.used])
        if filler is not None:
            ids[self.used : self.used + len(filler)] = filler
        return ids

    def root_positions(self) -> Int64 | None:
        """Positions of root tokens int64 ``[A, total]`` for `TreeMask.positions`, or ``None``."""
        axes = {len(t.root_positions) for t in self.trees if t.root_positions is not None}
        if not axes:
            return None
        if len(axes) > 1:
            raise BatchError(f"trees of one row have root_positions on {sorted(axes)} axes")
        positions = np.zeros((axes.pop(), self.total), np.int64)
        for tree, start in zip(self.trees, self.starts, strict=True):
            n = len(tree.tokens)
            own = tree.root_positions
            positions[:, start : start + n] = np.arange(n) if own is None else own
        return positions

    def targets(self, mask: TreeMask) -> Targets:
        """All targets of the row: node by node, token by token, a node's end target last."""
        trained = [
            i for i, n in enumerate(self.nodes) if n.labels is not None or n.end_target is not None
        ]
        nodes = [self.nodes[i] for i in trained]
        empty = np.empty(0, np.int64)
        labels = np.concatenate([empty, *map(_labels, nodes)])
        weights = np.concatenate([empty.astype(np.float32), *map(_weights, nodes)])
        ends = [IGNORE if node.end_target is None else node.end_target for node in nodes]
        end_targets = np.array(ends, np.int64)
        end_weights = np.array([_end_weight(node) for node in nodes], np.float32)
        where = np.array(trained, np.int64)
        found = mask.targets(where, labels, weights, end_targets, end_weights)
        return Targets(*found, self._counts(where, labels, end_targets))

    def _counts(self, trained: Int64, labels: Int64, end_targets: Int64) -> Int64:
        """Targets of each node: from the nodes that may have any, and all their labels in order."""
        lengths = np.fromiter((len(self.nodes[i].tokens) for i in trained), np.int64, len(trained))
        is_root = np.fromiter((self.parents[i] < 0 for i in trained), bool, len(trained))
        starts = lengths.cumsum() - lengths
        # One entry more, since empty nodes at the end start after the last label.
        is_target = np.zeros(len(labels) + 1, bool)
        np.not_equal(labels, IGNORE, out=is_target[:-1])
        # Nothing predicts the first token of a root.
        is_target[starts[is_root]] = False
        counts = np.zeros(len(self.nodes), np.int64)
        counts[trained] = np.add.reduceat(is_target, starts, dtype=np.int64) * (lengths > 0)
        counts[trained] += end_targets != IGNORE
        return counts

    def stats(
        self, mask: TreeMask, n_targets: int, budgets: Mapping[str, int] | None
    ) -> dict[str, float]:
        """Numbers for a logger: what the row holds and how full each budget is."""
        costs: dict[str, int] = {}
        for tree in self.trees:
            for name, value in tree.cost.items():
                costs[name] = costs.get(name, 0) + value
        leaves = len(self.nodes) - len({parent for parent in self.parents if parent >= 0})
        counts = {
            "examples": len(self.trees),
            "branches": leaves,
            "targets": n_targets,
            "padding": mask.total - mask.used,
            "attention_pairs": mask.area,
        }
        fill = {f"fill_{name}": costs.get(name, 0) / size for name, size in (budgets or {}).items()}
        return {
            **{name: float(value) for name, value in {**counts, **costs}.items()},
            **fill,
        }


def check_mask(tree: MessageTree, bidirectional: Bidirectional) -> None:
    """Reject a tree whose nodes or image runs no mask can express.

    Raises:
        TreeError: it says which node or run is wrong.
    """
    RowLayout([tree]).masks(bidirectional)


def _checked(trees: Iterable[MessageTree]) -> list[MessageTree]:
    try:
        trees = list(trees)
    except TypeError as error:
        raise BatchError(
            f"a row is a list of MessageTree, got a {type(trees).__name__}; a single one goes into "
            "a list: collate([tree])"
        ) from error
    for place, tree in enumerate(trees):
        if not isinstance(tree, MessageTree):
            raise BatchError(
                f"a row is a list of MessageTree, got {type(tree).__name__} at place {place}; make "
                "a MessageTree of its tokens"
            )
    if not trees:
        raise BatchError("a row needs at least one tree, got none")
    return trees


def _length(node: MessageTree) -> int:
    return len(node.tokens)


def _labels(node: MessageTree) -> Int64:
    if node.labels is not None:
        return node.labels
    return np.full(len(node.tokens), IGNORE, np.int64)


def _weights(node: MessageTree) -> Float32:
    if isinstance(node.weight, float):
        return np.full(len(node.tokens), node.weight, np.float32)
    return node.weight


def _end_weight(node: MessageTree) -> float:
    if isinstance(node.weight, float):
        return node.weight
    return float(node.weight[-1]) if len(node.weight) else 1.0


def _checked_total(total: Any) -> int:
    if isinstance(total, bool) or not hasattr(total, "__index__"):
        raise BatchError(f"total is {total!r:.200}; it counts tokens, so it must be an integer")
    return operator.index(total)
