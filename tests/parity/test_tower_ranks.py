"""A rank with images and a rank without any train as one process, and nobody waits."""

from __future__ import annotations

import pytest
import torch
import transformers
from helpers.processes import tower_ranks
from helpers.processes.ranks import run_ranks
from helpers.processes.tower_ranks import LAYOUTS, STEPS, WORLD, packed_model, stream, train

NAMES = ["qwen3_vl", *["molmo2"] * hasattr(transformers, "Molmo2Processor")]
FAMILIES = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def ranks():
    """What each rank found, one pair of processes for all tests."""
    return run_ranks(WORLD, tower_ranks.all_of_it, NAMES)


@pytest.fixture(scope="module")
def alone():
    """One process on the rows of both ranks; it runs no tower on text."""
    found = {}
    for name in NAMES:
        model = packed_model(name)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        keys = train(model, stream(name, False))
        found[name] = before, dict(model.named_parameters()), keys
    return found


@FAMILIES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_are_those_of_one_process(ranks, alone, name, layout):
    before, wanted, _ = alone[name]
    for rank in ranks:
        found = rank[name][layout]["parameters"]
        assert found.keys() == wanted.keys()
        for n, parameter in wanted.items():
            torch.testing.assert_close(found[n], parameter, rtol=0, atol=1e-12)
    moved = {n for n, parameter in wanted.items() if (parameter - before[n]).abs().max() > 1e-6}
    assert any("vision" in n or "visual" in n for n in moved)


@FAMILIES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_rank_has_media_in_every_step_and_the_other_never(ranks, alone, name, layout):
    seen, text = (rank[name][layout]["keys"] for rank in ranks)
    assert seen == [f"seen {n}" for n in range(STEPS)]
    assert text == [f"text {n}" for n in range(STEPS)]
    _, _, keys = alone[name]
    assert keys == [key for pair in zip(seen, text, strict=True) for key in pair]


@FAMILIES
@pytest.mark.parametrize("workers", [0, 1])
def test_undecided_ranks_say_what_to_switch_on_before_they_wait(ranks, name, workers):
    seen, text = (rank[name]["undecided"][workers] for rank in ranks)
    assert "rank 1 of 2" in text
    assert "text alone" in text
    assert "vision_on_every_row=True" in text
    assert "find_unused_parameters=True" in text
    # The other one ends as well.
    assert "loaders of 1 other ranks failed" in seen
