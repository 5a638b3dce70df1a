"""What a page says about a row, read from a batch, a packed row or a bare mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.errors import BatchError
from treepack.viz.picture import HUES

if TYPE_CHECKING:
    from treepack._core import TreeMask

Ints = npt.NDArray[np.int64]

PLACEHOLDERS = 6
"""Equal tokens, one after the other, that are taken for an image if nothing else tells."""


class Node(NamedTuple):
    """One node of the row.

    Attributes:
        start: first row position of its own tokens.
        end: end of its own tokens.
        subtree_end: end of its descendants' tokens.
        depth: 0 for a root.
        example: number of the tree it belongs to.
    """

    start: int
    end: int
    subtree_end: int
    depth: int
    example: int

    @property
    def colour(self) -> str:
        """The colour of its example."""
        return HUES[self.example % len(HUES)]


class Contents:
    """The nodes of a row with their names, texts and numbers.

    Args:
        what: a `PackedBatch`, a `PackedRow` or a `TreeMask`; the less it knows, the less is shown.
        tokenizer: anything with ``decode(ids) -> str``, or ``None`` for no texts.

    Raises:
        BatchError: ``what`` is none of the three.
    """

    def __init__(self, what: Any, tokenizer: Any = None) -> None:
        batch = what if isinstance(what, Mapping) else {}
        row = batch.get("treepack") if isinstance(what, Mapping) else what
        mask: Any = getattr(row, "mask", row)
        if not hasattr(mask, "key_lo"):
            raise BatchError(
                f"a picture needs a PackedBatch, a PackedRow or a TreeMask, got "
                f"{type(what).__name__}" + (" without 'treepack'" if batch else "")
            )
        self.mask: TreeMask = mask
        self.stats: Mapping[str, float] = getattr(row, "stats", {})
        self.keys: list[Any] = list(getattr(row, "keys", ()))
        self.tokenizer = tokenizer
        self.ids = _numbers(batch.get("input_ids"))
        self.nodes = list(_nodes(self.mask))
        self.leaves = _leaves(self.nodes)
        self.images = _image_tokens(self.mask, batch)
        self.trained = _trained(self.mask, _numbers(batch.get("logits_to_keep")), row)

    def name(self, example: int) -> str:
        """What the example is called."""
        key = self.keys[example] if example < len(self.keys) else None
        return f"example {example}" if key is None else str(key)

    def roots(self) -> list[Node]:
        """One node for each example."""
        return [node for node in self.nodes if node.depth == 0]

    def below(self, root: Node) -> list[Node]:
        """The other nodes of a root's tree."""
        return [n for n in self.nodes if n.example == root.example and n.depth > 0]

    def image_runs(self, node: Node) -> list[tuple[int, int]]:
        """Row positions of the image tokens among a node's own."""
        inside = self.images[node.start : node.end].astype(np.int8)
        edges = np.flatnonzero(np.diff(inside, prepend=0, append=0)) + node.start
        return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]

    def text(self, node: Node) -> list[tuple[str, bool]]:
        """The node's text in pieces, each with whether it is trained on; no image tokens."""
        if self.tokenizer is None or self.ids is None:
            return []
        places = np.arange(node.start, node.end)
        places = places[~self.images[places]]
        pieces = np.split(places, np.flatnonzero(np.diff(self.trained[places])) + 1)
        return [
            (self.tokenizer.decode(self.ids[piece].tolist()), bool(self.trained[piece[0]]))
            for piece in pieces
            if len(piece)
        ]


def _nodes(mask: TreeMask) -> Iterator[Node]:
    columns = (
        mask.node_start,
        mask.node_end,
        mask.subtree_end,
        mask.node_depth,
        mask.node_example,
    )
    for values in zip(*(column.tolist() for column in columns), strict=True):
        yield Node(*values)


def _leaves(nodes: list[Node]) -> list[Node]:
    """The nodes with which a branch ends; a tree of one node has none."""
    depths = [*(node.depth for node in nodes[1:]), 0]
    return [node for node, after in zip(nodes, depths, strict=False) if 0 < node.depth >= after]


def _numbers(tensor: Any) -> Ints | None:
    """A tensor on any device, or an array, as a flat array."""
    if tensor is None:
        return None
    array = tensor.cpu().numpy() if hasattr(tensor, "cpu") else np.asarray(tensor)
    return array.reshape(-1)


def _image_tokens(mask: TreeMask, batch: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Which row positions hold image tokens, as far as the batch or the mask's groups know."""
    flags = np.zeros(mask.total, bool)
    types = _numbers(batch.get("mm_token_type_ids"))
    ids = _numbers(batch.get("input_ids"))
    if types is not None:
        return types > 0
    if mask.bidirectional == "none" and ids is not None:
        # Nothing names the placeholders, but no text has the same token so many times.
        runs = [(a, b) for a, b in _equal_runs(ids[: mask.used]) if b - a >= PLACEHOLDERS]
    else:
        runs = list(zip(mask.run_start.tolist(), mask.run_end.tolist(), strict=True))
    for start, end in runs:
        flags[start:end] = True
    return flags


def _equal_runs(ids: Ints) -> Iterator[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
    return pairwise(edges)


def _trained(mask: TreeMask, positions: Ints | None, row: Any) -> npt.NDArray[np.bool_]:
    """Which tokens of the row are targets."""
    flags = np.zeros(mask.total + 1, bool)
    nodes = getattr(row, "target_node", None)
    if positions is None or nodes is None:
        return flags[:-1]
    starts, ends = np.array(mask.node_start)[nodes], np.array(mask.node_end)[nodes]
    # The first token of a node is predicted by another node, and what its last one predicts is an
    # end target, which is no token of the row.
    places = np.where(positions < starts, starts, positions + 1)
    flags[places[places < ends]] = True
    return flags[:-1]
