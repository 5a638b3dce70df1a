"""Which virtual shards are whose, against the words that say it."""

from __future__ import annotations

import itertools

import pytest
from helpers.cases import cases
from treepack.dataset.sharding import (
    Ownership,
    check_scope,
    check_shard,
    default_shard,
    next_shard,
    own,
)
from treepack.dataset.state import Scope, ShardState
from treepack.errors import DatasetError, StateError


def shard_state(shard, packs=0, has_ended=0):
    return ShardState(shard, packs, 0, has_ended, 0, [0] * 4, [], [], [], [], [], [], "")


def state(scope, total):
    return {"scope": list(scope), "virtual_shards": total, "shards": []}


def test_every_shard_has_one_owner_whatever_comes_next():
    for world, workers, per_owner, offset in itertools.product(
        (1, 2, 3), (1, 2), (1, 3), (0, 1, 4)
    ):
        total = world * workers * per_owner
        saved = state((1, 0, offset), total)
        owned = [
            own(saved, (rank, world), worker, workers)
            for worker in range(workers)
            for rank in range(world)
        ]
        assert sorted(itertools.chain(*(one.shards for one in owned))) == list(range(total))
        # The shard that comes next is that of rank 0 and worker 0; the following ones go on.
        for n, one in enumerate(owned):
            assert one.owner == n
            assert (offset + n) % total in one.shards
            assert one.scope == (world * workers, n, offset % total)


def test_the_number_of_shards_is_that_of_the_state_then_the_given_then_of_the_owners():
    assert own(None, (1, 2), 1, 3) == Ownership(6, 3, 0, 6)
    assert own(None, (1, 2), 1, 3, 12).total == 12
    assert own(state((1, 0, 0), 18), (1, 2), 1, 3, 12).total == 18
    assert own(state((1, 0, 0), 0), (1, 2), 1, 3, 12).total == 12
    assert own(state((1, 0, 7), 0), (0, 2)).offset == 7 % 2


def test_a_state_of_a_rank_or_of_a_worker_goes_on_with_the_same_alone():
    assert own(state((2, 1, 5), 12), (1, 2)).offset == 5
    assert own(state((2, 1, 5), 12), (1, 2), worker=2, workers=3) == Ownership(6, 5, 5, 12)
    assert own(state((6, 5, 5), 12), (1, 2), worker=2, workers=3) == Ownership(6, 5, 5, 12)
    with pytest.raises(StateError, match=r"worker 2 of 3 alone, and 1 now"):
        own(state((6, 5, 5), 12), (1, 2))
    with pytest.raises(StateError, match=r"worker 2 of 3 alone, and 3 now"):
        own(state((6, 5, 5), 12), (1, 2), worker=1, workers=3)
    with pytest.raises(StateError, match=r"owner 4 of 6.*rank 1 of 2"):
        own(state((6, 4, 5), 12), (1, 2))


@pytest.mark.parametrize(
    ("scope", "shard", "fits"),
    [
        ((1, 0, 3), (1, 2), True),
        ((2, 1, 0), (1, 2), True),
        ((2, 0, 0), (1, 2), False),
        ((6, 3, 0), (1, 2), True),
        ((6, 2, 0), (1, 2), False),
        ((3, 1, 0), (1, 2), False),
        ((3, 2, 0), (0, 1), True),
    ],
)
def test_a_state_is_of_all_or_of_the_rank_or_of_its_workers(scope, shard, fits):
    if fits:
        check_scope(Scope(*scope), shard)
    else:
        with pytest.raises(StateError, match=rf"owner {scope[1]} of {scope[0]}"):
            check_scope(Scope(*scope), shard)


def test_ranks_times_workers_divide_the_shards():
    with pytest.raises(DatasetError, match=r"2 ranks x 4 workers = 8 .*=12.*from \[1, 2, 3, 6\]"):
        own(None, (0, 2), 0, 4, 12)
    with pytest.raises(DatasetError, match=r"=12; no num_workers fits 5 ranks"):
        own(None, (0, 5), 0, 1, 12)
    assert own(None, (0, 2), 0, 6, 12).shards == [0]


def test_the_next_shard_has_given_least_and_has_not_ended():
    for rng in cases(300, "next shard"):
        owned = sorted(rng.choice(9, rng.integers(0, 6), replace=False).tolist())
        known = {
            s: shard_state(s, int(rng.integers(0, 3)), int(rng.random() < 0.4))
            for s in range(9)
            if rng.random() < 0.7
        }
        best = None
        for s in owned:
            packs, has_ended = known[s][1:4:2] if s in known else (0, 0)
            if not has_ended and (best is None or packs < best[0]):
                best = packs, s
        assert next_shard(owned, known) == (None if best is None else best[1])


class Mesh:
    def __init__(self, coordinate, shape):
        self.coordinate, self.shape = coordinate, shape

    def get_coordinate(self):
        return self.coordinate

    def size(self):
        size = 1
        for n in self.shape:
            size *= n
        return size


def test_a_mesh_of_several_dimensions_counts_as_one():
    shape = (2, 3, 4)
    places = itertools.product(*map(range, shape))
    assert [check_shard(Mesh(list(place), shape)) for place in places] == [
        (rank, 24) for rank in range(24)
    ]
    with pytest.raises(DatasetError, match="not part of the device mesh"):
        check_shard(Mesh(None, shape))


@pytest.mark.parametrize("shard", [(1, 1), (-1, 2), (0, 0), (0,), (0, 1, 2), (0.0, 1), 3, "ab"])
def test_a_rank_lies_in_its_world(shard):
    with pytest.raises(DatasetError, match="shard"):
        check_shard(shard)
    assert check_shard((0, 1)) == (0, 1)
    assert check_shard([2, 3]) == (2, 3)


def test_the_shard_is_what_torchrun_says_before_there_are_ranks(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert default_shard() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert default_shard() == (2, 4)
    import torch.distributed as dist

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    assert default_shard() == (1, 3)
    monkeypatch.setattr(dist, "is_available", lambda: False)
    assert default_shard() == (2, 4)
