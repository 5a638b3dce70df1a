"""The examples of each virtual shard, in order, and the way back to a place in them."""

from __future__ import annotations

import copy
import inspect
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from treepack.dataset.examples import Arrival, failed
from treepack.errors import DataError, DatasetError, StateError
from treepack.sources.mixture import draw
from treepack.sources.protocol import is_map_style

EVERY = 32
"""An iterable's own state is noted each time it has given so many examples."""

LEAST = 1_000
"""Failures one after the other that any source may have."""


class Mark(NamedTuple):
    """Where an iterable stood: the number of its next example, and its own state there."""

    number: int
    state: Any

    @classmethod
    def from_json(cls, text: str) -> Mark:
        """What a feed wrote."""
        return cls(*json.loads(text)) if text else START


START = Mark(0, None)


@dataclass(frozen=True)
class Place:
    """Where a virtual shard goes on.

    Attributes:
        position: of the next example in the seeded order.
        held: positions of earlier examples that wait in the pool.
        mark: a place in an iterable from which all of these can be read.
    """

    position: int
    held: frozenset[int] = frozenset()
    mark: Mark = START


class Feed(Protocol):
    """The examples of one virtual shard, in order."""

    position: int
    """Of the next example."""

    patience: float
    """How many examples in a row may be unusable before all are."""

    def __next__(self) -> Arrival:
        """The next example; ``StopIteration`` at the end."""

    def recall(self, position: int) -> Arrival:
        """An example that was handed out before the stream was saved."""

    def mark(self, oldest: int) -> str:
        """What it takes to read again from the position ``oldest`` on; empty for an index."""


class IndexedFeed:
    """A virtual shard of a map-style source: positions shard, shard + V, shard + 2 V, ..."""

    def __init__(
        self, source: Any, order: Callable[[int], int], end: int | None, position: int, shards: int
    ) -> None:
        self.source = source
        self.order = order
        self.end = end
        self.position = position
        self.shards = shards
        self.two_phase = hasattr(source, "measure")
        self.patience = math.inf if end is not None else max(LEAST, len(source))

    def __next__(self) -> Arrival:
        if self.end is not None and self.position >= self.end:
            raise StopIteration
        position, self.position = self.position, self.position + self.shards
        index = self.order(position)
        if self.two_phase:
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

    def mark(self, oldest: int) -> str:  # noqa: ARG002
        """Nothing: an index needs no mark."""
        return ""


class Failure(NamedTuple):
    """In place of an item that could not be read: it belongs to one shard, like any other."""

    error: DataError


class Reader:
    """An iterable, item by item, with its own state noted on the way."""

    def __init__(self, source: Any, mark: Mark) -> None:
        self.source = source
        self.number = mark.number
        self.marks = deque([mark])
        self.has_state = hasattr(source, "state_dict")
        with _alone():
            if mark.state is not None:
                _go_to(source, mark.state)
            self.items = iter(source)

    def __next__(self) -> tuple[int, Any]:
        with _alone():
            if self.has_state and not self.number % EVERY and self.number > self.marks[-1].number:
                self.marks.append(Mark(self.number, copy.deepcopy(self.source.state_dict())))
            number, self.number = self.number, self.number + 1
            try:
                return number, next(self.items)
            except StopIteration:
                self.number = number
                raise
            except Exception as error:
                return number, self._failed(number, error)

    def mark_before(self, number: int) -> Mark:
        """The latest mark from which the item can be read."""
        before = [mark for mark in self.marks if mark.number <= number]
        return before[-1]

    def forget_before(self, number: int) -> None:
        """Nobody will go back further than this."""
        while len(self.marks) > 1 and self.marks[1].number <= number:
            self.marks.popleft()

    def _failed(self, number: int, error: Exception) -> Failure:
        told = failed("reading", number, error)
        if inspect.isgenerator(self.items):
            raise BrokenSourceError(
                f"{told}; a generator ends at its first error, so nothing after it can be read"
            ) from error
        failure = DataError(str(told))
        failure.__cause__ = error
        return Failure(failure)


class BrokenSourceError(DatasetError):
    """An iterable ended with an error: skipping one example would hide that the rest is gone."""


class Hub:
    """One pass over an iterable, which hands each example to the virtual shard that it belongs to.

    Args:
        source: the iterable, or one part of it.
        first: position of its item 0.
        step: between the positions of its items.
        shards: V.
        places: where each shard that reads from here goes on.
    """

    def __init__(
        self, source: Any, first: int, step: int, shards: int, places: Mapping[int, Place]
    ) -> None:
        self.first = first
        self.step = step
        self.shards = shards
        self.places = dict(places)
        self.queues: dict[int, deque[Arrival]] = {shard: deque() for shard in places}
        self.kept: dict[int, Arrival] = {}
        self.oldest = {shard: place.mark.number for shard, place in places.items()}
        start = min((place.mark for place in places.values()), key=lambda mark: mark.number)
        self.reader = Reader(source, start)

    def take(self, shard: int) -> Arrival:
        """The next example of one shard; those of the others wait in line."""
        queue = self.queues[shard]
        while not queue:
            self._read()
        return queue.popleft()

    def recall(self, position: int) -> Arrival:
        """An example from before the place where the shard goes on."""
        while position not in self.kept:
            try:
                self._read()
            except StopIteration:
                raise StateError(
                    f"the state names example {position}, but the source ended before it; "
                    "resume with the source that the state was saved with"
                ) from None
        return self.kept.pop(position)

    def mark(self, shard: int, oldest: int) -> str:
        """A mark from which the shard can be read from the position ``oldest`` on, as JSON."""
        number = (oldest - self.first) // self.step
        self.oldest[shard] = number
        self.reader.forget_before(min(self.oldest.values()))
        try:
            return json.dumps(self.reader.mark_before(number))
        except TypeError as error:
            raise StateError(f"the source's state_dict() is not JSON-safe: {error}") from error

    def _read(self) -> None:
        number, item = next(self.reader)
        position = self.first + self.step * number
        shard = position % self.shards
        if shard not in self.places:
            return
        arrival = Arrival(position, None, item)
        if position >= self.places[shard].position:
            self.queues[shard].append(arrival)
        elif position in self.places[shard].held:
            self.kept[position] = arrival


class HubFeed:
    """The view that one virtual shard has of a `Hub`."""

    patience = math.inf

    def __init__(self, hub: Hub, shard: int) -> None:
        self.hub = hub
        self.shard = shard
        self.position = hub.places[shard].position

    def __next__(self) -> Arrival:
        arrival = self.hub.take(self.shard)
        self.position = arrival.position + self.hub.shards
        if isinstance(arrival.item, Failure):
            raise arrival.item.error
        return arrival

    def recall(self, position: int) -> Arrival:
        """The example at an earlier position."""
        return self.hub.recall(position)

    def mark(self, oldest: int) -> str:
        """A mark from which the position ``oldest`` can be read again."""
        return self.hub.mark(self.shard, oldest)


def make_feeds(
    source: Any,
    places: Mapping[int, Place],
    shards: int,
    seed: int,
    shuffle: bool,
    epochs: int | None,
    start: Any = None,
) -> dict[int, Feed]:
    """One feed for each virtual shard that this worker owns, from its place on.

    ``start`` is the state of an iterable at its first example.
    """
    if is_map_style(source):

        def order(position: int) -> int:
            return draw(source, position, seed, shuffle)

        end = None if epochs is None and len(source) else len(source) * (epochs or 1)
        return {
            shard: IndexedFeed(source, order, end, place.position, shards)
            for shard, place in places.items()
        }
    if _splits(source, shards):
        hubs = {
            shard: Hub(source.shard(shards, shard), shard, shards, shards, {shard: place})
            for shard, place in places.items()
        }
    else:
        # The source itself is read, perhaps not for the first time: it has to be sent back.
        first = Mark(0, start)
        places = {
            shard: replace(place, mark=first) if place.mark == START else place
            for shard, place in places.items()
        }
        hubs = dict.fromkeys(places, Hub(source, 0, 1, shards, places))
    return {shard: HubFeed(hub, shard) for shard, hub in hubs.items()}


def _splits(source: Any, shards: int) -> bool:
    # Data sets of files cannot be cut into more parts than there are files.
    return hasattr(source, "shard") and getattr(source, "num_shards", shards) >= shards


def _go_to(source: Any, state: Any) -> None:
    if isinstance(state, Mapping) and "epoch" in state and hasattr(source, "set_epoch"):
        source.set_epoch(state["epoch"])
    source.load_state_dict(state)


@contextmanager
def _alone() -> Iterator[None]:
    """Hide that this is a worker: a source that splits itself by worker would be split twice."""
    worker = sys.modules.get("torch.utils.data._utils.worker")
    if worker is None:
        yield
        return
    info, worker._worker_info = worker._worker_info, None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        worker._worker_info = info  # type: ignore[attr-defined]
