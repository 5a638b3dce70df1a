"""The stream through a DataLoader: every example once, the same packs for any number of workers."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import treepack as tp
from torch.utils.data import DataLoader, IterableDataset

BUDGETS = {"tokens": 64, "crops": 8}


def tree_of(index, rng):
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


class Trees:
    """A map-style source."""

    def __init__(self, n=120):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return tree_of(index, np.random.default_rng(index))


class MeasuredTrees(Trees):
    """Costs without loading; the pool then holds no payload."""

    def measure(self, index):
        return tree_of(index, np.random.default_rng(index)).cost

    def load(self, index):
        return tree_of(index, np.random.default_rng(index))

    def __getitem__(self, index):
        raise AssertionError("a source with measure and load is not indexed")


class TreeStream(IterableDataset):
    """An iterable that every worker reads whole."""

    def __iter__(self):
        return iter([Trees()[i] for i in range(120)])


class ShardedStream:
    """An iterable that can be split."""

    def __init__(self, keep=slice(None)):
        self.keep = keep

    def shard(self, num_shards, index):
        return ShardedStream(slice(index, None, num_shards))

    def __iter__(self):
        return iter([Trees()[i] for i in range(120)][self.keep])


SOURCES = {
    "map-style": Trees,
    "measured": MeasuredTrees,
    "iterable": TreeStream,
    "sharded": ShardedStream,
}


@functools.cache
def packs(source, workers, start=None, rank=0, world=1, virtual_shards=None, **options):
    """Keys of the packs, in the order of the loader."""
    dataset = tp.PackedDataset(
        SOURCES[source](),
        budgets=BUDGETS,
        pool_size=6,
        shard=(rank, world),
        virtual_shards=virtual_shards,
        **options,
    )
    context = start if workers else None
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    rows = []
    for batch in loader:
        keys = batch["treepack"].keys
        drawn = [int(key.split()[1]) for key in keys]
        pixels = [i for i in drawn for _ in range(Trees()[i].costs["crops"])]
        assert batch["input_ids"].shape[1] == sum(Trees()[i].n_tokens for i in drawn)
        assert batch.get("pixels", np.empty((0, 3)))[:, 0].tolist() == pixels
        rows.append(tuple(keys))
    return rows


def keys_of(rows):
    return sorted(key for row in rows for key in row)


EVERYTHING = sorted(f"example {i}" for i in range(120))


@pytest.mark.parametrize("source", SOURCES)
def test_one_process_delivers_everything_once(source):
    assert keys_of(packs(source, 0)) == EVERYTHING


@pytest.mark.parametrize(
    ("source", "workers", "start"),
    [
        ("map-style", 1, "fork"),
        ("map-style", 2, "fork"),
        ("map-style", 1, "spawn"),
        ("map-style", 2, "spawn"),
        ("measured", 2, "fork"),
        ("iterable", 2, "fork"),
        ("sharded", 2, "fork"),
    ],
)
def test_workers_deliver_everything_once_and_the_same_packs(source, workers, start):
    assert keys_of(packs(source, workers, start)) == EVERYTHING
    one = packs(source, 0, virtual_shards=4)
    several = packs(source, workers, start, virtual_shards=4)
    assert sorted(one) == sorted(several)
    if workers == 1:
        assert one == several
    # Until the first shard ends, packs come in the same order too.
    ends = len(one) // 2
    assert one[:ends] == several[:ends]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_packs_of_one_process(world):
    one = packs("map-style", 0, virtual_shards=4)
    ranks = [
        packs("map-style", 0, rank=rank, world=world, virtual_shards=4) for rank in range(world)
    ]
    assert sorted(itertools.chain(*ranks)) == sorted(one)
    taken = [ranks[n % world][n // world] for n in range(len(one) // 2)]
    assert taken == one[: len(taken)]


def test_the_seed_fixes_the_order_and_epochs_differ():
    assert packs("map-style", 0, seed=5) == packs.__wrapped__("map-style", 0, seed=5)
    assert packs("map-style", 0, seed=5) != packs("map-style", 0, seed=6)
    twice = packs("map-style", 0, epochs=2)
    assert keys_of(twice) == sorted(EVERYTHING * 2)
    first = [key for row in twice for key in row][:100]
    assert first != [key for row in twice for key in row][120:220]


def test_without_shuffle_the_source_keeps_its_order():
    dataset = tp.PackedDataset(Trees(9), budgets={"tokens": 10_000}, pool_size=20, shuffle=False)
    assert [b["treepack"].keys for b in dataset] == [[f"example {i}" for i in range(9)]]


def test_iterating_twice_gives_the_same_stream():
    dataset = tp.PackedDataset(Trees(30), budgets=BUDGETS, pool_size=6)
    first = [batch["treepack"].keys for batch in dataset]
    assert first == [batch["treepack"].keys for batch in dataset]


def test_an_endless_stream_goes_on():
    dataset = tp.PackedDataset(Trees(10), budgets=BUDGETS, pool_size=6, epochs=None)
    stream = iter(dataset)
    seen = [key for _ in range(30) for key in next(stream)["treepack"].keys]
    assert len(seen) > 40
    assert set(seen) == {f"example {i}" for i in range(10)}


def test_an_empty_source_gives_nothing():
    assert list(tp.PackedDataset(Trees(0), budgets=BUDGETS)) == []
