"""What a page says about a row, read from a batch, a packed row or a bare mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.errors import BatchError
from treepack.viz.colours import HUES

if TYPE_CHECKING:
    from treepack._core import TreeMask

Ints = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint8]

MEDIA = {1: "image", 2: "video", 3: "audio", 4: "image or video"}
"""Kinds of tokens that are no text, the first three numbered as in ``mm_token_type_ids``."""

PLACEHOLDERS = 6
"""Equal tokens of a root, one after the other, that make a guess of its image tokens."""


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
    def hue(self) -> int:
        """The number of its example's colour."""
        return self.example % len(HUES)


class Contents:
    """The nodes of a row with their names, texts and numbers.

    Args:
        what: a `PackedBatch`, a `PackedRow` or a `TreeMask`; the less it knows, the less is shown.
        tokenizer: anything with ``decode(ids) -> str``, or ``None`` for no texts.

    Attributes:
        branches: how many each example has, by its number.
        media: uint8 ``[total]``, 0 where a row position holds text, else as in `MEDIA`.
        is_guess: whether ``media`` is a guess from tokens that repeat.

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
        self.tokenizer: Any = tokenizer
        self.ids: Ints | None = _numbers(batch.get("input_ids"))
        self.nodes: list[Node] = list(_nodes(self.mask))
        self.leaves: list[Node] = _leaves(self.nodes)
        self.branches: Counter[int] = Counter(leaf.example for leaf in self.leaves)
        self.tags: list[str] = _tags(row, len(self.nodes))
        self.media: Kinds
        self.is_guess: bool
        self.media, self.is_guess = _media(self.mask, batch, row, tokenizer)
        self.trained: npt.NDArray[np.bool_] = _trained(
            self.mask, _numbers(batch.get("logits_to_keep")), row
        )
        self.sees_ahead: str = _seeing_ahead(row)
        self._trees: list[list[int]] = [[] for _ in range(self.mask.n_examples)]
        for number, node in enumerate(self.nodes):
            self._trees[node.example].append(number)
        self._texts: dict[Node, list[tuple[str, bool]]] = {}

    def name(self, example: int) -> str:
        """What the example is called."""
        key = self.keys[example] if example < len(self.keys) else None
        return f"example {example}" if key is None else str(key)

    def roots(self) -> list[Node]:
        """One node for each example."""
        return [node for node in self.nodes if node.depth == 0]

    def below(self, root: Node) -> list[tuple[Node, str]]:
        """The other nodes of a root's tree, each with what it is to a loss."""
        return [(self.nodes[i], self.tags[i]) for i in self._trees[root.example][1:]]

    def media_runs(self, node: Node) -> list[tuple[int, int]]:
        """Row positions of the image tokens, and the like, among a node's own."""
        inside = (self.media[node.start : node.end] > 0).astype(np.int8)
        edges = np.flatnonzero(np.diff(inside, prepend=0, append=0)) + node.start
        return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]

    def media_counts(self, node: Node) -> dict[str, int]:
        """How many of a node's own tokens are of each kind of media, without text."""
        counts = np.bincount(self.media[node.start : node.end], minlength=1)
        return {MEDIA.get(i, "media"): int(n) for i, n in enumerate(counts) if i and n}

    def media_name(self) -> str:
        """What the tokens of the row that are no text stand for."""
        return " and ".join(MEDIA.get(int(i), "media") for i in np.unique(self.media) if i)

    def text(self, node: Node) -> list[tuple[str, bool]]:
        """The node's text in pieces, each with whether it is trained on; no image tokens."""
        if self.tokenizer is None or self.ids is None:
            return []
        if node not in self._texts:
            self._texts[node] = self._decoded(self.tokenizer, self.ids, node)
        return self._texts[node]

    def _decoded(self, tokenizer: Any, ids: Ints, node: Node) -> list[tuple[str, bool]]:
        places = np.arange(node.start, node.end)
        places = places[self.media[places] == 0]
        if not len(places):
            return []
        pieces = np.split(places, np.flatnonzero(np.diff(self.trained[places])) + 1)
        texts = [str(tokenizer.decode(ids[piece].tolist())) for piece in pieces]
        # Some tokenizers leave out the space with which a text begins.
        if len(texts) > 1 and "".join(texts) != tokenizer.decode(ids[places].tolist()):
            texts = [f"{text} " for text in texts]
        trained = (bool(self.trained[piece[0]]) for piece in pieces)
        return list(zip(texts, trained, strict=True))


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


def _tags(row: Any, n: int) -> list[str]:
    """Role and name of the response of each node, where it has any."""
    known = [getattr(row, name, None) or [None] * n for name in ("roles", "response_ids")]
    return [
        # By default a response is called by its number, of which a reader has nothing.
        ", ".join(str(each) for each in both if not (each is None or isinstance(each, int)))
        for both in zip(*known, strict=True)
    ]


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


def _media(
    mask: TreeMask, batch: Mapping[str, Any], row: Any, tokenizer: Any
) -> tuple[Kinds, bool]:
    """What each row position holds, from the best that is known, and whether it is a guess."""
    types = _numbers(batch.get("mm_token_type_ids"))
    if types is not None:
        return types.astype(np.uint8), False
    kinds = np.zeros(mask.total, np.uint8)
    mode = getattr(row, "bidirectional", None)
    if row is not mask and mode is None:
        # The row has neither media nor image tokens.
        return kinds, False
    groups = getattr(row, "sliding_mask", None) or mask
    if groups.bidirectional != "none" and mode != "prefix":
        for start, end in zip(groups.run_start.tolist(), groups.run_end.tolist(), strict=True):
            kinds[start:end] = 1
        return kinds, False
    ids = _numbers(batch.get("input_ids"))
    if ids is None:
        return kinds, False
    is_root = _of_roots(mask)
    named = _placeholders(tokenizer)
    for kind, token in named.items():
        kinds[is_root & (ids == token)] = kind
    if named:
        return kinds, False
    guess = _most_repeated(np.where(is_root, ids, -1), tokenizer)
    kinds[is_root & (ids == guess)] = _kind_of(batch)
    return kinds, bool(kinds.any())


def _kind_of(batch: Mapping[str, Any]) -> int:
    """Of which kind all media are, from the names of the model's inputs."""
    pixels = [name for name in batch if name.startswith("pixel_values")]
    videos = sum("video" in name for name in pixels)
    return 1 if not videos else 2 if videos == len(pixels) else 4


def _of_roots(mask: TreeMask) -> npt.NDArray[np.bool_]:
    """Which row positions belong to a root."""
    edges = np.zeros(mask.total + 1, np.int8)
    at_top = np.asarray(mask.node_depth) == 0
    np.add.at(edges, mask.node_start[at_top], 1)
    np.add.at(edges, mask.node_end[at_top], -1)
    return edges.cumsum()[:-1] > 0


def _placeholders(tokenizer: Any) -> dict[int, int]:
    """Ids of the tokens that stand for media, where a tokenizer or processor names them."""
    names = [(kind, MEDIA[kind]) for kind in (1, 2, 3)]
    found = {kind: getattr(tokenizer, f"{name}_token_id", None) for kind, name in names}
    return {kind: token for kind, token in found.items() if isinstance(token, int)}


def _most_repeated(ids: Ints, tokenizer: Any) -> int:
    """The token that stands most often in long runs of equal ones; -1 if there is none.

    Text repeats tokens too, such as spaces, but no token as often as an image does; and where the
    tokenizer knows its special tokens, a placeholder is one of them.
    """
    special = getattr(tokenizer, "added_tokens_decoder", None) or None
    counts: dict[int, int] = {}
    for start, end in _equal_runs(ids):
        token = int(ids[start])
        if end - start >= PLACEHOLDERS and token >= 0 and (special is None or token in special):
            counts[token] = counts.get(token, 0) + end - start
    return max(counts, key=lambda token: counts[token], default=-1)


def _equal_runs(ids: Ints) -> Iterator[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
    return pairwise(edges)


def _seeing_ahead(row: Any) -> str:
    """Which tokens of the row see later ones."""
    mode = getattr(row, "bidirectional", None)
    if mode is None:
        return "tokens"
    return "tokens of a prompt" if mode == "prefix" else "image tokens"


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
