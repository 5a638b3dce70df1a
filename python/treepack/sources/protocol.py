"""What a source of examples is: what `PackedDataset` asks of it, and what it may offer.

A source is read in one of two ways:

====================  ================================  ========================================
                      by index (map-style)              in its own order (iterable)
====================  ================================  ========================================
it has                ``__len__``, ``__getitem__``      ``__iter__``
protocol              `Source`                          `IterableSource`
order                 shuffled by treepack, or that     its own
                      of an `OrderedSource`
resumes               by number                         through its own ``state_dict``, if any
costs before loading  ``measure`` (`MeasuredSource`)    no
====================  ================================  ========================================

An example is a `MessageTree`, or, where the dataset has a processor, a record or `Conversations`.

What treepack relies on and cannot check: the same index gives the same example each time, in every
process; and where workers are spawned, the source can be pickled. That ``measure`` says what an
example costs is checked when the example is loaded. An error that a source raises belongs to one
example: the stream names it, and can go on after it.

A short source with costs known before anything is loaded:

    >>> import treepack as tp
    >>> class Texts:
    ...     texts = ["one", "three", "seventeen"]
    ...
    ...     def __len__(self):
    ...         return len(self.texts)
    ...
    ...     def __getitem__(self, index):
    ...         return tp.MessageTree(list(self.texts[index].encode()), key=self.texts[index])
    ...
    ...     def measure(self, index):
    ...         return {"tokens": len(self.texts[index])}
    >>> is_map_style(Texts()), Texts().measure(1)
    (True, {'tokens': 5})
    >>> load_example(Texts(), 1)
    MessageTree(key='three', nodes=1, cost={'tokens': 5})
"""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from treepack._core import permute
from treepack.errors import DatasetError


class Source(Protocol):
    """Examples by number: a list, a ``datasets.Dataset``, a torch ``Dataset``."""

    def __len__(self) -> int:
        """How many examples there are; it may not change while the source is read."""

    def __getitem__(self, index: int) -> Any:
        """The example with a number.

        Args:
            index: a number, ``0 <= index < len(source)``.
        """


class MeasuredSource(Source, Protocol):
    """A source that knows what an example costs before it is loaded.

    Examples then wait in the pool as numbers, and are loaded when a pack has selected them.
    """

    def measure(self, index: int) -> Mapping[str, int]:
        """The cost of an example, without loading it.

        Args:
            index: a number, ``0 <= index < len(source)``.

        Returns:
            Integers of 0 or more by name, each in the unit of its budget. Every budget must be
            among them; other names are ignored.
        """

    def load(self, index: int) -> Any:
        """The example, which costs what `measure` said; optional, in place of ``source[index]``.

        Args:
            index: a number, ``0 <= index < len(source)``.
        """


class OrderedSource(ABC):
    """A map-style source that decides itself which example is at each position of the stream.

    `treepack.Mixture` is one. It is a base class and not a protocol, so that a method that happens
    to be called ``draw`` means nothing.
    """

    @abstractmethod
    def draw(self, position: int, seed: int = 0, shuffle: bool = True) -> int:
        """The index of the example at a position of the stream.

        It may depend on nothing but its arguments and what ``repr`` says, since every process
        computes it for itself and resuming replays nothing.

        Args:
            position: from 0 on, without end; epoch after epoch.
            seed: of the order, in ``[0, 2**64)``.
            shuffle: whether the dataset wants the examples shuffled.
        """

    @abstractmethod
    def __repr__(self) -> str:
        """Everything that the order depends on; a state fits only sources with the same text."""


class IterableSource(Protocol):
    """Examples in an order of their own, each iteration from the start.

    It may have, and treepack finds by name:

    - ``state_dict()`` and ``load_state_dict(state)``: where it stands, JSON-safe; valid before the
      first item and after each. Without the pair the stream cannot be resumed.
    - ``shard(num_shards, index)``: one of ``num_shards`` parts as a source of its own. Without it
      every worker reads everything and keeps what belongs to its virtual shards.
    - ``num_shards``: the most parts that ``shard`` can make; with fewer than virtual shards, it is
      not called.

    It must not take a share by itself, by worker or by rank; to sources that ask torch's
    ``get_worker_info()``, treepack answers ``None``.
    """

    def __iter__(self) -> Iterator[Any]:
        """A new iteration, from the start or from the state loaded last."""


def is_map_style(source: Any) -> bool:
    """Whether a source is read by index.

    Every torch ``IterableDataset`` inherits a ``__getitem__`` that only raises, so having the
    attribute is not enough: the type must define ``__len__`` and a ``__getitem__`` of its own.
    """
    kind = type(source)
    getitem = getattr(kind, "__getitem__", None)
    inherited = getattr(getitem, "__module__", "") == "torch.utils.data.dataset"
    return hasattr(kind, "__len__") and getitem is not None and not inherited


def load_example(source: Any, index: int | None) -> Any:
    """What a map-style source has at an index, by its ``load`` if it can ``measure`` without."""
    load = getattr(source, "load", None) if hasattr(source, "measure") else None
    return source[index] if load is None else load(index)


def draw(source: Any, position: int, seed: int, shuffle: bool) -> int:
    """The index of the example at a position of a map-style source's stream.

    Position ``p`` of a source of ``n`` examples is item ``permute(p % n)`` of epoch ``p // n``, a
    keyed permutation for each epoch; an `OrderedSource` says it itself.

    Args:
        source: map-style, not empty.
        position: from 0 on, without end.
        seed: of the order.
        shuffle: whether the examples are shuffled.

    Example:
        >>> [draw("abcd", position, seed=0, shuffle=False) for position in range(6)]
        [0, 1, 2, 3, 0, 1]
    """
    if isinstance(source, OrderedSource):
        return source.draw(position, seed, shuffle)
    return draw_evenly(source, position, seed, shuffle)


def draw_evenly(source: Any, position: int, seed: int, shuffle: bool) -> int:
    """The same for a source that has no order of its own."""
    n = len(source)
    epoch, place = divmod(position, n)
    return permute(place, n, seed, epoch) if shuffle else place


def check_source(source: Any) -> None:
    """Reject what is no source, before a worker trips over it.

    Raises:
        DatasetError: neither indexable nor iterable, or ``measure`` without an index to give it; a
            path, a table or a dict, which are indexable and hold no example under a number.
    """
    name = type(source).__name__
    if isinstance(source, (str, bytes, os.PathLike)):
        raise DatasetError(
            f"the source is a path, {str(source)[:200]!r}; pass treepack.group_conversations(path)"
        )
    if hasattr(source, "iloc"):
        raise DatasetError(
            f"the source is a {name}, which is indexed by columns; write it with "
            "frame.to_parquet(path) and pass treepack.group_conversations(path)"
        )
    if isinstance(source, Mapping) and 0 not in source:
        raise DatasetError(
            f"the source is a {name} with the names {[*map(str, source)][:9]}; pass one of its "
            "values, such as a split, or treepack.group_conversations([record, ...])"
        )
    if is_map_style(source):
        return
    if hasattr(source, "measure"):
        raise DatasetError(
            f"{type(source).__name__} has measure() but no __len__ and __getitem__; measuring "
            "before loading needs a source that is read by index"
        )
    if isinstance(source, Iterator):
        raise DatasetError(
            f"{type(source).__name__} is an iterator, which is used up after one iteration and "
            "cannot be sent to workers; pass an object whose __iter__ starts anew"
        )
    if not hasattr(source, "__iter__"):
        raise DatasetError(
            f"{type(source).__name__} is no source: it needs __len__ and __getitem__, or __iter__"
        )


def find_start(source: Any) -> tuple[str | None, Any]:
    """Whether the stream of a source can be resumed, and what its first example needs.

    Returns:
        Why it cannot be resumed, or ``None``; and the state of an iterable at its start, which
        sends it back there when it is read a second time.
    """
    if is_map_style(source):
        return None, None
    reason = _why_no_state(source)
    if reason is not None:
        return reason, None
    kind = type(source).__name__
    try:
        start = copy.deepcopy(source.state_dict())
    except Exception as error:
        return f"state_dict() of {kind} failed before its first item: {error}", None
    if not _is_json(start):
        return (
            f"state_dict() of {kind} is not JSON-safe: {str(start)[:80]}; it may hold dicts with "
            "strings as keys, lists, strings, Python's own numbers, booleans and None",
            None,
        )
    return None, start


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return value is None or isinstance(value, (str, int, float))


def _why_no_state(source: Any) -> str | None:
    kind = type(source).__name__
    if not (hasattr(source, "state_dict") and hasattr(source, "load_state_dict")):
        return (
            f"{kind} is an iterable without state_dict and load_state_dict, so its place cannot be "
            "saved; give it the pair, or __len__ and __getitem__"
        )
    if any("BufferShuffled" in type(stage).__name__ for stage in _stages(source)):
        return (
            f"{kind} shuffles in a buffer, whose examples are lost when it resumes; shuffle "
            "beforehand, or use a data set that is read by index and let treepack shuffle"
        )
    return None


def _stages(source: Any) -> Iterator[Any]:
    """The steps of a Hugging Face IterableDataset, from the last to the first."""
    stages = [getattr(source, "_ex_iterable", None)]
    while stages:
        stage = stages.pop()
        if stage is not None:
            yield stage
            stages += [getattr(stage, "ex_iterable", None), *getattr(stage, "ex_iterables", ())]
