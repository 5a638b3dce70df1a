"""Sources of small trees, one for each way in which a stream can read them."""

from __future__ import annotations

import functools

import numpy as np
import treepack as tp
from torch.utils.data import IterableDataset

BUDGETS = {"tokens": 64, "crops": 8}


@functools.cache
def tree_of(index):
    """An example that depends on its index alone; as nothing modifies it, it is made only once."""
    rng = np.random.default_rng(index)
    branches = [
        tp.MessageTree(rng.integers(1, 99, n), labels=rng.integers(1, 99, n))
        for n in rng.integers(1, 6, rng.integers(0, 4))
    ]
    crops = int(rng.integers(0, 5))
    return tp.MessageTree(
        rng.integers(1, 99, rng.integers(1, 20)),
        children=branches,
        key=f"example {index}",
        costs={"crops": crops},
        media={"pixels": np.full((crops, 3), index, np.float32)},
    )


def names(n):
    return [f"example {i}" for i in range(n)]


class Trees:
    """A map-style source."""

    def __init__(self, n=120):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return tree_of(index)


class MeasuredTrees(Trees):
    """Costs without loading; the pool then holds no payload."""

    def measure(self, index):
        return tree_of(index).cost

    def load(self, index):
        return tree_of(index)

    def __getitem__(self, index):
        raise AssertionError("a source with measure and load is not indexed")


class TreeStream(IterableDataset):
    """An iterable that every worker reads whole; it cannot go back."""

    def __init__(self, n=120):
        self.n = n

    def __iter__(self):
        return map(tree_of, range(self.n))


class ShardedStream:
    """An iterable that can be split, but cannot go back."""

    def __init__(self, n=120, first=0, step=1):
        self.n, self.first, self.step = n, first, step

    def shard(self, num_shards, index):
        return type(self)(self.n, self.first + self.step * index, self.step * num_shards)

    def __iter__(self):
        return map(tree_of, range(self.first, self.n, self.step))


class SavedStream(ShardedStream):
    """An iterable that can be split and saves its place."""

    def __init__(self, n=120, first=0, step=1):
        super().__init__(n, first, step)
        self.next = first

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]

    def __iter__(self):
        start, self.next = self.next, self.first
        for index in range(start, self.n, self.step):
            self.next = index + self.step
            yield tree_of(index)


class SavedItems:
    """An iterable of whatever it is given, that saves its place and cannot be split."""

    def __init__(self, items):
        self.items, self.next = items, 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]

    def __iter__(self):
        start, self.next = self.next, 0
        for index in range(start, len(self.items)):
            self.next = index + 1
            yield self.items[index]


class WholeSavedStream(SavedStream):
    """One that cannot be split: every worker reads all of it."""

    shard = property()


RESUMABLE = {
    "map-style": Trees,
    "measured": MeasuredTrees,
    "saved": SavedStream,
    "whole": WholeSavedStream,
}


def dataset(source="map-style", n=120, **options):
    settings = {"budgets": BUDGETS, "pool_size": 6, **options}
    kind = {**RESUMABLE, "iterable": TreeStream, "sharded": ShardedStream}[source]
    return tp.PackedDataset(kind(n), **settings)


class Chained(IterableDataset):
    """Several streams, one after the other; each item with the place of its stream."""

    def __init__(self, streams):
        self.streams = streams

    def __iter__(self):
        for place, stream in enumerate(self.streams):
            for item in stream:
                yield place, item
