"""Several iterations of one dataset: who resumes from a state, who starts over, who cannot know."""

from __future__ import annotations

import itertools

import pytest
import treepack as tp
from helpers.simulated.interrupts import files_of, interrupted
from helpers.tree_sources import BUDGETS, Trees, WholeSavedStream, dataset, tree_of
from torch.utils.data import DataLoader
from treepack import errors
from treepack.train import steps

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def make():
    return dataset(n=40, virtual_shards=2)


def keys_of(rows):
    return [row["treepack"].keys for row in rows]


def loader_of(stream, workers=1, **options):
    return DataLoader(stream, batch_size=None, num_workers=workers, **options)


def loaded(n):
    """A dataset that goes on after ``n`` packs."""
    first = make()
    list(itertools.islice(first, n))
    stream = make()
    stream.load_state_dict(first.state_dict())
    return stream


WHOLE = keys_of(make())


def test_an_interrupt_at_any_line_loses_and_repeats_nothing():
    files = files_of("iterator", "virtual_shard", "readers", "iterables")

    def small(source):
        return tp.PackedDataset(source(14), budgets=BUDGETS, pool_size=3, virtual_shards=2)

    for source in (Trees, WholeSavedStream):
        whole, line = keys_of(small(source)), 0
        while True:
            line += 3
            stream, rows = small(source), []
            if not interrupted(iter(stream), rows, files, line):
                break
            other = small(source)
            other.load_state_dict(stream.state_dict())
            assert keys_of(rows) + keys_of(other) == whole, line
            assert keys_of(rows) + keys_of(stream._progress._iterator) == whole, line
        assert line > 300


def test_a_later_iteration_with_more_workers_starts_over():
    stream = loaded(6)
    assert keys_of(loader_of(stream, 1)) == WHOLE[6:]
    assert sorted(keys_of(loader_of(stream, 2))) == sorted(WHOLE)


def test_workers_that_live_on_do_not_hide_behind_an_iteration_of_this_process():
    stream, state = make(), loaded(6).state_dict()
    loader = loader_of(stream, persistent_workers=True)
    assert keys_of(loader) == keys_of(stream) == WHOLE
    stream.load_state_dict(state)
    with pytest.raises(errors.StateError, match="new DataLoader"):
        list(loader)


def test_fresh_workers_that_live_on_are_found_out_when_a_batch_is_consumed():
    stream, state = make(), loaded(6).state_dict()
    loader = loader_of(stream, multiprocessing_context="forkserver", persistent_workers=True)
    assert keys_of(loader) == WHOLE
    stream.load_state_dict(state)
    with pytest.raises(errors.StateError, match="new DataLoader"):
        stream.consumed(next(iter(loader)))


def test_workers_that_live_on_may_start_over_after_a_reset():
    stream = make()
    loader = loader_of(stream, persistent_workers=True)
    assert keys_of(loader) == WHOLE
    stream.reset()
    assert keys_of(loader) == WHOLE


def consume(stream, rows):
    for row in rows:
        stream.consumed(row)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_after_the_end_of_an_epoch_comes_a_whole_one(workers):
    stream = loaded(len(WHOLE))
    loader = loader_of(stream, workers)
    assert keys_of(loader) == []
    consume(stream, itertools.islice(loader, 4))
    rest = make()
    rest.load_state_dict(stream.state_dict())
    assert keys_of(rest) == WHOLE[4:]


def test_a_look_at_a_batch_takes_the_state_with_it():
    stream = loaded(6)
    loader = loader_of(stream)
    assert next(iter(loader))["treepack"].keys == WHOLE[6]
    taken = [
        pack["treepack"].keys for packs, _ in itertools.islice(_steps(loader), 3) for pack in packs
    ]
    assert taken == WHOLE[:3]
    rest = make()
    rest.load_state_dict(stream.state_dict())
    assert keys_of(rest) == WHOLE[3:]


def _steps(loader):
    return steps(_Weighted(loader))


class _Weighted:
    """Moves batches somewhere on their way, and begins when it is first asked for one."""

    def __init__(self, loader):
        self.loader = loader
        self.dataset = loader.dataset

    def __iter__(self):
        for batch in self.loader:
            batch["loss_weights"] = batch["loss_weights"] + 1.0
            yield batch


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_begins_late_goes_on_from_the_state(workers):
    stream = loaded(6)
    stepping = _steps(loader_of(stream, workers))
    taken = [pack["treepack"].keys for packs, _ in itertools.islice(stepping, 3) for pack in packs]
    assert taken == WHOLE[6:9]
    rest = make()
    rest.load_state_dict(stream.state_dict())
    assert keys_of(rest) == WHOLE[9:]


class Stopped(WholeSavedStream):
    """Someone presses Ctrl-C while the source goes back to its place."""

    stops = False

    def load_state_dict(self, state):
        if Stopped.stops:
            Stopped.stops = False
            raise KeyboardInterrupt
        super().load_state_dict(state)


def test_a_state_outlives_an_interrupted_start():
    def begin():
        return tp.PackedDataset(Stopped(60), budgets=BUDGETS, pool_size=4)

    first = begin()
    rows = list(itertools.islice(first, 5))
    stream = begin()
    stream.load_state_dict(first.state_dict())
    Stopped.stops = True
    with pytest.raises(KeyboardInterrupt):
        iter(stream)
    assert stream.state_dict() == first.state_dict()
    assert keys_of(rows) + keys_of(stream) == keys_of(begin())


class Plot(list):
    """A source with a method ``draw`` that has nothing to do with order."""

    def draw(self, canvas):
        raise AssertionError(canvas)


def test_a_source_may_have_a_method_called_draw():
    stream = tp.PackedDataset(Plot(map(tree_of, range(30))), budgets=BUDGETS, pool_size=4)
    assert len({key for keys in keys_of(stream) for key in keys}) == 30
