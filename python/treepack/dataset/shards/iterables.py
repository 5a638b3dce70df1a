"""Iterables, read once for several virtual shards, with bookmarks to go back to.

An iterable cannot be asked for its item number n. At most it can be sent back to a state of its
own. So its state is noted every `BOOKMARK_EVERY` items, and to go on from an item, the iterable is
sent to the latest bookmark before that item and read from there.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from treepack.dataset._torch_internals import hidden_worker_info
from treepack.dataset.shards.examples import Arrival, failed
from treepack.dataset.state import ShardState
from treepack.errors import DataError, DatasetError, StateError

BOOKMARK_EVERY = 32
"""Items between two bookmarks: a resume reads at most so many again to reach an item."""


@dataclass(frozen=True)
class Bookmark:
    """Where an iterable stood: the number of its next item, and its own state there.

    A state of ``None`` is the start, where an iterable is without being sent.
    """

    number: int
    state: Any
    START: ClassVar[Bookmark]

    def to_json(self) -> str:
        """The text that a state of the stream keeps.

        Raises:
            StateError: the source's own state is not JSON-safe.
        """
        try:
            return json.dumps([self.number, self.state])
        except TypeError as error:
            raise StateError(f"the source's state_dict() is not JSON-safe: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Bookmark:
        """What `to_json` wrote; the start for an empty text."""
        return cls(*json.loads(text)) if text else cls.START


Bookmark.START = Bookmark(0, None)


@dataclass(frozen=True)
class ResumePoint:
    """Where a virtual shard goes on.

    Attributes:
        position: of its next example in the seeded order.
        held: positions of earlier examples that wait in the pool.
        bookmark: a place in an iterable from which all of these can be read.
    """

    position: int
    held: frozenset[int] = frozenset()
    bookmark: Bookmark = Bookmark.START

    @classmethod
    def of(cls, shard: int, state: ShardState | None) -> ResumePoint:
        """That of a saved shard, or the beginning of one that has no state."""
        if state is None:
            return cls(shard)
        return cls(state.position, state.held, Bookmark.from_json(state.bookmark))


class Unreadable(NamedTuple):
    """Stands for an item that could not be read; like any other it belongs to one shard."""

    error: DataError


class BrokenSourceError(DatasetError):
    """An iterable ended with an error: skipping one example would hide that the rest is gone."""


class BookmarkedIterable:
    """An iterable, item by item, with its own state noted on the way.

    Args:
        source: the iterable; sent back if the bookmark holds a state.
        bookmark: where to begin.
    """

    def __init__(self, source: Any, bookmark: Bookmark) -> None:
        self.source = source
        # Of the next item.
        self.number: int = bookmark.number
        # Those that a shard may still go back to, oldest first.
        self.bookmarks: deque[Bookmark] = deque([bookmark])
        self.has_state: bool = hasattr(source, "state_dict")
        with hidden_worker_info():
            if bookmark.state is not None:
                _send_back(source, bookmark.state)
            self.items: Any = iter(source)

    def __next__(self) -> tuple[int, Any]:
        """The number of the next item, and the item or an `Unreadable`."""
        with hidden_worker_info():
            self._note()
            number, self.number = self.number, self.number + 1
            try:
                return number, next(self.items)
            except StopIteration:
                self.number = number
                raise
            except Exception as error:
                return number, self._unreadable(number, error)

    def bookmark_before(self, number: int) -> Bookmark:
        """The latest bookmark from which the item with a number can be read."""
        return [mark for mark in self.bookmarks if mark.number <= number][-1]

    def forget_before(self, number: int) -> None:
        """Drop the bookmarks that are not needed for this item or later ones."""
        while len(self.bookmarks) > 1 and self.bookmarks[1].number <= number:
            self.bookmarks.popleft()

    def _note(self) -> None:
        is_due = not self.number % BOOKMARK_EVERY and self.number > self.bookmarks[-1].number
        if self.has_state and is_due:
            state = copy.deepcopy(self.source.state_dict())
            self.bookmarks.append(Bookmark(self.number, state))

    def _unreadable(self, number: int, error: Exception) -> Unreadable:
        told = failed("reading", number, error)
        if inspect.isgenerator(self.items):
            raise BrokenSourceError(
                f"{told}; a generator ends at its first error, so nothing after it can be read"
            ) from error
        failure = DataError(str(told))
        failure.__cause__ = error
        return Unreadable(failure)


class Splitter:
    """One iteration over an iterable that hands each example to its virtual shard.

    Args:
        source: the iterable, or one part of it.
        first: position of its item 0 in the seeded order.
        step: distance between the positions of two items in succession.
        shards: V.
        points: where each shard that reads from here goes on.
    """

    def __init__(
        self, source: Any, first: int, step: int, shards: int, points: Mapping[int, ResumePoint]
    ) -> None:
        self.first = first
        self.step = step
        self.shards = shards
        self.points: dict[int, ResumePoint] = dict(points)
        # Items that were read for each shard and not taken yet.
        self.queues: dict[int, deque[Arrival]] = {shard: deque() for shard in points}
        # By position: items that a shard held when it was saved, until it asks for them.
        self.recalled: dict[int, Arrival] = {}
        # The number of the first item that each shard may go back to.
        self.oldest: dict[int, int] = {
            shard: point.bookmark.number for shard, point in points.items()
        }
        start = min((point.bookmark for point in points.values()), key=lambda mark: mark.number)
        self.items: BookmarkedIterable = BookmarkedIterable(source, start)

    def take(self, shard: int) -> Arrival:
        """The next example of one shard; those of the others wait in their queues."""
        queue = self.queues[shard]
        while not queue:
            self._read()
        return queue.popleft()

    def recall(self, position: int) -> Arrival:
        """An example that its shard read before it was saved, and still holds.

        Raises:
            StateError: the source ends before it.
        """
        while position not in self.recalled:
            try:
                self._read()
            except StopIteration:
                raise StateError(
                    f"the state names example {position}, but the source ended before it; "
                    "resume with the source that the state was saved with"
                ) from None
        return self.recalled.pop(position)

    def bookmark(self, shard: int, oldest: int) -> str:
        """A bookmark from which the shard can be read from position ``oldest`` on, as JSON."""
        number = (oldest - self.first) // self.step
        self.oldest[shard] = number
        self.items.forget_before(min(self.oldest.values()))
        return self.items.bookmark_before(number).to_json()

    def _read(self) -> None:
        number, item = next(self.items)
        position = self.first + self.step * number
        shard = position % self.shards
        if shard not in self.points:
            return
        arrival = Arrival(position, None, item)
        if position >= self.points[shard].position:
            self.queues[shard].append(arrival)
        elif position in self.points[shard].held:
            self.recalled[position] = arrival


class IterableReader:
    """The examples of one virtual shard out of a `Splitter`: a ``Reader``.

    Args:
        splitter: of the iterable.
        shard: number of the virtual shard.
    """

    patience: float = math.inf

    def __init__(self, splitter: Splitter, shard: int) -> None:
        self.splitter = splitter
        self.shard = shard
        self.position: int = splitter.points[shard].position

    def __next__(self) -> Arrival:
        arrival = self.splitter.take(self.shard)
        self.position = arrival.position + self.splitter.shards
        if isinstance(arrival.item, Unreadable):
            raise arrival.item.error
        return arrival

    def recall(self, position: int) -> Arrival:
        """The example at an earlier position."""
        return self.splitter.recall(position)

    def bookmark(self, oldest: int) -> str:
        """A bookmark from which position ``oldest`` can be read again."""
        return self.splitter.bookmark(self.shard, oldest)


def _send_back(source: Any, state: Any) -> None:
    if isinstance(state, Mapping) and "epoch" in state and hasattr(source, "set_epoch"):
        source.set_epoch(state["epoch"])
    source.load_state_dict(state)
