"""Which models `prepare` sets up, and which it refuses."""

import pytest
import tiny_models
import transformers as hf
import treepack as tp
from treepack.errors import AttentionError

TEXT = {**tiny_models.TEXT, "vocab_size": 50}
PLAIN = {name: value for name, value in TEXT.items() if name != "head_dim"}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "bos_token_id": 0}
BERT = {**PLAIN, "num_hidden_layers": 1}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 50}

SERVED = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**PLAIN)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**TEXT)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**TEXT, sliding_window=None)),
    "mistral's window": lambda: hf.MistralForCausalLM(hf.MistralConfig(**TEXT)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**TEXT)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, eos_token_id=0, attn_pdrop=0.0)),
}
REFUSED = {
    "soft cap": (
        lambda: hf.Gemma2ForCausalLM(
            hf.Gemma2Config(**TEXT, layer_types=["full_attention"] * 2, sliding_window=None)
        ),
        "soft-caps",
    ),
    "linear": (lambda: hf.Qwen3NextForCausalLM(hf.Qwen3NextConfig(**TEXT)), "linear_attention"),
    "dropout": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, attention_dropout=0.1)),
        "attention_dropout=0.1",
    ),
    "gpt2's dropout": (
        lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, eos_token_id=0)),
        "attn_pdrop=0.1",
    ),
    "encoder": (lambda: hf.BertModel(hf.BertConfig(**BERT)), "no causal attention"),
    "encoder-decoder": (
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
        "encoder-decoder",
    ),
    "no model": (lambda: hf.LlamaConfig(**TEXT), "not a model of transformers"),
}


@pytest.mark.parametrize("name", SERVED)
def test_a_text_model_attends_and_loses_by_treepack(name):
    model = SERVED[name]()
    assert tp.hf.prepare(model) is model
    assert model.config._attn_implementation == "treepack"
    assert model.loss_function is tp.hf.weighted_loss


@pytest.mark.parametrize("name", ["molmo2", "qwen3_vl"])
def test_the_vision_tower_keeps_its_attention(name):
    model = tp.hf.prepare(getattr(tiny_models, f"{name}_model")())
    used = {
        module.is_causal: module.config._attn_implementation
        for module in model.modules()
        if hasattr(module, "is_causal")
    }
    assert used == {True: "treepack", False: "sdpa"}
    assert model.loss_function is tp.hf.weighted_loss


def test_preparing_twice_changes_nothing():
    model = tp.hf.prepare(tp.hf.prepare(tiny_models.molmo2_model()))
    assert model.config.text_config._attn_implementation == "treepack"


def test_a_wrapper_is_prepared_through():
    class Wrapper:
        def __init__(self, model):
            self.model = model

        def get_base_model(self):
            return self.model

    wrapper = Wrapper(SERVED["llama"]())
    assert tp.hf.prepare(wrapper) is wrapper
    assert wrapper.model.loss_function is tp.hf.weighted_loss


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_exact_is_refused_and_left_as_it_was(name):
    make, message = REFUSED[name]
    model = make()
    before = getattr(model, "loss_function", None)
    with pytest.raises(AttentionError, match=message):
        tp.hf.prepare(model)
    assert getattr(model, "loss_function", None) is before
    assert getattr(model, "config", model)._attn_implementation != "treepack"


def test_the_face_is_loaded_on_demand():
    assert {"molmo2_weights", "prepare", "register", "weighted_loss"} <= set(dir(tp.hf))
    from treepack.hf import model  # noqa: F401

    assert callable(tp.hf.prepare), "a module of that name would hide the function"
    with pytest.raises(AttributeError, match="nothing"):
        tp.hf.nothing  # noqa: B018
