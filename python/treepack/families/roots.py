"""Media as the language model sees them, and the root that they and the texts between them make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

MOST_MEASURED = 10_000
"""Sizes of images, or of all media of a root, whose costs are kept."""


class VisualTokens(NamedTuple):
    """An image or a video as the language model sees it.

    Attributes:
        tokens: int64 ``[n]``, placeholders of its features and the text among them.
        runs: int64 ``[R, 2]``, entries ``(start, end)``: which stretches of the tokens are image
            tokens. One for an image; one for each frame that a video shows the language model.
        cost: what it takes of the budget ``vision_cost``, in units of that.
    """

    tokens: Int64
    runs: Int64
    cost: int


class MeasuredVisual(NamedTuple):
    """An image or a video in numbers.

    Attributes:
        n_tokens: how many tokens it has.
        runs: as in `VisualTokens`.
        cost: as in `VisualTokens`.
    """

    n_tokens: int
    runs: Int64
    cost: int

    @classmethod
    def of(cls, visual: VisualTokens) -> MeasuredVisual:
        """That of a medium whose tokens are known."""
        return cls(len(visual.tokens), visual.runs, visual.cost)


class Root(NamedTuple):
    """What all conversations of an example have in common.

    Attributes:
        tokens: int64 ``[n]``.
        runs: int64 ``[R, 3]``, entries ``(start, end, image)``; a frame of a video is an image.
    """

    tokens: Int64
    runs: Int64


class MeasuredRoot(NamedTuple):
    """What a root takes.

    Attributes:
        n_tokens: how many it has.
        costs: what its media take of each budget beside tokens, in whole units by name.
        runs: as in `Root`, or without the texts between media; ``None`` if it is not known.
    """

    n_tokens: int
    costs: dict[str, int]
    runs: Int64 | None = None


class Outline(NamedTuple):
    """The lengths of an example, known before it is loaded.

    Attributes:
        costs: by name, as ``measure`` gives them.
        root: tokens of the root.
        branches: tokens of each branch, from the root to its leaf, in the order of the leaves.
        targets: tokens that are trained on.
        runs: image runs of the root, as in `MeasuredRoot`.
        shared: for each branch how many tokens it has in common with the one before; empty where
            no branch shares any.
        order: for each branch the number of its conversation; empty where they are in order.
    """

    costs: dict[str, int]
    root: int
    branches: tuple[int, ...]
    targets: int
    runs: Int64 | None
    shared: tuple[int, ...] = ()
    order: tuple[int, ...] = ()


class LoadedRoot(NamedTuple):
    """A root with the model inputs of its media.

    Attributes:
        root: tokens and image runs.
        media: arrays by the names that the model takes; empty without media.
        positions: int ``[A, n]`` on ``A`` axes; ``None`` counts from 0.
        costs: as in `MeasuredRoot`.
    """

    root: Root
    media: dict[str, Array]
    positions: Int64 | None
    costs: dict[str, int]


def lay_root(
    tokens: Int64, texts: Sequence[Sequence[int]], visuals: Sequence[VisualTokens]
) -> Root:
    """Lay texts and media behind the tokens that begin an example.

    Args:
        tokens: int64 ``[n]``, what stands first.
        texts: token ids before each of the media.
        visuals: the media.
    """
    pieces = [tokens]
    for text, visual in zip(texts, visuals, strict=True):
        pieces += [np.array(text, np.int64), visual.tokens]
    measured = list(map(MeasuredVisual.of, visuals))
    _, runs = measure_root(len(tokens), list(map(len, texts)), measured)
    return Root(np.concatenate(pieces), runs)


def measure_root(
    begun: int, texts: Sequence[int], visuals: Sequence[MeasuredVisual]
) -> tuple[int, Int64]:
    """How many tokens `lay_root` lays, and the image runs int64 ``[R, 3]`` among them.

    Args:
        begun: how many tokens stand first.
        texts: how many stand before each of the media.
        visuals: the media.
    """
    used, starts = begun, []
    for text, visual in zip(texts, visuals, strict=True):
        starts.append(used + text)
        used += text + visual.n_tokens
    counts = [len(visual.runs) for visual in visuals]
    runs = np.empty((sum(counts), 3), np.int64)
    runs[:, 2] = np.arange(len(runs))
    if visuals:
        np.concatenate([visual.runs for visual in visuals], out=runs[:, :2])
        runs[:, :2] += np.repeat(starts, counts)[:, None]
    return used, runs


def token_runs(flags: npt.NDArray[np.bool_]) -> Int64:
    """Stretches of tokens that are flagged, int64 ``[R, 3]``; each is an image of its own.

    Args:
        flags: bool ``[n]``.

    Example:
        >>> token_runs(np.array([False, True, True, False, True])).tolist()
        [[1, 3, 0], [4, 5, 1]]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    places = edges.reshape(-1, 2)
    return np.column_stack([places, np.arange(len(places))])
