"""Two ranks with deferred logits train as one process with all logits."""

from __future__ import annotations

import pytest
import torch
from helpers.losses import ranks
from helpers.processes.ranks import run_ranks

# The ranks' gradients are summed in another order than one process sums them.
ERROR = 1e-10


@pytest.fixture(scope="module")
def outcomes():
    """What each rank found, one pair of processes for all layouts."""
    return run_ranks(ranks.WORLD, ranks.train_all)


@pytest.mark.parametrize("layout", ranks.LAYOUTS)
def test_two_ranks_are_one_process(outcomes, layout):
    expected = ranks.train_alone(layout)
    for rank in outcomes:
        kinds, found = rank[layout]
        assert kinds == {"DeferredLogits"}
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=ERROR)


def test_a_head_that_is_sharded_when_it_is_needed_is_named(outcomes):
    for rank in outcomes:
        assert "the head (Linear) are sharded here, after the model has run" in rank["late"]


def test_a_head_that_ranks_share_computes_all_logits_and_is_named(outcomes):
    model = ranks.make("fsdp2", "full")
    expected = model(**ranks.packs_of(0)[0]).loss
    expected.backward()
    for rank in outcomes:
        loss, gradient, (message,) = rank["shared"]
        assert loss == pytest.approx(expected.item(), rel=1e-12)
        torch.testing.assert_close(gradient, model.lm_head.weight.grad, rtol=0, atol=ERROR)
        assert "the weights of its head (Linear) are sharded" in message
