"""How far a stream has come, from the states of the batches that were consumed."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
import treepack as tp
from helpers.cases import cases
from helpers.simulated.workers import batches
from helpers.tree_sources import dataset
from treepack.dataset.progress import Consumed
from treepack.dataset.state import last_shard, merge, shards_of
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


@pytest.mark.parametrize(("before", "now"), [(0, 2), (2, 0), (1, 3), (3, 2), (2, 6), (6, 1)])
def test_other_workers_go_on_where_all_together_had_come(before, now):
    start, states, rows = states_of(6, before)
    consumed = Consumed(start, (0, 1))
    for n in range(0, len(states), 3):
        for state in states[max(0, n - 3) : n]:
            consumed.add(state)
        rest = list(batches(stream(6), now, json.loads(json.dumps(consumed.state()))))
        ours, theirs = by_shard(rest), by_shard(rows[n:])
        assert ours.keys() == theirs.keys()
        for shard, found in ours.items():
            for one, other in zip(found, theirs[shard], strict=True):
                assert_batches_equal(one, other)
        # Until the first shard ends, the order is the same too.
        same = min(map(len, by_shard(rows).values())) * 6 - n
        keys = [
            [row["treepack"].keys for row in found[: max(same, 0)]] for found in (rest, rows[n:])
        ]
        assert keys[0] == keys[1]


def test_a_shard_that_has_ended_gives_nothing_more_and_in_the_end_all_have():
    # Shards 0 and 3 have small examples, so few packs.
    sizes = [4 if not n % 3 else 40 for n in range(50)]
    source = [tp.MessageTree([1] * size, key=n) for n, size in enumerate(sizes)]
    made = tp.PackedDataset(source, budgets={"tokens": 64}, shuffle=False, virtual_shards=6)
    ended = set()
    for row in made:
        state = row["treepack"].state
        assert last_shard(state) not in ended
        ended = {number for number, shard in shards_of(state).items() if shard.has_ended}
    assert ended >= {0, 3}
    assert all(shard.has_ended for shard in shards_of(made.state_dict()).values())


def test_a_state_counts_the_packs_of_each_shard():
    rows = list(batches(stream(3), 0))
    for n, row in enumerate(rows, 1):
        given = {shard: len(found) for shard, found in by_shard(rows[:n]).items()}
        told = {number: shard.packs for number, shard in shards_of(row["treepack"].state).items()}
        assert {number: packs for number, packs in told.items() if packs} == given


def by_shard(rows):
    found = {}
    for row in rows:
        found.setdefault(last_shard(row["treepack"].state), []).append(row)
    return found


@pytest.mark.parametrize(("ranks", "world"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_other_ranks_go_on_from_the_merged_state(ranks, world):
    streams = [stream(6, shard=(rank, ranks)) for rank in range(ranks)]
    rows = [list(batches(one, 6 // ranks)) for one in streams]
    for n in (0, 1, 4):
        merged = []
        for rank, one in enumerate(streams):
            consumed = Consumed(one.state_dict(), (rank, ranks))
            for row in rows[rank][:n]:
                consumed.add(row["treepack"].state)
            merged.append(consumed.state())
        state = merge(merged)
        rest = [list(batches(stream(6, shard=(rank, world)), 0, state)) for rank in range(world)]
        ours = by_shard(itertools.chain(*rest))
        theirs = by_shard(row for one in rows for row in one[n:])
        assert {s: keys_of(found) for s, found in ours.items()} == {
            s: keys_of(found) for s, found in theirs.items()
        }
        # Ranks in step go round all shards in the order in which one rank would.
        first = [last_shard(one[0]["treepack"].state) for one in rest]
        assert first == [(n * ranks + rank) % 6 for rank in range(world)]


def keys_of(rows):
    return [row["treepack"].keys for row in rows]


def test_a_worker_that_starts_over_makes_the_others_start_over():
    start, states, _ = states_of(2, 2)
    again = [{**state, "iteration": [8, 0]} for state in states]
    one, other = Consumed(start, (0, 1)), Consumed(start, (0, 1))
    for state in states[:5]:
        one.add(state)
    for state in again[:3]:
        one.add(state)
        other.add(state)
        assert one.state() == other.state()


def test_workers_of_another_number_start_over():
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


def test_another_iteration_here_says_where_it_stands_itself():
    made = stream(2)
    rows = list(itertools.islice(made, 3))
    made.consumed(rows[1])
    first = next(iter(made))
    assert_batches_equal(first, rows[0])
    assert made.state_dict() == rows[0]["treepack"].state


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
