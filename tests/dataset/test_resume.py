"""Stopping anywhere and going on from the state changes nothing.

``TREEPACK_CASES=10`` or more runs every number of workers under every start method, in full.
"""

from __future__ import annotations

import itertools
import json

import pytest
import torch
import treepack as tp
from helpers.cases import FACTOR
from helpers.tree_sources import BUDGETS, RESUMABLE, SavedStream, Trees, dataset, names
from torch.utils.data import DataLoader
from treepack import errors
from treepack.testing import check_exactly_once, check_resume_everywhere

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
FULL = FACTOR >= 10
STARTS = ("fork", "forkserver", "spawn")


@pytest.mark.parametrize("source", RESUMABLE)
def test_at_every_step_in_one_process(source):
    resumes = check_resume_everywhere(dataset(source, 120, virtual_shards=3))
    assert resumes > 35


def test_at_every_step_of_two_hundred_packs():
    assert check_resume_everywhere(dataset("map-style", 900, pool_size=12), horizon=9) > 200


@pytest.mark.parametrize(
    ("workers", "start"),
    list(itertools.product((1, 2, 4), STARTS)) if FULL else [(1, "fork"), (2, "fork"), (4, "fork")],
)
@pytest.mark.parametrize("source", ["map-style", "whole"])
@pytest.mark.timeout(7200 if FULL else 300)
# torch's own: one in many spawned workers aborts while it ends, whatever the data set.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_at_every_step_with_workers(source, workers, start):
    n, every = (740, 1) if FULL else (90, 5)
    stream = dataset(source, n, virtual_shards=4)
    resumes = check_resume_everywhere(
        stream, num_workers=workers, context=start, every=every, horizon=12 if FULL else None
    )
    assert resumes > (200 if FULL else 4)


def test_with_spawned_workers():
    stream, after = (dataset(n=40, virtual_shards=2) for _ in range(2))
    first = read(stream, 5, workers=1, start="spawn")
    after.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    rest = read(after, workers=1, start="spawn")
    assert first + rest == read(dataset(n=40, virtual_shards=2))


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 4), (4, 1)])
@pytest.mark.parametrize("source", RESUMABLE)
def test_the_number_of_workers_may_change(source, before, after):
    stream = dataset(source, n=90, virtual_shards=4)
    check_resume_everywhere(stream, num_workers=before, resume_workers=after, every=7)


def read(stream, n=None, workers=0, start=None):
    """Keys of the next packs, marked as consumed."""
    keys = []
    loader = DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=start)
    for batch in itertools.islice(loader, n):
        stream.consumed(batch)
        keys.append(batch["treepack"].keys)
    return keys


@pytest.mark.parametrize(("ranks", "then"), [(1, 2), (2, 1), (2, 4), (4, 2)])
@pytest.mark.parametrize(("workers", "then_workers"), [(0, 0), (3, 2)])
def test_the_number_of_ranks_may_change(ranks, then, workers, then_workers):
    def at(rank, world):
        return dataset(n=240, virtual_shards=24, shard=(rank, world), pool_size=3)

    whole = read(at(0, 1))
    before, first = [at(rank, ranks) for rank in range(ranks)], []
    for steps in zip(*(read(stream, 24 // ranks + 2, workers) for stream in before), strict=True):
        first += steps
    state = json.loads(json.dumps(tp.state.merge([stream.state_dict() for stream in before])))
    after = [at(rank, then) for rank in range(then)]
    for stream in after:
        stream.load_state_dict(state)
    rest = [read(stream, None, then_workers) for stream in after]
    taken = first + [keys for step in itertools.zip_longest(*rest) for keys in step if keys]
    assert sorted(taken) == sorted(whole)
    # As long as no shard has ended, the packs come in the order of one process.
    assert taken[: len(first) + 24] == whole[: len(first) + 24]


@pytest.mark.parametrize("source", ["map-style", "saved"])
def test_an_endless_or_long_stream_resumes_far_from_its_start(source):
    n = 10 if source == "map-style" else 400
    stream = dataset(source, n, virtual_shards=2, epochs=None if source == "map-style" else 1)
    check_resume_everywhere(stream, steps=60, every=7, horizon=9)


def test_the_state_is_valid_before_the_first_and_after_the_last():
    stream = dataset()
    empty = dataset()
    empty.load_state_dict(stream.state_dict())
    everything = read(empty)
    assert everything == read(stream)
    done = dataset()
    done.load_state_dict(stream.state_dict())
    assert read(done) == []
    # One iteration uses the state up; the next is a new one.
    assert read(done) == everything


def test_a_second_iteration_is_told_from_the_first():
    stream = dataset(virtual_shards=2)
    torch.manual_seed(0)
    read(stream, 2, workers=2)
    torch.manual_seed(0)
    rest = read(stream, 2, workers=2)
    other = dataset(virtual_shards=2)
    other.load_state_dict(stream.state_dict())
    assert rest + read(other) == read(dataset(virtual_shards=2))


@pytest.mark.parametrize("start", ["fork", "forkserver"])
@pytest.mark.parametrize("persistent", [False, True])
def test_after_a_resumed_iteration_the_next_one_is_whole(start, persistent):
    stream = dataset(n=40, virtual_shards=2)
    whole = [batch["treepack"].keys for batch in dataset(n=40, virtual_shards=2)]
    first = iter(stream)
    for _ in range(4):
        next(first)
    state, stream = stream.state_dict(), dataset(n=40, virtual_shards=2)
    stream.load_state_dict(state)
    # Nobody says what is consumed, as in a loop that saves nothing more.
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=2,
        multiprocessing_context=start,
        persistent_workers=persistent,
    )
    iterations = []
    for _ in range(3):
        # Loaders draw a seed for their workers; that of every iteration may be the same.
        torch.manual_seed(0)
        iterations.append([batch["treepack"].keys for batch in loader])
    assert iterations == [whole[4:], whole, whole]


def test_the_state_travels_with_the_batch():
    stream = iter(dataset(virtual_shards=2))
    batches = list(itertools.islice(stream, 9))
    other = dataset()
    other.load_state_dict(json.loads(json.dumps(batches[4]["treepack"].state)))
    assert next(iter(other))["treepack"].keys == batches[5]["treepack"].keys
    assert other.virtual_shards is None


def test_workers_without_consumed_batches_are_an_error():
    stream = dataset(virtual_shards=2)
    loader = iter(DataLoader(stream, batch_size=None, num_workers=2))
    next(loader)
    with pytest.raises(errors.StateError, match=r"dataset.consumed\(batch\)"):
        stream.state_dict()


def test_a_state_is_small():
    stream = dataset(n=2000, pool_size=48, virtual_shards=3, epochs=None)
    batch = list(itertools.islice(stream, 60))[-1]
    # Positions as large as those of a long run.
    text = json.dumps(batch["treepack"].state).replace(" ", "")
    keys = sum(len(shard[6]) for shard in batch["treepack"].state["shards"])
    assert keys > 100
    assert len(text) + 9 * 2 * keys <= 3 * (1024 + 64 * 48)


class Failing(Trees):
    """Every seventh example cannot be loaded, every eleventh not measured."""

    def measure(self, index):
        return {}["cost"] if index % 11 == 3 else super().__getitem__(index).cost

    def load(self, index):
        return {}["pixels"] if index % 7 == 3 else super().__getitem__(index)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_between_errors(on_error):
    def make():
        return tp.PackedDataset(
            Failing(), budgets=BUDGETS, pool_size=6, on_error=on_error, virtual_shards=2
        )

    def follow(stream, states):
        events = []
        while True:
            states.append(json.dumps(owner.state_dict()))
            try:
                events.append(next(stream)["treepack"].keys)
            except StopIteration:
                return events
            except errors.TreepackError as error:
                events.append(str(error))

    owner, states = make(), []
    events = follow(iter(owner), states)
    bad = {i for i in range(120) if i % 11 == 3 or i % 7 == 3}
    keys = [key for event in events if isinstance(event, list) for key in event]
    assert sorted(keys) == sorted(set(names(120)) - {f"example {i}" for i in bad})
    assert sum(isinstance(event, str) for event in events) == (len(bad) * (on_error == "raise"))
    for n, state in enumerate(states[:: 1 if FULL else 3]):
        owner = make()
        owner.load_state_dict(json.loads(state))
        assert follow(iter(owner), []) == events[n * (1 if FULL else 3) :]


class Drifting(Trees):
    """Measures wrongly: every fifth example costs three tokens more once it is loaded."""

    def measure(self, index):
        cost = super().__getitem__(index).cost
        return {**cost, "tokens": cost["tokens"] + (3 if index % 5 else -1)}

    load = Trees.__getitem__


def test_wrong_costs_are_requeued_within_the_budget():
    stream = tp.PackedDataset(
        Drifting(), budgets=BUDGETS, pool_size=6, on_cost_mismatch="requeue", virtual_shards=2
    )
    check_exactly_once(stream, names(120))
    check_resume_everywhere(stream)


MISMATCHES = [
    ({"seed": 1}, "seed was 0 and is 1"),
    ({"n": 121}, "source was '120 examples' and is '121 examples'"),
    ({"pool_size": 7}, "pool_size=6.*pool_size=7"),
    ({"shuffle": False}, "shuffle was True and is False"),
    ({"virtual_shards": 4}, "2 virtual shards and the dataset 4"),
    ({"shard": (1, 2)}, r"merge"),
]


@pytest.mark.parametrize(("options", "says"), MISMATCHES)
def test_the_state_of_another_stream_is_rejected(options, says):
    stream = dataset(virtual_shards=2, shard=(0, 2) if "shard" in options else None)
    next(iter(stream))
    with pytest.raises(errors.StateError, match=says):
        dataset(**options).load_state_dict(stream.state_dict())


DAMAGES = [
    lambda state: None,
    lambda state: {},
    lambda state: {**state, "version": 99},
    lambda state: {**state, "shards": [[1, 2]]},
    lambda state: {**state, "shards": state["shards"] * 2},
    lambda state: {**state, "virtual_shards": 0},
    lambda state: {**state, "scope": [1, 1, 0]},
    lambda state: {name: state[name] for name in state if name != "scope"},
    lambda state: {**state, "shards": [[*s[:6], s[6][1:], *s[7:]] for s in state["shards"]]},
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_rejected(damage):
    stream = dataset()
    next(iter(stream))
    with pytest.raises(errors.StateError):
        dataset().load_state_dict(damage(stream.state_dict()))


def test_one_worker_s_state_is_not_that_of_all():
    (batch, *_) = DataLoader(dataset(virtual_shards=2), batch_size=None, num_workers=2)
    other = dataset(virtual_shards=2)
    other.load_state_dict(batch["treepack"].state)
    with pytest.raises(errors.StateError, match="worker 0 of 2 alone"):
        next(iter(other))


def test_ranks_that_are_missing_are_told():
    states = []
    for rank in range(3):
        stream = dataset(virtual_shards=3, shard=(rank, 3))
        next(iter(stream))
        states.append(stream.state_dict())
    with pytest.raises(errors.StateError, match="2 of 3 ranks"):
        tp.state.merge(states[:2])
    with pytest.raises(errors.StateError, match="no states"):
        tp.state.merge([])


class Unready(SavedStream):
    """Has no state before it is read."""

    def state_dict(self):
        raise RuntimeError("not started")


def test_a_source_without_a_state_at_its_start_is_rejected():
    stream = tp.PackedDataset(Unready(), budgets=BUDGETS)
    with pytest.raises(errors.StateError, match="failed before its first item: not started"):
        stream.state_dict()


@pytest.mark.parametrize("source", ["iterable", "sharded"])
def test_an_iterable_that_cannot_go_back_is_rejected(source):
    stream = dataset(source)
    assert next(iter(stream))["treepack"].state is None
    for act in (stream.state_dict, lambda: stream.load_state_dict({})):
        with pytest.raises(errors.StateError, match="without state_dict and load_state_dict"):
            act()
