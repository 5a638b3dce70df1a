"""Ranks that share a row compute its loss and gradients to the last digits."""

from __future__ import annotations

import pytest
from helpers.processes import sequence_ranks
from helpers.processes.ranks import run_ranks

LOSS, GRADIENTS = 1e-12, 1e-11


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request):
    """What each rank found, one set of processes for all tests."""
    return run_ranks(request.param, sequence_ranks.all_of_it)


def test_loss_and_gradients_are_those_of_the_whole_row(ranks):
    for found in ranks:
        for case, report in found.items():
            assert report["value"] > 1, case
            assert report["loss"] < LOSS, case
            assert report["gradients"] < GRADIENTS, case
            assert report["same"], case


def test_each_rank_computes_its_part_of_the_tokens_and_targets(ranks):
    for found in ranks:
        for case, report in found.items():
            assert report["tokens"] == [report["share"]], case
    for case, report in ranks[0].items():
        assert sum(found[case]["targets"] for found in ranks) == report["all targets"], case


def test_the_cases_are_the_hard_ones(ranks):
    shares = [found[case]["targets"] for found in ranks for case in found]
    assert 0 in shares, "a rank without targets"
    odd = [r["share"] * len(ranks) - r["tokens of the row"] for r in ranks[0].values()]
    assert max(odd) > 0, "a row that the ranks do not divide"
    kinds = {case[0].split(",")[0] for case in ranks[0]}
    assert kinds == {"text", "window", "images"}
