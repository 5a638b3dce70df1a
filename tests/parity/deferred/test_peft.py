"""Deferred logits with adapters of PEFT: beside the head, on it, and a head that is trained."""

from __future__ import annotations

import copy

import pytest
import torch
import treepack as tp
from helpers.losses.models import build, differences
from treepack.hf.head.deferred import DeferredLogits

peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    # A tied head that is trained by itself is untied.
    pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings"),
]
ERROR = 1e-12
ATTENTION = ["q_proj", "v_proj"]
PLACES = {
    "elsewhere": {"target_modules": ATTENTION},
    "on the head": {"target_modules": [*ATTENTION, "lm_head"]},
    "a copy of the head": {"target_modules": ATTENTION, "modules_to_save": ["lm_head"]},
}


def adapted(model, place):
    """With adapters that do something, unlike new ones."""
    torch.manual_seed(3)
    config = peft.LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **PLACES[place])
    model = peft.get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    return model.double()


@pytest.mark.parametrize("place", PLACES)
def test_a_model_with_adapters_is_exact(place):
    model, batch = build("llama")
    models = [tp.hf.prepare(adapted(model, place), logits=x) for x in ("full", "deferred")]
    assert isinstance(models[1](**batch).logits, DeferredLogits)
    assert max(differences(models, batch)) < ERROR
    with models[0].disable_adapter(), models[1].disable_adapter():
        plain, given = (each(**batch).loss for each in models)
    torch.testing.assert_close(given, plain, rtol=ERROR, atol=0)
    torch.testing.assert_close(models[1](**batch).logits + 0, models[0](**batch).logits)
    tp.hf.restore(models[1])
    assert type(models[1](input_ids=batch["input_ids"]).logits) is torch.Tensor


@pytest.mark.parametrize("place", PLACES)
def test_adapters_that_come_after_prepare_are_exact(place):
    """Those on the head need all logits, and say so."""
    model, batch = build("llama")
    models = [
        adapted(tp.hf.prepare(copy.deepcopy(model), logits=x), place) for x in ("full", "deferred")
    ]
    if place == "on the head":
        with pytest.warns(UserWarning, match="Linear has become its head since; prepare it again"):
            assert max(differences(models, batch)) < ERROR
        tp.hf.prepare(models[1], logits="deferred")
    assert isinstance(models[1](**batch).logits, DeferredLogits)
    assert max(differences(models, batch)) < ERROR
    tp.hf.restore(models[1])
    assert type(models[1](input_ids=batch["input_ids"]).logits) is torch.Tensor
