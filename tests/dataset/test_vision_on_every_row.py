"""Every row runs the vision tower where it is asked to, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
import treepack as tp
from helpers import tiny_models
from treepack.errors import BudgetError, DatasetError, FamilyError

FAMILIES = ["molmo2", "qwen3_vl"]


@pytest.fixture(autouse=True)
def _has_family(request):
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    if name == "molmo2" and not hasattr(transformers, "Molmo2Processor"):
        pytest.skip("this transformers has no Molmo2")


def family_of(name):
    return tp.families.find(getattr(tiny_models, f"{name}_processor")())


def records():
    """Two of text alone, then one with an image."""
    texts = [tiny_models.record(f"Q{n}?", "An answer.", id=f"text {n}") for n in range(2)]
    return [
        *texts,
        tiny_models.record("<image>\nWhat?", "A cat.", image=tiny_models.photo(1, 40, 60)),
    ]


def dataset(name, fill, source=None, **options):
    family = family_of(name)
    budgets = {"tokens": 160, family.vision_cost: 400}
    source = tp.group_conversations(records()[:2] if source is None else source)
    settings = {"budgets": budgets, "shuffle": False, "pool_size": 4, **options}
    return tp.PackedDataset(source, family=family, vision_on_every_row=fill, **settings)


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_are_unchanged_and_the_tower_has_some(name):
    plain, filled = (
        next(iter(dataset(name, fill, pad_to_budget=True))).to(torch.float64)
        for fill in (False, True)
    )
    assert plain["input_ids"].shape == filled["input_ids"].shape
    assert "pixel_values" in filled
    assert "pixel_values" not in plain
    model = tp.hf.prepare(getattr(tiny_models, f"{name}_model")())
    found = []
    for batch in (plain, filled):
        model.zero_grad(set_to_none=True)
        loss = model(**batch).loss
        loss.backward()
        found.append((loss, {n: copy.copy(p.grad) for n, p in model.named_parameters()}))
    (loss, without), (same, grads) = found
    assert torch.equal(loss, same)
    towers = {n for n, grad in without.items() if grad is None}
    assert towers
    for n, grad in grads.items():
        # Zero and not None: what a reduction over ranks waits for.
        wanted = torch.zeros_like(grad) if n in towers else without[n]
        assert grad is not None
        assert torch.equal(grad, wanted), n


@pytest.mark.parametrize("name", FAMILIES)
def test_no_budget_is_broken_and_the_room_is_kept_in_every_row(name):
    reserved = family_of(name).fill_cost(True)
    stream = dataset(name, True, source=records())
    assert stream.settings.policy.budgets == {
        budget: size - reserved.get(budget, 0) for budget, size in stream.budgets.items()
    }
    for batch in stream:
        assert batch["input_ids"].shape[1] <= stream.budgets["tokens"]
        assert batch["pixel_values"].ndim
    tight = {budget: reserved.get(budget, 1) for budget in stream.budgets}
    with pytest.raises(BudgetError, match="vision_on_every_row keeps"):
        dataset(name, True, budgets=tight)


def test_what_cannot_be_filled_is_rejected():
    with pytest.raises(DatasetError, match="needs the family"):
        tp.PackedDataset([tp.MessageTree([1])], budgets={"tokens": 4}, vision_on_every_row=True)
    with pytest.raises(FamilyError, match="fill names 'sound'"):
        dataset("qwen3_vl", "sound")


def test_rows_are_the_same_but_for_the_padding_at_their_end():
    for plain, filled in zip(dataset("qwen3_vl", False), dataset("qwen3_vl", True), strict=True):
        used = plain["treepack"].mask.used
        assert filled["treepack"].mask.used == used
        assert filled["treepack"].keys == plain["treepack"].keys
        ids = [batch["input_ids"][0, :used].numpy() for batch in (plain, filled)]
        assert np.array_equal(*ids)
        assert torch.equal(plain["targets"], filled["targets"])
