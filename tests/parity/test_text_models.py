"""Text models: every path of a packed row gets the logits and gradients that it gets alone."""

import copy
import functools
from inspect import signature

import numpy as np
import pytest
import torch
import treepack as tp
from helpers.cases import cases
from helpers.text_rows import VOCABULARY, distance, gradients, paths, stock_model
from helpers.text_rows import random_row as any_row
from helpers.unrounded import unrounded

LOGITS = GRADIENTS = 1e-12
random_row = functools.partial(any_row, mode="none")


@pytest.fixture(params=["llama", "qwen3"])
def models(request):
    """The stock model, and the same one with tree attention."""
    stock = stock_model(request.param, num_attention_heads=4, num_key_value_heads=2)
    ours = copy.deepcopy(stock)
    tp.hf.register()
    ours.set_attn_implementation("treepack")
    with unrounded():
        yield stock, ours


def alone(stock, mask, inputs, weights):
    """Logits of each row position, and the loss over each, from the paths run one by one."""
    logits = torch.full_like(weights, torch.nan)
    loss = 0.0
    for path in paths(mask):
        out = stock(inputs["input_ids"][:, path], use_cache=False).logits[0]
        shared = ~logits[path].isnan().any(-1)
        assert not shared.any() or (out - logits[path])[shared].abs().max() < LOGITS
        logits[path[~shared]] = out.detach()[~shared]
        loss = loss + (out * weights[path])[~shared].sum()
    return logits, loss


def test_every_path_is_as_if_alone(models):
    stock, ours = models
    for rng in cases(25, "paths alone"):
        mask, inputs = random_row(rng)
        weights = torch.from_numpy(rng.standard_normal((mask.total, VOCABULARY)))
        expected, loss = alone(stock, mask, inputs, weights)
        logits = ours(**inputs).logits[0]
        assert (logits - expected)[: mask.used].abs().max() < LOGITS
        wanted = gradients(stock, loss)
        found = gradients(ours, (logits * weights)[: mask.used].sum())
        assert distance(found, wanted) < GRADIENTS


def test_stock_attention_on_the_same_row_is_far_off(models):
    stock, ours = models
    _, inputs = random_row(np.random.default_rng(0), longest=8)
    row = inputs.pop("treepack")
    assert (stock(**inputs).logits - ours(**inputs, treepack=row).logits).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_gradient_checkpointing_changes_nothing(models):
    _, ours = models
    checkpointed = copy.deepcopy(ours).train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    for rng in cases(3, "checkpointing"):
        mask, inputs = random_row(rng)
        losses = [m(**inputs).logits[0, : mask.used].square().sum() for m in (ours, checkpointed)]
        plain, again = map(gradients, (ours, checkpointed), losses)
        assert losses[0] == losses[1]
        assert distance(again, plain) == 0


def test_a_batch_of_two_rows_or_a_cache_is_rejected(models):
    _, ours = models
    _, inputs = random_row(np.random.default_rng(1))
    with pytest.raises(tp.errors.AttentionError, match="batch of 2"):
        ours(**{**inputs, "input_ids": inputs["input_ids"].expand(2, -1)})
    with pytest.raises(tp.errors.AttentionError, match="remove_unused_columns"):
        ours(**{**inputs, "treepack": None})
    cache = ours(**{**inputs, "use_cache": True}).past_key_values
    # transformers has renamed it.
    name = "cache" if "cache" in signature(ours.forward).parameters else "past_key_values"
    with pytest.raises(tp.errors.AttentionError, match="use_cache=False"):
        ours(**{**inputs, "use_cache": True, name: cache})
