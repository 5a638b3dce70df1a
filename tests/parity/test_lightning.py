"""Lightning on two ranks trains as a loop in one process, and resumes at any step."""

from __future__ import annotations

import socket

import pytest
import torch
from helpers.processes import lightning_ranks
from helpers.processes.lightning_ranks import STEPS, by_hand
from helpers.processes.ranks import run_launched

pytest.importorskip("lightning")

WORLD = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank found, one pair of processes for all tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = str(tmp_path_factory.mktemp("lightning"))
    return run_launched(WORLD, lightning_ranks.all_of_it, folder, port)


def assert_same(ours, theirs):
    assert ours["steps"] == theirs["steps"]
    assert ours["parameters"].keys() == theirs["parameters"].keys()
    for name, wanted in theirs["parameters"].items():
        torch.testing.assert_close(ours["parameters"][name], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_parameters_and_place_in_the_data_are_those_of_a_loop(ranks, accumulate):
    wanted = by_hand(accumulate * WORLD, STEPS)
    for rank in ranks:
        assert_same(rank[accumulate], wanted)
        assert rank[accumulate]["state"] == wanted["state"]


def test_resuming_equals_no_interruption(ranks):
    for rank in ranks:
        assert_same(rank["resumed"], rank[1])
        assert rank["resumed"]["state"] == rank[1]["state"]


def test_the_end_of_the_data_is_the_end_on_all_ranks(ranks):
    wanted = by_hand(WORLD, epochs=1)
    assert wanted["steps"] > STEPS
    for rank in ranks:
        assert_same(rank["to the end"], wanted)
