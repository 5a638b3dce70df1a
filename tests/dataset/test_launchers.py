"""Real processes: a launcher that says half of what it takes, and a mesh of two dimensions."""

from __future__ import annotations

import itertools

import pytest
import torch
import treepack as tp
from helpers.processes import launched_ranks
from helpers.processes.launched_ranks import DP, STEPS, TP
from helpers.processes.ranks import run_launched
from helpers.tiny_training import RATE, Tiny, labelled
from helpers.tree_sources import names

WORLD = DP * TP
STARTS = pytest.mark.parametrize("start", ["none", "fork"])


@pytest.fixture(scope="module")
def ranks():
    """What each rank found, one start of processes for all tests."""
    return run_launched(WORLD, launched_ranks.all_of_it)


@pytest.mark.parametrize("read", ["shard", "iteration", "state", "workers", "steps"])
def test_whoever_reads_before_the_process_group_is_told(ranks, read):
    for rank in ranks:
        says = rank["before"][read]
        assert "RANK=None and WORLD_SIZE='4'" in says, says
        assert "init_process_group before the first batch" in says


@STARTS
def test_a_dataset_of_the_module_is_shared_out_once_the_group_exists(ranks, start):
    assert [rank["early"][0] for rank in ranks] == [(n, WORLD) for n in range(WORLD)]
    keys = [key for rank in ranks for key in rank["early"][1][start]]
    assert sorted(keys) == sorted(names(40))
    assert all(rank["early"][1][start] for rank in ranks)


def test_a_spawned_worker_has_the_shard_of_its_rank(ranks):
    # It inherits the environment, which says half, and is in no process group.
    _, keys = ranks[1]["early"]
    assert keys["spawn"] == keys["fork"] != []


@STARTS
@pytest.mark.parametrize("given", ["pair", "mesh"])
def test_ranks_of_one_model_read_the_same_rows(ranks, given, start):
    keys = [rank["mesh"][given][start] for rank in ranks]
    # Ranks are numbered row by row: (dp 0, tp 0), (dp 0, tp 1), (dp 1, tp 0), (dp 1, tp 1).
    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert sorted(keys[0] + keys[2]) == sorted(names(40))


@pytest.mark.parametrize("case", ["left out", "one place for all", "global", "mixed"])
def test_shards_that_do_not_fit_the_mesh_are_an_error_on_every_rank(ranks, case):
    for rank in ranks:
        assert "trained on twice" in rank["errors"][case]


@pytest.mark.parametrize("agreed", ["all", "dp"])
def test_a_mesh_trains_as_one_process(ranks, agreed):
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    steps = tp.train.steps(labelled(virtual_shards=DP), accumulate=DP)
    for packs, weight in itertools.islice(steps, STEPS):
        for pack in packs:
            model(pack, weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    for rank in ranks:
        for name, wanted in model.state_dict().items():
            torch.testing.assert_close(rank["trained"][agreed][name], wanted, rtol=0, atol=1e-12)
