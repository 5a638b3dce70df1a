"""DeepSpeed's ALST runs our attention function unchanged."""

from __future__ import annotations

import pytest
from helpers.processes import alst_ranks
from helpers.processes.ranks import run_ranks


@pytest.mark.parametrize("world", [2, 4])
def test_loss_and_gradients_are_those_of_the_whole_row(world):
    pytest.importorskip("deepspeed", exc_type=ImportError)
    for found in run_ranks(world, alst_ranks.compare):
        assert found["value"] > 1
        assert found["loss"] < 1e-12
        assert found["gradients"] < 1e-12
