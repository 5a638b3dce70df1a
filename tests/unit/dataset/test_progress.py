"""How far a stream has come, from the states of the batches that were consumed."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
from helpers.cases import cases
from helpers.simulated.workers import batches
from helpers.tree_sources import dataset
from treepack.dataset.progress import Consumed
from treepack.errors import StateError
from treepack.testing import assert_batches_equal

CASES = [
    (shards, workers)
    for shards in (1, 2, 6)
    for workers in (0, 1, 2, 3)
    if not shards % max(workers, 1)
]


def stream(shards, n=50, **options):
    return dataset(n=n, virtual_shards=shards, **options)


def states_of(shards, workers, **options):
    made = stream(shards, **options)
    rows = list(batches(made, workers))
    return made.state_dict(), [row["treepack"].state for row in rows], rows


@pytest.mark.parametrize(("shards", "workers"), CASES)
def test_what_was_counted_comes_again_at_no_resume_and_everything_else_does(shards, workers):
    start, states, rows = states_of(shards, workers)
    consumed = Consumed(start, (0, 1))
    for n, state in enumerate([None, *states]):
        if state is not None:
            consumed.add(state)
        saved = json.loads(json.dumps(consumed.state()))
        if n % 3 and n < len(states) - 2:
            continue
        rest = list(batches(stream(shards), workers, saved))
        assert len(rest) == len(rows) - n
        for one, other in zip(rest, rows[n:], strict=True):
            assert_batches_equal(one, other)


@pytest.mark.parametrize(("shards", "workers"), CASES)
def test_a_batch_that_is_counted_again_changes_nothing(shards, workers):
    start, states, _ = states_of(shards, workers)
    consumed = Consumed(start, (0, 1))
    for n, state in enumerate(states):
        consumed.add(state)
        before = copy.deepcopy(consumed.state())
        for again in states[max(0, n - 4) : n + 1]:
            consumed.add(again)
            assert consumed.state() == before


def test_a_worker_that_begins_anew_makes_the_others_begin_anew():
    start, states, _ = states_of(2, 2)
    again = [{**state, "iteration": [8, 0]} for state in states]
    one, other = Consumed(start, (0, 1)), Consumed(start, (0, 1))
    for state in states[:5]:
        one.add(state)
    for state in again[:3]:
        one.add(state)
        other.add(state)
        assert one.state() == other.state()


def test_workers_of_another_number_begin_anew():
    start, two, _ = states_of(6, 2)
    _, three, _ = states_of(6, 3)
    one, other = Consumed(start, (0, 1)), Consumed(start, (0, 1))
    for state in two[:5]:
        one.add(state)
    one.add(three[0])
    other.add(three[0])
    assert one.state() == other.state()


def test_nothing_is_counted_of_another_stream_or_rank():
    start, states, _ = states_of(2, 0)
    consumed = Consumed(start, (0, 1))
    with pytest.raises(StateError, match="seed was 5 and is 0"):
        consumed.add(states_of(2, 0, seed=5)[1][0])
    assert consumed.state() == start
    of_rank_0 = Consumed(start, (0, 2))
    with pytest.raises(StateError, match=r"owner 1 of 2.*rank 0 of 2"):
        of_rank_0.add({**states[0], "scope": [2, 1, 0]})
    assert consumed.state() is not start


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_ranks_that_counted_the_same_steps_have_one_state_together(workers):
    from treepack.state import merge

    world, total = 2, 4
    ranks = []
    for rank in range(world):
        made = stream(total, shard=(rank, world))
        ranks.append((made.state_dict(), list(batches(made, workers))))
    whole = [row["treepack"].keys for row in batches(stream(total), 0)]
    length = min(len(rows) for _, rows in ranks)
    for n in range(0, length, 2):
        merged = []
        for rank, (start, rows) in enumerate(ranks):
            consumed = Consumed(start, (rank, world))
            for row in rows[:n]:
                consumed.add(row["treepack"].state)
            merged.append(consumed.state())
        rest = [row["treepack"].keys for row in batches(stream(total), 0, merge(merged))]
        assert sorted(itertools.chain(*rest)) == sorted(itertools.chain(*whole[world * n :]))


def test_the_state_of_the_dataset_is_that_of_what_is_known():
    made = stream(2)
    start = made.state_dict()
    rows = list(itertools.islice(made, 3))
    states = [row["treepack"].state for row in rows]
    assert made.state_dict() == states[2]
    made.consumed(rows[0])
    assert made.state_dict() == states[0]
    made.consumed(rows[1])
    assert made.state_dict() == states[1]
    made.load_state_dict(states[2])
    assert made.state_dict() == states[2]
    made.state_dict()["shards"].clear()
    assert made.state_dict() == states[2]
    fourth = next(iter(made))
    assert fourth["treepack"].keys not in [row["treepack"].keys for row in rows]
    made.reset()
    assert made.state_dict() == start
    assert_batches_equal(next(iter(made)), rows[0])


def test_any_prefix_of_random_streams_resumes():
    for rng in cases(6, "prefixes"):
        shards = int(rng.integers(1, 5))
        options = {"n": int(rng.integers(1, 40)), "seed": int(rng.integers(99))}
        rows = list(batches(stream(shards, **options), 0))
        n = int(rng.integers(0, len(rows) + 1))
        made = stream(shards, **options)
        list(itertools.islice(made, n))
        rest = list(batches(made, 0, json.loads(json.dumps(made.state_dict()))))
        assert len(rest) == len(rows) - n
        for one, other in zip(rest, rows[n:], strict=True):
            assert_batches_equal(one, other)
