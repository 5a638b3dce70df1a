"""Where examples come from: one small class for each kind of source."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from treepack._core import permute
from treepack.errors import DataError, DatasetError, TreepackError
from treepack.rows import Row
from treepack.tree import MessageTree, example_name

if TYPE_CHECKING:
    from treepack.hf.families import Family


@dataclass(frozen=True, slots=True)
class Arrival:
    """An example on its way into a pool.

    Attributes:
        position: its place in the seeded order; the packer's key.
        index: what a map-style source calls it, or ``None``.
        item: what the source gave, or ``None`` as long as only its cost is known.
    """

    position: int
    index: int | None
    item: Any

    @property
    def name(self) -> Any:
        """What errors and batches call the example."""
        key = getattr(self.item, "key", None)
        if key is not None:
            return key
        return self.position if self.index is None else self.index


class Feed(Protocol):
    """The examples of one virtual shard, in order."""

    def __next__(self) -> Arrival:
        """The next example; ``StopIteration`` at the end."""


def is_map_style(source: Any) -> bool:
    """Whether a source is read by index.

    Every torch ``IterableDataset`` inherits a ``__getitem__`` that only raises, so having the
    attribute is not enough: the type must define ``__len__`` and a ``__getitem__`` of its own.
    """
    kind = type(source)
    getitem = getattr(kind, "__getitem__", None)
    inherited = getattr(getitem, "__module__", "") == "torch.utils.data.dataset"
    return hasattr(kind, "__len__") and getitem is not None and not inherited


class IndexedFeed:
    """A virtual shard of a map-style source: positions shard, shard + V, shard + 2 V, ...

    Position ``p`` of the seeded order is item ``permute(p % n)`` of epoch ``p // n``, so any
    position can be computed without the ones before it.
    """

    def __init__(
        self, source: Any, order: Callable[[int], int], end: int | None, shard: int, shards: int
    ) -> None:
        self.source = source
        self.order = order
        self.end = end
        self.position = shard
        self.shards = shards
        self.two_phase = hasattr(source, "measure")

    def __next__(self) -> Arrival:
        if self.end is not None and self.position >= self.end:
            raise StopIteration
        position, self.position = self.position, self.position + self.shards
        index = self.order(position)
        if self.two_phase:
            return Arrival(position, index, None)
        try:
            return Arrival(position, index, self.source[index])
        except Exception as error:
            raise _failed("reading", index, error) from error


class SplitFeed:
    """A virtual shard of an iterable that can be split: ``source.shard(num_shards, index)``."""

    def __init__(self, source: Any, shard: int, shards: int) -> None:
        self.items = iter(source.shard(shards, shard))
        self.position = shard
        self.shards = shards

    def __next__(self) -> Arrival:
        item = next(self.items)
        position, self.position = self.position, self.position + self.shards
        return Arrival(position, None, item)


class SharedReader:
    """One pass over an iterable that cannot be split: every worker reads all, keeps its shards."""

    def __init__(self, source: Any, owned: Sequence[int], shards: int) -> None:
        self.items = enumerate(source)
        self.shards = shards
        self.queues: dict[int, deque[Arrival]] = {shard: deque() for shard in owned}

    def take(self, shard: int) -> Arrival:
        """The next example of one shard; those of the worker's other shards wait in line."""
        queue = self.queues[shard]
        while not queue:
            position, item = next(self.items)
            if position % self.shards in self.queues:
                self.queues[position % self.shards].append(Arrival(position, None, item))
        return queue.popleft()

    def feed(self, shard: int) -> Feed:
        """The view of one shard."""
        return _SharedFeed(self, shard)


class _SharedFeed:
    def __init__(self, reader: SharedReader, shard: int) -> None:
        self.reader = reader
        self.shard = shard

    def __next__(self) -> Arrival:
        return self.reader.take(self.shard)


def make_feeds(
    source: Any, owned: Sequence[int], shards: int, seed: int, shuffle: bool, epochs: int | None
) -> dict[int, Feed]:
    """One feed for each virtual shard that this worker owns."""
    if is_map_style(source):
        n = len(source)
        if n == 0:
            return {shard: IndexedFeed(source, int, 0, shard, shards) for shard in owned}

        def order(position: int) -> int:
            epoch, place = divmod(position, n)
            return permute(place, n, seed, epoch) if shuffle else place

        end = None if epochs is None else n * epochs
        return {shard: IndexedFeed(source, order, end, shard, shards) for shard in owned}
    if hasattr(source, "shard"):
        return {shard: SplitFeed(source, shard, shards) for shard in owned}
    reader = SharedReader(source, owned, shards)
    return {shard: reader.feed(shard) for shard in owned}


class Reader:
    """Costs before selection, trees after it.

    Args:
        source: the user's source; may offer ``measure(i)`` and ``load(i)``.
        family: model family for raw rows, or ``None`` if the source yields `MessageTree`.
        budgets: names whose costs count.
        transform: applied to every tree, or ``None``.
    """

    def __init__(
        self,
        source: Any,
        family: Family | None,
        budgets: Sequence[str],
        transform: Callable[[MessageTree], MessageTree] | None,
    ) -> None:
        self.source = source
        self.family = family
        self.budgets = tuple(budgets)
        self.transform = transform

    def measure(self, arrival: Arrival) -> tuple[Arrival, dict[str, int]]:
        """The arrival, with its item made ready to wait in the pool, and its cost."""
        try:
            if arrival.item is None and arrival.index is not None:
                return arrival, dict(self.source.measure(arrival.index))
            item = self._row(arrival.item)
            if isinstance(item, MessageTree):
                self._check(item)
                cost = item.cost
            else:
                cost = dict(self._family(item).measure(item))
        except Exception as error:
            raise _failed("measuring", arrival.name, error) from error
        kept = {name: cost[name] for name in self.budgets if name in cost}
        return replace(arrival, item=item), kept

    def load(self, arrival: Arrival, cost: Mapping[str, int]) -> MessageTree:
        """The tree of a selected example; its real cost is what was measured, or an error."""
        try:
            tree = self._tree(arrival)
        except Exception as error:
            raise _failed("loading", arrival.name, error) from error
        self._check_cost(arrival, tree, cost)
        if tree.key is None:
            tree = tree.with_key(arrival.name)
        return self.transform(tree) if self.transform else tree

    def _tree(self, arrival: Arrival) -> MessageTree:
        item = arrival.item
        if item is None:
            load = getattr(self.source, "load", self.source.__getitem__)
            item = self._row(load(arrival.index))
        elif isinstance(item, MessageTree):
            return item
        tree = item if isinstance(item, MessageTree) else self._family(item).load(item)
        self._check(tree)
        return tree

    def _check(self, tree: MessageTree) -> None:
        # Alone, so that an error falls on this example and not on those it shares a row with.
        Row([tree]).mask(self.family.bidirectional if self.family else "none")

    def _check_cost(self, arrival: Arrival, tree: MessageTree, cost: Mapping[str, int]) -> None:
        real = tree.cost
        for name, measured in cost.items():
            if real.get(name, measured) != measured:
                raise DataError(
                    f"{example_name(arrival.name)} was measured with {measured} {name} and has "
                    f"{real[name]} now that it is loaded; a budget could break, so make "
                    "measure() agree with load()"
                )

    def _row(self, item: Any) -> Any:
        if isinstance(item, Mapping):
            from treepack.conversations import group_conversations

            return group_conversations([item])[0]
        return item

    def _family(self, item: Any) -> Family:
        if self.family is None:
            raise DatasetError(
                f"the source gave a {type(item).__name__}; pass processor= to turn rows into "
                "trees, or let the source give MessageTree"
            )
        return self.family


def _failed(doing: str, name: Any, error: Exception) -> TreepackError:
    if isinstance(error, TreepackError) and example_name(name) in str(error):
        return error
    kind = type(error) if isinstance(error, TreepackError) else DataError
    return kind(f"{example_name(name)}: {doing} it failed: {type(error).__name__}: {error}")


def check_source(source: Any) -> None:
    """Refuse what is no source, before a worker trips over it.

    Raises:
        DatasetError: neither indexable nor iterable, or ``measure`` without an index to give it.
    """
    if is_map_style(source):
        return
    if hasattr(source, "measure"):
        raise DatasetError(
            f"{type(source).__name__} has measure() but no __len__ and __getitem__; measuring "
            "before loading needs a source that is read by index"
        )
    if isinstance(source, Iterator):
        raise DatasetError(
            f"{type(source).__name__} is an iterator, which is used up after one pass and cannot "
            "be sent to workers; pass an object whose __iter__ starts anew"
        )
    if not hasattr(source, "__iter__"):
        raise DatasetError(
            f"{type(source).__name__} is no source: it needs __len__ and __getitem__, or __iter__"
        )
