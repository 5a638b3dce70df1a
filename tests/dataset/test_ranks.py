"""Which rank a dataset takes itself for, and what ranks tell each other before the first step."""

from __future__ import annotations

import os
import pickle
from types import SimpleNamespace
from unittest import mock

import pytest
import torch.distributed as dist
import treepack as tp
from helpers.processes.ranks import run_ranks
from helpers.simulated.ranks import SimulatedRanks
from helpers.tiny_training import labelled
from helpers.tree_sources import BUDGETS, Trees, dataset
from torch.utils.data import DataLoader
from treepack import train
from treepack.dataset.sharding import Introduction, SentShard, check_introductions, find_shard
from treepack.errors import DatasetError


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, (0, 1)),
        ({"WORLD_SIZE": "1"}, (0, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}, (2, 3)),
    ],
)
def test_the_environment_says_the_shard_when_it_is_asked(monkeypatch, environment, shard):
    stream = tp.PackedDataset(Trees(9), budgets=BUDGETS)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert stream.shard == shard
    assert tp.PackedDataset(Trees(9), budgets=BUDGETS, shard=(1, 2)).shard == (1, 2)


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"},
        {"RANK": "0"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "one", "WORLD_SIZE": "2"},
    ],
)
def test_half_of_what_it_takes_is_an_error_when_it_is_read(monkeypatch, environment):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = tp.PackedDataset(Trees(9), budgets=BUDGETS)
    assert "shard=None" in repr(stream)
    for read in (lambda: stream.shard, lambda: iter(stream), stream.state_dict):
        with pytest.raises(DatasetError, match=r"RANK=.*WORLD_SIZE=.*shard=\(rank"):
            read()
    pickle.dumps(stream)


def test_a_sent_shard_counts_in_workers_of_its_sender_alone():
    worker = mock.patch("treepack.dataset.sharding.get_worker_info", return_value=object())
    parent = mock.patch(
        "treepack.dataset.sharding.parent_process", return_value=SimpleNamespace(pid=7)
    )
    sent = SentShard(7, (1, 4))
    assert find_shard(None, sent) == (0, 1)
    with parent:
        # A rank that was spawned by its launcher is no worker.
        assert find_shard(None, sent) == (0, 1)
        with worker:
            assert find_shard(None, sent) == (1, 4)
            assert find_shard(None, SentShard(8, (1, 4))) == (0, 1)
            assert find_shard((2, 3), sent) == (2, 3)


def told(rank, world, **changes):
    return Introduction((rank, world), **{"digest": "a", **changes})


NOBODY = Introduction(None)


@pytest.mark.parametrize(
    "ranks",
    [
        [told(0, 1)],
        [told(1, 2), told(0, 2)],
        [NOBODY, NOBODY],
        [told(0, 2), NOBODY],
        # Ranks of one model read the same rows; and ranks may be given different data.
        [told(0, 1, is_given=True)] * 4,
        [told(rank, 2, is_given=True) for rank in (0, 0, 1, 1)],
        [told(0, 2, is_given=True, digest="b"), told(1, 2, is_given=True)],
        [told(0, 2, is_given=True, digest="b"), told(1, 2)],
    ],
)
def test_shards_that_are_one_whole_set_are_fine(ranks):
    check_introductions(ranks)


@pytest.mark.parametrize(
    ("ranks", "says"),
    [
        ([told(0, 1), told(0, 1)], "trained on twice"),
        ([told(0, 2), told(0, 2)], "trained on twice"),
        ([told(0, 2, is_given=True), told(0, 2, is_given=True)], "trained on twice"),
        ([told(0, 2), told(1, 3)], "trained on twice"),
        ([told(0, 4), told(2, 4)], "trained on twice"),
        ([told(rank, 2, is_given=True) for rank in (0, 1, 1)], "trained on twice"),
        ([told(0, 1, is_given=True), told(0, 1)], "trained on twice"),
        ([told(0, 2), told(1, 2, digest="b")], "differ in source, seed"),
        ([told(0, 2), Introduction(None, error="no RANK")], "rank 1 cannot say.*no RANK"),
    ],
)
def test_shards_that_are_not_are_an_error(ranks, says):
    with pytest.raises(DatasetError, match=says):
        check_introductions(ranks)


@pytest.mark.parametrize("call", ["steps", "gather_state"])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([{"shard": (0, 2)}, {"shard": (0, 2)}], "trained on twice"),
        ([{"shard": (0, 1)}, {"shard": (1, 2)}], "trained on twice"),
    ],
)
def test_every_rank_raises_before_its_first_step(monkeypatch, call, settings, says):
    ranks = SimulatedRanks(2)
    monkeypatch.setattr(train, "dist", ranks)
    raised = []

    def run(rank):
        stream = labelled(n=8, **settings[rank])
        try:
            next(train.steps(stream)) if call == "steps" else train.gather_state(stream)
        except DatasetError as error:
            raised.append(str(error))

    ranks.run(run)
    assert len(raised) == 2
    assert raised[0] == raised[1]
    assert says in raised[0]


EARLY = dataset(n=40)
"""Built with the module, before any rank exists, as scripts do."""


def _keys(rank, world):
    assert EARLY.shard == (rank, world) == (dist.get_rank(), dist.get_world_size())
    found = {}
    for start in (None, "forkserver"):
        options = {"num_workers": 1, "multiprocessing_context": start} if start else {}
        loader = DataLoader(EARLY, batch_size=None, **options)
        found[start] = [key for row in loader for key in row["treepack"].keys]
    differing = dataset(n=40, seed=rank)
    try:
        next(iter(train.steps(differing)))
    except DatasetError as error:
        return found, str(error)
    return found, ""


def test_a_dataset_that_was_built_early_is_shared_out_over_ranks_and_their_workers():
    ranks = run_ranks(2, _keys)
    for start in (None, "forkserver"):
        keys = [key for found, _ in ranks for key in found[start]]
        assert len(keys) == len(set(keys)) == 40
    assert all("differ in source, seed" in error for _, error in ranks)
    assert os.environ.get("RANK") is None
