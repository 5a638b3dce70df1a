"""Readers: the examples of each virtual shard, in order, and the way back to a place in them.

A `VirtualShard` asks its `Reader` for one example at a time. Which reader it has depends on the
source::

    by index     IndexedReader     position -> draw(position) -> source[index]
    packs=       the same          position -> draw(position) -> the examples of a pack
    iterable     IterableReader    a queue of one shard, filled by a Splitter that all shards share,
                                   which reads a BookmarkedIterable (iterables.py)

To resume, each shard says where it goes on, its `ResumePoint`: by index that is a number; an
iterable is sent back to the latest `Bookmark` before the oldest example that is still needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from treepack.dataset._settings import Settings
from treepack.dataset.shards.examples import Arrival, failed
from treepack.dataset.shards.iterables import Bookmark, IterableReader, ResumePoint, Splitter
from treepack.errors import DataError
from treepack.sources.protocol import OrderedSource, draw_evenly, is_map_style

PATIENCE = 1_000
"""Unusable examples in succession that an endless source may have, however short it is."""


class Reader(Protocol):
    """The examples of one virtual shard, in order."""

    @property
    def position(self) -> int:
        """Of the next example, in the seeded order."""

    @property
    def patience(self) -> float:
        """How many examples in succession may be unusable before the stream ends with an error."""

    def __next__(self) -> Arrival:
        """The next example; ``StopIteration`` at the end.

        Raises:
            DataError: it cannot be read; the next call goes on with the one after it.
            BrokenSourceError: nothing more can be read.
        """

    def recall(self, position: int) -> Arrival:
        """An example that was handed out before the stream was saved.

        Raises:
            StateError: the source ends before it.
        """

    def bookmark(self, oldest: int) -> str:
        """What has to be saved to read again from position ``oldest`` on; empty by index."""


class IndexedReader:
    """A virtual shard of a map-style source: positions shard, shard + V, shard + 2 V, ...

    Args:
        source: map-style.
        order: the index of the example at a position.
        end: positions of the whole stream, or ``None`` if it never ends.
        position: of the next example.
        step: V.
    """

    def __init__(
        self, source: Any, order: Callable[[int], int], end: int | None, position: int, step: int
    ) -> None:
        self.source = source
        self.order = order
        self.end = end
        self.position: int = position
        self.step = step
        self.measures: bool = hasattr(source, "measure")
        self.patience: float = patience_of(source, end)

    def __next__(self) -> Arrival:
        if self.end is not None and self.position >= self.end:
            raise StopIteration
        position, self.position = self.position, self.position + self.step
        index = self.order(position)
        if self.measures:
            return Arrival(position, index, None)
        try:
            item = self.source[index]
        except Exception as error:
            raise failed("reading", index, error) from error
        if item is None:
            raise DataError(f"example {index}: the source gave None")
        return Arrival(position, index, item)

    def recall(self, position: int) -> Arrival:
        """The example at an earlier position."""
        # Read again when a pack needs it, like an example that was measured without loading.
        return Arrival(position, self.order(position), None)

    def bookmark(self, oldest: int) -> str:  # noqa: ARG002
        """Nothing: an index needs no bookmark."""
        return ""


def patience_of(source: Any, end: int | None) -> float:
    """How many examples of a map-style source may be unusable in succession, before ``end``."""
    return math.inf if end is not None else max(PATIENCE, len(source))


def make_readers(
    settings: Settings, points: Mapping[int, ResumePoint], virtual_shards: int
) -> Mapping[int, Reader]:
    """One reader for each virtual shard that this worker owns.

    Args:
        settings: of the dataset; its source, order and epochs count here.
        points: where each of the shards goes on, by number.
        virtual_shards: V.
    """
    source = settings.source
    if is_map_style(source):
        return _by_index(settings, points, virtual_shards)
    if _can_split(source, virtual_shards):
        splitters = {
            shard: Splitter(
                source.shard(virtual_shards, shard),
                shard,
                virtual_shards,
                virtual_shards,
                {shard: point},
            )
            for shard, point in points.items()
        }
    else:
        # The source itself is read, perhaps not for the first time: it has to be sent back.
        first = Bookmark(0, settings.source_start)
        points = {
            shard: point if point.bookmark != Bookmark.START else replace(point, bookmark=first)
            for shard, point in points.items()
        }
        splitters = dict.fromkeys(points, Splitter(source, 0, 1, virtual_shards, points))
    return {shard: IterableReader(splitter, shard) for shard, splitter in splitters.items()}


def _by_index(
    settings: Settings, points: Mapping[int, ResumePoint], virtual_shards: int
) -> dict[int, IndexedReader]:
    packs, seed = settings.packs, settings.seed
    # Packs that were made before are read by number as examples are.
    source = settings.source if packs is None else packs
    epochs, skipped = settings.epochs, settings.epoch * len(source)
    # Asked for each example: an abstract class is slow to ask for its instances.
    chosen = source.draw if isinstance(source, OrderedSource) else partial(draw_evenly, source)

    def drawn(position: int) -> int:
        return chosen(position + skipped, seed, settings.shuffle)

    end = None if epochs is None and len(source) else len(source) * (epochs or 1)
    return {
        shard: IndexedReader(source, drawn, end, point.position, virtual_shards)
        for shard, point in points.items()
    }


def _can_split(source: Any, shards: int) -> bool:
    # Data sets of files cannot be cut into more parts than there are files.
    return hasattr(source, "shard") and getattr(source, "num_shards", shards) >= shards
