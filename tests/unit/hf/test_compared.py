"""`prepare` takes classes that have been compared with each path alone; others need a word."""

import copy
import inspect
import json

import pytest
import torch
import transformers as hf
import treepack as tp
from helpers.text_rows import stock_model
from helpers.tiny_models import byte_tokenizer
from transformers.models.qwen3 import modeling_qwen3
from treepack.errors import AttentionError
from treepack.hf import compared
from treepack.hf.model import is_packed

BRANCHES = tp.Conversations([[("Hi", "Ho")], [("And?", "So."), ("No?", "Yes.")]], key="two")
ALONE = tp.Conversations([[("Hi", "Ho")]], key="one")


@pytest.fixture(autouse=True)
def _passed(monkeypatch):
    monkeypatch.setattr(compared, "_PASSED", set())


def own(kind=hf.Qwen3ForCausalLM, **methods):
    """A tiny model of a class of the user, as remote code has it."""
    model = stock_model("qwen3")
    model.resize_token_embeddings(len(byte_tokenizer()))
    model.__class__ = type("OwnForCausalLM", (kind,), {"__module__": __name__, **methods})
    return model


def forward(self, *args, **kwargs):
    return hf.Qwen3ForCausalLM.forward(self, *args, **kwargs)


# Checks look for names in the code of forward, and at its parameters.
forward.__signature__ = inspect.signature(hf.Qwen3ForCausalLM.forward)


def family():
    made = byte_tokenizer()
    made.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    return tp.families.find(made)


def test_the_table_has_classes_of_transformers_with_a_text_model():
    assert len(compared.compared()) > 150
    assert all(name.isidentifier() for name in compared.compared().values())
    if hf.__version__ in json.loads(compared.TABLE.read_text()):
        assert compared.compared().keys() <= set(dir(hf))


def test_a_subclass_without_a_forward_of_its_own_is_that_class():
    assert is_packed(tp.hf.prepare(own()))


def test_a_class_with_a_forward_of_its_own_needs_the_word():
    model = own(forward=forward)
    before = model.loss_function
    with pytest.raises(AttentionError, match=r"OwnForCausalLM.*check_exact.*unchecked=True"):
        tp.hf.prepare(model)
    assert not is_packed(model)
    assert model.loss_function is before
    assert model.config._attn_implementation == "sdpa"
    assert is_packed(tp.hf.prepare(model, unchecked=True))


def test_so_does_one_whose_layers_have_one():
    class OwnAttention(modeling_qwen3.Qwen3Attention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    model = own()
    model.model.layers[1].self_attn.__class__ = OwnAttention
    with pytest.raises(AttentionError, match=r"OwnAttention.forward is that of .*test_compared"):
        tp.hf.prepare(model)


@pytest.mark.parametrize("unknown", ["Qwen3ForCausalLM", "Qwen3Model"])
def test_so_does_one_of_a_newer_version_or_with_a_text_model_of_it(monkeypatch, unknown):
    table = compared.compared().items()
    left = {name: text.replace(unknown, "") for name, text in table if name != unknown}
    monkeypatch.setattr(compared, "compared", lambda: left)
    with pytest.raises(AttentionError, match=f"does not have {unknown}|no model with a {unknown}"):
        tp.hf.prepare(own())


def test_what_passes_the_check_needs_it_no_more():
    model = own(forward=forward)
    tp.testing.check_exact(model, family(), [ALONE], gradients=False)
    with pytest.raises(AttentionError, match="unchecked"):
        tp.hf.prepare(model)
    tp.testing.check_exact(model, family(), [ALONE, BRANCHES], gradients=False)
    assert not is_packed(model)
    assert is_packed(tp.hf.prepare(copy.deepcopy(model)))
    with pytest.raises(AttentionError, match="unchecked"):
        tp.hf.prepare(own(forward=forward))


def test_what_fails_the_check_needs_it_still(monkeypatch):
    model = own(forward=forward)
    monkeypatch.setattr(
        "treepack.hf.loss.weighted_loss", lambda logits, *_, **__: logits.sum().double()
    )
    with pytest.raises(AssertionError, match="loss"):
        tp.testing.check_exact(model, family(), [BRANCHES])
    with pytest.raises(AttentionError, match="unchecked"):
        tp.hf.prepare(model)


def test_a_family_can_be_learnt_of_any():
    model = own(forward=forward)
    tp.families.learn(family().processor, model)
    assert is_packed(tp.hf.prepare(model))


def test_a_hybrid_that_nobody_compared_is_left_as_it_was(monkeypatch):
    pytest.importorskip("tree_recurrence")
    from helpers.tiny_models import TEXT

    plain = {n: v for n, v in TEXT.items() if n != "head_dim"}
    config = hf.Lfm2Config(**plain, vocab_size=50, layer_types=["conv", "full_attention"])
    model = hf.Lfm2ForCausalLM(config)
    monkeypatch.setattr(compared, "compared", dict)
    ids = torch.arange(3, 12)[None]
    expected = model(ids).logits
    with pytest.raises(AttentionError, match="unchecked"):
        tp.hf.prepare(model)
    assert torch.equal(model(ids).logits, expected)
    assert not model.model._forward_pre_hooks
