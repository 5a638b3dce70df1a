"""What `prepare` rejects by name, and why."""

import pytest
import torch
import transformers as hf
import treepack as tp
from helpers import tiny_models, zoo
from helpers.zoo import classes
from treepack.errors import AttentionError
from treepack.hf import checks

TEXT = {**tiny_models.TEXT, "vocab_size": 50, "pad_token_id": 0}
PLAIN = {name: value for name, value in TEXT.items() if name != "head_dim"}
ROPE = {"rope_type": "default", "rope_theta": 8.0}
BART = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
GEMMA4 = {
    **TEXT,
    "global_head_dim": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": 50,
}


def gemma4(**more):
    return hf.Gemma4ForCausalLM(hf.Gemma4TextConfig(**{**GEMMA4, **more}))


def mllama():
    config = hf.models.mllama.configuration_mllama.MllamaTextConfig(
        **PLAIN, cross_attention_layers=[1], rope_parameters=ROPE, bos_token_id=1, eos_token_id=2
    )
    return hf.MllamaForCausalLM(config)


def window(model, config, **more):
    return lambda: model(config(**PLAIN, sliding_window=4, num_local_experts=2, **more))


REJECTED = {
    "sinks": (
        lambda: hf.GptOssForCausalLM(hf.GptOssConfig(**TEXT, num_local_experts=2)),
        r"attention sinks \(GptOssAttention.sinks\)",
    ),
    "cross attention": (mllama, r"cross attention \(Mllama"),
    "text that sees ahead": (
        lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**TEXT, use_bidirectional_attention=True)),
        r"Gemma.* not causal \(GemmaAttention says is_causal=False\)",
    ),
    "a window that is not told": (
        window(hf.PhimoeForCausalLM, hf.PhimoeConfig),
        "sliding window in layer 0 that it does not tell",
    ),
    "a mask that does not arrive": (
        lambda: hf.StableLmForCausalLM(hf.StableLmConfig(**PLAIN)),
        "do not pass on to attention",
    ),
    "a loss of its own": (
        lambda: hf.WhisperForCausalLM(hf.WhisperConfig(**BART, vocab_size=50, pad_token_id=0)),
        "computes its loss by itself",
    ),
    "positions of its own": (
        lambda: hf.BartForCausalLM(
            hf.BartConfig(**BART, vocab_size=50, is_decoder=True, is_encoder_decoder=False)
        ),
        r"takes no position_ids \(BartDecoder.forward\)",
    ),
    "positions that begin at another number": (
        lambda: hf.RobertaForCausalLM(
            hf.RobertaConfig(**PLAIN, is_decoder=True, attention_probs_dropout_prob=0.0)
        ),
        "counts positions from its padding id on",
    ),
    "a draft": (
        lambda: classes.on_meta("Gemma4AssistantForCausalLM", "gemma4_assistant"),
        "drafts for another model",
    ),
    "several models in one": (
        lambda: classes.on_meta("Qwen3OmniMoeForConditionalGeneration", "qwen3_omni_moe"),
        r"no forward of its own; .* model\.thinker",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_cannot_be_exact_is_rejected_by_name(name):
    make, message = REJECTED[name]
    model = make()
    with pytest.raises(AttentionError, match=message) as caught:
        tp.hf.prepare(model)
    assert str(caught.value).startswith(type(model).__name__)
    assert "treepack" not in str(model.config.get_text_config()._attn_implementation)


def test_heads_that_flash_attention_does_not_take_need_flex():
    model = gemma4(global_head_dim=512)
    with pytest.raises(AttentionError, match=r"heads of size 512.*256.*backend=\"flex\""):
        tp.hf.prepare(model, backend="cuda")
    for backend in ("flex", "cpu"):
        assert tp.hf.prepare(model, backend=backend) is model


@pytest.mark.parametrize("ahead", [None, "vision"])
def test_gemma_4_is_accepted_unless_text_sees_ahead(ahead):
    model = gemma4(use_bidirectional_attention=ahead)
    assert checks.text_model(tp.hf.prepare(model)) is not None
    with pytest.raises(AttentionError, match="text layers that are not causal"):
        tp.hf.prepare(gemma4(use_bidirectional_attention="all"))


def test_the_text_model_is_found_where_another_part_is_called_decoder():
    sizes = {**PLAIN, "num_key_value_heads": 2}
    model = hf.ModernBertDecoderForCausalLM(hf.ModernBertDecoderConfig(**sizes))
    assert type(model.get_decoder()) is torch.nn.Linear
    assert checks.text_model(model) is model.model
    tp.hf.prepare(model)


@pytest.mark.filterwarnings("default")
def test_batch_norms_are_told_of():
    _, model = zoo.build("fast_vlm")
    with pytest.warns(UserWarning, match=r"FastVlm\w+ has batch norms \(model\.vision_tower\."):
        tp.hf.prepare(model)
    tp.hf.restore(model)


def test_the_part_that_writes_text_is_taken():
    whole = classes.on_meta("Qwen3OmniMoeForConditionalGeneration", "qwen3_omni_moe")
    assert tp.hf.prepare(whole.thinker) is whole.thinker
