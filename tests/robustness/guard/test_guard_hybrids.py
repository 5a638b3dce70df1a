"""Hybrids read `attention_mask` even when prepared, and run unchanged; unprepared they are errors.

`tp.hf.prepare` has tree-recurrence lead their recurrent layers over the tree.
"""

from __future__ import annotations

import pytest
import torch
import transformers
import treepack as tp
from treepack.errors import NotPreparedError
from treepack.hf.loss import weighted_loss

pytest.importorskip("tree_recurrence")

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
SAYS = r"packed batch reached code that reads 'attention_mask'.*tp.hf.prepare\(model\)"


def lfm2():
    config = transformers.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])
    return transformers.Lfm2ForCausalLM(config)


def qwen3_5():
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    sizes = {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    kinds = ["linear_attention", "full_attention"]
    config = transformers.Qwen3_5TextConfig(**SIZES, **heads, **sizes, layer_types=kinds)
    return transformers.Qwen3_5ForCausalLM(config)


@pytest.fixture(params=[lfm2, qwen3_5])
def model(request):
    torch.manual_seed(0)
    return request.param().double()


@pytest.fixture
def batch():
    branches = [tp.MessageTree([n, n + 1], labels=[n, n + 1]) for n in (4, 6)]
    return tp.collate([tp.MessageTree([1, 2, 3], children=branches)], total=9)


@pytest.mark.filterwarnings("ignore")
def test_a_prepared_hybrid_runs_as_without_stand_ins(model, batch):
    tp.hf.prepare(model)
    found = model(**batch)
    found.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    plain = {k: v for k, v in batch.items() if k not in ("attention_mask", "labels")}
    expected = model(**plain)
    assert torch.equal(found.logits, expected.logits)
    # Without labels the model computes no loss; with stand-ins it is that of the row's targets.
    targets = {name: batch[name] for name in ("targets", "loss_weights")}
    assert torch.equal(found.loss, weighted_loss(expected.logits, **targets))
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).loss, found.loss)


@pytest.mark.filterwarnings("ignore")
def test_a_hybrid_that_is_not_prepared_or_was_switched_back(model, batch):
    def rejects(call, **inputs):
        with pytest.raises(NotPreparedError, match=SAYS):
            call(**inputs)

    rejects(model, **batch)
    with torch.no_grad():
        rejects(model.eval(), **batch)
    names = ("input_ids", "position_ids", "attention_mask")
    rejects(model.model, **{name: batch[name] for name in names})
    tp.hf.prepare(model)(**batch)
    # The recurrence alone is half of it.
    model.set_attn_implementation("sdpa")
    rejects(model, **batch)
