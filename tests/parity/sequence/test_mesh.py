"""Two data-parallel groups of two ranks that share rows train as one process."""

from __future__ import annotations

import pytest
import torch
from helpers.processes import sequence_training
from helpers.processes.ranks import run_ranks
from helpers.processes.sequence_training import DP, LAYOUTS, SP, STEPS


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    return run_ranks(DP * SP, sequence_training.on_mesh, str(tmp_path_factory.mktemp("trainer")))


@pytest.fixture(scope="module")
def alone():
    return sequence_training.alone()


@pytest.fixture(scope="module")
def errors():
    return run_ranks(2, sequence_training.rejected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_and_place_in_the_data_are_those_of_one_process(mesh, alone, layout):
    for rank in mesh:
        found = rank[layout]
        assert found["state"] == alone["state"]
        for name, wanted in alone["parameters"].items():
            torch.testing.assert_close(found["parameters"][name], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_mean_of_the_losses_is_the_loss_of_the_step(mesh, alone, layout):
    for step in range(STEPS):
        mean = sum(rank[layout]["losses"][step] for rank in mesh) / len(mesh)
        # The trainer logs what it has gathered, in float32.
        assert mean == pytest.approx(
            alone["losses"][step], abs=1e-12, rel=1e-6 * (layout == "trainer")
        )


def test_evaluation_is_that_of_one_process(mesh):
    assert len({rank["trainer"]["evaluated"] for rank in mesh}) == 1
    wanted = sequence_training.evaluated(mesh[0]["trainer"]["parameters"])
    assert mesh[0]["trainer"]["evaluated"] == pytest.approx(wanted, rel=1e-6)


def test_ranks_of_a_group_read_the_same_rows_and_groups_others(mesh):
    first, second, third, fourth = (rank["keys"] for rank in mesh)
    assert first == second
    assert third == fourth
    assert not set(map(tuple, first)) & set(map(tuple, third))


SAID = {
    "other rows": "given different rows",
    "other tokens": "given different rows",
    "no targets": r"has no ['targets']",
    "text model alone": "called by itself",
    "no row": "got no mask",
    "a part by hand": "q has 9 tokens, the mask 38",
    "a part on its way": "and this rank has 19 of the 38",
    "token argument": "offsets of shape [[1, 37]] for a row of 38 tokens",
    "heads": "3 query heads in a layer, which 2 ranks",
    "hybrid": "recurrent layers",
    "rotary": "rope_type='dynamic'",
    "experts": "output_router_logits=True",
    "gemma4": "shorter than the row",
    "no group": "must be a process group",
    "mesh": "DeviceMesh of 2 dimensions",
}


@pytest.mark.parametrize("case", SAID)
def test_what_would_take_a_part_for_the_row_is_rejected_by_name(errors, case):
    for rank in errors:
        assert SAID[case] in rank[case]


def test_without_ranks_there_is_nothing_to_share():
    assert "init_process_group" in sequence_training.error_of(
        sequence_training.share, sequence_training.model(), "group"
    )


def test_restoring_takes_the_sharing_back():
    for rank in run_ranks(2, sequence_training.restored):
        assert all(rank.values()), rank
