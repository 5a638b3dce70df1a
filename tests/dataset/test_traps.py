"""What tempts a stream to lose or repeat an example: interrupts, copies, sources with habits."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
import treepack as tp
from helpers.tree_sources import BUDGETS, Trees, WholeSavedStream, dataset, names, tree_of
from torch.utils.data import DataLoader
from treepack import errors
from treepack.testing import check_exactly_once, check_resume_everywhere

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def keys_of(rows):
    return [row["treepack"].keys for row in rows]


def packed(source, **options):
    return tp.PackedDataset(source, budgets=BUDGETS, pool_size=6, **options)


class Interrupting(Trees):
    """Someone presses Ctrl-C while an example is read, measured, loaded or transformed."""

    at = None

    def __init__(self, where, n=40):
        super().__init__(n)
        self.where = where
        if where in ("measure", "load"):
            self.measure = self._measure

    def _check(self, where, index):
        if where == self.where and index == type(self).at:
            type(self).at = None
            raise KeyboardInterrupt

    def _measure(self, index):
        self._check("measure", index)
        return tree_of(index).cost

    def load(self, index):
        self._check("load", index)
        return tree_of(index)

    def __getitem__(self, index):
        self._check("read", index)
        return tree_of(index)

    def transform(self, tree):
        self._check("transform", int(tree.key.split()[1]))
        return tree


@pytest.mark.parametrize("where", ["read", "measure", "load", "transform"])
@pytest.mark.parametrize("shards", [1, 3])
def test_an_interrupt_loses_nothing(where, shards):
    def make():
        source = Interrupting(where)
        return packed(source, virtual_shards=shards, transform=source.transform)

    whole = keys_of(make())
    for at in range(0, 40, 7):
        stream = make()
        rows, reader = [], iter(stream)
        Interrupting.at = at
        with pytest.raises(KeyboardInterrupt):
            rows.extend(reader)
        state = json.loads(json.dumps(stream.state_dict()))
        # The stream itself goes on, and so does another from its state.
        other = make()
        other.load_state_dict(state)
        assert keys_of(rows) + keys_of(other) == whole
        assert keys_of(rows) + keys_of(reader) == whole


def test_a_state_that_cannot_reach_the_workers_is_an_error():
    stream = dataset(n=60, virtual_shards=2)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    state = keys_of(loader) and dataset(n=60, virtual_shards=2).state_dict()
    stream.load_state_dict(state)
    with pytest.raises(errors.StateError, match=r"persistent_workers=True.*new DataLoader"):
        next(iter(loader))


def test_a_copy_has_workers_of_its_own():
    stream = dataset(n=60, virtual_shards=2)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    whole = keys_of(loader)
    for other in (copy.copy(stream), copy.deepcopy(stream)):
        other.reset()
        assert keys_of(other) == keys_of(dataset(n=60, virtual_shards=2))
    assert keys_of(loader) == whole


class Stumbling(WholeSavedStream):
    """Its iterator raises for some items and goes on."""

    BAD = (1, 5, 40, 41)

    def __iter__(self):
        return Steps(self)


class Steps:
    def __init__(self, source):
        self.source = source

    def __iter__(self):
        return self

    def __next__(self):
        if self.source.next >= self.source.n:
            raise StopIteration
        index, self.source.next = self.source.next, self.source.next + 1
        if index in Stumbling.BAD:
            raise OSError("unreadable")
        return tree_of(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_item_that_cannot_be_read_counts_in_its_own_shard_once(workers):
    stream = packed(Stumbling(), virtual_shards=2, on_error="skip")
    good = [name for i, name in enumerate(names(120)) if i not in Stumbling.BAD]
    check_exactly_once(stream, good, workers)
    check_resume_everywhere(stream, num_workers=workers, every=1 if not workers else 5)
    list(stream)
    skipped = {shard[0]: shard[4] for shard in stream.state_dict()["shards"]}
    assert skipped == {0: 1, 1: 3}


class Unsaved(WholeSavedStream):
    def __init__(self, state):
        super().__init__()
        self.state = state

    def state_dict(self):
        return self.state


@pytest.mark.parametrize("state", [{"i": np.int64(3)}, {0: 5}, {"a": [object()]}])
def test_a_source_whose_state_is_no_json_cannot_be_resumed_and_loses_nothing(state):
    stream = packed(Unsaved(state), on_error="skip")
    assert sorted(key for keys in keys_of(stream) for key in keys) == sorted(names(120))
    with pytest.raises(errors.StateError, match="not JSON-safe"):
        stream.state_dict()


class NumpyCosts(Trees):
    def measure(self, index):
        return {name: np.int64(cost) for name, cost in tree_of(index).cost.items()}

    def load(self, index):
        return {}["pixels"] if index == 3 else tree_of(index)


def test_costs_may_be_numbers_of_numpy():
    stream = iter(packed(NumpyCosts(), shuffle=False, packer={"early": True}))
    with pytest.raises(errors.DataError, match="pixels"):
        list(stream)
    assert json.loads(json.dumps(stream.state_dict())) == stream.state_dict()


class Shapes(Trees):
    """Pixels of two shapes, which do not fit into one row."""

    def __getitem__(self, index):
        media = {"pixels": np.ones((1, 3 if index == 7 else 2))}
        return tp.MessageTree([1, 2], key=index, costs={"crops": 1}, media=media)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_row_that_does_not_fit_together_is_counted_for_good(shards):
    def make():
        return packed(Shapes(40), virtual_shards=shards, on_error="skip")

    stream = make()
    states = [batch["treepack"].state for batch in stream]
    final = stream.state_dict()
    assert sum(shard[4] for shard in final["shards"]) > 0
    check_exactly_once(make())
    for state in states:
        other = make()
        other.load_state_dict(state)
        list(other)
        assert other.state_dict()["shards"] == final["shards"]


class Archive(Trees):
    """Its own ``load`` has nothing to do with examples."""

    def load(self, path):
        raise AssertionError(path)


def test_load_is_asked_only_of_sources_that_measure():
    assert check_resume_everywhere(packed(Archive(40)), every=3) > 3


def test_an_iterable_is_read_by_one_at_a_time():
    stream = dataset("saved", virtual_shards=1)
    first = iter(stream)
    next(first)
    assert keys_of(stream) == keys_of(dataset("saved", virtual_shards=1))
    with pytest.raises(errors.DatasetError, match="one at a time"):
        next(first)
    indexed = dataset(virtual_shards=1)
    first, second = iter(indexed), iter(indexed)
    assert keys_of(first) == keys_of(second)


def test_a_collate_of_the_family_that_fails_is_an_error_of_the_row():
    class Family:
        name, costs, bidirectional = "broken", ("tokens", "crops"), "none"
        measure = load = None

        def position_ids(self, positions):
            return positions

        def collate(self, trees, total):
            raise StopIteration

    stream = packed(Trees(9), family=Family())
    with pytest.raises(errors.BatchError, match=r"StopIteration.*example"):
        next(iter(stream))


def test_one_rank_that_has_not_moved_can_be_merged_with_one_that_has():
    def at(rank):
        stream = dataset(n=90, virtual_shards=4, shard=(rank, 2))
        stream.load_state_dict(whole)
        return stream

    one = dataset(n=90, virtual_shards=4)
    next(iter(one))
    whole = one.state_dict()
    moved, rested = at(1), at(0)
    rows = list(itertools.islice(moved, 3))
    states = [moved.state_dict(), rested.state_dict()]
    assert tp.state.merge(states) == tp.state.merge(states[::-1])
    rest = dataset(n=90, virtual_shards=4)
    rest.load_state_dict(tp.state.merge(states))
    first = next(iter(dataset(n=90, virtual_shards=4)))["treepack"].keys
    taken = [key for keys in [first, *keys_of(rows), *keys_of(rest)] for key in keys]
    assert sorted(taken) == sorted(names(90))


def test_a_state_stays_small_with_many_sources():
    sources = {f"source number {i}": [tree_of(i)] for i in range(80)}
    stream = packed(tp.Mixture(sources, dict.fromkeys(sources, 1)))
    assert len(json.dumps(stream.state_dict())) < 1024
    other = packed(tp.Mixture(sources, {**dict.fromkeys(sources, 1), "source number 79": 2}))
    with pytest.raises(errors.StateError, match="another stream"):
        other.load_state_dict(stream.state_dict())
