"""Two ranks that each train on a pack get the gradients of one process that trains on both."""

import pytest
import torch
from helpers.processes import tree_ranks
from helpers.processes.ranks import run_ranks
from helpers.processes.tree_ranks import LAYOUTS, WORLD, model_and_packs
from helpers.text_rows import distance, gradients
from torch.distributed.utils import _to_kwargs

# Norms and the rotary embedding compute in float32, and the ranks' gradients are summed in another
# order than one process sums them.
GRADIENTS = 1e-6


@pytest.fixture(scope="module")
def outcomes():
    """What each rank found, one pair of processes for all layouts."""
    return run_ranks(WORLD, tree_ranks.train_all)


@pytest.fixture(scope="module")
def expected():
    model, packs = model_and_packs()
    weight = sum(pack["loss_weights"].sum(dtype=torch.float64) for pack in packs)
    loss = sum(model(**pack, num_items_in_batch=weight).loss for pack in packs)
    return loss.item(), gradients(model, loss)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_ranks_are_one_process(outcomes, expected, layout):
    loss, wanted = expected
    losses = [rank[layout]["loss"] for rank in outcomes]
    assert abs(sum(losses) / WORLD - loss) < GRADIENTS
    for rank in outcomes:
        assert distance(rank[layout]["gradients"], wanted) < GRADIENTS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_operator_runs_once_for_each_layer(outcomes, layout):
    model, _ = model_and_packs()
    for rank in outcomes:
        assert rank[layout]["forwards"] == model.config.num_hidden_layers


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layer_gets_the_row_as_it_was_passed(outcomes, layout):
    for rank in outcomes:
        assert rank[layout]["same_row"]


def test_mixed_precision_leaves_loss_weights_alone_if_told_to(outcomes):
    """FSDP2 rounds every float argument, weights too, unless ``cast_forward_inputs=False``."""
    _, packs = model_and_packs()
    for rank, pack in zip(outcomes, packs, strict=True):
        (rounded,), (exact,) = rank["weights"][True], rank["weights"][False]
        assert torch.equal(exact, pack["loss_weights"])
        assert rounded.dtype == torch.bfloat16
        assert not torch.equal(rounded.float(), exact)


def test_what_wrappers_move_to_a_device_is_not_the_row():
    # DDP and FSDP2 move the arguments of the model by this; "meta" stands for a GPU.
    _, (batch, _) = model_and_packs()
    _, (moved,) = _to_kwargs((), batch, torch.device("meta"), False)
    row = moved["treepack"]
    assert moved["input_ids"].is_meta
    assert row is batch["treepack"]
    assert row.plan.host.device.type == "cpu"
    assert row.plan.device.type == "cpu"
    # The batch itself is moved whole, but for the table that the operators read.
    row = batch.to("meta")["treepack"]
    assert row.plan.entries.is_meta
    assert row.plan.host.device.type == "cpu"


def test_packs_of_ranks_differ_in_shape_and_weight():
    _, packs = model_and_packs()
    assert len({pack["input_ids"].numel() for pack in packs}) == WORLD
    assert len({pack["targets"].numel() for pack in packs}) == WORLD
    assert len({pack["loss_weights"].sum().item() for pack in packs}) == WORLD
